"""What the sessions, locks and leaderships for asyncio and for threads have in common: all that does not
wait."""

from __future__ import annotations

from . import _convert as conv
from . import _encode as enc
from . import _native as native
from ._encode import Text
from ._errors import Closed
from ._types import FencingToken, SessionState


class Fenced:
    """Something that is held, with its token."""

    def __init__(self, held: native.Guard | native.Leadership) -> None:
        self._held = held
        self._token = conv.token(held.token())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key={self.key!r}, token={self._token.revision})"

    @property
    def token(self) -> FencingToken:
        """What proves to others that this holder is the latest."""
        return self._token

    @property
    def key(self) -> bytes:
        """The key in the store."""
        return self._token.key

    def check(self) -> None:
        """Raise if it was given back or its session is over, without asking the store."""
        self._held.check()


class SessionBase:
    """A lease that is kept alive in the background."""

    _session: native.Session | None = None

    def __repr__(self) -> str:
        if self._session is None:
            return "Session(not open)"
        return f"Session(lease_id={self._session.lease():x}, state={self._session.state()!r})"

    @property
    def _native(self) -> native.Session:
        if self._session is None:
            raise Closed("the session is not open: enter it with `async with`, or await session.open()")
        return self._session

    @property
    def lease_id(self) -> int:
        """The id of its lease, to hang keys on."""
        return self._native.lease()

    @property
    def ttl(self) -> float:
        """How long it survives without contact to the store, in seconds."""
        return self._native.ttl()

    @property
    def state(self) -> SessionState:
        """How it is, as far as was noticed. ``check()`` is sure."""
        return self._native.state()

    @property
    def remaining(self) -> float:
        """The seconds that are surely left if no keepalive is acknowledged from now on."""
        return self._native.remaining()

    def check(self) -> None:
        """Raise if the session is over, without asking the store. To be called right before what relies on
        it."""
        self._native.check()

    def detach(self) -> None:
        """Stop renewing, and leave the lease to its time."""
        self._native.detach()

    def _mutex(self, name: object, owner: Text, lock_delay: object) -> native.Mutex:
        delay = enc.seconds(lock_delay, "lock_delay")
        return self._native.mutex(enc.text(name, "name"), enc.data(owner, "owner"), delay)

    def _election(self, name: object) -> native.Election:
        return self._native.election(enc.text(name, "name"))
