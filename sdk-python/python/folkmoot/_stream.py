"""Streams for asyncio. What a cancelled wait has not taken comes with the next one."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import _native as native
from ._call import Call, run, same

T = TypeVar("T")
S = TypeVar("S", bound="Stream[Any]")

Open = Callable[[], "native.Pending[native.Stream[Any]] | native.Stream[Any]"]


class Stream(Generic[T]):
    """An asynchronous iterator, and a context manager that opens it and ends it.

    It is opened by ``async with``, or else by the first wait. A wait may be cancelled at any moment, by a
    timeout
    for example; nothing is lost and nothing comes twice.
    """

    def __init__(self, open: Open, convert: Callable[[Any], T]) -> None:  # noqa: A002
        self._opener: Open = open
        self._convert = convert
        self._stream: native.Stream[Any] | None = None
        self._stopped = False

    async def open(self: S) -> S:
        """Open it, unless it is open."""
        await self._opened()
        return self

    async def _opened(self) -> native.Stream[Any]:
        if self._stream is None:
            opened = self._opener()
            if isinstance(opened, native.Pending):
                opened = await run(Call(opened, same))
            if self._stream is None:
                self._stream = opened
                if self._stopped:
                    opened.stop()
            else:
                # Somebody else has opened it meanwhile.
                opened.stop()
        return self._stream

    async def __aenter__(self: S) -> S:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __aiter__(self: S) -> S:
        return self

    async def __anext__(self) -> T:
        if self._stopped:
            raise StopAsyncIteration
        stream = self._stream
        if stream is None:
            stream = await self._opened()
        while True:
            item = stream.take()
            if item is not None:
                return self._convert(item)
            if stream.done():
                raise StopAsyncIteration
            await run(Call(stream.ready(), same))

    async def aclose(self) -> None:
        """End it."""
        self.stop()

    def stop(self) -> None:
        """End it; whoever waits is told that it has ended. Needs no event loop."""
        self._stopped = True
        if self._stream is not None:
            self._stream.stop()
