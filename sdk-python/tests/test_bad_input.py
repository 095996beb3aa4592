"""Mistakes are told where they are made, by their name, and never end the process."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional, Union

import pytest

import folkmoot
from folkmoot import (
    Alarm,
    Client,
    Closed,
    Compare,
    DeadlineExceeded,
    InvalidArgument,
    Keys,
    Op,
    Tls,
    Unavailable,
)
from folkmoot._typed import build
from folkmoot.sync import Client as SyncClient

from .conftest import Server, free_port

# Whatever a program that is not checked by types may pass.
ANY: Any = object()
NOTHING: Any = None
SEVEN: Any = 7
TEXT: Any = "text"


@pytest.mark.parametrize(
    ("make", "error", "argument"),
    [
        (lambda: Client(SEVEN), TypeError, "endpoints"),
        (lambda: Client(""), ValueError, "endpoints"),
        (lambda: Client([]), ValueError, "endpoints"),
        (lambda: Client([SEVEN]), TypeError, "endpoints"),
        (lambda: Client("ftp://h:1"), ValueError, "endpoint"),
        (lambda: Client("h:1:2:3/x y"), ValueError, "endpoint"),
        (lambda: Client("h:1", user="u"), ValueError, "password"),
        (lambda: Client("h:1", password="p"), ValueError, "user"),
        (lambda: Client("h:1", user=SEVEN, password="p"), TypeError, "user"),
        (lambda: Client("h:1", tls=TEXT), TypeError, "tls"),
        (lambda: Client("h:1", tls=Tls(ca=SEVEN)), TypeError, "tls.ca"),
        (lambda: Client("h:1", tls=Tls(ca="/no/such/file")), ValueError, "/no/such/file"),
        (lambda: Client("h:1", tls=Tls(cert=b"x")), ValueError, "key"),
        (lambda: Client("h:1", tls=Tls(skip_verify=SEVEN)), TypeError, "tls.skip_verify"),
        (lambda: Client("h:1", tls=Tls(ca=b"x", skip_verify=True)), ValueError, "skip_verify"),
        (lambda: Client("h:1", namespace=SEVEN), TypeError, "namespace"),
        (lambda: Client("h:1", connect_timeout=TEXT), TypeError, "connect_timeout"),
        (lambda: Client("h:1", connect_timeout=-1), ValueError, "connect_timeout"),
        (lambda: Client("h:1", request_timeout=0), ValueError, "request_timeout"),
        (lambda: Client("h:1", request_timeout=float("nan")), ValueError, "request_timeout"),
        (lambda: Client("h:1", auto_sync=TEXT), TypeError, "auto_sync"),
        (lambda: Client("h:1", auto_sync=0.5), ValueError, "auto_sync"),
        (lambda: Keys.prefix(SEVEN), TypeError, "prefix"),
        (lambda: Keys.range("a", NOTHING), TypeError, "end"),
        (lambda: Keys.one(""), ValueError, "key"),
        (lambda: Compare.value("a", "=~", "b"), ValueError, "comparison"),  # type: ignore[arg-type]
        (lambda: Compare.value("a", "==", SEVEN), TypeError, "value"),
        (lambda: Compare.version("a", "==", TEXT), TypeError, "version"),
        (lambda: Compare.version("a", "==", True), TypeError, "version"),
        (lambda: Op.put("a", SEVEN), TypeError, "value"),
        (lambda: Op.put("a", "b", lease=-1), ValueError, "lease"),
        (lambda: Op.put("a", "b", lease=2**63), ValueError, "lease"),
        (lambda: Op.get("a", sort_by="size"), ValueError, "sort_by"),
        (lambda: Op.get(SEVEN), TypeError, "keys"),
        (lambda: Op.txn(then=[ANY]), TypeError, "op"),
    ],
)
def test_what_makes_no_sense_is_refused(
    make: Callable[[], object], error: type[Exception], argument: str
) -> None:
    with pytest.raises(error, match=re.escape(argument)):
        make()


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda c: c.get(SEVEN), TypeError, "key"),
        (lambda c: c.get(""), ValueError, "key"),
        (lambda c: c.get("a", revision=-1), ValueError, "revision"),
        (lambda c: c.get("a", serializable=SEVEN), TypeError, "serializable"),
        (lambda c: c.get_range("a", limit=-1), ValueError, "limit"),
        (lambda c: c.get_range("a", limit=TEXT), TypeError, "limit"),
        (lambda c: c.put("a", NOTHING), TypeError, "value"),
        (lambda c: c.put("a", "b", lease=TEXT), TypeError, "lease"),
        (lambda c: c.put("a", "b", prev=SEVEN), TypeError, "prev"),
        (lambda c: c.delete(SEVEN), TypeError, "keys"),
        (lambda c: c.compact(-1), ValueError, "revision"),
        (lambda c: c.watch("a", from_revision=0), ValueError, "from_revision"),
        (lambda c: c.watch("a", buffer=(0, 1)), ValueError, "buffer"),
        (lambda c: c.session(ttl=0), ValueError, "ttl"),
        (lambda c: c.session(ttl=TEXT), TypeError, "ttl"),
        (lambda c: c.session(ttl=True), TypeError, "ttl"),
        (lambda c: c.session(allow_short_ttl=SEVEN), TypeError, "allow_short_ttl"),
        (lambda c: c.observe(""), ValueError, "name"),
        (lambda c: c.registry(SEVEN), TypeError, "namespace"),
        (lambda c: c.config(""), ValueError, "namespace"),
        (lambda c: c.lease_grant(-5), ValueError, "ttl"),
        (lambda c: c.lease_grant(float("inf")), ValueError, "ttl"),
        (lambda c: c.lease_revoke(TEXT), TypeError, "lease"),
        (lambda c: c.member_add("http://h:1"), TypeError, "peer_urls"),
        (lambda c: c.member_remove(-1), ValueError, "member"),
        (lambda c: c.alarm_disarm(SEVEN), TypeError, "alarm"),
        (lambda c: c.status(SEVEN), TypeError, "endpoint"),
        (lambda c: c.txn().put("a", SEVEN), TypeError, "value"),
        (lambda c: c.txn().when(SEVEN), TypeError, "compare"),
        (lambda c: c.registry("r").register("s", port=70000), ValueError, "port"),
        (lambda c: c.registry("r").register("s", port=TEXT), TypeError, "port"),
        (lambda c: c.registry("r").register("s", port=1, weight=-1), ValueError, "weight"),
        (lambda c: c.registry("r").register("s", port=1, status="FINE"), ValueError, "status"),
        (lambda c: c.registry("r").register("s", port=1, ports={"a": TEXT}), TypeError, "ports"),
        (lambda c: c.registry("r").register("s", port=1, attrs=TEXT), TypeError, "attrs"),
        (lambda c: c.registry("r").register("s", port=1, on_conflict="x"), ValueError, "on_conflict"),
        (lambda c: c.registry("r").register("s", port=1, health=SEVEN), TypeError, "health"),
        (lambda c: c.registry("r").register("s", port=1, drain=-1), ValueError, "drain"),
        (lambda c: c.registry("r").balancer("s", "best"), ValueError, "policy"),
        (lambda c: c.config("g").set("a", SEVEN), TypeError, "changes"),
        (lambda c: c.config("g").publish([("a", "b")]), TypeError, "changes"),
        (lambda c: c.config("g").publish({"a": "b"}, based_on=TEXT), TypeError, "based_on"),
        (lambda c: c.config("g").typed(SEVEN), TypeError, "model"),
        (lambda c: c.config("g").typed(dict, validate=SEVEN), TypeError, "validate"),
        (lambda c: c.config("g").typed(dict, extends="base"), TypeError, "extends"),
        (lambda c: c.config("g").typed(dict, cache_dir=SEVEN), TypeError, "cache_dir"),
        (lambda c: c.config("g").typed(dict, initial_timeout=0), ValueError, "initial_timeout"),
        (lambda c: c.config("g").typed(dict, debounce=-1), ValueError, "debounce"),
    ],
)
async def test_what_a_call_gets_is_looked_at_before_it_is_sent(
    call: Callable[[Any], Any], error: type[Exception], argument: str
) -> None:
    # Nobody listens there; nothing of this gets that far.
    threads = SyncClient("127.0.0.1:1")
    with pytest.raises(error, match=argument):
        call(threads)
    threads.close()
    client = Client("127.0.0.1:1")
    with pytest.raises(error, match=argument):
        waiting = call(client)
        await waiting
    client.close()


async def test_what_only_the_store_or_the_recipes_know_is_an_invalid_argument(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="allow_short_ttl"):
        await client.session(ttl=1).open()
    with pytest.raises(ValueError, match="ttl"):
        await client.session(ttl=1e8).open()
    async with client.session() as session:
        for name in ("a/", "/"):
            with pytest.raises(ValueError, match="name"):
                await session.mutex(name).lock()
        with pytest.raises(ValueError, match="name"):
            session.mutex("")
        with pytest.raises(TypeError, match="name"):
            session.mutex(SEVEN)
        with pytest.raises(TypeError, match="timeout"):
            session.mutex("m").lock(timeout=TEXT)
        with pytest.raises(TypeError, match="owner"):
            session.mutex("m", owner=SEVEN)
        with pytest.raises(ValueError, match="lock_delay"):
            session.mutex("m", lock_delay=-1)
        with pytest.raises(TypeError, match="value"):
            session.election("e").campaign(SEVEN)
    with pytest.raises(ValueError, match="service"):
        await client.registry("prod").register("a/b", port=1)
    with pytest.raises(ValueError, match="namespace"):
        await client.registry("a/b").resolve("users")
    with pytest.raises(ValueError, match="namespace"):
        await client.config("a/b").items()
    with pytest.raises(ValueError, match="path"):
        await client.config("g").set("/a", "1")
    with pytest.raises(folkmoot.FolkmootError) as too_many:
        await client.txn().then(*[Op.put(f"k/{n}", "") for n in range(129)]).commit()
    assert not too_many.value.maybe_applied
    with pytest.raises(ValueError, match="endpoint"):
        await client.status("somewhere:1")
    with pytest.raises(folkmoot.FolkmootError):
        await client.put("k", "x" * (3 << 20))
    with pytest.raises(folkmoot.FolkmootError):
        await client.get("k", revision=2**40)
    assert await client.alarm_disarm(Alarm(0, "no_space")) == ()


async def test_an_endpoint_where_nobody_listens_is_named() -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    client = Client(endpoint, request_timeout=0.3)
    for call in (client.verify(), client.get("a"), client.session().open(), client.watch("a").open()):
        with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
            await call
        assert caught.value.retryable
        assert endpoint in str(caught.value)
    with pytest.raises(Unavailable) as refused:
        await client.put("a", "b")
    assert isinstance(refused.value, ConnectionError)
    assert not refused.value.maybe_applied
    with pytest.raises(TypeError):
        bool(await client.put("a"))  # type: ignore[call-arg]
    client.close()
    unresolvable = Client("no-such-host.invalid:2379", request_timeout=0.5)
    with pytest.raises((Unavailable, DeadlineExceeded), match="no-such-host"):
        await unresolvable.get("a")
    unresolvable.close()


async def test_two_clusters_behind_one_client_are_noticed(
    folkmoot_server: Server, etcd_server: Server
) -> None:
    client = Client([folkmoot_server.endpoint, etcd_server.endpoint])
    with pytest.raises(folkmoot.ClusterReset):
        for _ in range(50):
            await client.get("a")
    client.close()


async def test_what_is_closed_is_closed(client: Client) -> None:
    async with client.session() as session:
        mutex = session.mutex("m")
        guard = await mutex.lock()
        await guard.unlock()
        with pytest.raises(folkmoot.NotHeld):
            guard.check()
    with pytest.raises((Closed, folkmoot.SessionLost)):
        await mutex.lock()
    registration = await client.registry("prod").register("users", port=1, drain=0)
    await registration.deregister()
    with pytest.raises(Closed):
        registration.set_health("UP")
    with pytest.raises(Closed):
        await registration.drain(0)


class Colour(Enum):
    RED = "red"


@dataclass
class Inner:
    rate: float
    names: tuple[str, ...] = ()


@dataclass
class Outer:
    inner: Inner
    by_name: dict[str, Inner]
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    limit: Optional[int] = None  # noqa: UP045  (the old way is read as well)
    either: Union[int, str] = 0
    folder: Path = Path()
    anything: Any = None


def test_a_dataclass_is_built_field_by_field() -> None:
    made = build(
        Outer,
        {
            "inner": {"rate": 1, "names": ["a"]},
            "by_name": {"x": {"rate": 2.5}},
            "colour": "red",
            "mode": "slow",
            "limit": 3,
            "either": "b",
            "folder": "/tmp",
            "anything": [1],
            "newer": True,
        },
        "",
    )
    assert made == Outer(Inner(1.0, ("a",)), {"x": Inner(2.5)}, Colour.RED, "slow", 3, "b", Path("/tmp"), [1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inner": {}}, "inner.rate: is missing"),
        ({"inner": 7}, "inner: must be an object"),
        ({"inner": {"rate": "x"}}, "inner.rate: must be a number, not 'x'"),
        ({"inner": {"rate": True}}, "inner.rate: must be a number"),
        ({"inner": {"rate": 1, "names": [1]}}, "inner.names[0]: must be a text"),
        ({"by_name": {"x": {"rate": None}}}, "by_name.x.rate: must be a number"),
        ({"colour": "blue"}, "colour: must be 'red'"),
        ({"mode": "soft"}, "mode: must be 'fast' or 'slow'"),
        ({"limit": "many"}, "limit: must be a whole number"),
        ({"folder": 7}, "folder: "),
    ],
)
def test_what_does_not_fit_a_dataclass_is_named_by_its_place(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        build(Outer, {"inner": {"rate": 1}, "by_name": {}} | change, "")
