"""Streams for threads."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from .. import _encode as enc
from .. import _native as native
from .._call import Call, same, wait
from .._errors import Closed, DeadlineExceeded

T = TypeVar("T")
S = TypeVar("S", bound="Stream[Any]")


class Stream(Generic[T]):
    """An iterator that waits, and a context manager that ends it."""

    def __init__(self, stream: native.Stream[Any], convert: Callable[[Any], T]) -> None:
        self._stream = stream
        self._convert = convert

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self: S) -> S:
        return self

    def __next__(self) -> T:
        try:
            return self.get()
        except Closed:
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> T:
        """Wait for the next item, at most for so many seconds; ``DeadlineExceeded`` after them.

        What was not there in time comes with the next call. ``Closed`` when the stream has ended.
        """
        seconds = enc.optional_seconds(timeout, "timeout")
        while True:
            item = self._stream.take()
            if item is not None:
                return self._convert(item)
            if self._stream.done():
                raise Closed("the stream has ended")
            ready = self._stream.ready()
            if seconds is None:
                wait(Call(ready, same))
            elif ready.wait_for(seconds):
                ready.fetch()
            else:
                raise DeadlineExceeded(f"nothing came in time timeout={seconds}", retryable=True)

    def stop(self) -> None:
        """End it; whoever waits is told that it has ended."""
        self._stream.stop()
