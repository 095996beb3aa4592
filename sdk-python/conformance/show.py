"""The client's values as the scenarios see them."""

from __future__ import annotations

from typing import Any

import folkmoot
from folkmoot import FolkmootError

Args = dict[str, Any]


def error(problem: FolkmootError) -> Args:
    return {
        "code": problem.code,
        "retryable": problem.retryable,
        "maybe_applied": problem.maybe_applied,
        "text": str(problem),
    }


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def kv(one: folkmoot.KeyValue | None) -> Args | None:
    if one is None:
        return None
    return {
        "key": text(one.key),
        "value": text(one.value),
        "create_revision": one.create_revision,
        "mod_revision": one.mod_revision,
        "version": one.version,
        "leased": one.lease != 0,
    }


def batch(one: folkmoot.WatchBatch) -> Args:
    events = [
        {
            "event": event.kind,
            "key": text(event.kv.key),
            "value": text(event.kv.value),
            "prev": kv(event.prev),
        }
        for event in one.events
    ]
    return {"revision": one.revision, "events": events}


def token(guard: Any) -> Args:
    return {"token": guard.token.revision, "key": text(guard.token.key)}


def leader(one: folkmoot.Leader) -> Args:
    return {"value": text(one.value), "token": one.token, "key": text(one.key)}


def leader_event(event: folkmoot.LeaderEvent) -> Args:
    if event.leader is None:
        return {"event": event.kind}
    return {"event": event.kind, "leader": leader(event.leader)}


def instances(found: Any) -> list[Args]:
    names = ("id", "addr", "weight", "zone")
    return [{name: getattr(one, name) for name in names} | {"health": str(one.health)} for one in found]


def service_event(event: folkmoot.ServiceEvent) -> Args:
    if event.kind == "snapshot":
        return {"event": "snapshot", "instances": instances(event.added)}
    if event.kind != "delta":
        return {"event": event.kind}
    return {
        "event": "delta",
        "added": instances(event.added),
        "updated": instances(event.updated),
        "removed": instances(event.removed),
        "revision": event.revision,
        "resync": event.resync,
    }


def registration_event(event: folkmoot.RegistrationEvent) -> Args:
    return {"event": event.kind} if event.kind == "conflict" else {"event": event.kind, "epoch": event.epoch}


def config_event(event: Any) -> Args:
    if isinstance(event, folkmoot.ConfigRejected):
        return {"event": "rejected", "code": event.error.code}
    return {
        "event": "changed",
        "new": event.new.shown(),
        "changed_paths": list(event.changed_paths),
        "source": event.source,
    }


def state(now: Any) -> Args:
    return {"state": now if now in ("active", "suspended", "closed") else "lost"}


def response(one: Any) -> Args:
    if isinstance(one, folkmoot.RangeResult):
        return {"get": [kv(found) for found in one.kvs]}
    if isinstance(one, folkmoot.DeleteResult):
        return {"deleted": one.deleted}
    return {"put": {}} if isinstance(one, folkmoot.PutResult) else {"txn": {}}


class Settings:
    """What every configuration of the scenarios is read as."""

    def __init__(self, value: Args) -> None:
        limits = self.typed(value.get("limits", {}), dict, "limits")
        self.name = self.typed(value.get("name", ""), str, "name")
        self.min = self.typed(limits.get("min", 0), int, "min")
        self.max = self.typed(limits.get("max", 0), int, "max")
        self.tags = [self.typed(tag, str, "tag") for tag in self.typed(value.get("tags", []), list, "tags")]

    @staticmethod
    def typed(given: Any, kind: type, name: str) -> Any:
        if not isinstance(given, kind) or isinstance(given, bool):
            raise TypeError(f"{name} must be of type {kind.__name__}")
        return given

    def shown(self) -> Args:
        return {"name": self.name, "limits": {"min": self.min, "max": self.max}, "tags": self.tags}


def sensible(_old: Settings | None, new: Settings) -> None:
    if new.min > new.max:
        raise ValueError("min is above max")
