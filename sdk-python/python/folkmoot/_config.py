"""Typed configuration, for asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, TypeVar, Union, cast

from . import _convert as conv
from . import _encode as enc
from . import _native as native
from ._call import Call, run, same
from ._encode import Text
from ._requests import publication
from ._session import Acquire, Held
from ._stream import Stream
from ._typed import checker
from ._types import ConfigChange, ConfigItems, ConfigRejected, ConfigSource

T = TypeVar("T")

Validate = Callable[["T | None", T], "bool | Coroutine[Any, Any, bool | None] | None"]
"""Asked with the present and the new value before that is taken. Raises, or returns ``False``, to refuse it.
It may take
five seconds."""


class ConfigEvents(Stream[Union[ConfigChange[T], ConfigRejected]], Generic[T]):
    """The present configuration at first, then each later one, and each that was not taken."""


class ConfigWatch(Generic[T]):
    """The present configuration at first, then each later one; the last is never left out."""

    def __init__(self, events: ConfigEvents[T]) -> None:
        self._events = events

    def __aiter__(self) -> AsyncIterator[ConfigChange[T]]:
        return self

    async def __anext__(self) -> ConfigChange[T]:
        while True:
            event = await self._events.__anext__()
            if isinstance(event, ConfigChange):
                return event

    async def __aenter__(self) -> ConfigWatch[T]:
        await self._events.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def aclose(self) -> None:
        """End it."""
        self.stop()

    def stop(self) -> None:
        """End it. Needs no event loop."""
        self._events.stop()


class TypedConfig(Held, Generic[T]):
    """A configuration that follows the store. ``current`` is always a good one."""

    def __init__(self, reader: native.ConfigReader) -> None:
        self._native = reader

    def __repr__(self) -> str:
        return f"TypedConfig({self.current!r})"

    @property
    def current(self) -> T:
        """The last good configuration."""
        return cast("T", self._native.current())

    @property
    def revision(self) -> int:
        """As of when."""
        return self._native.state()[1]

    @property
    def source(self) -> ConfigSource:
        """Where it comes from."""
        return self._native.state()[2]

    def watch(self) -> ConfigWatch[T]:
        """Follow it: ``async for change in config.watch():``."""
        return ConfigWatch(self.events())

    def events(self) -> ConfigEvents[T]:
        """Follow it, and what was not taken."""
        return ConfigEvents(self._native.watch, conv.config_event)

    def stop(self) -> None:
        """Follow it no more. Needs no event loop."""
        self._native.stop()

    async def _leave(self) -> None:
        self.stop()


class Config:
    """A namespace of configuration: items, which any client of the store may put, and what they amount to."""

    def __init__(self, config: native.Config, namespace: str) -> None:
        self._native = config
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """Its name."""
        return self._namespace

    async def get(self, path: str) -> bytes | None:
        """Read one item as it lies in the store."""
        return await run(Call(self._native.get(enc.text(path, "path")), same))

    async def items(self) -> ConfigItems:
        """Read all items."""
        return await run(Call(self._native.items(), conv.config_items))

    async def set(self, path: str, value: Text) -> int:
        """Set one item, and tell the revision. What does not parse is refused."""
        return await self.publish({path: value})

    async def remove(self, path: str) -> int:
        """Remove one item, and tell the revision."""
        return await self.publish({path: None})

    async def publish(self, changes: Mapping[str, Text | None], *, based_on: int | None = None) -> int:
        """Change items together, and tell the revision; readers see all of it or none. ``None`` removes an
        item.

        With ``based_on``, the revision that ``items()`` told, ``Conflict`` if an item was set after it.
        """
        revision = None if based_on is None else enc.count(based_on, "based_on")
        return await run(Call(self._native.publish(publication(changes), revision), same))

    def typed(
        self,
        model: type[T] | Callable[[dict[str, Any]], T],
        *,
        validate: Validate[T] | None = None,
        extends: Iterable[str] = (),
        cache_dir: str | os.PathLike[str] | None = None,
        initial_timeout: float | None = None,
        debounce: float | None = None,
    ) -> Acquire[TypedConfig[T]]:
        """Read the namespace as a type, and follow it: ``settings = await config.typed(Settings)``.

        ``model`` is a pydantic model, a dataclass, or any callable that makes the value of a dictionary.
        What does not
        fit it, or is refused by ``validate``, is not taken: the last good configuration stays. If there is
        no good one
        at first, that is ``Rejected`` or ``InvalidConfig``.

        ``extends`` are namespaces that this one is laid over; the last lies lowest. ``cache_dir`` is a
        folder for the last
        good configuration; it is used if the store does not answer within ``initial_timeout``, 5 s.
        ``debounce`` is how
        long changes must pause before they are taken together, 0.05 s.
        """
        below = enc.texts(extends, "extends")
        folder = enc.folder(cache_dir, "cache_dir")
        patience = enc.optional_seconds(initial_timeout, "initial_timeout", zero=False)
        pause = enc.optional_seconds(debounce, "debounce")
        checker(model, validate, _NO_LOOP)

        async def acquire() -> TypedConfig[T]:
            check = checker(model, validate, asyncio.get_running_loop())
            return TypedConfig(
                await run(Call(self._native.open(check, below, folder, patience, pause), same))
            )

        return Acquire(acquire)


# Arguments are looked at when they are given, the loop when it is there.
_NO_LOOP = cast("asyncio.AbstractEventLoop", object())
