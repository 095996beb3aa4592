"""The client for asyncio."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from . import _convert as conv
from . import _encode as enc
from ._call import Call, run, same
from ._config import Config
from ._encode import Text
from ._ops import Keys
from ._registry import Registry
from ._requests import AuthBase, ClientBase
from ._session import LeaderWatch, Session, Txn
from ._stream import Stream
from ._types import (
    Alarm,
    DeleteResult,
    HashKv,
    Header,
    KeyValue,
    Leader,
    Lease,
    LeaseTtl,
    Member,
    MemberStatus,
    Permission,
    PutResult,
    RangeResult,
    SortBy,
    Tls,
    WatchBatch,
)


class Watch(Stream[WatchBatch]):
    """A running watch: every change once, whole revisions, in order, for as long as it takes.

    It survives every failure it can survive, and otherwise raises why it cannot go on.
    """


class Snapshot(Stream[bytes]):
    """A copy of one member's whole data, piece by piece. The last 32 bytes are a hash of the rest."""


class Client(ClientBase):
    """A connection to one store, Folkmoot or etcd, by as many of its members as are known.

    ``async with Client("n1:2379,n2:2379") as client:`` waits for one answer at the beginning and closes at
    the end.
    Without it the client connects when it is first used. One client serves any number of tasks, event loops
    and
    threads. In a forked child it connects afresh by itself. Pickled, it is its configuration.

    A call that reads is repeated at other members until ``request_timeout``. A call that writes is sent
    once, and if its
    answer is lost that is ``Ambiguous``. A call that is cancelled may have been applied or not.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        user: str | None = None,
        password: str | None = None,
        tls: Tls | bool | None = None,
        namespace: Text = b"",
        connect_timeout: float | None = None,
        request_timeout: float | None = None,
        auto_sync: float | None = None,
    ) -> None:
        """Say where the store is, and ask nobody yet.

        :param endpoints: ``host:port``, ``http://…``, ``https://…`` or ``dns:///host:port``; several, or one
            text with commas.
        :param user: log in; tokens are renewed by themselves.
        :param password: comes with ``user``.
        :param tls: encrypt; endpoints with ``https://`` are encrypted also without.
        :param namespace: put this in front of every key.
        :param connect_timeout: how long one attempt to connect may take, in seconds; 2 if not said.
        :param request_timeout: how long a call may take that does not wait by design; 5 if not said.
        :param auto_sync: ask the members so often who the members are, in seconds, one at least, and add
            those that are new to the endpoints; not done if not said.
        """
        super().__init__(
            endpoints, user, password, tls, namespace, connect_timeout, request_timeout, auto_sync
        )

    async def __aenter__(self) -> Client:
        await self.verify()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """Do as ``close()``."""
        self.close()

    async def verify(self) -> None:
        """Log in, if there is a user, and wait for one answer of one member."""
        await run(self._verify())

    def namespace(self, prefix: Text) -> Client:
        """Get the same store, with this prefix in front of every key. Namespaces nest."""
        inner = object.__new__(type(self))
        inner._open(*self._within(prefix))
        return inner

    async def get(self, key: Text, *, revision: int = 0, serializable: bool = False) -> KeyValue | None:
        """Read one key, linearizably and now; ``None`` if it does not exist.

        :param revision: as it was then.
        :param serializable: from one member's own state, which may be behind, but never behind what this
            client has seen.
        """
        return await run(self._get(key, revision, serializable))

    async def get_range(
        self,
        keys: Text | Keys,
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
    ) -> RangeResult:
        """Read several keys: ``await client.get_range(Keys.prefix("a/"), limit=10)``.

        0 means no limit, no bound and now. The bounds leave out keys by when they were put, or came to be.
        """
        return await run(
            self._get_range(
                keys,
                {
                    "limit": limit,
                    "revision": revision,
                    "sort_by": sort_by,
                    "descending": descending,
                    "serializable": serializable,
                    "keys_only": keys_only,
                    "count_only": count_only,
                    "min_mod_revision": min_mod_revision,
                    "max_mod_revision": max_mod_revision,
                    "min_create_revision": min_create_revision,
                    "max_create_revision": max_create_revision,
                },
            )
        )

    async def get_prefix(self, prefix: Text, *, limit: int = 0, serializable: bool = False) -> RangeResult:
        """Read all keys that begin like this."""
        return await run(self._get_range(Keys.prefix(prefix), {"limit": limit, "serializable": serializable}))

    async def put(
        self,
        key: Text,
        value: Text,
        *,
        lease: int = 0,
        prev: bool = False,
        keep_value: bool = False,
        keep_lease: bool = False,
    ) -> PutResult:
        """Put a value under a key.

        :param lease: hang the key on this lease; it goes when that ends.
        :param prev: ask what was there before.
        :param keep_value: keep the value that is there; the one given must be empty.
        :param keep_lease: keep the lease that it hangs on.
        """
        return await run(self._put(key, value, lease, prev, keep_value, keep_lease))

    async def delete(self, keys: Text | Keys, *, prev: bool = False) -> DeleteResult:
        """Delete a key, or several; with ``prev`` the answer says what was there."""
        return await run(self._delete(keys, prev))

    async def delete_prefix(self, prefix: Text, *, prev: bool = False) -> DeleteResult:
        """Delete all keys that begin like this."""
        return await run(self._delete(Keys.prefix(prefix), prev))

    def txn(self) -> Txn:
        """Begin a transaction."""
        return Txn(self._native.commit)

    async def compact(self, revision: int, *, physical: bool = False) -> Header:
        """Forget history before this revision; with ``physical`` answer when the space is free."""
        return await run(self._compact(revision, physical))

    def watch(
        self,
        keys: Text | Keys,
        *,
        from_revision: int | None = None,
        prev: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress: bool = False,
        fail_when_full: bool = False,
        buffer: tuple[int, int] | None = None,
    ) -> Watch:
        """Watch keys: ``async with client.watch(Keys.prefix("a/")) as watch: async for batch in watch:``.

        Every change after ``async with`` has entered is delivered.

        :param from_revision: begin there, itself included, instead of now.
        :param prev: ask what the keys were before.
        :param puts: whether puts are delivered.
        :param deletes: whether deletions are delivered.
        :param progress: also deliver empty batches when the store says how far it is.
        :param fail_when_full: end with ``Overflow`` if this consumer is too slow, instead of waiting for it.
        :param buffer: how many batches, and bytes, wait for the consumer at most; 1024 and 64 MiB if not
            said.
        """
        options = self._watch(keys, from_revision, prev, puts, deletes, progress, fail_when_full, buffer)
        return Watch(lambda: self._native.watch(*options), conv.batch)

    def session(self, *, ttl: float | None = None, allow_short_ttl: bool = False) -> Session:
        """Prepare a session: ``async with client.session(ttl=15) as session:``.

        :param ttl: how long it survives without contact to the store, in seconds: 15 if not said, at least 5.
        :param allow_short_ttl: allow less than 5 s; a short hiccup then ends the session.
        """
        seconds = enc.optional_seconds(ttl, "ttl", zero=False)
        return Session(self._native, seconds, enc.flag(allow_short_ttl, "allow_short_ttl"))

    async def leader(self, name: str) -> Leader | None:
        """Tell who leads in the election of this name."""
        return await run(self._leader(name))

    def observe(self, name: str) -> LeaderWatch:
        """Follow who leads in the election of this name, without being a candidate."""
        election = enc.text(name, "name")
        return LeaderWatch(lambda: self._native.observe(election), conv.leader_event)

    def registry(self, namespace: str, *, zone: str = "") -> Registry:
        """Get the services of a namespace. ``zone`` is where this process runs; balancers prefer it."""
        registry = self._native.registry(enc.text(namespace, "namespace"), enc.text(zone, "zone", empty=True))
        return Registry(registry, namespace, self._options["endpoints"])

    def config(self, namespace: str) -> Config:
        """Get the configuration of a namespace."""
        return Config(self._native.config(enc.text(namespace, "namespace")), namespace)

    async def lease_grant(self, ttl: float, *, id: int | None = None) -> Lease:  # noqa: A002
        """Grant a lease of so many seconds. Nobody renews it: for that there are sessions."""
        return await run(self._lease_grant(ttl, id))

    async def lease_revoke(self, lease: int) -> bool:
        """End a lease and delete its keys; tell whether there was one."""
        return await run(self._lease_revoke(lease))

    async def lease_ttl(self, lease: int, *, keys: bool = False) -> LeaseTtl | None:
        """Tell what is left of a lease, and with ``keys`` what hangs on it; ``None`` if it does not exist."""
        return await run(self._lease_ttl(lease, keys))

    async def lease_renew(self, lease: int) -> Lease:
        """Renew a lease once. Sessions do this by themselves."""
        return await run(self._lease_renew(lease))

    async def leases(self) -> tuple[int, ...]:
        """List the ids of all leases."""
        return await run(self._leases())

    async def members(self) -> tuple[Member, ...]:
        """List all members."""
        return await run(self._members())

    async def member_add(self, peer_urls: Iterable[str], *, learner: bool = False) -> Member:
        """Add a member, which is to be started afterwards."""
        return await run(self._member_add(peer_urls, learner))

    async def member_remove(self, member: int) -> tuple[Member, ...]:
        """Remove a member for good; tell who stays."""
        return await run(self._member_remove(member))

    async def member_update(self, member: int, peer_urls: Iterable[str]) -> tuple[Member, ...]:
        """Say where other members reach a member."""
        return await run(self._member_update(member, peer_urls))

    async def member_promote(self, member: int) -> tuple[Member, ...]:
        """Let a learner vote."""
        return await run(self._member_promote(member))

    async def status(self, endpoint: str) -> MemberStatus:
        """Tell how the member at this endpoint is."""
        return await run(self._status(endpoint))

    async def alarms(self) -> tuple[Alarm, ...]:
        """List all alarms."""
        return await run(self._alarms())

    async def alarm_disarm(self, alarm: Alarm) -> tuple[Alarm, ...]:
        """End an alarm."""
        return await run(self._alarm_disarm(alarm))

    async def defragment(self, endpoint: str) -> None:
        """Give the space of the member at this endpoint back to its disk."""
        await run(self._defragment(endpoint))

    async def hash_kv(self, endpoint: str, revision: int = 0) -> HashKv:
        """Hash the keys of the member at this endpoint up to a revision, 0 for all."""
        return await run(self._hash_kv(endpoint, revision))

    async def move_leader(self, endpoint: str, member: int) -> None:
        """Make another member the leader. The endpoint is the present leader's."""
        await run(self._move_leader(endpoint, member))

    def snapshot(self, endpoint: str) -> Snapshot:
        """Copy the data of the member at this endpoint."""
        member = enc.text(endpoint, "endpoint")
        return Snapshot(lambda: self._native.snapshot(member), same)

    @property
    def auth(self) -> Auth:
        """The administration of users and roles."""
        return Auth(self._native.auth())


class Auth(AuthBase):
    """Users and roles. Keys here are those of the store, without the client's namespace."""

    async def enable(self) -> None:
        """Switch auth on; needs a user ``root`` with the role ``root``."""
        await run(Call(self._native.enable(), same))

    async def disable(self) -> None:
        """Switch auth off."""
        await run(Call(self._native.disable(), same))

    async def is_enabled(self) -> bool:
        """Tell whether auth is on."""
        return await run(Call(self._native.is_enabled(), same))

    async def user_add(self, name: str, password: str | None = None) -> None:
        """Add a user; without a password one that comes by certificate only."""
        secret = enc.optional_text(password, "password")
        await run(Call(self._native.user_add(enc.text(name, "name"), secret), same))

    async def user_delete(self, name: str) -> None:
        """Delete a user."""
        await run(Call(self._native.user_delete(enc.text(name, "name")), same))

    async def user_change_password(self, name: str, password: str) -> None:
        """Set a user's password."""
        secret = enc.text(password, "password")
        await run(Call(self._native.user_change_password(enc.text(name, "name"), secret), same))

    async def user_roles(self, name: str) -> tuple[str, ...]:
        """List a user's roles."""
        return await run(Call(self._native.user_roles(enc.text(name, "name")), same))

    async def users(self) -> tuple[str, ...]:
        """List all users."""
        return await run(Call(self._native.users(), same))

    async def user_grant_role(self, user: str, role: str) -> None:
        """Give a user a role."""
        await run(Call(self._native.user_grant_role(enc.text(user, "user"), enc.text(role, "role")), same))

    async def user_revoke_role(self, user: str, role: str) -> None:
        """Take a role from a user."""
        await run(Call(self._native.user_revoke_role(enc.text(user, "user"), enc.text(role, "role")), same))

    async def role_add(self, name: str) -> None:
        """Add a role."""
        await run(Call(self._native.role_add(enc.text(name, "name")), same))

    async def role_delete(self, role: str) -> None:
        """Delete a role."""
        await run(Call(self._native.role_delete(enc.text(role, "role")), same))

    async def roles(self) -> tuple[str, ...]:
        """List all roles."""
        return await run(Call(self._native.roles(), same))

    async def role_grant(
        self, role: str, keys: Text | Keys, *, read: bool = False, write: bool = False
    ) -> None:
        """Let a role read these keys, write them, or both."""
        await run(self._grant(role, keys, read, write))

    async def role_revoke(self, role: str, keys: Text | Keys) -> None:
        """Take from a role what it may do with exactly these keys."""
        await run(self._revoke(role, keys))

    async def role_permissions(self, role: str) -> tuple[Permission, ...]:
        """Tell what a role may do."""
        return await run(self._permissions(role))
