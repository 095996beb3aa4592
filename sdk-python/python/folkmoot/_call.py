"""One call under way, and the two ways to wait for it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import _native

A = TypeVar("A")
T = TypeVar("T")

# Threads of the native part must not be inside the interpreter when it ends.
atexit.register(_native._at_exit)
os.register_at_fork(after_in_child=_native._after_fork)


class Call(Generic[T]):
    """A call under way, and how to read its answer."""

    __slots__ = ("_convert", "pending")

    _convert: Callable[[Any], T]
    pending: _native.Pending[Any]

    def __init__(self, pending: _native.Pending[A], convert: Callable[[A], T]) -> None:
        self.pending = pending
        self._convert = convert

    def fetch(self) -> T:
        """Read the answer, or raise what went wrong."""
        return self._convert(self.pending.fetch())


def same(value: A) -> A:
    """Read an answer that is what it should be."""
    return value


async def run(call: Call[T]) -> T:
    """Wait in the running event loop.

    The answer is taken without a pause after the wait, so a task that is cancelled meanwhile has either taken
    it or not; what it has not taken is given back by the native part.
    """
    pending = call.pending
    try:
        future = pending.future()
        if future is not None:
            await future
    except BaseException:
        pending.cancel()
        raise
    return call._convert(pending.fetch())


def wait(call: Call[T]) -> T:
    """Wait in this thread; other threads run meanwhile, and Ctrl-C ends it."""
    while not call.pending.wait_for(3600.0):
        pass
    return call.fetch()
