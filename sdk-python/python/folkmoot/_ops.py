"""Which keys, which conditions, which operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from . import _encode as enc
from ._encode import Text
from ._types import SortBy

if TYPE_CHECKING:
    from ._native import CompareTuple, GetTuple, KeysTuple, OpTuple, TxnTuple


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a call is about. Wherever one is wanted a key alone will do."""

    _tuple: KeysTuple

    @staticmethod
    def one(key: Text) -> Keys:
        """One key."""
        return Keys(("one", enc.key(key), b""))

    @staticmethod
    def prefix(prefix: Text) -> Keys:
        """All keys that begin like this."""
        return Keys(("prefix", enc.data(prefix, "prefix"), b""))

    @staticmethod
    def range(first: Text, end: Text) -> Keys:
        """From the first key on, and before the second."""
        return Keys(("range", enc.key(first, "first"), enc.key(end, "end")))

    @staticmethod
    def from_key(first: Text) -> Keys:
        """From this key on."""
        return Keys(("from", enc.key(first, "first"), b""))

    @staticmethod
    def all() -> Keys:
        """All keys, of the client's namespace if it has one."""
        return Keys(("all", b"", b""))


def keys(value: object, argument: str = "keys") -> KeysTuple:
    """Take keys, or one key."""
    if isinstance(value, Keys):
        return value._tuple
    if not isinstance(value, (str, bytes, bytearray, memoryview)):
        raise enc.fail(argument, "a key (str or bytes) or folkmoot.Keys", value)
    return ("one", enc.key(value, argument), b"")


def get_tuple(
    what: object,
    *,
    limit: int = 0,
    revision: int = 0,
    sort_by: SortBy | None = None,
    descending: bool = False,
    serializable: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> GetTuple:
    """Take how to read."""
    return (
        keys(what),
        enc.count(limit, "limit"),
        enc.count(revision, "revision"),
        enc.sort(sort_by),
        enc.flag(descending, "descending"),
        enc.flag(serializable, "serializable"),
        enc.flag(keys_only, "keys_only"),
        enc.flag(count_only, "count_only"),
        (
            enc.count(min_mod_revision, "min_mod_revision"),
            enc.count(max_mod_revision, "max_mod_revision"),
            enc.count(min_create_revision, "min_create_revision"),
            enc.count(max_create_revision, "max_create_revision"),
        ),
    )


Comparison = Literal["==", "!=", ">", "<"]


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction. Of several keys every one must satisfy it."""

    _tuple: CompareTuple

    @staticmethod
    def _make(what: object, target: str, comparison: object, operand: int | bytes) -> Compare:
        return Compare((keys(what), target, enc.choice(comparison, "comparison", Comparison), operand))

    @staticmethod
    def value(key: Text | Keys, comparison: Comparison, value: Text) -> Compare:
        """Compare the value. Never true for a key that does not exist."""
        return Compare._make(key, "value", comparison, enc.data(value, "value"))

    @staticmethod
    def mod_revision(key: Text | Keys, comparison: Comparison, revision: int) -> Compare:
        """Compare when the value was put; 0 for a key that does not exist."""
        return Compare._make(key, "mod", comparison, enc.integer(revision, "revision"))

    @staticmethod
    def create_revision(key: Text | Keys, comparison: Comparison, revision: int) -> Compare:
        """Compare when the key came to be; 0 for a key that does not exist."""
        return Compare._make(key, "create", comparison, enc.integer(revision, "revision"))

    @staticmethod
    def version(key: Text | Keys, comparison: Comparison, version: int) -> Compare:
        """Compare how often the key was put; 0 for a key that does not exist."""
        return Compare._make(key, "version", comparison, enc.integer(version, "version"))

    @staticmethod
    def lease(key: Text | Keys, comparison: Comparison, lease: int) -> Compare:
        """Compare the lease that the key hangs on; 0 for none."""
        return Compare._make(key, "lease", comparison, enc.integer(lease, "lease"))

    @staticmethod
    def absent(key: Text | Keys) -> Compare:
        """The key does not exist."""
        return Compare._make(key, "create", "==", 0)

    @staticmethod
    def exists(key: Text | Keys) -> Compare:
        """The key exists."""
        return Compare._make(key, "create", ">", 0)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a transaction."""

    _tuple: OpTuple

    @staticmethod
    def get(keys: Text | Keys, **options: Any) -> Op:
        """Read, with the options of ``Client.get_range``."""
        return Op(("get", get_tuple(keys, **options)))

    @staticmethod
    def put(
        key: Text,
        value: Text,
        *,
        lease: int = 0,
        prev: bool = False,
        keep_value: bool = False,
        keep_lease: bool = False,
    ) -> Op:
        """Put, with the options of ``Client.put``."""
        return Op(("put", put_tuple(key, value, lease, prev, keep_value, keep_lease)))

    @staticmethod
    def delete(what: Text | Keys, *, prev: bool = False) -> Op:
        """Delete; with ``prev`` the answer says what was there."""
        return Op(("delete", (keys(what), enc.flag(prev, "prev"))))

    @staticmethod
    def txn(
        when: list[Compare] | None = None,
        then: list[Op] | None = None,
        otherwise: list[Op] | None = None,
    ) -> Op:
        """Do a transaction within the transaction."""
        return Op(("txn", txn_tuple(when or [], then or [], otherwise or [])))


def put_tuple(
    key: object, value: object, lease: object, prev: object, keep_value: object, keep_lease: object
) -> tuple[bytes, bytes, int, bool, bool, bool]:
    """Take what to put."""
    return (
        enc.key(key),
        enc.data(value, "value"),
        enc.count(lease, "lease"),
        enc.flag(prev, "prev"),
        enc.flag(keep_value, "keep_value"),
        enc.flag(keep_lease, "keep_lease"),
    )


def _op(op: object) -> OpTuple:
    if not isinstance(op, Op):
        raise enc.fail("op", "a folkmoot.Op", op)
    return op._tuple


def _compare(compare: object) -> CompareTuple:
    if not isinstance(compare, Compare):
        raise enc.fail("compare", "a folkmoot.Compare", compare)
    return compare._tuple


def txn_tuple(when: list[Compare], then: list[Op], otherwise: list[Op]) -> TxnTuple:
    """Take a transaction."""
    return [_compare(compare) for compare in when], [_op(op) for op in then], [_op(op) for op in otherwise]


class TxnBase:
    """A transaction: if all conditions hold one list of operations is done, else another, at one revision."""

    __slots__ = ("_commit", "_otherwise", "_then", "_when")

    def __init__(self, commit: Callable[[TxnTuple], Any]) -> None:
        self._commit = commit
        self._when: list[CompareTuple] = []
        self._then: list[OpTuple] = []
        self._otherwise: list[OpTuple] = []

    def _add_when(self, compares: tuple[Compare, ...]) -> None:
        self._when.extend(_compare(compare) for compare in compares)

    def _add_then(self, ops: tuple[Op, ...]) -> None:
        self._then.extend(_op(op) for op in ops)

    def _add_otherwise(self, ops: tuple[Op, ...]) -> None:
        self._otherwise.extend(_op(op) for op in ops)

    def _build(self) -> TxnTuple:
        return list(self._when), list(self._then), list(self._otherwise)
