"""Sessions, locks, elections, services and configuration, for asyncio."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

import folkmoot
from folkmoot import (
    AlreadyRegistered,
    Client,
    Compare,
    ConfigChange,
    ConfigRejected,
    Conflict,
    DeadlineExceeded,
    ForkedError,
    Health,
    InvalidConfig,
    Keys,
    LeaderEvent,
    NoInstances,
    NotHeld,
    NotLeader,
    Registration,
    Rejected,
    SessionLost,
    WouldBlock,
)
from folkmoot._requests import outward_address
from folkmoot.sync import Client as SyncClient

from .conftest import Server, eventually


async def keys_of(client: Client, prefix: str) -> int:
    return (await client.get_range(Keys.prefix(prefix), count_only=True)).count


async def test_a_session_keeps_its_lease_and_tells_its_end(client: Client) -> None:
    async with client.session(ttl=10) as session:
        assert session.ttl == 10
        assert session.state == "active"
        assert 5 < session.remaining <= 10
        session.check()
        states = session.states()
        assert await states.__anext__() == "active"
        await client.put("hangs", "x", lease=session.lease_id)
        assert await client.lease_revoke(session.lease_id)
        why = await asyncio.wait_for(session.lost(), 20)
        assert isinstance(why, SessionLost)
        assert [state async for state in states] == ["lease_gone"]
        with pytest.raises(SessionLost):
            session.check()
        with pytest.raises(SessionLost):
            await session.mutex("x").lock()
    assert "lease_gone" in repr(session)


async def test_a_session_that_is_closed_is_closed(client: Client) -> None:
    session = client.session()
    with pytest.raises(folkmoot.Closed):
        session.check()
    await session.open()
    lease = session.lease_id
    await session.close()
    await session.close()
    assert session.state == "closed"
    assert await client.lease_ttl(lease) is None


async def test_one_holds_the_lock_and_others_wait_in_order(client: Client) -> None:
    async with client.session() as a, client.session() as b:
        async with a.mutex("m", owner="ann").lock(timeout=10) as guard:
            with pytest.raises(WouldBlock):
                await b.mutex("m").try_lock()
            with pytest.raises(WouldBlock):
                await a.mutex("m").try_lock()
            with pytest.raises(TimeoutError) as late:
                await b.mutex("m").lock(timeout=0.05)
            assert isinstance(late.value, DeadlineExceeded)
            await eventually("the place is given up", lambda: _count(client, "m/", 1))
            waiting = asyncio.ensure_future(_lock(b))
            await eventually("the other waits", lambda: _count(client, "m/", 2))
            holder, waiter = await a.mutex("m").contenders()
            assert (holder.owner, holder.revision) == (b"ann", guard.token.revision)
            assert waiter.lease == b.lease_id
            await guard.txn().put("cursor", b"42").commit()
            refused = await guard.txn().when(Compare.value("cursor", "==", "0")).put("cursor", b"1").commit()
            assert not refused.succeeded
        later = await asyncio.wait_for(waiting, 20)
        assert later.token.revision > guard.token.revision
        assert int(later.token) == later.token.revision == int(str(later.token))
        with pytest.raises(NotHeld):
            await guard.txn().put("cursor", b"43").commit()
        with pytest.raises(NotHeld):
            guard.check()
        assert await guard.lost() is None
        assert await later.unlock()
        assert not await later.unlock()
        async with await a.mutex("m").try_lock():
            pass
    assert await keys_of(client, "m/") == 0


async def _lock(session: folkmoot.Session) -> folkmoot.LockGuard:
    return await session.mutex("m").lock()


async def _count(client: Client, prefix: str, count: int) -> bool:
    return await keys_of(client, prefix) == count


async def test_a_lost_lock_cancels_its_block_with_the_reason(client: Client) -> None:
    async with client.session() as session:
        entered = asyncio.Event()

        async def work() -> None:
            async with session.mutex("m").lock() as guard, guard.cancel_on_lost():
                entered.set()
                await asyncio.sleep(3600)

        working = asyncio.ensure_future(work())
        await asyncio.wait_for(entered.wait(), 20)
        await client.lease_revoke(session.lease_id)
        # Whichever news comes first: the end of the lease, or of its key.
        with pytest.raises((SessionLost, NotHeld)):
            await asyncio.wait_for(working, 20)


async def test_a_block_that_is_cancelled_or_fails_by_itself_is_not_lost(client: Client) -> None:
    async with client.session() as session:
        with pytest.raises(ZeroDivisionError):
            async with session.mutex("m").lock() as guard, guard.cancel_on_lost():
                raise ZeroDivisionError
        entered = asyncio.Event()

        async def work() -> None:
            async with session.mutex("m").lock() as guard, guard.cancel_on_lost():
                entered.set()
                await asyncio.sleep(3600)

        working = asyncio.ensure_future(work())
        await asyncio.wait_for(entered.wait(), 20)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        async with session.mutex("m").lock(timeout=20) as guard, guard.cancel_on_lost():
            await asyncio.sleep(0)
        assert not asyncio.current_task().cancelled()  # type: ignore[union-attr]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task does not count its cancellations")
async def test_a_block_that_is_lost_and_cancelled_from_outside_is_cancelled(client: Client) -> None:
    async with client.session() as session:
        entered = asyncio.Event()

        async def work() -> None:
            async with session.mutex("m").lock() as guard, guard.cancel_on_lost():
                entered.set()
                try:
                    await asyncio.sleep(3600)
                finally:
                    # While the loss is on its way out somebody else wants the task to end.
                    asyncio.current_task().cancel()  # type: ignore[union-attr]

        working = asyncio.ensure_future(work())
        await asyncio.wait_for(entered.wait(), 20)
        await client.lease_revoke(session.lease_id)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(working), 20)
        assert working.cancelled()


async def test_a_broken_lock_is_told_to_its_holder(client: Client) -> None:
    async with client.session() as session:
        with pytest.raises(NotHeld):
            async with session.mutex("m").lock() as guard:
                await client.delete(guard.key)
                assert isinstance(await asyncio.wait_for(guard.lost(), 20), NotHeld)
        detached = await session.mutex("d").lock()
        detached.detach()
        assert await keys_of(client, "d/") == 1


async def test_leaders_are_elected_in_order_and_observed(client: Client) -> None:
    async with client.session() as a, client.session() as b, client.observe("e") as observed:

        async def event() -> LeaderEvent:
            return await asyncio.wait_for(observed.__anext__(), 20)

        assert (await event()).kind == "vacant"
        assert await client.leader("e") is None
        async with a.election("e").campaign("ann") as leadership:
            elected = await event()
            assert elected.leader is not None
            assert (elected.kind, elected.leader.value) == ("elected", b"ann")
            assert elected.leader.token == leadership.token.revision
            with pytest.raises(TimeoutError):
                await b.election("e").campaign("bob", timeout=0.05)
            await leadership.proclaim("ann two")
            assert (await event()).kind == "updated"
            await leadership.txn().put("led", "1").commit()
        assert (await event()).kind == "vacant"
        with pytest.raises(NotLeader):
            await leadership.txn().put("led", "2").commit()
        with pytest.raises(NotLeader):
            await leadership.proclaim("again")
        following = await b.election("e").campaign("bob")
        leader = await b.election("e").leader()
        assert leader is not None
        assert leader.value == b"bob"
        async with b.election("e").observe() as second:
            assert (await second.__anext__()).kind == "elected"
        assert await following.resign()
        assert not await following.resign()
        assert await following.lost() is None


async def test_services_find_each_other(client: Client) -> None:
    registry = client.registry("prod", zone="a")

    async def change(changes: folkmoot.ServiceWatch) -> folkmoot.ServiceEvent:
        # On a busy machine the store may not be heard for a moment.
        return await asyncio.wait_for(anext_of(changes), 30)

    async def anext_of(changes: folkmoot.ServiceWatch) -> folkmoot.ServiceEvent:
        while True:
            event = await changes.__anext__()
            if event.kind in ("snapshot", "delta"):
                return event

    async with registry.subscribe("users") as changes:
        assert (await change(changes)).kind == "snapshot"
        balancer = await registry.balancer("users", "p2c")
        with pytest.raises(NoInstances):
            balancer.pick()
        first = registry.register(
            "users",
            port=8080,
            host="10.0.0.1",
            id="one",
            zone="a",
            ports={"admin": 9},
            attrs={"k": "v"},
            drain=0.05,
        )
        async with first as registration:
            assert registration.id == "one"
            (added,) = (await change(changes)).added
            assert (added.addr, added.zone, dict(added.ports), dict(added.attrs)) == (
                "10.0.0.1:8080",
                "a",
                {"admin": 9},
                {"k": "v"},
            )
            assert (added.health, added.weight) == (Health.UP, 100)
            with pytest.raises(AlreadyRegistered):
                await registry.register("users", port=1, id="one")
            other = await registry.register("users", port=8081, id="one", on_conflict="suffix", drain=0)
            assert other.id.startswith("one-")
            assert {instance.id for instance in await registry.resolve("users")} == {"one", other.id}
            assert (await change(changes)).added[0].host == "127.0.0.1"
            await other.deregister()
            await other.deregister()
            assert (await change(changes)).removed[0].id == other.id
            await eventually("one is left", lambda: _one(balancer))
            with balancer.pick() as pick:
                assert pick.addr == "10.0.0.1:8080"
            with pytest.raises(ConnectionError), balancer.pick():
                raise ConnectionError
            registration.set_health(Health.DEGRADED)
            (updated,) = (await change(changes)).updated
            assert updated.health is Health.DEGRADED
        assert (await change(changes)).updated[0].health is Health.DRAINING
        assert [instance.id for instance in (await change(changes)).removed] == ["one"]


async def _one(balancer: folkmoot.Balancer) -> bool:
    return len(balancer.instances) == 1


async def test_a_registration_may_be_taken_out_within_its_block(client: Client) -> None:
    registry = client.registry("prod")
    async with registry.register("users", port=1, id="one", drain=0.05) as registration:
        await registration.deregister()
        assert await registry.resolve("users") == ()


def test_the_outward_address_is_found_for_every_kind_of_endpoint() -> None:
    for endpoint in ("127.0.0.1:2379", "http://127.0.0.1:2379", "dns:///127.0.0.1:2379"):
        assert outward_address([endpoint]) == "127.0.0.1"


async def test_foreign_values_in_the_registry_are_no_trouble(client: Client) -> None:
    await client.put("services/prod/users/go", '{"Op":0,"Addr":"h:1","Metadata":"blue"}')
    await client.put("services/prod/users/junk", b"\xff\xfe")
    await client.put("services/prod/users/number", "12")
    instances = await client.registry("prod").resolve("users")
    assert [(instance.id, instance.addr) for instance in instances] == [("go", "h:1")]


async def test_a_registration_survives_its_session(client: Client) -> None:
    registry = client.registry("prod")
    registration = await registry.register("users", port=1, id="one", drain=0)
    found = (await client.get_prefix("services/prod/users/")).kvs
    await client.lease_revoke(found[0].lease)
    async with registration.events() as events:
        event = await asyncio.wait_for(events.__anext__(), 30)
        assert (event.kind, event.epoch) == ("reregistered", 2)
    assert len(await registry.resolve("users")) == 1
    await registration.deregister()


async def test_a_health_check_is_asked(client: Client) -> None:
    registry = client.registry("prod")
    asked = asyncio.Event()

    async def check() -> bool:
        asked.set()
        return True

    async with registry.register("users", port=1, health=check, drain=0):
        await asyncio.wait_for(asked.wait(), 20)

    def failing() -> Health:
        loop.call_soon_threadsafe(asked.set)
        raise ZeroDivisionError

    asked.clear()
    loop = asyncio.get_running_loop()
    async with registry.register("users", port=1, health=failing, drain=0):
        await asyncio.wait_for(asked.wait(), 20)


class Limits(BaseModel):
    rate: int = 10


class Settings(BaseModel):
    timeout_ms: int = 500
    upstreams: list[str] = []
    limits: Limits = Limits()


@dataclass(frozen=True)
class Plain:
    timeout_ms: int = 500
    upstreams: list[str] = field(default_factory=list)


async def test_a_configuration_is_typed_and_watched(client: Client) -> None:
    config = client.config("gw")
    assert await config.get("timeout_ms") is None
    revision = await config.publish({"timeout_ms": "250", "upstreams.json": '["a", "b"]', "limits/rate": "7"})
    items = await config.items()
    assert items.items["timeout_ms"] == b"250"
    assert items.revision >= revision
    async with config.typed(Settings) as settings:
        assert settings.current == Settings(timeout_ms=250, upstreams=["a", "b"], limits=Limits(rate=7))
        assert settings.source == "live"
        async with settings.events() as events:
            first = await events.__anext__()
            assert isinstance(first, ConfigChange)
            assert first.old is None
            assert first.new is settings.current, "one configuration is one object"
            await config.set("timeout_ms", "300")
            change = await asyncio.wait_for(events.__anext__(), 20)
            assert isinstance(change, ConfigChange)
            assert change.old is first.new
            assert (change.new.timeout_ms, list(change.changed_paths)) == (300, ["timeout_ms"])
            await config.set("timeout_ms", "never")
            rejected = await asyncio.wait_for(events.__anext__(), 20)
            assert isinstance(rejected, ConfigRejected)
            assert isinstance(rejected.error, InvalidConfig)
            assert "timeout_ms" in rejected.error.message
            assert settings.current.timeout_ms == 300
            await config.remove("timeout_ms")
            change = await asyncio.wait_for(events.__anext__(), 20)
            assert isinstance(change, ConfigChange)
            assert change.new.timeout_ms == 500
            assert settings.revision >= change.revision


async def test_any_callable_is_a_model(client: Client) -> None:
    config = client.config("gw")
    await config.publish({"timeout_ms": "250", "upstreams.yaml": "[a]\n", "unknown": "x"})
    plain = await config.typed(Plain)
    assert plain.current == Plain(250, ["a"])
    raw = await config.typed(dict)
    assert raw.current["unknown"] == "x"
    text = await config.typed(json.dumps)
    assert json.loads(text.current)["timeout_ms"] == 250
    async with text.watch() as changes:
        async for change in changes:
            assert change.new == text.current
            break


async def test_a_validator_has_a_say(client: Client) -> None:
    config = client.config("gw")
    await config.set("timeout_ms", "250")
    seen: list[tuple[Settings | None, Settings]] = []

    async def check(old: Settings | None, new: Settings) -> None:
        await asyncio.sleep(0)
        # It may use the client.
        assert await client.get("config/gw/items/timeout_ms") is not None
        seen.append((old, new))
        if new.timeout_ms > 1000:
            raise ValueError("too slow")

    settings = await config.typed(Settings, validate=check)
    assert seen == [(None, settings.current)]
    async with settings.events() as events:
        await events.__anext__()
        await config.set("timeout_ms", "5000")
        rejected = await asyncio.wait_for(events.__anext__(), 20)
        assert isinstance(rejected, ConfigRejected)
        assert "ValueError: too slow" in rejected.error.message
    assert settings.current.timeout_ms == 250
    with pytest.raises(Rejected) as refused:
        await config.typed(Settings, validate=lambda old, new: new.timeout_ms < 100)
    assert isinstance(refused.value, ValueError)
    with pytest.raises(Rejected):
        await config.typed(Plain, validate=cast("Any", check))


async def test_a_configuration_inherits(client: Client) -> None:
    await client.config("base").publish({"timeout_ms": "1", "limits/rate": "2"})
    await client.config("gw").publish({"limits/rate": "3"})
    settings = await client.config("gw").typed(Settings, extends=["base"])
    assert settings.current == Settings(timeout_ms=1, limits=Limits(rate=3))


async def test_a_configuration_starts_from_the_disk(own_server: Server, tmp_path: Path) -> None:
    async with Client(own_server.endpoint) as client:
        config = client.config("gw")
        await config.set("timeout_ms", "250")
        live = await config.typed(Settings, cache_dir=tmp_path)
        live.stop()
        with pytest.raises(folkmoot.Closed):
            live.current  # noqa: B018
        own_server.kill()
        cached = await config.typed(Settings, cache_dir=tmp_path, initial_timeout=0.2)
        assert (cached.current.timeout_ms, cached.source) == (250, "disk_cache")
        own_server.restart()
        async with cached.watch() as changes:
            async for change in changes:
                if not change.stale:
                    break
        assert cached.source == "live"


async def test_bad_configuration_is_refused_before_it_is_published(client: Client) -> None:
    config = client.config("gw")
    with pytest.raises(InvalidConfig):
        await config.set("broken.json", "{")
    with pytest.raises(ValueError, match="1048576"):
        await config.set("large.txt", "x" * (1 << 20) + "x")
    with pytest.raises(ValueError, match="count=0"):
        await config.publish({})
    revision = await config.set("a", "1")
    await config.set("a", "2")
    with pytest.raises(Conflict):
        await config.publish({"a": "3"}, based_on=revision)
    await client.put("config/gw/items/odd.json", b"{")
    with pytest.raises(InvalidConfig) as caught:
        await config.typed(Settings)
    assert "odd.json" in caught.value.message


def test_errors_are_pickled_with_all_that_they_say() -> None:
    import pickle

    error: Any = pickle.loads(
        pickle.dumps(ForkedError("x", endpoint="e", details={"a": 1}, maybe_applied=True))
    )
    assert (type(error), str(error), error.details) == (ForkedError, "x endpoint=e code=FORKED", {"a": 1})
    assert error.maybe_applied


def test_the_twin_for_threads_does_the_same(sync_client: SyncClient, tmp_path: Path) -> None:
    client = sync_client
    client.put("a", "1")
    found = client.get("a")
    assert found is not None
    assert found.value == b"1"
    with client.watch(Keys.prefix("w/")) as watch:
        client.txn().put("w/1", "x").put("w/2", "y").commit()
        assert [event.kv.key for event in next(watch).events] == [b"w/1", b"w/2"]
        with pytest.raises(TimeoutError):
            watch.get(timeout=0.01)
        client.put("w/3", "z")
        assert watch.get(timeout=20).events[0].kv.value == b"z"
    assert list(watch) == []
    with client.session(ttl=10) as session, session.mutex("m").lock(timeout=20) as guard:
        with pytest.raises(TimeoutError):
            session.mutex("m").lock(timeout=0.05)
        guard.txn().put("cursor", "1").commit()
        assert guard.lost(timeout=0.01) is None
    assert guard.lost() is None
    with client.session() as session, session.election("e").campaign("ann") as leadership:
        leadership.proclaim("ann two")
        with client.observe("e") as observed:
            event = next(observed)
            assert event.leader is not None
            assert event.leader.value == b"ann two"
        assert session.lost(timeout=0.01) is None
    registry = client.registry("prod")
    with registry.subscribe("users") as changes:
        assert next(changes).kind == "snapshot"
        with registry.register("users", port=1, health=lambda: True, drain=0.01) as registration:
            assert isinstance(registration.id, str)
            assert len(next(event for event in changes if event.kind == "delta").added) == 1
            assert registry.balancer("users").pick().addr == "127.0.0.1:1"
            with registration.events() as events, pytest.raises(TimeoutError):
                events.get(timeout=0.01)
    config = client.config("gw")
    config.set("timeout_ms", "7")
    with config.typed(Settings, validate=lambda old, new: None, cache_dir=tmp_path) as settings:
        assert settings.current.timeout_ms == 7
        with settings.watch() as configs:
            assert next(configs).new is settings.current
            config.set("timeout_ms", "8")
            assert next(configs).new.timeout_ms == 8
    assert config.get("timeout_ms") == b"8"
    assert len(client.members()) == 1
    assert client.lease_revoke(client.lease_grant(10).id)


def test_registration_is_exported() -> None:
    assert Registration.__module__.startswith("folkmoot")
