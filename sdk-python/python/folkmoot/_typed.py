"""From a configuration's JSON to the type that a program wants."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import inspect
import json
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ._native import Candidate

T = TypeVar("T")

Validate = Callable[[Any, Any], Any]


def parser(model: object) -> Callable[[str], Any]:
    """Find out how to make a model's values of a text of JSON.

    A pydantic model validates it; a dataclass is built of it, field by field; any other callable gets the
    dictionary.
    """
    from_json = getattr(model, "model_validate_json", None)
    if isinstance(model, type) and callable(from_json):
        return typing.cast("Callable[[str], Any]", from_json)
    if isinstance(model, type) and dataclasses.is_dataclass(model):
        dataclass_type: type[Any] = model
        return lambda text: build(dataclass_type, json.loads(text), "")
    if callable(model):
        make: Callable[[Any], Any] = model
        return lambda text: make(json.loads(text))
    raise TypeError(
        "model must be a pydantic model, a dataclass or a callable that takes a dict, "
        f"not {type(model).__name__}"
    )


def checker(
    model: object, validate: Validate | None, loop: asyncio.AbstractEventLoop | None
) -> Callable[[Candidate], None]:
    """Make the function that decides whether a configuration is taken.

    It is called by a thread of the native part. An asynchronous validator runs in the loop.
    """
    parse = parser(model)
    if validate is not None and not callable(validate):
        raise TypeError(f"validate must be a callable, not {type(validate).__name__}")
    if loop is None and validate is not None and inspect.iscoroutinefunction(validate):
        raise TypeError("validate must not be a coroutine function here; folkmoot.Client takes one")

    def check(candidate: Candidate) -> None:
        def answer(new: object, outcome: object) -> None:
            if outcome is False:
                candidate.reject("the validator returned False")
            else:
                candidate.accept(new)

        # Whatever the user's code raises is a refusal, and told as one.
        try:
            new = parse(candidate.json())
        except BaseException as error:  # noqa: BLE001
            candidate.misfit(_reason(error))
            return
        try:
            outcome = None if validate is None else validate(candidate.old(), new)
            if not inspect.isawaitable(outcome):
                answer(new, outcome)
                return
            verdict = in_loop(outcome, loop)
        except BaseException as error:  # noqa: BLE001
            candidate.reject(_reason(error))
            return

        def done(verdict: Future[Any]) -> None:
            try:
                answer(new, verdict.result())
            except BaseException as error:  # noqa: BLE001
                candidate.reject(_reason(error))

        verdict.add_done_callback(done)

    return check


def _reason(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def in_loop(awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop | None) -> Future[T]:
    """Let another thread's loop wait for something."""
    coroutine: Coroutine[Any, Any, T] = _as_coroutine(awaitable)
    if loop is None:
        coroutine.close()
        raise TypeError("an asynchronous function needs an event loop; use folkmoot.Client")
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except BaseException:
        coroutine.close()
        raise


def _as_coroutine(awaitable: Awaitable[T]) -> Coroutine[Any, Any, T]:
    if inspect.iscoroutine(awaitable):
        return awaitable

    async def wrapped() -> T:
        return await awaitable

    return wrapped()


_UNIONS: tuple[object, ...] = (Union, types.UnionType)


def build(kind: Any, value: Any, path: str) -> Any:
    """Make a value of a type out of what JSON has; a ``ValueError`` names the place where it does not fit."""
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build_dataclass(kind, value, path)
    origin, args = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        return _build_union(args, value, path)
    if origin is Literal:
        for choice in args:
            if type(choice) is type(value) and choice == value:
                return value
        raise _misfit(path, " or ".join(repr(choice) for choice in args), value)
    if origin is typing.Annotated:
        return build(args[0], value, path)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise _misfit(path, " or ".join(repr(item.value) for item in kind), value) from None
    container = origin or kind
    if container in (list, tuple, set, frozenset, Sequence):
        return _build_sequence(container, args, value, path)
    if container in (dict, Mapping):
        if not isinstance(value, dict):
            raise _misfit(path, "an object", value)
        key_kind, value_kind = args or (str, Any)
        entries = typing.cast("dict[str, Any]", value)
        return {
            build(key_kind, key, path): build(value_kind, item, _join(path, key))
            for key, item in entries.items()
        }
    return _build_scalar(kind, value, path)


def _build_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is None or kind is type(None):
        if value is None:
            return None
        raise _misfit(path, "null", value)
    if kind is bool or kind is str:
        if isinstance(value, kind):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif kind is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif callable(kind):
        # A type of the user's, such as ``pathlib.Path``, made of the plain value.
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path or 'the value'}: {error}") from error
    names = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}
    raise _misfit(path, names.get(kind, str(kind)), value)


def _build_sequence(container: Any, args: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise _misfit(path, "a list", value)
    items: list[Any] = value
    if container is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(items):
            raise _misfit(path, f"a list of {len(args)}", value)
        return tuple(
            [
                build(kind, item, f"{path}[{at}]")
                for at, (kind, item) in enumerate(zip(args, items, strict=True))
            ]
        )
    kind = args[0] if args else Any
    built = [build(kind, item, f"{path}[{at}]") for at, item in enumerate(items)]
    return built if container in (list, Sequence) else container(built)


def _build_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    errors: list[str] = []
    for kind in kinds:
        try:
            return build(kind, value, path)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; or ".join(errors))


def _build_dataclass(kind: type[Any], value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _misfit(path, f"an object ({kind.__name__})", value)
    entries = typing.cast("dict[str, Any]", value)
    hints = typing.get_type_hints(kind, include_extras=True)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name in entries:
            arguments[field.name] = build(hints[field.name], entries[field.name], _join(path, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(path, field.name)}: is missing")
    # What the type does not know is for newer programs that read the same configuration.
    return kind(**arguments)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _misfit(path: str, wanted: str, value: object) -> ValueError:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return ValueError(f"{path or 'the value'}: must be {wanted}, not {shown}")
