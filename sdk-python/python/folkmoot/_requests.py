"""What the client for asyncio and the one for threads have in common: arguments in, a call out."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, TypedDict
from urllib.parse import urlsplit

from . import _convert as conv
from . import _encode as enc
from . import _native as native
from ._call import Call, same
from ._ops import get_tuple, keys, put_tuple
from ._types import (
    Alarm,
    DeleteResult,
    HashKv,
    Header,
    Health,
    KeyValue,
    Leader,
    Lease,
    LeaseTtl,
    Member,
    MemberStatus,
    OnConflict,
    Permission,
    Policy,
    PutResult,
    RangeResult,
)


class Options(TypedDict):
    """What a client is made of."""

    endpoints: list[str]
    user: str | None
    password: str | None
    tls: native.TlsTuple | None
    namespace: bytes
    connect_timeout: float | None
    request_timeout: float | None
    auto_sync: float | None


class ClientBase:
    """A connection to one store: what both clients have in common."""

    _options: Options
    _native: native.Client

    def __init__(
        self,
        endpoints: object,
        user: object,
        password: object,
        tls: object,
        namespace: object,
        connect_timeout: object,
        request_timeout: object,
        auto_sync: object,
    ) -> None:
        options: Options = {
            "endpoints": enc.endpoints(endpoints),
            "user": enc.optional_text(user, "user"),
            "password": enc.optional_text(password, "password"),
            "tls": enc.tls(tls),
            "namespace": enc.data(namespace, "namespace"),
            "connect_timeout": enc.optional_seconds(connect_timeout, "connect_timeout", zero=False),
            "request_timeout": enc.optional_seconds(request_timeout, "request_timeout", zero=False),
            "auto_sync": enc.optional_seconds(auto_sync, "auto_sync", zero=False),
        }
        self._open(options, native.Client(**options))

    def _open(self, options: Options, client: native.Client) -> None:
        self._options = options
        self._native = client

    def __getstate__(self) -> Options:
        return self._options

    def __setstate__(self, options: Options) -> None:
        self._open(options, native.Client(**options))

    def __repr__(self) -> str:
        options = self._options
        namespace = f", namespace={options['namespace']!r}" if options["namespace"] else ""
        return f"{type(self).__name__}({','.join(options['endpoints'])!r}{namespace})"

    @property
    def cluster_id(self) -> int:
        """The id of the cluster that answers; 0 before the first answer."""
        return self._native.cluster_id()

    @property
    def endpoints(self) -> list[str]:
        """Where the members are."""
        return self._native.endpoints()

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._native.is_stopped()

    def close(self) -> None:
        """End the client and its namespaces: calls are refused, watches end.

        Needs no event loop. Sessions that are still open are left to their time; close them first. Calling it
        again does nothing.
        """
        self._native.stop()

    def _within(self, prefix: object) -> tuple[Options, native.Client]:
        added = enc.key(prefix, "prefix")
        options: Options = {**self._options, "namespace": self._options["namespace"] + added}
        return options, self._native.namespace(added)

    def _verify(self) -> Call[None]:
        return Call(self._native.verify(), same)

    def _get(self, key: object, revision: object, serializable: object) -> Call[KeyValue | None]:
        one = ("one", enc.key(key), b"")
        revision = enc.count(revision, "revision")
        how = (
            one,
            0,
            revision,
            None,
            False,
            enc.flag(serializable, "serializable"),
            False,
            False,
            (0, 0, 0, 0),
        )
        return Call(self._native.get(how), conv.first)

    def _get_range(self, what: object, options: Mapping[str, Any]) -> Call[RangeResult]:
        return Call(self._native.get(get_tuple(what, **options)), conv.range_result)

    def _put(
        self, key: object, value: object, lease: object, prev: object, keep_value: object, keep_lease: object
    ) -> Call[PutResult]:
        put = put_tuple(key, value, lease, prev, keep_value, keep_lease)
        return Call(self._native.put(*put), conv.put_result)

    def _delete(self, what: object, prev: object) -> Call[DeleteResult]:
        return Call(self._native.delete(keys(what), enc.flag(prev, "prev")), conv.delete_result)

    def _compact(self, revision: object, physical: object) -> Call[Header]:
        call = self._native.compact(enc.count(revision, "revision"), enc.flag(physical, "physical"))
        return Call(call, conv.header)

    def _watch(
        self,
        what: object,
        from_revision: object,
        prev: object,
        puts: object,
        deletes: object,
        progress: object,
        fail_when_full: object,
        buffer: tuple[int, int] | None,
    ) -> tuple[native.KeysTuple, int | None, bool, bool, bool, bool, bool, tuple[int, int] | None]:
        if buffer is not None:
            batches, size = buffer
            buffer = enc.integer(batches, "buffer", 1, 2**31), enc.integer(size, "buffer", 1, 2**40)
        return (
            keys(what),
            None if from_revision is None else enc.integer(from_revision, "from_revision", 1),
            enc.flag(prev, "prev"),
            not enc.flag(puts, "puts"),
            not enc.flag(deletes, "deletes"),
            enc.flag(progress, "progress"),
            enc.flag(fail_when_full, "fail_when_full"),
            buffer,
        )

    def _leader(self, name: object) -> Call[Leader | None]:
        return Call(self._native.leader(enc.text(name, "name")), conv.leader)

    def _lease_grant(self, ttl: object, id: object) -> Call[Lease]:  # noqa: A002
        wanted = None if id is None else enc.integer(id, "id", 1)
        return Call(self._native.lease_grant(enc.seconds(ttl, "ttl", zero=False), wanted), conv.lease)

    def _lease_revoke(self, lease: object) -> Call[bool]:
        return Call(self._native.lease_revoke(enc.integer(lease, "lease")), same)

    def _lease_ttl(self, lease: object, with_keys: object) -> Call[LeaseTtl | None]:
        call = self._native.lease_ttl(enc.integer(lease, "lease"), enc.flag(with_keys, "keys"))
        return Call(call, conv.lease_ttl)

    def _lease_renew(self, lease: object) -> Call[Lease]:
        return Call(self._native.lease_renew(enc.integer(lease, "lease")), conv.lease)

    def _leases(self) -> Call[tuple[int, ...]]:
        return Call(self._native.leases(), same)

    def _members(self) -> Call[tuple[Member, ...]]:
        return Call(self._native.members(), conv.members)

    def _member_add(self, peer_urls: object, learner: object) -> Call[Member]:
        urls = enc.texts(peer_urls, "peer_urls")
        return Call(self._native.member_add(urls, enc.flag(learner, "learner")), conv.member)

    def _member_remove(self, member: object) -> Call[tuple[Member, ...]]:
        return Call(self._native.member_remove(enc.identifier(member, "member")), conv.members)

    def _member_update(self, member: object, peer_urls: object) -> Call[tuple[Member, ...]]:
        urls = enc.texts(peer_urls, "peer_urls")
        return Call(self._native.member_update(enc.identifier(member, "member"), urls), conv.members)

    def _member_promote(self, member: object) -> Call[tuple[Member, ...]]:
        return Call(self._native.member_promote(enc.identifier(member, "member")), conv.members)

    def _status(self, endpoint: object) -> Call[MemberStatus]:
        return Call(self._native.status(enc.text(endpoint, "endpoint")), conv.status)

    def _alarms(self) -> Call[tuple[Alarm, ...]]:
        return Call(self._native.alarms(), conv.alarms)

    def _alarm_disarm(self, alarm: object) -> Call[tuple[Alarm, ...]]:
        if not isinstance(alarm, Alarm):
            raise enc.fail("alarm", "a folkmoot.Alarm", alarm)
        return Call(self._native.alarm_disarm(alarm.member_id, alarm.kind == "corrupt"), conv.alarms)

    def _defragment(self, endpoint: object) -> Call[None]:
        return Call(self._native.defragment(enc.text(endpoint, "endpoint")), same)

    def _hash_kv(self, endpoint: object, revision: object) -> Call[HashKv]:
        call = self._native.hash_kv(enc.text(endpoint, "endpoint"), enc.count(revision, "revision"))
        return Call(call, conv.hash_kv)

    def _move_leader(self, endpoint: object, member: object) -> Call[None]:
        call = self._native.move_leader(enc.text(endpoint, "endpoint"), enc.identifier(member, "member"))
        return Call(call, same)


class AuthBase:
    """Users and roles. Keys here are those of the store, without the client's namespace."""

    def __init__(self, auth: native.Auth) -> None:
        self._native = auth

    def _grant(self, role: object, what: object, read: object, write: object) -> Call[None]:
        allowed = enc.flag(read, "read"), enc.flag(write, "write")
        return Call(self._native.role_grant(enc.text(role, "role"), keys(what), *allowed), same)

    def _revoke(self, role: object, what: object) -> Call[None]:
        return Call(self._native.role_revoke(enc.text(role, "role"), keys(what)), same)

    def _permissions(self, role: object) -> Call[tuple[Permission, ...]]:
        return Call(self._native.role_permissions(enc.text(role, "role")), conv.permissions)


def outward_address(endpoints: list[str]) -> str:
    """Find the address of this machine on its way to the store. Nothing is sent."""
    for endpoint in ",".join(endpoints).split(","):
        endpoint = endpoint.strip().removeprefix("dns:///")
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        if not parts.hostname:
            continue
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 2379, type=socket.SOCK_DGRAM)
        except OSError:
            continue
        for family, kind, protocol, _, address in found:
            try:
                with socket.socket(family, kind, protocol) as way:
                    way.connect(address)
                    return str(way.getsockname()[0])
            except OSError:
                continue
    raise ValueError("host must be given: no endpoint of the client has an address that is reached from here")


def register_call(
    registry: native.Registry,
    service: object,
    *,
    port: object,
    host: object,
    id: object,  # noqa: A002
    ports: object,
    weight: object,
    status: object,
    version: object,
    zone: object,
    attrs: object,
    ttl: object,
    on_conflict: object,
    check: Any,
) -> native.Pending[native.Registration]:
    """Take how to register."""
    named_ports = {
        enc.text(name, "ports"): enc.integer(number, "ports", 0, 65535)
        for name, number in enc.mapping(ports, "ports").items()
    }
    texts = {
        enc.text(name, "attrs"): enc.text(value, "attrs", empty=True)
        for name, value in enc.mapping(attrs, "attrs").items()
    }
    return registry.register(
        "" if id is None else enc.text(id, "id"),
        enc.text(service, "service"),
        enc.text(host, "host"),
        enc.integer(port, "port", 0, 65535),
        named_ports,
        enc.integer(weight, "weight", 0, 2**31 - 1),
        health(status, "status"),
        enc.text(version, "version", empty=True),
        enc.text(zone, "zone", empty=True),
        texts,
        enc.optional_seconds(ttl, "ttl", zero=False),
        enc.choice(on_conflict, "on_conflict", OnConflict),
        check,
    )


def health(value: object, argument: str) -> str:
    """Take how an instance is: a ``Health``, its name, or whether it is up."""
    if isinstance(value, bool):
        return "UP" if value else "DOWN"
    if isinstance(value, str):
        try:
            return Health(value).value
        except ValueError:
            names = ", ".join(item.value for item in Health)
            raise ValueError(f"{argument} must be one of {names}, not {value!r}") from None
    raise enc.fail(argument, "a folkmoot.Health or bool", value)


def policy(value: object) -> str:
    """Take how to choose an instance."""
    return enc.choice(value, "policy", Policy)


def publication(changes: object) -> list[tuple[str, bytes | None]]:
    """Take changes of items."""
    return [
        (enc.text(path, "changes"), None if value is None else enc.data(value, "changes"))
        for path, value in enc.mapping(changes, "changes").items()
    ]
