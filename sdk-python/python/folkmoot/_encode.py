"""What callers pass, checked, for the native part.

Wrong types are ``TypeError`` and wrong values ``ValueError``, and both name the argument: a mistake is told
where it was made, and never reaches the store.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from ._native import TlsTuple

from ._types import SortBy, Tls

Text = str | bytes | bytearray | memoryview
"""What is a key or a value: bytes, or a text, which is encoded as UTF-8."""


def fail(argument: str, wanted: str, value: object) -> TypeError:
    """Say that an argument has the wrong type."""
    return TypeError(f"{argument} must be {wanted}, not {type(value).__name__}")


def data(value: object, argument: str) -> bytes:
    """Take a key or a value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise fail(argument, "str or bytes", value)


def key(value: object, argument: str = "key") -> bytes:
    """Take a key."""
    encoded = data(value, argument)
    if not encoded:
        raise ValueError(f"{argument} must not be empty")
    return encoded


def text(value: object, argument: str, *, empty: bool = False) -> str:
    """Take a text."""
    if not isinstance(value, str):
        raise fail(argument, "str", value)
    if not value and not empty:
        raise ValueError(f"{argument} must not be empty")
    return value


def optional_text(value: object, argument: str) -> str | None:
    """Take a text or nothing."""
    return None if value is None else text(value, argument)


def flag(value: object, argument: str) -> bool:
    """Take a truth value, and nothing that merely looks like one."""
    if not isinstance(value, bool):
        raise fail(argument, "bool", value)
    return value


def integer(value: object, argument: str, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """Take a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise fail(argument, "int", value)
    if not low <= value <= high:
        raise ValueError(f"{argument} must be between {low} and {high}, not {value}")
    return value


def count(value: object, argument: str) -> int:
    """Take a whole number that is not negative."""
    return integer(value, argument, 0)


def identifier(value: object, argument: str) -> int:
    """Take the id of a member."""
    return integer(value, argument, 0, 2**64 - 1)


def seconds(value: object, argument: str, *, zero: bool = True) -> float:
    """Take a time in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise fail(argument, "a number of seconds", value)
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero) or value > 1e9:
        raise ValueError(
            f"{argument} must be a time in seconds, {'0' if zero else 'more than 0'} to 1e9, not {value}"
        )
    return float(value)


def optional_seconds(value: object, argument: str, *, zero: bool = True) -> float | None:
    """Take a time in seconds or nothing."""
    return None if value is None else seconds(value, argument, zero=zero)


def choice(value: object, argument: str, choices: Any) -> str:
    """Take one of the texts of a ``Literal``."""
    names: tuple[str, ...] = get_args(choices)
    if not isinstance(value, str):
        raise fail(argument, "str", value)
    if value not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}, not {value!r}")
    return str(value)


def sort(value: object) -> str | None:
    """Take what to sort by, or nothing."""
    return None if value is None else choice(value, "sort_by", SortBy)


def texts(value: object, argument: str) -> list[str]:
    """Take several texts; one alone is a mistake."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise fail(argument, "a sequence of str", value)
    items: Iterable[object] = value
    return [text(item, argument) for item in items]


def endpoints(value: object) -> list[str]:
    """Take endpoints: one text with commas, or several texts."""
    found = value.split(",") if isinstance(value, str) else texts(value, "endpoints")
    found = [endpoint.strip() for endpoint in found if endpoint.strip()]
    if not found:
        raise ValueError("endpoints must name at least one, host:port or http(s)://host:port")
    return found


def mapping(value: object, argument: str) -> Mapping[object, object]:
    """Take a mapping."""
    if not isinstance(value, Mapping):
        raise fail(argument, "a mapping", value)
    return value


def folder(value: object, argument: str) -> str | None:
    """Take the path of a folder or nothing."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise fail(argument, "a path", value)
    return os.fsdecode(value)


def tls(value: object) -> TlsTuple | None:
    """Take how to encrypt: not said, yes, or how."""
    if value is None or value is False:
        return None
    if value is True:
        value = Tls()
    if not isinstance(value, Tls):
        raise fail("tls", "a folkmoot.Tls or bool", value)

    def pem(value: object, argument: str) -> tuple[str | None, bytes | None]:
        if value is None:
            return None, None
        if isinstance(value, bytes):
            return None, value
        if isinstance(value, (str, os.PathLike)):
            return os.fsdecode(value), None
        raise fail(argument, "the path of a file, or its text as bytes", value)

    name = optional_text(value.server_name, "tls.server_name")
    skip = flag(value.skip_verify, "tls.skip_verify")
    return *pem(value.ca, "tls.ca"), *pem(value.cert, "tls.cert"), *pem(value.key, "tls.key"), name, skip


Kind = Literal["one", "prefix", "range", "from", "all"]
