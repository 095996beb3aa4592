"""Keys, values, transactions, leases, watches and members."""

from __future__ import annotations

import asyncio
import pickle
import random
from typing import Any

import pytest

from folkmoot import (
    Ambiguous,
    AuthFailed,
    Client,
    Closed,
    Compacted,
    Compare,
    DeadlineExceeded,
    Keys,
    Op,
    PermissionDenied,
    PutResult,
    RangeResult,
    TxnResult,
    Unavailable,
)

from .conftest import Server, eventually


async def test_what_is_put_is_read_and_deleted(client: Client) -> None:
    assert await client.get("a") is None
    first = await client.put("a", "1")
    assert first.prev is None
    second = await client.put(b"a", bytearray(b"2"), prev=True)
    assert second.prev is not None
    assert second.prev.value == b"1"
    assert second.header.revision > first.header.revision
    found = await client.get("a")
    assert found is not None
    assert (found.key, found.value, found.version) == (b"a", b"2", 2)
    assert found.create_revision == first.header.revision
    assert found.mod_revision == second.header.revision
    old = await client.get("a", revision=first.header.revision)
    assert old is not None
    assert old.value == b"1"
    assert await client.get("a", serializable=True) == found
    await client.put("a", "", keep_value=True)
    kept = await client.get("a")
    assert kept is not None
    assert (kept.value, kept.version) == (b"2", 3)
    gone = await client.delete("a", prev=True)
    assert (gone.deleted, [kv.value for kv in gone.prev]) == (1, [b"2"])
    assert (await client.delete("a")).deleted == 0


async def test_ranges_have_bounds_order_and_limits(client: Client) -> None:
    for number in (3, 1, 2):
        await client.put(f"n/{number}", str(number))
    await client.put("o", "other")

    async def found(result: RangeResult) -> list[bytes]:
        return [kv.key for kv in result.kvs]

    all_three = await client.get_prefix("n/")
    assert await found(all_three) == [b"n/1", b"n/2", b"n/3"]
    assert (all_three.count, all_three.more) == (3, False)
    by_age = await client.get_range(Keys.prefix("n/"), sort_by="create", descending=True, limit=2)
    assert await found(by_age) == [b"n/2", b"n/1"]
    assert (by_age.count, by_age.more) == (3, True)
    assert await found(await client.get_range(Keys.range("n/1", "n/3"))) == [b"n/1", b"n/2"]
    assert await found(await client.get_range(Keys.from_key("n/3"))) == [b"n/3", b"o"]
    assert len((await client.get_range(Keys.all())).kvs) == 4
    only = await client.get_range(Keys.prefix("n/"), keys_only=True, limit=1)
    assert only.kvs[0].value == b""
    counted = await client.get_range(Keys.prefix("n/"), count_only=True)
    assert (counted.count, counted.kvs) == (3, ())
    newest = max(kv.mod_revision for kv in all_three.kvs)
    assert await found(await client.get_range(Keys.prefix("n/"), min_mod_revision=newest)) == [b"n/2"]
    assert (await client.delete_prefix("n/", prev=True)).deleted == 3


async def test_a_transaction_is_one_list_or_the_other(client: Client) -> None:
    put = await client.put("a", "1")

    async def swap(revision: int) -> TxnResult:
        return await (
            client.txn()
            .when(Compare.mod_revision("a", "==", revision), Compare.value("a", "!=", "9"))
            .put("a", "2")
            .get("a")
            .otherwise(Op.get("a"), Op.delete("nothing"))
            .commit()
        )

    done = await swap(put.header.revision)
    assert done.succeeded
    assert isinstance(done.responses[0], PutResult)
    assert isinstance(done.responses[1], RangeResult)
    assert done.responses[1].kvs[0].value == b"2"
    refused = await swap(put.header.revision)
    assert not refused.succeeded
    assert isinstance(refused.responses[0], RangeResult)
    nested = await (
        client.txn()
        .when(
            Compare.exists("a"),
            Compare.absent("b"),
            Compare.version("a", ">", 1),
            Compare.lease("a", "==", 0),
        )
        .then(Op.txn(when=[Compare.create_revision("a", "<", 1)], then=[], otherwise=[Op.put("b", "3")]))
        .commit()
    )
    assert nested.succeeded
    inner = nested.responses[0]
    assert isinstance(inner, TxnResult)
    assert not inner.succeeded
    assert (await client.get("b")) is not None


async def test_a_lease_takes_its_keys_with_it(client: Client) -> None:
    lease = await client.lease_grant(30)
    assert lease.ttl >= 30
    await client.put("leased", "x", lease=lease.id)
    left = await client.lease_ttl(lease.id, keys=True)
    assert left is not None
    assert left.keys == (b"leased",)
    assert 0 < left.remaining <= left.granted == lease.ttl
    assert (await client.lease_renew(lease.id)).id == lease.id
    assert lease.id in await client.leases()
    assert await client.lease_revoke(lease.id)
    assert not await client.lease_revoke(lease.id)
    assert await client.get("leased") is None
    assert await client.lease_ttl(lease.id) is None
    with pytest.raises(LookupError):
        await client.lease_renew(lease.id)


async def test_a_watch_delivers_what_happens_after_it_entered(client: Client) -> None:
    await client.put("w/before", "")
    async with client.watch(Keys.prefix("w/"), prev=True) as watch:
        await client.put("w/a", "1")
        await client.txn().put("w/a", "2").put("w/b", "3").commit()
        await client.delete("w/a")
        first, second, third = [await watch.__anext__() for _ in range(3)]
    assert [event.kv.key for event in first.events] == [b"w/a"]
    assert first.events[0].is_create
    assert [(event.kv.key, event.kv.value) for event in second.events] == [(b"w/a", b"2"), (b"w/b", b"3")]
    assert second.events[0].prev is not None
    assert second.events[0].prev.value == b"1"
    assert [event.kind for event in third.events] == ["delete"]
    assert first.revision < second.revision < third.revision
    with pytest.raises(StopAsyncIteration):
        await watch.__anext__()
    again = client.watch("w/a", from_revision=first.revision, deletes=False)
    values = [(await again.__anext__()).events[0].kv.value for _ in range(2)]
    assert values == [b"1", b"2"]
    again.stop()
    native = client._native
    await eventually("no stream is left open", lambda: _is(native.watch_stream_count() == 0))


async def _is(truth: bool) -> bool:
    return truth


async def test_300_events_come_in_order_under_random_timeouts(client: Client) -> None:
    chance = random.Random(7)
    async with client.watch(Keys.prefix("w/")) as watch:

        async def write() -> None:
            for number in range(300):
                await client.put(f"w/{number}", "")
                await asyncio.sleep(chance.uniform(0, 0.006))

        writing = asyncio.ensure_future(write())
        got: list[bytes] = []
        timeouts = 0
        while len(got) < 300:
            try:
                batch = await asyncio.wait_for(watch.__anext__(), chance.uniform(0, 0.006))
                got.extend(event.kv.key for event in batch.events)
            except (TimeoutError, asyncio.TimeoutError):
                timeouts += 1
        await writing
    assert got == [f"w/{number}".encode() for number in range(300)]
    assert timeouts > 30, "the timeouts have not tested anything"


async def test_a_watch_of_compacted_history_says_so(client: Client) -> None:
    first = await client.put("c", "1")
    later = await client.put("c", "2")
    await client.compact(later.header.revision, physical=True)
    with pytest.raises(Compacted) as caught:
        await client.watch("c", from_revision=first.header.revision).__anext__()
    assert caught.value.compact_revision == later.header.revision
    assert caught.value.code == "COMPACTED"
    assert not caught.value.retryable


async def test_stopping_a_watch_ends_whoever_waits(client: Client) -> None:
    watch = client.watch("nothing")
    await watch.open()

    async def consume() -> int:
        return len([batch async for batch in watch])

    waiting = asyncio.ensure_future(consume())
    await asyncio.sleep(0)
    watch.stop()
    assert await asyncio.wait_for(waiting, 20) == 0


async def test_namespaces_nest(client: Client) -> None:
    inner = client.namespace("x/").namespace(b"y/")
    await inner.put("k", "1")
    found = await client.get("x/y/k")
    assert found is not None
    assert [kv.key for kv in (await inner.get_range(Keys.all())).kvs] == [b"k"]
    assert inner.cluster_id == client.cluster_id != 0


async def test_a_client_is_pickled_as_its_configuration(client: Client) -> None:
    await client.put("p", "1")
    copy: Client = pickle.loads(pickle.dumps(client.namespace("in/")))
    await copy.put("q", "2")
    assert await client.get("in/q") is not None
    copy.close()
    assert not client.closed
    assert await client.get("p") is not None


async def test_members_say_how_they_are(store: Server) -> None:
    async with Client(store.endpoint) as client:
        (member,) = await client.members()
        assert member.client_urls == (f"http://{store.endpoint}",)
        status = await client.status(store.endpoint)
        assert status.leader == member.id == status.header.member_id
        assert status.version
        assert await client.alarms() == ()
        await client.defragment(store.endpoint)
        hashed = await client.hash_kv(store.endpoint)
        assert hashed.header.revision > 0
        pieces = [piece async for piece in client.snapshot(store.endpoint)]
        assert sum(map(len, pieces)) > 1000


async def test_users_and_roles(etcd_server: Server) -> None:
    # Folkmoot has no users yet; the calls are the same.
    async with Client(etcd_server.endpoint) as client:
        auth = client.auth
        await auth.role_add("reader")
        await auth.role_grant("reader", Keys.prefix("r/"), read=True)
        (allowed,) = await auth.role_permissions("reader")
        assert (allowed.read, allowed.write, allowed.key, allowed.range_end) == (True, False, b"r/", b"r0")
        await auth.user_add("ann", "secret")
        await auth.user_grant_role("ann", "reader")
        assert await auth.user_roles("ann") == ("reader",)
        await auth.user_add("root", "root")
        await auth.user_grant_role("root", "root")
        await auth.enable()
        root = Client(etcd_server.endpoint, user="root", password="root")
        try:
            await root.put("r/1", "x")
            async with Client(etcd_server.endpoint, user="ann", password="secret") as ann:
                assert await ann.get("r/1") is not None
                with pytest.raises(PermissionDenied) as denied:
                    await ann.put("r/1", "y")
                assert isinstance(denied.value, PermissionError)
            with pytest.raises(AuthFailed) as failed:
                await Client(etcd_server.endpoint, user="ann", password="wrong").verify()
            assert not failed.value.retryable
        finally:
            await root.auth.disable()
            root.close()
        await auth.role_revoke("reader", Keys.prefix("r/"))
        await auth.user_revoke_role("ann", "reader")
        await auth.user_change_password("ann", "other")
        await auth.user_delete("ann")
        await auth.role_delete("reader")
        assert "ann" not in await auth.users()
        assert "reader" not in await auth.roles()


async def test_a_closed_client_refuses_and_ends_its_watches(store: Server) -> None:
    client = Client(store.endpoint)
    watch = await client.watch("x").open()
    waiting = asyncio.ensure_future(watch.__anext__())
    await asyncio.sleep(0)
    client.close()
    client.close()
    with pytest.raises((Closed, StopAsyncIteration)):
        await asyncio.wait_for(_outcome(waiting), 20)
    assert client.closed
    for call in (client.put("a", "b"), client.get("a"), client.session().open(), client.verify()):
        with pytest.raises(Closed):
            await call
    with pytest.raises(Closed):
        client.namespace("x")


async def _outcome(waiting: asyncio.Future[Any]) -> None:
    # A future cannot carry StopAsyncIteration through an await of a coroutine.
    await asyncio.wait([waiting])
    error = waiting.exception()
    if isinstance(error, StopAsyncIteration):
        raise Closed("the stream has ended")
    if error is not None:
        raise error


async def test_a_store_that_is_away_is_told_and_comes_back(own_server: Server) -> None:
    async with Client(own_server.endpoint, request_timeout=0.5) as client:
        await client.put("a", "1")
        own_server.kill()
        with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            await client.get("a")
        assert caught.value.retryable
        assert caught.value.endpoint is None or str(own_server.port) in caught.value.endpoint
        with pytest.raises((Unavailable, Ambiguous, DeadlineExceeded)):
            await client.put("a", "2")
        own_server.restart()

        async def reads() -> bool:
            try:
                return await client.get("a") is not None
            except (Unavailable, DeadlineExceeded):
                return False

        await eventually("the store is back", reads)


async def test_a_paused_store_exceeds_the_deadline(own_server: Server) -> None:
    async with Client(own_server.endpoint, request_timeout=0.3) as client:
        own_server.pause()
        try:
            with pytest.raises(TimeoutError) as caught:
                await client.put("a", "1")
            assert isinstance(caught.value, DeadlineExceeded)
            assert caught.value.maybe_applied
        finally:
            own_server.go_on()
