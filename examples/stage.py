"""What plays the examples: a store, programs whose lines can be waited for, and faults.

Users copy the programs, not this.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from folkmoot import Unavailable
from folkmoot.sync import Client

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "examples"
PATIENCE = 60.0
"""How long anything may take that has to come in the end, in seconds."""


def binary() -> str:
    """Find Folkmoot's program."""
    return os.environ.get("FOLKMOOT_BINARY") or str(_target() / "dist/folkmoot")


def _target() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")


def rust(name: str) -> list[str]:
    """Command of an example in Rust."""
    folder = Path(os.environ.get("EXAMPLES_BIN") or _target() / "release")
    return [str(folder / name)]


def python(script: str) -> list[str]:
    """Command of an example in Python."""
    return [sys.executable, "-X", "faulthandler", "-u", str(HERE / script)]


def node(script: str) -> list[str]:
    """Command of an example in Node."""
    return ["node", str(HERE / script)]


def _two_free_ports() -> tuple[int, int]:
    # Both are held until both are known, or they might be the same.
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


class Program:
    """A process, and what it has printed."""

    def __init__(self, stage: Stage, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self.ended = False
        self._stage = stage
        self._read = 0
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._follow)
        self._reader.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._stage.changed:
                self.lines.append(line.rstrip())
                self._stage.show(f"  {self.name:>10} | {line.rstrip()}")
                self._stage.changed.notify_all()
        with self._stage.changed:
            self.ended = True
            self._stage.changed.notify_all()

    def take(self, pattern: str) -> re.Match[str] | None:
        """Take the next line that matches, among those not taken yet, with all before it."""
        for at in range(self._read, len(self.lines)):
            found = re.search(pattern, self.lines[at])
            if found:
                self._read = at + 1
                return found
        return None

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait for the next line that matches."""
        return self._stage.first([self], pattern)[1]

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self._stage.say(f"kill -9 {self.name}")
        self._end()

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def terminate(self) -> None:
        """Ask it to end, and wait until it has, without an error."""
        self._stage.say(f"SIGTERM to {self.name}")
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            # A program in Python prints where each of its threads is.
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(PATIENCE)
            self._reader.join()
            raise AssertionError(f"{self.name} did not end: {self.lines}") from None
        self._reader.join()
        assert code == 0, f"{self.name} ended with {code}: {self.lines}"

    def pause(self) -> None:
        """Stop it where it is."""
        self._stage.say(f"SIGSTOP to {self.name}")
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on where it was stopped."""
        self._stage.say(f"SIGCONT to {self.name}")
        self.process.send_signal(signal.SIGCONT)


class Store:
    """A store of one member, in a process and a folder of its own."""

    def __init__(self, kind: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="folkmoot-example-")
        client, peer = _two_free_ports()
        url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self.endpoint = f"127.0.0.1:{client}"
        program = [shutil.which("etcd") or "etcd"] if kind == "etcd" else [binary(), "serve"]
        self._command = [
            *program,
            *("--name", "one", "--data-dir", f"{self.folder.name}/data"),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", f"one={peer_url}"),
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log_path = Path(self.folder.name, "log")
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + PATIENCE
        client = Client(self.endpoint, request_timeout=1)
        try:
            while True:
                try:
                    client.get("ready")
                    return
                except (Unavailable, TimeoutError) as error:
                    if self.process.poll() is not None or time.monotonic() > until:
                        raise AssertionError(f"the store does not answer: {log_path.read_text()}") from error
        finally:
            client.close()

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End it, and remove what it left."""
        self.kill()
        self.folder.cleanup()


class Stage:
    """One play: the store, the programs that were started, and where it is told."""

    def __init__(self, store: str = "folkmoot", endpoints: str | None = None, loud: bool = True) -> None:
        """Start a store of this kind, or use the one at ``endpoints``."""
        self.changed = threading.Condition()
        self.loud = loud
        self._programs: list[Program] = []
        self._store = None if endpoints else Store(store)
        self.endpoints = endpoints or (self._store.endpoint if self._store else "")
        self.folder = Path(tempfile.mkdtemp(prefix="folkmoot-example-"))
        self.client = Client(self.endpoints, request_timeout=20)
        self._clear()

    def _clear(self) -> None:
        """Remove what the examples put into the store."""
        for prefix in ("services/example/", "config/example-shop/", "example/report/"):
            self.client.delete_prefix(prefix)

    def show(self, text: str) -> None:
        """Print, if anybody listens."""
        if self.loud:
            print(text, flush=True)

    def say(self, text: str) -> None:
        """Tell what happens."""
        self.show(f"* {text}")

    def start(self, name: str, command: Sequence[str]) -> Program:
        """Start a program."""
        program = Program(self, name, command)
        self._programs.append(program)
        return program

    def first(self, programs: Sequence[Program], pattern: str) -> tuple[Program, re.Match[str]]:
        """Wait for the first of the programs that prints a line that matches."""
        until = time.monotonic() + PATIENCE
        with self.changed:
            while True:
                for program in programs:
                    found = program.take(pattern)
                    if found:
                        return program, found
                said = {program.name: program.lines for program in programs}
                assert not all(program.ended for program in programs), f"ended without {pattern!r}: {said}"
                left = until - time.monotonic()
                assert left > 0, f"never came: {pattern!r}; {said}"
                self.changed.wait(left)

    @contextmanager
    def store_away(self) -> Iterator[None]:
        """Kill the store, and start it again at the end."""
        assert self._store is not None, "a store that was given is not killed"
        self.say("kill -9 the store")
        self._store.kill()
        try:
            yield
        finally:
            self._store.start()
            self.say("the store is back")

    @property
    def owns_store(self) -> bool:
        """Whether the store may be killed."""
        return self._store is not None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program._end()
        try:
            if not self.owns_store:
                self._clear()
        finally:
            self.client.close()
            if self._store is not None:
                self._store.close()
            shutil.rmtree(self.folder, ignore_errors=True)
