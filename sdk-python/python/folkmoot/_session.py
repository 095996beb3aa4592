"""Sessions, locks and elections for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _convert as conv
from . import _encode as enc
from . import _native as native
from ._call import Call, run, same
from ._encode import Text
from ._errors import FolkmootError, NotHeld, NotLeader
from ._held import Fenced, SessionBase
from ._ops import Compare, Keys, Op, TxnBase
from ._stream import Stream
from ._types import Contender, Leader, LeaderEvent, SessionState, TxnResult

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

    async def commit(self) -> TxnResult:
        """Do it. Sent once; if the answer is lost that is ``Ambiguous``."""
        return await run(Call(self._commit(self._build()), conv.txn_result))


class Held:
    """Something that is held; given back at the end of ``async with``, or when it is garbage."""

    async def _leave(self) -> None:
        raise NotImplementedError

    async def __aenter__(self: H) -> H:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._leave()
        except FolkmootError as problem:
            if error is None:
                raise
            # What went wrong in the block is the greater news.
            log.warning("cannot give back what was held: %s", problem)


class Acquire(Generic[H], Awaitable[H]):
    """What will be held: to be awaited, or entered with ``async with``."""

    __slots__ = ("_acquire", "_held")

    def __init__(self, acquire: Callable[[], Coroutine[Any, Any, H]]) -> None:
        self._acquire = acquire
        self._held: H | None = None

    def __await__(self) -> Generator[Any, Any, H]:
        return self._acquire().__await__()

    async def __aenter__(self) -> H:
        self._held = await self._acquire()
        return await self._held.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.__aexit__(kind, error, trace)


class CancelOnLost:
    """Cancels the task that entered it when what it is about is lost, and raises why instead."""

    def __init__(self, lost: Callable[[], Coroutine[Any, Any, FolkmootError | None]]) -> None:
        self._lost = lost
        self._task: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._why: FolkmootError | None = None
        self._cancels = 0

    async def __aenter__(self) -> CancelOnLost:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("cancel_on_lost() is entered by a task")
        self._task = task
        cancelling = getattr(task, "cancelling", None)
        self._cancels = 0 if cancelling is None else cancelling()

        async def watch() -> None:
            self._why = await self._lost()
            if self._why is not None:
                task.cancel()

        self._watch = asyncio.ensure_future(watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, watch, self._watch = self._task, self._watch, None
        if task is None or watch is None:
            return
        watch.cancel()
        why = self._why
        if why is None:
            return
        uncancel = getattr(task, "uncancel", None)
        if uncancel is not None and uncancel() > self._cancels and isinstance(error, asyncio.CancelledError):
            # Somebody else has cancelled the task as well, and that goes on.
            return
        if error is None or isinstance(error, asyncio.CancelledError):
            raise why from error


class LockGuard(Fenced, Held):
    """A lock that is held.

    It is unlocked at the end of ``async with``, by ``unlock()``, or when the last reference to it is gone.
    """

    def __init__(self, guard: native.Guard) -> None:
        super().__init__(guard)
        self._native = guard

    def txn(self) -> Txn:
        """Begin a transaction that is applied only while the lock is held, else ``NotHeld``."""
        return Txn(self._native.commit)

    async def lost(self) -> FolkmootError | None:
        """Wait until the lock is lost, and tell why; ``None`` once it was released by its holder."""
        return await run(Call(self._native.lost(), same))

    def cancel_on_lost(self) -> CancelOnLost:
        """Cancel the block, ``async with guard.cancel_on_lost():``, when the lock is lost.

        The reason, a ``SessionLost`` for example, is raised at the end of the block.
        """
        return CancelOnLost(self.lost)

    async def unlock(self) -> bool:
        """Release the lock, and tell whether it was still held. A newer holder is never disturbed."""
        return await run(Call(self._native.unlock(), same))

    def detach(self) -> None:
        """Keep the lock until the session ends, whatever happens to this object."""
        self._native.detach()

    async def _leave(self) -> None:
        try:
            self._native.check()
        except NotHeld:
            # Released within the block, or detached.
            return
        if not await self.unlock():
            raise NotHeld(f"the lock was lost before it was released token={self._token.revision}")


class Mutex:
    """A lock across processes, by its name.

    One holder at a time, in the order in which they asked, tasks of one process included. A process that is
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

    def lock(self, *, timeout: float | None = None) -> Acquire[LockGuard]:
        """Wait for the lock: ``async with mutex.lock() as guard:`` or ``guard = await mutex.lock()``.

        With a ``timeout``, in seconds, ``DeadlineExceeded`` (a ``TimeoutError``) after it. A wait that ends
        without
        the lock, by a timeout or a cancellation, leaves nothing in the line.
        """
        seconds = enc.optional_seconds(timeout, "timeout")

        async def acquire() -> LockGuard:
            return LockGuard(await run(Call(self._native.lock(seconds), same)))

        return Acquire(acquire)

    def try_lock(self) -> Acquire[LockGuard]:
        """Take the lock if nobody has it or waits for it, else ``WouldBlock``. One round trip."""

        async def acquire() -> LockGuard:
            return LockGuard(await run(Call(self._native.try_lock(), same)))

        return Acquire(acquire)

    async def contenders(self) -> tuple[Contender, ...]:
        """List the holder and those who wait, in their order."""
        return await run(Call(self._native.contenders(), conv.contenders))


class Leadership(Fenced, Held):
    """A leadership that is held.

    It is resigned at the end of ``async with``, by ``resign()``, or when the last reference to it is gone.
    """

    def __init__(self, leadership: native.Leadership) -> None:
        super().__init__(leadership)
        self._native = leadership

    def txn(self) -> Txn:
        """Begin a transaction that is applied only while the leadership lasts, else ``NotLeader``."""
        return Txn(self._native.commit)

    async def proclaim(self, value: Text) -> None:
        """Proclaim something else, without giving up the place."""
        await run(Call(self._native.proclaim(enc.data(value, "value")), same))

    async def lost(self) -> FolkmootError | None:
        """Wait until the leadership is lost, and tell why; ``None`` once it was resigned by its holder."""
        return await run(Call(self._native.lost(), same))

    def cancel_on_lost(self) -> CancelOnLost:
        """Cancel the block, ``async with leadership.cancel_on_lost():``, when the leadership is lost.

        The reason, a ``SessionLost`` for example, is raised at the end of the block.
        """
        return CancelOnLost(self.lost)

    async def resign(self) -> bool:
        """Resign, and tell whether the leadership was still held."""
        return await run(Call(self._native.resign(), same))

    async def _leave(self) -> None:
        try:
            self._native.check()
        except NotLeader:
            # Resigned within the block.
            return
        if not await self.resign():
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

    def campaign(self, value: Text = b"", *, timeout: float | None = None) -> Acquire[Leadership]:
        """Wait to be elected: ``async with election.campaign("node-1") as leadership:``, or await it.

        ``value`` is what others see of the leader. With a ``timeout``, in seconds, ``DeadlineExceeded``
        after it. A
        wait that ends without the leadership leaves no candidacy.
        """
        proposal = enc.data(value, "value")
        seconds = enc.optional_seconds(timeout, "timeout")

        async def acquire() -> Leadership:
            return Leadership(await run(Call(self._native.campaign(proposal, seconds), same)))

        return Acquire(acquire)

    async def leader(self) -> Leader | None:
        """Tell who leads."""
        return await run(Call(self._native.leader(), conv.leader))

    def observe(self) -> LeaderWatch:
        """Follow who leads."""
        return LeaderWatch(self._native.observe, conv.leader_event)


class StateWatch(Stream[SessionState]):
    """The present state of a session at first, then each change; ends after the final one."""


class Session(SessionBase):
    """A lease that is kept alive in the background, and the certainty whether it is.

    It is opened by ``async with``, or by ``await session.open()``. The thread that keeps it alive is not
    Python's, so
    an event loop that is busy does not lose it.
    """

    def __init__(self, client: native.Client, ttl: float | None, allow_short_ttl: bool) -> None:
        self._client = client
        self._ttl = ttl
        self._short = allow_short_ttl

    async def open(self) -> Session:
        """Open it, unless it is open."""
        if self._session is None:
            self._session = await run(Call(self._client.session(self._ttl, self._short), same))
        return self

    async def __aenter__(self) -> Session:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except FolkmootError as problem:
            # Its lease ends by itself.
            log.warning("cannot close a session: %s", problem)

    def states(self) -> StateWatch:
        """Follow the state."""
        return StateWatch(lambda: self._native.watch_state(), same)

    async def lost(self) -> FolkmootError:
        """Wait for the end of the session, and tell why."""
        return await run(Call(self._native.lost(), same))

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

    async def close(self) -> None:
        """End the session, and with it everything that is held through it.

        Waits for the store for five seconds at most; later the lease ends by itself.
        """
        if self._session is not None:
            await run(Call(self._session.end(), same))
