"""What a program may rely on in the world of Python: cancellation, garbage, forks, threads, the end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import folkmoot
from folkmoot import Client, Keys, KeyValue
from folkmoot.sync import Client as SyncClient

from .conftest import PATIENCE, Server, eventually, eventually_sync, run_script


async def count(client: Client, prefix: str) -> int:
    return (await client.get_range(Keys.prefix(prefix), count_only=True)).count


async def none_left(client: Client, prefix: str) -> bool:
    return await count(client, prefix) == 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lock", "campaign"])
async def test_cancel_leaks_nothing(folkmoot_server: Server, name: str, what: str) -> None:
    chance = random.Random(11)
    async with Client(folkmoot_server.endpoint, namespace=f"{name}/") as client:
        async with client.session(ttl=60) as a, client.session(ttl=60) as b:

            async def contend(session: folkmoot.Session) -> None:
                if what == "lock":
                    held: Any = await session.mutex("x").lock()
                else:
                    held = await session.election("x").campaign("me")
                # Given back by being dropped, without a word.
                del held

            # How long it takes at present, so that the cancels fall all over it.
            usual = 0.001

            async def timed(session: folkmoot.Session) -> None:
                nonlocal usual
                begun = time.perf_counter()
                await contend(session)
                usual = 0.8 * usual + 0.2 * (time.perf_counter() - begun)

            await timed(a)
            done = cancelled = 0
            for turn in range(1000):
                task = asyncio.ensure_future(timed(a if turn % 2 else b))
                patience = chance.choice(
                    [0, chance.uniform(0, usual), chance.uniform(0, 2 * usual), usual * 20]
                )
                if turn % 3 == 0:
                    await asyncio.sleep(patience)
                else:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(asyncio.shield(task), patience)
                task.cancel()
                await asyncio.wait([task])
                done += not task.cancelled()
                cancelled += task.cancelled()
            assert done > 100, (done, cancelled)
            assert cancelled > 100, (done, cancelled)
            await eventually("nothing is left in the line", lambda: none_left(client, "x/"))
            # Nobody holds it without knowing.
            if what == "lock":
                await asyncio.wait_for(a.mutex("x").lock(), PATIENCE)
            else:
                await asyncio.wait_for(b.election("x").campaign(), PATIENCE)


TTL = 3.0


def busy_loop() -> None:
    """Keep the event loop busy, but not the interpreter's lock."""
    until = time.monotonic() + TTL * 2 / 3
    while time.monotonic() < until:
        pass


def busy_interpreter() -> None:
    """Keep the interpreter's lock: PyDLL, unlike CDLL, does not let go of it in a call."""
    ctypes.PyDLL(None).usleep(int(TTL * 2 / 3 * 1e6))


@pytest.mark.parametrize("stall", [busy_loop, busy_interpreter])
async def test_stall_keeps_lease(store: Server, name: str, stall: Callable[[], None]) -> None:
    async with Client(store.endpoint, namespace=f"{name}/") as client:
        async with client.session(ttl=TTL, allow_short_ttl=True) as session:
            guard = await session.mutex("x").lock()
            # Completions that wait for the loop must not hold up the keepalives either.
            waiting = [asyncio.ensure_future(client.get("x")) for _ in range(50)]
            await asyncio.sleep(0)
            for _ in range(2):
                stall()
                # Without keepalives only a third of it would be left, and then nothing.
                assert session.remaining > TTL / 2 - 0.2
            guard.check()
            await guard.txn().put("y", "1").commit()
            assert session.state == "active"
            await asyncio.gather(*waiting)


@pytest.mark.fork
@pytest.mark.parametrize("flavour", ["os.fork", "multiprocessing"])
def test_fork_child_gets_error(store: Server, name: str, flavour: str) -> None:
    script = """
        import asyncio, gc, multiprocessing, os, sys, warnings
        import folkmoot
        from folkmoot.sync import Client
        warnings.simplefilter("ignore")
        endpoint, prefix, flavour = sys.argv[1:]
        client = Client(endpoint, namespace=prefix)
        other = folkmoot.Client(endpoint, namespace=prefix)
        session = client.session(ttl=30)
        guard = session.mutex("m").lock()
        lead = session.election("e").campaign("parent")
        watch = client.watch("w")
        registration = client.registry("prod").register("users", port=1, drain=0)
        client.put("before", "fork")

        async def use():
            assert (await other.get("before")).value == b"fork"
            async with other.session(ttl=30) as own:
                async with own.mutex("child").lock(timeout=20):
                    pass

        async def begin():
            # A call is under way while the process forks.
            return other._get("x", 0, False).pending

        pending = asyncio.run(begin())

        def child():
            for refused in (
                session.check, lambda: session.state, session.close, guard.check, guard.unlock, guard.lost,
                lambda: guard.txn().put("a", "b").commit(), lead.resign, lambda: lead.proclaim("x"),
                lambda: watch.get(timeout=1), registration.deregister, lambda: registration.drain(0),
                lambda: session.mutex("other").lock(), pending.wait,
            ):
                try:
                    refused()
                except folkmoot.ForkedError as error:
                    assert not error.retryable
                else:
                    raise AssertionError("was not refused")
            # A client connects afresh, in threads and in a loop.
            client.put("child", "1")
            asyncio.run(use())
            with client.session(ttl=30) as own, own.mutex("m2").lock(timeout=20):
                pass
            # What is dropped here is still held by the parent.
            globals().update(session=None, guard=None, lead=None, watch=None, registration=None, pending=None)
            gc.collect()
            print("child", flush=True)

        if flavour == "os.fork":
            pid = os.fork()
            if pid == 0:
                try:
                    child()
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        else:
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0, process.exitcode
        guard.check()
        guard.txn().put("after", "fork").commit()
        assert client.get("child").value == b"1"
        assert len(client.registry("prod").resolve("users")) == 1
        assert lead.resign()
        assert pending.wait() is not None
        registration.deregister()
        session.close()
        print("parent")
    """
    printed = run_script(textwrap.dedent(script), store.endpoint, f"{name}/", flavour)
    assert printed.split() == ["child", "parent"]


async def test_gc_releases_guard(client: Client) -> None:
    async with client.session() as session:
        guard: Any = await session.mutex("x").lock()
        lead: Any = await session.election("y").campaign()
        registration: Any = await client.registry("prod").register("users", port=1)
        watch: Any = await client.watch("w").open()
        assert await count(client, "x/") == await count(client, "y/") == 1
        assert client._native.watch_stream_count() > 0
        # Only the collector of cycles finds them.
        cycle: list[Any] = [guard, lead, registration, watch]
        cycle.append(cycle)
        del guard, lead, registration, watch, cycle
        gc.collect()
        await eventually("the lock is free", lambda: none_left(client, "x/"))
        await eventually("nobody leads", lambda: none_left(client, "y/"))
        await eventually("the instance is gone", lambda: none_left(client, "services/"))
        lease = session.lease_id
    session = await client.session().open()
    lease = session.lease_id
    del session
    gc.collect()
    await eventually("the session is revoked", lambda: _gone(client, lease))

    async def broken() -> None:
        async for _ in client.watch(Keys.prefix("w/"), from_revision=revision):
            break

    revision = (await client.put("w/1", "")).header.revision
    await broken()
    gc.collect()
    await eventually("no stream is left", lambda: _no_streams(client))


async def _gone(client: Client, lease: int) -> bool:
    return await client.lease_ttl(lease) is None


async def _no_streams(client: Client) -> bool:
    return client._native.watch_stream_count() == 0


async def test_callback_may_call_client(client: Client, store: Server, name: str) -> None:
    # Callbacks of the client for threads call it from the native part's own threads.
    config = client.config("gw")
    await config.set("a", "1")
    asked = threading.Event()

    def use_sync() -> None:
        assert inner.get("config/gw/items/a") is not None
        inner.put("from/callback", "1")

    def validate(old: Any, new: Any) -> None:
        use_sync()

    def healthy() -> bool:
        use_sync()
        asked.set()
        return True

    def work() -> None:
        with inner.config("gw").typed(dict, validate=validate) as typed:
            assert typed.current == {"a": 1}
        with inner.registry("prod").register("users", port=1, health=healthy, drain=0):
            assert asked.wait(PATIENCE)

    with SyncClient(store.endpoint, namespace=f"{name}/") as inner:
        await asyncio.get_running_loop().run_in_executor(None, work)

    # And those of the client for asyncio call it in the loop.
    done = asyncio.Event()

    async def validate_async(old: Any, new: Any) -> None:
        async with client.session() as session, session.mutex("m").lock():
            await client.put("from/callback", "2")

    async def healthy_async() -> str:
        await client.get("from/callback")
        done.set()
        return "UP"

    async with config.typed(dict, validate=validate_async) as typed:
        assert typed.current == {"a": 1}
        registration = client.registry("prod").register("users", port=1, health=healthy_async, drain=0)
        async with registration:
            await asyncio.wait_for(done.wait(), PATIENCE)


@pytest.mark.parametrize("way", ["end", "exit", "exception"])
def test_process_exits(folkmoot_server: Server, name: str, way: str) -> None:
    # With everything open, calls under way in threads, and callbacks that run, a program just ends.
    script = """
        import asyncio, sys, threading, time
        import folkmoot
        from folkmoot.sync import Client
        endpoint, prefix, way = sys.argv[1:]
        client = Client(endpoint, namespace=prefix)
        session = client.session(ttl=30)
        guard = session.mutex("m").lock()
        lead = session.election("e").campaign()
        watch = client.watch("w")
        slow = threading.Event()

        def validate(old, new):
            if old is not None:
                slow.set()
                time.sleep(0.3)

        client.config("gw").set("a", "1")
        config = client.config("gw").typed(dict, validate=validate)
        registration = client.registry("prod").register("users", port=1, health=lambda: True)
        for block in (session.mutex("m").lock, watch.get, lambda: client.session().mutex("m").lock()):
            threading.Thread(target=block, daemon=True).start()

        async def main():
            client = folkmoot.Client(endpoint, namespace=prefix)
            session = await client.session().open()
            guard = await session.mutex("n").lock()
            asyncio.ensure_future(session.mutex("n").lock().__aenter__())
            asyncio.ensure_future(client.watch("x").__anext__())
            await asyncio.sleep(0.05)
            return client, session, guard

        kept = asyncio.run(main())
        client.config("gw").set("a", "2")
        assert slow.wait(20)

        class Slow:
            # The interpreter takes its time to end, while threads of ours look for signals.
            def __del__(self, sleep=time.sleep):
                sleep(0.5)

        slow_end = Slow()
        print("ending", flush=True)
        if way == "exit":
            sys.exit(0)
        if way == "exception":
            import atexit, os
            atexit.register(lambda: print(client.get("a") is None, flush=True))
    """
    begun = time.monotonic()
    printed = run_script(textwrap.dedent(script), folkmoot_server.endpoint, f"{name}/", way)
    assert printed.split()[0] == "ending"
    if way == "exception":
        assert printed.split()[1] == "True", "handlers at the end may use the client"
    assert time.monotonic() - begun < 20


def test_threads_ok(store: Server, name: str) -> None:
    # One client for threads, and one for several loops in several threads, all at once.
    failures: list[BaseException] = []
    client = SyncClient(store.endpoint, namespace=f"{name}/", request_timeout=PATIENCE)
    shared = Client(store.endpoint, namespace=f"{name}/", request_timeout=PATIENCE)
    session = client.session(ttl=30)
    inside = 0

    def with_threads(number: int) -> None:
        nonlocal inside
        for turn in range(25):
            key = f"t/{number}/{turn}"
            client.put(key, str(turn))
            found = client.get(key)
            assert found is not None
            assert found.value == str(turn).encode()
            with session.mutex("m").lock(timeout=PATIENCE):
                inside += 1
                assert inside == 1
                inside -= 1

    def with_loop(number: int) -> None:
        async def main() -> None:
            async def one(turn: int) -> KeyValue | None:
                await shared.put(f"l/{number}/{turn}", "x")
                return await shared.get(f"l/{number}/{turn}")

            found = await asyncio.gather(*[one(turn) for turn in range(25)])
            assert all(found)

        for _ in range(3):
            asyncio.run(main())

    def caught(work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    works = [(with_threads, n) for n in range(6)] + [(with_loop, n) for n in range(4)]
    threads = [threading.Thread(target=caught, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert failures == []
    assert client.get_range(Keys.prefix("t/"), count_only=True).count == 150
    assert client.get_range(Keys.prefix("l/"), count_only=True).count == 100
    session.close()
    client.close()
    shared.close()


def test_no_loop_needed_to_close(store: Server, name: str) -> None:
    client = Client(store.endpoint, namespace=f"{name}/")
    observer = SyncClient(store.endpoint, namespace=f"{name}/")

    async def begin() -> tuple[Any, ...]:
        session = await client.session(ttl=30).open()
        watch = await client.watch("w").open()
        await client.config("gw").set("a", "1")
        config = await client.config("gw").typed(dict)
        registration = await client.registry("prod").register("users", port=1)
        return session, await session.mutex("m").lock(), watch, config, registration

    session, guard, watch, config, registration = asyncio.run(begin())
    # The loop is gone; what does not wait still works, and nothing complains.
    assert config.current == {"a": 1}
    assert session.state == "active"
    guard.check()
    lease = session.lease_id
    watch.stop()
    config.stop()
    del guard
    eventually_sync("the lock is free", lambda: not observer.get_prefix("m/").kvs)
    del registration
    eventually_sync("the instance is gone", lambda: not observer.registry("prod").resolve("users"))
    del session
    gc.collect()
    eventually_sync("the session is revoked", lambda: observer.lease_ttl(lease) is None)
    client.close()
    observer.close()

    # Loops come and go, and leave no descriptors behind.
    client = Client(store.endpoint)
    late: list[asyncio.Future[Any]] = []

    async def once() -> None:
        await client.get("x")
        # A call whose answer comes when the loop is gone.
        late.append(asyncio.ensure_future(client.get("y")))

    asyncio.run(once())
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(20):
        asyncio.run(once())
    late.clear()
    gc.collect()
    after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert after <= before + 1
    client.close()


GOOD = """
import asyncio
from dataclasses import dataclass
import folkmoot
from folkmoot import ConfigChange, sync

@dataclass
class Settings:
    rate: int = 1

def check(old: Settings | None, new: Settings) -> None: ...

async def main(client: folkmoot.Client) -> None:
    found: folkmoot.KeyValue | None = await client.get("a")
    async with client.session(ttl=15) as session:
        async with session.mutex("m").lock(timeout=1) as guard:
            token: int = guard.token.revision
            result: folkmoot.TxnResult = await guard.txn().put("a", b"b").commit()
        leadership = await session.election("e").campaign("me")
        await leadership.resign()
    typed = await client.config("gw").typed(Settings, validate=check)
    rate: int = typed.current.rate
    async for change in typed.watch():
        new: Settings = change.new
    raw = await client.config("gw").typed(lambda values: values["a"])
    async with client.registry("prod").register("users", port=1, health=lambda: True) as registration:
        name: str = registration.id
    async for batch in client.watch("a"):
        revision: int = batch.revision

def threads(client: sync.Client) -> None:
    with client.session() as session, session.mutex("m").lock() as guard:
        guard.txn().put("a", "b").commit()
    for change in client.config("gw").typed(Settings).watch():
        new: ConfigChange[Settings] = change

asyncio.run(main(folkmoot.Client("h:1")))
"""

BAD = {
    'await client.put("a", 1)': "arg-type",
    'await client.put(lease="a", key="k", value="v")': "arg-type",
    'x: int = await client.get("a")': "assignment",
    'async with client.session(ttl="15"): pass': "arg-type",
    'x: str = (await client.session().mutex("m").lock()).token': "assignment",
    'with client.session().mutex("m").lock(): pass': "attr-defined",
    'x: int = (await client.config("g").typed(Settings)).current': "assignment",
    'await client.config("g").typed(Settings, validate=lambda new: None)': "misc",
    'await client.registry("r").balancer("s", "best")': "arg-type",
    'await client.registry("r").register("s")': "call-arg",
    'folkmoot.KeyValue(b"", b"", 0, 0, 0, 0).value = b"x"': "misc",
    'await client.get_range("a", sort_by="size")': "arg-type",
    "client.nothing()": "attr-defined",
}


def mypy(folder: Path, program: str) -> str:
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--show-error-codes", "program.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_types_are_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert "Success" in mypy(tmp_path, GOOD)
    head = GOOD.split("async def main")[0]
    body = "".join(
        f"async def f{n}(client: folkmoot.Client) -> None:\n    {line}\n" for n, line in enumerate(BAD)
    )
    found = mypy(tmp_path, head + body)
    for number, (line, code) in enumerate(BAD.items()):
        at = len(head.splitlines()) + 2 * number + 2
        (told,) = [said for said in found.splitlines() if said.startswith(f"program.py:{at}: error")][:1] or [
            ""
        ]
        assert f"[{code}]" in told, f"{line}: {told or 'no error'}\n{found}"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python as a terminal starts it: what runs in the background of a script begins with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_call_of_a_thread(store: Server, name: str) -> None:
    with SyncClient(store.endpoint, namespace=f"{name}/") as client, client.session() as session:
        with session.mutex("m").lock(), client.session() as other:

            def interrupt() -> None:
                eventually_sync("the other waits", lambda: len(client.get_prefix("m/").kvs) == 2)
                os.kill(os.getpid(), signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            thread.start()
            begun = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                other.mutex("m").lock()
            assert time.monotonic() - begun < 10
            thread.join()
            eventually_sync("the place is given up", lambda: len(client.get_prefix("m/").kvs) == 1)


async def test_a_timeout_of_a_call_loses_nothing_of_the_client(client: Client) -> None:
    for _ in range(200):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(client.get("x"), random.uniform(0, 0.001))
    assert await client.get("x") is None


def uvloop_run(main: Callable[[], Awaitable[None]]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_uvloop_does_as_well(store: Server, name: str) -> None:
    async def main() -> None:
        async with Client(store.endpoint, namespace=f"{name}/") as client:
            async with client.watch(Keys.prefix("w/")) as watch, client.session() as session:
                writing = asyncio.gather(*[client.put(f"w/{n}", "") for n in range(100)])
                got: list[bytes] = []
                while len(got) < 100:
                    try:
                        batch = await asyncio.wait_for(watch.__anext__(), random.uniform(0, 0.003))
                        got.extend(event.kv.key for event in batch.events)
                    except asyncio.TimeoutError:
                        pass
                await writing
                assert sorted(got) == sorted(f"w/{n}".encode() for n in range(100))
                async with session.mutex("m").lock() as guard:
                    with pytest.raises(TimeoutError):
                        await session.mutex("m").lock(timeout=0.05)
                    await guard.txn().put("x", "1").commit()
                for _ in range(50):
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(_briefly(session), random.uniform(0, 0.01))
            await eventually("nothing is left", lambda: none_left(client, "m/"))

    for _ in range(2):
        uvloop_run(main)


async def _briefly(session: folkmoot.Session) -> None:
    async with session.mutex("m").lock():
        pass
