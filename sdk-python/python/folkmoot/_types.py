"""The values that calls take and answer. All are immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from ._errors import FolkmootError

T = TypeVar("T")

SortBy = Literal["key", "version", "create", "mod", "value"]
"""By what a range is sorted: the key, how often it was put, when it came to be, when it was put, the
value."""

SessionState = Literal["active", "suspended", "expired", "lease_gone", "cluster_reset", "closed"]
"""``active``: keepalives are acknowledged. ``suspended``: the store is not heard, the lease still counts.
The others are final: no keepalive was acknowledged in time; the store says that the lease is gone; the
store was replaced or restored; closed by its owner."""

OnConflict = Literal["fail", "takeover", "suffix"]
"""If somebody else is registered under the id: refuse, take its place, or put something behind the id."""

Policy = Literal["round_robin", "weighted_random", "p2c", "ring_hash"]
"""How an instance is chosen: in turn by weight, by chance and weight, the less loaded of two, by a key."""

ConfigSource = Literal["live", "disk_cache"]
"""Where a configuration comes from: the store, or, because that could not be reached, the disk."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How connections are encrypted, and who trusts whom.

    Each of the PEM values is the path of a file (``str``) or the text itself (``bytes``). Without ``ca`` the
    authorities of the system are trusted.

    Files are read when the client is made, and again when they have changed and a connection is made.
    """

    ca: str | bytes | None = None
    """The authorities to trust."""
    cert: str | bytes | None = None
    """The certificate to show; comes with ``key``."""
    key: str | bytes | None = field(default=None, repr=False)
    """Its key."""
    server_name: str | None = None
    """The name to expect in the members' certificates instead of the endpoint's host."""
    skip_verify: bool = False
    """Trust anybody, whatever the certificate says; instead of ``ca``.

    **Dangerous**: it encrypts, but anybody can be in the middle, read everything and change it. For tests.
    """


@dataclass(frozen=True, slots=True)
class Header:
    """Who answered, and at which revision of the store."""

    cluster_id: int
    member_id: int
    revision: int
    raft_term: int


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value at some revision."""

    key: bytes
    """The key, without the client's namespace."""
    value: bytes
    create_revision: int
    """When the key came to be; 0 in a deletion."""
    mod_revision: int
    """When this value was put."""
    version: int
    """How often it was put since it came to be; 0 in a deletion."""
    lease: int
    """The lease that it hangs on, or 0."""


@dataclass(frozen=True, slots=True)
class RangeResult:
    """Answer to a read of several keys."""

    header: Header
    kvs: tuple[KeyValue, ...]
    more: bool
    """Whether a limit held more back."""
    count: int
    """How many keys there are, whatever the limit."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """Answer to a put."""

    header: Header
    """The revision is that of the put."""
    prev: KeyValue | None
    """What was there before, if asked for."""


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """Answer to a deletion."""

    header: Header
    deleted: int
    """How many keys there were."""
    prev: tuple[KeyValue, ...]
    """What was deleted, if asked for."""


@dataclass(frozen=True, slots=True)
class TxnResult:
    """Answer to a transaction."""

    header: Header
    succeeded: bool
    """Whether all conditions held."""
    responses: tuple[RangeResult | PutResult | DeleteResult | TxnResult, ...]
    """One answer for each operation that was done."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one key."""

    kind: Literal["put", "delete"]
    kv: KeyValue
    """The key as it is now; of a deletion only key and ``mod_revision``."""
    prev: KeyValue | None
    """What it was before, if asked for and still known."""

    @property
    def is_create(self) -> bool:
        """Whether the key did not exist before."""
        return self.kind == "put" and self.kv.create_revision == self.kv.mod_revision


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes of one revision among the watched keys."""

    revision: int
    events: tuple[Event, ...]
    """In the order of the transaction. Empty if the store only says how far it is."""


@dataclass(frozen=True, slots=True)
class FencingToken:
    """A number that grows with every holder.

    Show it to whatever must not be touched by an old holder; a resource keeps the largest it saw and refuses
    smaller ones. ``int(token)`` and ``str(token)`` give the number.
    """

    cluster_id: int
    """The cluster; after a restore numbers may begin again, under another one."""
    revision: int
    """The number."""
    key: bytes
    """The key that proves it."""

    def __int__(self) -> int:
        return self.revision

    def __str__(self) -> str:
        return str(self.revision)


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who holds a lock or waits for it."""

    key: bytes
    owner: bytes
    """What it says about itself."""
    lease: int
    revision: int
    """Its place; the first one's is its token."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads."""

    key: bytes
    value: bytes
    """What it proclaims."""
    token: int
    revision: int
    """When it proclaimed that."""


@dataclass(frozen=True, slots=True)
class LeaderEvent:
    """A change of who leads."""

    kind: Literal["elected", "updated", "vacant"]
    leader: Leader | None
    """``None`` if nobody leads."""
    revision: int
    """When that came to be, or was seen."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that was granted."""

    id: int
    ttl: float
    """How long it lives without being renewed, in seconds."""


@dataclass(frozen=True, slots=True)
class LeaseTtl:
    """What is left of a lease, in seconds."""

    granted: float
    remaining: float
    keys: tuple[bytes, ...]
    """What hangs on it, if asked for."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the store."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """How a member is."""

    header: Header
    version: str
    db_size_bytes: int
    db_size_in_use_bytes: int
    leader: int
    """The member that it knows as leader; 0 for none."""
    raft_index: int
    raft_term: int
    raft_applied_index: int
    errors: tuple[str, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm of a member: ``no_space``, the quota is used up, or ``corrupt``, its data differ."""

    member_id: int
    kind: Literal["no_space", "corrupt"]


@dataclass(frozen=True, slots=True)
class HashKv:
    """A hash over the keys of a member."""

    header: Header
    hash: int
    compact_revision: int


@dataclass(frozen=True, slots=True)
class Permission:
    """What a role may do with which keys."""

    read: bool
    write: bool
    key: bytes
    range_end: bytes
    """The end of the range; empty for the one key, one zero for no end."""


class Health(str, Enum):
    """How an instance is."""

    STARTING = "STARTING"
    """Not ready yet."""
    UP = "UP"
    """Ready."""
    DEGRADED = "DEGRADED"
    """Works, but is used only if nothing better is there."""
    DRAINING = "DRAINING"
    """Finishes what it has and takes nothing new."""
    DOWN = "DOWN"
    """Does not work."""
    MAINTENANCE = "MAINTENANCE"
    """Taken out by an operator."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance of a service."""

    id: str
    service: str
    namespace: str
    host: str
    port: int
    """0 for none."""
    ports: Mapping[str, int]
    """More ports by name."""
    weight: int
    health: Health
    version: str
    zone: str
    attrs: Mapping[str, str]
    incarnation: str
    """Tells one start of an instance from the next."""
    ttl: int
    """The time of its session, in seconds."""
    addr: str
    """``host:port``."""


@dataclass(frozen=True, slots=True)
class RegistrationEvent:
    """What happened to a registration.

    ``reregistered``: its session was lost or its key deleted, and it was made good. ``conflict``: somebody
    else
    has taken the id, and it is given up.
    """

    kind: Literal["reregistered", "conflict"]
    epoch: int
    """Counts the sessions; 0 in a conflict."""


@dataclass(frozen=True, slots=True)
class ServiceEvent:
    """A change among the instances of a service.

    ``snapshot``: all instances, at first, in ``added``. ``delta``: a change, one for each revision.
    ``stale``: the
    store is not heard, and the last known instances still count. ``fresh``: it is heard again.
    """

    kind: Literal["snapshot", "delta", "stale", "fresh"]
    added: tuple[Instance, ...] = ()
    updated: tuple[Instance, ...] = ()
    removed: tuple[Instance, ...] = ()
    revision: int = 0
    resync: bool = False
    """The difference of two snapshots: what happened in between is not known."""


@dataclass(frozen=True, slots=True)
class ConfigItems:
    """All items of a namespace at one revision."""

    items: Mapping[str, bytes]
    revision: int
    """For ``publish(based_on=…)``."""


@dataclass(frozen=True, slots=True)
class ConfigChange(Generic[T]):
    """A configuration that was taken."""

    old: T | None
    """The one before, as this watcher saw it; ``None`` at first."""
    new: T
    changed_paths: Sequence[str]
    """Where the two differ."""
    revision: int
    source: ConfigSource

    @property
    def stale(self) -> bool:
        """Whether it comes from the disk and may be old."""
        return self.source == "disk_cache"


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """A configuration that was not taken; the last good one stays."""

    revision: int
    error: FolkmootError
