"""Sessions, locks and elections for threads."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TypeVar

from .. import _convert as conv
from .. import _encode as enc
from .. import _native as native
from .._call import Call, same, wait
from .._encode import Text
from .._errors import FolkmootError, NotHeld, NotLeader
from .._held import Fenced, SessionBase
from .._ops import Compare, Keys, Op, TxnBase
from .._types import Contender, Leader, LeaderEvent, SessionState, TxnResult
from ._stream import Stream

log = logging.getLogger("folkmoot")

H = TypeVar("H", bound="Held")


class Txn(TxnBase):
    """A transaction: if all conditions hold one list of operations is done, else another, at one revision."""

    __slots__ = ()

    def when(self, *compares: Compare) -> Txn:
        """Add conditions, of which all must hold."""
        self._add_when(compares)
        return self

    def then(self, *ops: Op) -> Txn:
        """Add operations for when all conditions hold."""
        self._add_then(ops)
        return self

    def otherwise(self, *ops: Op) -> Txn:
        """Add operations for when a condition does not hold."""
        self._add_otherwise(ops)
        return self

    def put(self, key: Text, value: Text, *, lease: int = 0) -> Txn:
        """Put, when all conditions hold."""
        return self.then(Op.put(key, value, lease=lease))

    def get(self, keys: Text | Keys) -> Txn:
        """Read, when all conditions hold."""
        return self.then(Op.get(keys))

    def delete(self, keys: Text | Keys) -> Txn:
        """Delete, when all conditions hold."""
        return self.then(Op.delete(keys))

    def commit(self) -> TxnResult:
        """Do it. Sent once; if the answer is lost that is ``Ambiguous``."""
        return wait(Call(self._commit(self._build()), conv.txn_result))


class Held:
    """Something that is held; given back at the end of ``with``, or when it is garbage."""

    def _leave(self) -> None:
        raise NotImplementedError

    def __enter__(self: H) -> H:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except FolkmootError as problem:
            if error is None:
                raise
            # What went wrong in the block is the greater news.
            log.warning("cannot give back what was held: %s", problem)


def wait_lost(pending: native.Pending[FolkmootError | None], timeout: object) -> FolkmootError | None:
    """Wait for a loss for so long at most."""
    seconds = enc.optional_seconds(timeout, "timeout")
    if seconds is None:
        return wait(Call(pending, same))
    return pending.fetch() if pending.wait_for(seconds) else None


class LockGuard(Fenced, Held):
    """A lock that is held.

    It is unlocked at the end of ``with``, by ``unlock()``, or when the last reference to it is gone.
    """

    def __init__(self, guard: native.Guard) -> None:
        super().__init__(guard)
        self._native = guard

    def txn(self) -> Txn:
        """Begin a transaction that is applied only while the lock is held, else ``NotHeld``."""
        return Txn(self._native.commit)

    def lost(self, timeout: float | None = None) -> FolkmootError | None:
        """Wait until the lock is lost, and tell why; ``None`` if it was not within ``timeout`` seconds, or
        was released."""
        return wait_lost(self._native.lost(), timeout)

    def unlock(self) -> bool:
        """Release the lock, and tell whether it was still held. A newer holder is never disturbed."""
        return wait(Call(self._native.unlock(), same))

    def detach(self) -> None:
        """Keep the lock until the session ends, whatever happens to this object."""
        self._native.detach()

    def _leave(self) -> None:
        try:
            self._native.check()
        except NotHeld:
            # Released within the block, or detached.
            return
        if not self.unlock():
            raise NotHeld(f"the lock was lost before it was released token={self._token.revision}")


class Mutex:
    """A lock across processes, by its name.

    One holder at a time, in the order in which they asked, threads of one process included. A process that is
    stopped for longer than its session goes on afterwards without knowing that it holds nothing any more:
    what
    must not be done twice goes through ``guard.txn()``, or shows ``guard.token`` to whoever does it.
    """

    def __init__(self, mutex: native.Mutex, name: str) -> None:
        self._native = mutex
        self._name = name

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def lock(self, *, timeout: float | None = None) -> LockGuard:
        """Wait for the lock: ``with mutex.lock() as guard:``.

        With a ``timeout``, in seconds, ``DeadlineExceeded`` (a ``TimeoutError``) after it. A wait that ends
        without
        the lock, by a timeout or Ctrl-C, leaves nothing in the line.
        """
        return LockGuard(wait(Call(self._native.lock(enc.optional_seconds(timeout, "timeout")), same)))

    def try_lock(self) -> LockGuard:
        """Take the lock if nobody has it or waits for it, else ``WouldBlock``. One round trip."""
        return LockGuard(wait(Call(self._native.try_lock(), same)))

    def contenders(self) -> tuple[Contender, ...]:
        """List the holder and those who wait, in their order."""
        return wait(Call(self._native.contenders(), conv.contenders))


class Leadership(Fenced, Held):
    """A leadership that is held.

    It is resigned at the end of ``with``, by ``resign()``, or when the last reference to it is gone.
    """

    def __init__(self, leadership: native.Leadership) -> None:
        super().__init__(leadership)
        self._native = leadership

    def txn(self) -> Txn:
        """Begin a transaction that is applied only while the leadership lasts, else ``NotLeader``."""
        return Txn(self._native.commit)

    def proclaim(self, value: Text) -> None:
        """Proclaim something else, without giving up the place."""
        wait(Call(self._native.proclaim(enc.data(value, "value")), same))

    def lost(self, timeout: float | None = None) -> FolkmootError | None:
        """Wait until the leadership is lost, and tell why; ``None`` if it was not within ``timeout``, or was
        resigned."""
        return wait_lost(self._native.lost(), timeout)

    def resign(self) -> bool:
        """Resign, and tell whether the leadership was still held."""
        return wait(Call(self._native.resign(), same))

    def _leave(self) -> None:
        try:
            self._native.check()
        except NotLeader:
            # Resigned within the block.
            return
        if not self.resign():
            raise NotLeader(f"the leadership was lost before it was resigned token={self._token.revision}")


class LeaderWatch(Stream[LeaderEvent]):
    """The present leader at first, or that there is none, then each change. The last is never left out."""


class Election:
    """One leader among many candidates, by the election's name."""

    def __init__(self, election: native.Election, name: str) -> None:
        self._native = election
        self._name = name

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def campaign(self, value: Text = b"", *, timeout: float | None = None) -> Leadership:
        """Wait to be elected: ``with election.campaign("node-1") as leadership:``.

        ``value`` is what others see of the leader. With a ``timeout``, in seconds, ``DeadlineExceeded``
        after it. A
        wait that ends without the leadership leaves no candidacy.
        """
        proposal = enc.data(value, "value")
        seconds = enc.optional_seconds(timeout, "timeout")
        return Leadership(wait(Call(self._native.campaign(proposal, seconds), same)))

    def leader(self) -> Leader | None:
        """Tell who leads."""
        return wait(Call(self._native.leader(), conv.leader))

    def observe(self) -> LeaderWatch:
        """Follow who leads."""
        return LeaderWatch(wait(Call(self._native.observe(), same)), conv.leader_event)


class StateWatch(Stream[SessionState]):
    """The present state of a session at first, then each change; ends after the final one."""


class Session(SessionBase):
    """A lease that is kept alive in the background, and the certainty whether it is.

    It is closed at the end of ``with``. The thread that keeps it alive is not Python's, so a program that
    keeps the
    interpreter busy does not lose it.
    """

    def __init__(self, session: native.Session) -> None:
        self._session = session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except FolkmootError as problem:
            # Its lease ends by itself.
            log.warning("cannot close a session: %s", problem)

    def states(self) -> StateWatch:
        """Follow the state."""
        return StateWatch(self._native.watch_state(), same)

    def lost(self, timeout: float | None = None) -> FolkmootError | None:
        """Wait for the end of the session, and tell why; ``None`` if it did not end within ``timeout``
        seconds."""
        pending = self._native.lost()
        seconds = enc.optional_seconds(timeout, "timeout")
        if seconds is None:
            return wait(Call(pending, same))
        return pending.fetch() if pending.wait_for(seconds) else None

    def mutex(self, name: str, *, owner: Text = b"", lock_delay: float = 0.0) -> Mutex:
        """Get the lock of this name.

        ``owner`` is what others see of this contender. ``lock_delay`` is how long to wait, in seconds, after
        a holder
        that was lost rather than unlocked: a grace for work that is not fenced.
        """
        return Mutex(self._mutex(name, owner, lock_delay), name)

    def election(self, name: str) -> Election:
        """Get the election of this name."""
        return Election(self._election(name), name)

    def close(self) -> None:
        """End the session, and with it everything that is held through it.

        Waits for the store for five seconds at most; later the lease ends by itself.
        """
        wait(Call(self._native.end(), same))
