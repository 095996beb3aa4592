"""Tuples of the native part, as dataclasses."""

from __future__ import annotations

from typing import Any

from . import _native as n
from ._types import (
    Alarm,
    ConfigChange,
    ConfigItems,
    ConfigRejected,
    Contender,
    DeleteResult,
    Event,
    FencingToken,
    HashKv,
    Header,
    Health,
    Instance,
    KeyValue,
    Leader,
    LeaderEvent,
    Lease,
    LeaseTtl,
    Member,
    MemberStatus,
    Permission,
    PutResult,
    RangeResult,
    RegistrationEvent,
    ServiceEvent,
    TxnResult,
    WatchBatch,
)


def header(answer: n.HeaderTuple) -> Header:
    """Read a header."""
    return Header(*answer)


def kv(answer: n.KvTuple) -> KeyValue:
    """Read a key with its value."""
    return KeyValue(*answer)


def kvs(answer: tuple[n.KvTuple, ...]) -> tuple[KeyValue, ...]:
    """Read keys with their values."""
    return tuple([KeyValue(*item) for item in answer])


def prev(answer: n.KvTuple | None) -> KeyValue | None:
    """Read what was there before, if anything was."""
    return None if answer is None else KeyValue(*answer)


def first(answer: n.RangeAnswer) -> KeyValue | None:
    """Read the one key that was asked for."""
    found = answer[1]
    return KeyValue(*found[0]) if found else None


def range_result(answer: n.RangeAnswer) -> RangeResult:
    """Read the answer to a read."""
    return RangeResult(Header(*answer[0]), kvs(answer[1]), answer[2], answer[3])


def put_result(answer: n.PutAnswer) -> PutResult:
    """Read the answer to a put."""
    return PutResult(Header(*answer[0]), prev(answer[1]))


def delete_result(answer: n.DeleteAnswer) -> DeleteResult:
    """Read the answer to a deletion."""
    return DeleteResult(Header(*answer[0]), answer[1], kvs(answer[2]))


_OPS: dict[str, Any] = {"get": range_result, "put": put_result, "delete": delete_result}


def txn_result(answer: n.TxnAnswer) -> TxnResult:
    """Read the answer to a transaction."""
    responses = tuple([_OPS[kind](content) for kind, content in answer[2]])
    return TxnResult(Header(*answer[0]), answer[1], responses)


_OPS["txn"] = txn_result


def token(answer: n.TokenTuple) -> FencingToken:
    """Read a token."""
    return FencingToken(*answer)


def batch(answer: n.BatchTuple) -> WatchBatch:
    """Read the changes of a revision."""
    events = [
        Event("delete" if is_delete else "put", KeyValue(*now), prev(before))
        for is_delete, now, before in answer[1]
    ]
    return WatchBatch(answer[0], tuple(events))


def lease(answer: n.LeaseTuple) -> Lease:
    """Read a lease."""
    return Lease(*answer)


def lease_ttl(answer: n.LeaseTtlTuple | None) -> LeaseTtl | None:
    """Read what is left of a lease."""
    return None if answer is None else LeaseTtl(*answer)


def member(answer: n.MemberTuple) -> Member:
    """Read a member."""
    return Member(*answer)


def members(answer: tuple[n.MemberTuple, ...]) -> tuple[Member, ...]:
    """Read members."""
    return tuple([Member(*item) for item in answer])


def status(answer: n.StatusTuple) -> MemberStatus:
    """Read how a member is."""
    return MemberStatus(Header(*answer[0]), *answer[1:])


def alarms(answer: tuple[n.AlarmTuple, ...]) -> tuple[Alarm, ...]:
    """Read alarms."""
    return tuple([Alarm(member_id, "corrupt" if corrupt else "no_space") for member_id, corrupt in answer])


def hash_kv(answer: n.HashTuple) -> HashKv:
    """Read a hash."""
    return HashKv(Header(*answer[0]), answer[1], answer[2])


def permissions(answer: tuple[n.PermissionTuple, ...]) -> tuple[Permission, ...]:
    """Read permissions."""
    return tuple([Permission(*item) for item in answer])


def contenders(answer: tuple[n.ContenderTuple, ...]) -> tuple[Contender, ...]:
    """Read the line before a lock."""
    return tuple([Contender(*item) for item in answer])


def leader(answer: n.LeaderTuple | None) -> Leader | None:
    """Read who leads."""
    return None if answer is None else Leader(*answer)


def leader_event(answer: n.LeaderEventTuple) -> LeaderEvent:
    """Read a change of who leads."""
    if answer[0] == "vacant":
        return LeaderEvent("vacant", None, answer[1])
    found = Leader(*answer[1])
    return LeaderEvent(answer[0], found, found.revision)


def instance(answer: n.InstanceTuple) -> Instance:
    """Read an instance."""
    return Instance(*answer[:7], Health(answer[7]), *answer[8:])


def instances(answer: tuple[n.InstanceTuple, ...]) -> tuple[Instance, ...]:
    """Read instances."""
    return tuple([instance(item) for item in answer])


def registration_event(answer: n.RegistrationEventTuple) -> RegistrationEvent:
    """Read what happened to a registration."""
    return RegistrationEvent(*answer)


def service_event(answer: n.ServiceEventTuple) -> ServiceEvent:
    """Read a change among the instances of a service."""
    if answer[0] == "snapshot":
        return ServiceEvent("snapshot", instances(answer[1]), revision=answer[2])
    if answer[0] == "delta":
        added, updated, removed, revision, resync = answer[1:]
        return ServiceEvent(
            "delta", instances(added), instances(updated), instances(removed), revision, resync
        )
    return ServiceEvent(answer[0])


def config_items(answer: tuple[tuple[tuple[str, bytes], ...], int]) -> ConfigItems:
    """Read the items of a namespace."""
    return ConfigItems(dict(answer[0]), answer[1])


def config_event(answer: n.ConfigEventTuple) -> ConfigChange[Any] | ConfigRejected:
    """Read a configuration that was taken, or not."""
    if answer[0] == "rejected":
        return ConfigRejected(answer[1], answer[2])
    _, old, new, paths, revision, source = answer
    return ConfigChange(old, new, paths, revision, source)
