"""The actor of the conformance scenarios for Python: single operations as conformance/README.md lists them.

One JSON object a line, in and out. All comparing and waiting is in the interpreter.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from show import (
    Args,
    Settings,
    batch,
    config_event,
    error,
    instances,
    kv,
    leader,
    leader_event,
    registration_event,
    response,
    sensible,
    service_event,
    state,
    text,
    token,
)

import folkmoot
from folkmoot import Compare, FolkmootError, Keys, Op


class Fault(Exception):
    """Anything but an error of the client: never what a scenario waits for."""


# What scenarios ask.


@dataclass
class Open:
    """Something that lives longer than one operation."""

    kind: str
    it: Any
    stream: Any = None
    show: Callable[[Any], Args] | None = None


@dataclass
class Actor:
    """The client of this process, its session, and what it has open."""

    client: folkmoot.Client | None = None
    own_session: folkmoot.Session | None = None
    folder: str = ""
    things: dict[str, Open] = field(default_factory=dict)

    def session(self) -> folkmoot.Session:
        if self.own_session is None:
            raise Fault("the actor has no session")
        return self.own_session

    def opened(self, a: Args, *kinds: str) -> Open:
        thing = self.things.get(a.get("handle", ""))
        if thing is None:
            raise Fault(f"nothing is open handle={a.get('handle')}")
        if thing.kind not in kinds:
            raise Fault(f"it is no {' or '.join(kinds)}")
        return thing

    def taken(self, a: Args, *kinds: str) -> Open:
        thing = self.opened(a, *kinds)
        del self.things[a["handle"]]
        return thing


def keys(a: Args) -> Keys:
    if "prefix" not in a:
        return Keys.one(a.get("key", ""))
    return Keys.prefix(a["prefix"]) if a["prefix"] else Keys.all()


def compare(one: Args) -> Compare:
    target, to = one["target"], one.get("to", 0)
    make = {
        "value": Compare.value,
        "create_revision": Compare.create_revision,
        "mod_revision": Compare.mod_revision,
        "version": Compare.version,
    }.get(target)
    if make is None:
        raise Fault(f"nothing is compared by {target}")
    return make(keys(one), "==" if one["is"] == "=" else one["is"], to)  # type: ignore[arg-type, operator]


def operation(one: Args) -> Op:
    [(name, a)] = one.items()
    if name == "put":
        return Op.put(a.get("key", ""), a.get("value", ""))
    if name == "get":
        return Op.get(keys(a))
    if name == "delete":
        return Op.delete(keys(a))
    raise Fault("a transaction puts, gets and deletes")


async def opening(actor: Actor, op: str, a: Args) -> tuple[Open, Args] | None:
    """Do an operation that opens something."""
    client = actor.client
    if client is None:
        return None

    def registry() -> folkmoot.Registry:
        return client.registry(a.get("namespace", ""), zone=a.get("zone", ""))

    if op in ("mutex.lock", "mutex.try_lock"):
        mutex = actor.session().mutex(
            a.get("name", ""), owner=a.get("owner", ""), lock_delay=float(a.get("lock_delay", 0))
        )
        guard = await (mutex.lock() if op == "mutex.lock" else mutex.try_lock())
        return Open("lock", guard), token(guard)
    if op == "election.campaign":
        lead = await actor.session().election(a.get("name", "")).campaign(a.get("value", ""))
        return Open("lead", lead), token(lead)
    streams: dict[str, Callable[[], tuple[Any, Callable[[Any], Args]]]] = {
        "election.observe": lambda: (client.observe(a.get("name", "")), leader_event),
        "session.states": lambda: (actor.session().states(), state),
        "watch.open": lambda: (
            client.watch(
                keys(a),
                from_revision=a.get("from", a["after"] + 1 if "after" in a else None),
                prev=a.get("prev", False),
            ),
            batch,
        ),
        "registry.subscribe": lambda: (registry().subscribe(a.get("service", "")), service_event),
    }
    if op in streams:
        stream, show = streams[op]()
        return Open("stream", None, await stream.open(), show), {}
    if op == "registry.register":
        host, _, port = a.get("addr", "").rpartition(":")
        registration = await registry().register(
            a.get("service", ""),
            host=host,
            port=int(port),
            id=a.get("id") or None,
            zone=a.get("zone", ""),
            weight=a.get("weight", 100),
            ttl=a.get("ttl", 15),
            on_conflict=a.get("on_conflict") or "fail",
        )
        return Open("registration", registration, registration.events(), registration_event), {
            "id": registration.id
        }
    if op == "registry.balancer":
        policy = a.get("policy") or "round_robin"
        return Open("balancer", await registry().balancer(a.get("service", ""), policy)), {}
    if op == "config.open":
        config = await client.config(a.get("namespace", "")).typed(
            Settings,
            extends=a.get("extends", []),
            initial_timeout=float(a.get("initial_timeout", 5)),
            cache_dir=actor.folder if a.get("cache") else None,
            validate=sensible if a.get("validate") else None,
        )
        return Open("config", config, config.events(), config_event), {}
    return None


async def hello(actor: Actor, a: Args) -> Args:
    client = folkmoot.Client(a["endpoints"], user=a.get("user"), password=a.get("password"))
    if not a.get("lazy"):
        await client.verify()
    actor.client = client
    actor.folder = a.get("folder", "")
    if a.get("ttl") is not None:
        actor.own_session = await client.session(ttl=a["ttl"], allow_short_ttl=True).open()
    return {"language": "python", "version": folkmoot.__version__}


async def bye(actor: Actor, _a: Args) -> Args:
    for thing in actor.things.values():
        if thing.kind == "registration":
            await thing.it.deregister()
    actor.things.clear()
    if actor.own_session is not None:
        await actor.own_session.close()
    if actor.client is not None:
        await actor.client.aclose()
    return {}


async def fill(client: folkmoot.Client, a: Args) -> Args:
    revisions = []
    for n in range(a.get("count", 1)):
        try:
            put = await client.put(f"{a.get('prefix', '')}{n:05}", str(n))
            revisions.append(put.header.revision)
        except FolkmootError:
            if not a.get("under_faults"):
                raise
    return {"count": len(revisions), "last": revisions[-1] if revisions else None, "revisions": revisions}


async def keyed(actor: Actor, client: folkmoot.Client, op: str, a: Args) -> Any:
    """Operations of keys and leases."""
    if op == "kv.put":
        lease = a.get("lease", "")
        number = actor.session().lease_id if lease == "session" else int(lease, 16) if lease else 0
        put = await client.put(a.get("key", ""), a.get("value", ""), lease=number, prev=a.get("prev", False))
        return {"revision": put.header.revision, "prev": kv(put.prev)}
    if op == "kv.get":
        got = await client.get_range(
            keys(a),
            limit=a.get("limit", 0),
            revision=a.get("revision", 0),
            serializable=a.get("serializable", False),
        )
        found = [kv(one) for one in got.kvs]
        return {"revision": got.header.revision, "count": got.count, "more": got.more, "kvs": found}
    if op == "kv.delete":
        deleted = await client.delete(keys(a))
        return {"deleted": deleted.deleted, "revision": deleted.header.revision}
    if op == "kv.txn":
        txn = client.txn().when(*map(compare, a.get("if", [])))
        txn = txn.then(*map(operation, a.get("then", []))).otherwise(*map(operation, a.get("else", [])))
        done = await txn.commit()
        parts = [response(one) for one in done.responses]
        return {"succeeded": done.succeeded, "revision": done.header.revision, "responses": parts}
    if op == "kv.fill":
        return await fill(client, a)
    if op == "lease.grant":
        granted = await client.lease_grant(a["ttl"])
        return {"id": f"{granted.id:x}", "ttl": granted.ttl}
    if op == "lease.revoke":
        return {"existed": await client.lease_revoke(int(a["lease"], 16))}
    raise Fault(f"there is no operation {op}")


async def held(actor: Actor, client: folkmoot.Client, op: str, a: Args) -> Any:
    """Operations of sessions, locks and elections."""
    if op == "session.check":
        return actor.session().check() or {}
    if op == "session.lost":
        return error(await actor.session().lost())
    if op == "session.close":
        return await actor.session().close() or {}
    if op == "session.lease":
        return {"id": f"{actor.session().lease_id:x}"}
    if op == "mutex.contenders":
        line = await actor.session().mutex(a.get("name", "")).contenders()
        return [{"owner": text(one.owner), "token": one.revision} for one in line]
    if op == "mutex.unlock":
        return {"held": await actor.taken(a, "lock").it.unlock()}
    if op == "election.resign":
        return {"held": await actor.taken(a, "lead").it.resign()}
    if op == "election.proclaim":
        return await actor.opened(a, "lead").it.proclaim(a.get("value", "")) or {}
    if op == "election.leader":
        found = await client.leader(a.get("name", ""))
        return None if found is None else leader(found)
    if op == "guard.put":
        txn = actor.opened(a, "lock", "lead").it.txn().put(a.get("key", ""), a.get("value", ""))
        return {"revision": (await txn.commit()).header.revision}
    if op == "guard.check":
        return actor.opened(a, "lock", "lead").it.check() or {}
    if op == "guard.lost":
        why = await actor.opened(a, "lock", "lead").it.lost()
        return None if why is None else error(why)
    if op == "guard.drop":
        actor.taken(a, "lock", "lead")
        return {}
    raise Fault(f"there is no operation {op}")


async def found(actor: Actor, client: folkmoot.Client, op: str, a: Args) -> Any:
    """Operations of the registry, the configuration and streams."""
    if op == "registry.resolve":
        return instances(await client.registry(a.get("namespace", "")).resolve(a.get("service", "")))
    if op == "registration.health":
        return actor.opened(a, "registration").it.set_health(a["health"]) or {}
    if op == "registration.drain":
        return await actor.opened(a, "registration").it.drain(float(a.get("grace", 5))) or {}
    if op == "registration.deregister":
        return await actor.taken(a, "registration").it.deregister() or {}
    if op == "balancer.instances":
        return instances(actor.opened(a, "balancer").it.instances)
    if op == "balancer.pick":
        counts: Counter[str] = Counter()
        for _ in range(a.get("times", 1)):
            pick = actor.opened(a, "balancer").it.pick(a.get("key", ""))
            pick.done(a.get("failing") != pick.instance.id)
            counts[pick.instance.id] += 1
        return {"counts": counts}
    if op == "config.get":
        item = await client.config(a.get("namespace", "")).get(a.get("path", ""))
        return None if item is None else text(item)
    if op == "config.publish":
        config = client.config(a.get("namespace", ""))
        return {"revision": await config.publish(a.get("items", {}), based_on=a.get("based_on"))}
    if op == "config.current":
        return actor.opened(a, "config").it.current.shown()
    if op == "stream.next":
        thing = actor.opened(a, "stream", "registration", "config")
        try:
            return thing.show(await anext(thing.stream))  # type: ignore[misc]
        except StopAsyncIteration:
            raise folkmoot.Closed("the stream has ended") from None
    if op == "stream.close":
        thing = actor.taken(a, "stream", "registration", "config")
        thing.stream.stop()
        if thing.kind == "config":
            thing.it.stop()
        return {}
    raise Fault(f"there is no operation {op}")


async def perform(actor: Actor, op: str, a: Args, save: str | None) -> Any:
    if op in ("hello", "bye"):
        return await (hello if op == "hello" else bye)(actor, a)
    if actor.client is None:
        raise Fault("hello comes first")
    opened = await opening(actor, op, a)
    if opened is not None:
        thing, result = opened
        actor.things[save or op] = thing
        return result
    table: Callable[..., Awaitable[Any]] = found
    if op.startswith(("kv.", "lease.")):
        table = keyed
    elif op.startswith(("session.", "mutex.", "election.", "guard.")):
        table = held
    return await table(actor, actor.client, op, a)


async def answer(actor: Actor, asked: Args) -> None:
    said: Args = {"id": asked["id"]}
    try:
        said["result"] = await perform(actor, asked["op"], asked.get("args") or {}, asked.get("save"))
    except asyncio.CancelledError:
        said["cancelled"] = True
    except FolkmootError as problem:
        said["error"] = error(problem)
    except ValueError as problem:
        # How Python says that an argument makes no sense, before anybody is asked.
        said["error"] = error(folkmoot.InvalidArgument(str(problem)))
    except Exception as problem:
        said["fault"] = f"{type(problem).__name__}: {problem}"
    print(json.dumps(said), flush=True)


async def main() -> None:
    actor, running = Actor(), {}
    lines = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        asked = json.loads(line)
        if "cancel" in asked:
            if asked["cancel"] in running:
                running[asked["cancel"]].cancel()
            continue
        task = asyncio.create_task(answer(actor, asked))
        running[asked["id"]] = task
        task.add_done_callback(lambda _, number=asked["id"]: running.pop(number))
    # Nobody is there any more, as after a crash: what is open ends with the process.
    for task in list(running.values()):
        task.cancel()


asyncio.run(main())
