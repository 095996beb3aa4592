"""Real servers for the tests: Folkmoot's binary as ``FOLKMOOT_BINARY`` has it, and etcd if it is there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from folkmoot import Client
from folkmoot.sync import Client as SyncClient

PATIENCE = 60.0
"""How long anything may take that has to come in the end, in seconds."""

BINARY = os.environ.get("FOLKMOOT_BINARY") or str(Path.home() / ".cache/folkmoot/target/dist/folkmoot")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A member alone, in a process and a folder of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port, self.peer = free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="folkmoot-test-")
        self.process = self._start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _start(self) -> subprocess.Popen[bytes]:
        url, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer}"
        program = ["etcd"] if self.kind == "etcd" else [BINARY, "serve", "--unsafe-no-fsync"]
        command = [
            *program,
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--name", "default", "--initial-cluster", f"default={peer}"),
            *("--data-dir", f"{self.folder.name}/data"),
        ]
        with open(f"{self.folder.name}/log", "ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return process
            except OSError:
                assert process.poll() is None, Path(f"{self.folder.name}/log").read_text()
                assert time.monotonic() < until, "the server never listened"
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.process = self._start()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self.folder.cleanup()


def _serve(kind: str) -> Iterator[Server]:
    server = Server(kind)
    try:
        with SyncClient(server.endpoint, request_timeout=PATIENCE) as client:
            client.get("is-there-a-leader")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def folkmoot_server() -> Iterator[Server]:
    """Folkmoot, for tests that share it; each uses names of its own."""
    yield from _serve("folkmoot")


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[Server]:
    """A stock etcd, for tests that share it."""
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    yield from _serve("etcd")


@pytest.fixture
def own_server() -> Iterator[Server]:
    """Folkmoot for one test, which may stop it."""
    yield from _serve("folkmoot")


@pytest.fixture(params=["folkmoot", "etcd"])
def store(request: pytest.FixtureRequest) -> Server:
    """Run the test against Folkmoot and against etcd."""
    server = request.getfixturevalue(f"{request.param}_server")
    assert isinstance(server, Server)
    return server


@pytest.fixture
async def client(store: Server, name: str) -> AsyncIterator[Client]:
    """A client in a namespace of the test's own."""
    async with Client(store.endpoint, namespace=f"{name}/", request_timeout=20) as client:
        yield client


@pytest.fixture
def sync_client(store: Server, name: str) -> Iterator[SyncClient]:
    """A client in a namespace of the test's own."""
    with SyncClient(store.endpoint, namespace=f"{name}/", request_timeout=20) as client:
        yield client


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"{request.node.name}-{time.time_ns():x}"


async def eventually(what: str, look: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again until it is so."""
    import asyncio

    until = time.monotonic() + PATIENCE
    while not await look():
        assert time.monotonic() < until, f"never came: {what}"
        await asyncio.sleep(0.02)


def eventually_sync(what: str, look: Callable[[], bool]) -> None:
    """Look again and again until it is so."""
    until = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.02)


def run_script(script: str, *args: str, timeout: float = PATIENCE) -> str:
    """Run a program of its own, and tell what it printed; it must end well, and in time."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
