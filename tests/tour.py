#!/usr/bin/env python3
"""Runs the tour of README.md as it is printed and compares what it prints.

usage: tour.py PATH-TO-FOLKMOOT

Lines after "$ " in the ```console blocks are run by one bash, in order, in a fresh directory with
a server of its own; the lines below a command are what it must print, "…" standing for anything.
The server listens on a free port, which the commands find in FOLKMOOT_ENDPOINTS; where the page
says 127.0.0.1:2379 that port is meant.
"""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def steps(readme):
    """(command, expected output) for each command of the page."""
    for block in re.findall(r"^```console\n(.*?)^```", readme, re.S | re.M):
        command, expected = None, []
        for line in block.splitlines():
            if line.startswith("$ "):
                if command is not None:
                    yield command, "\n".join(expected)
                command, expected = line[2:], []
            else:
                expected.append(line)
        if command is not None:
            yield command, "\n".join(expected)


def run_all(commands, where, env):
    """What each command printed, all run by one shell."""
    mark = "=== end of step ==="
    script = "".join(f"{command}\necho '{mark}'\n" for command in commands)
    done = subprocess.run(
        ["bash", "-c", "exec 2>&1\n" + script], cwd=where, env=env, capture_output=True, text=True, timeout=120
    )
    return [part.strip("\n") for part in done.stdout.split(mark + "\n")][: len(commands)]


def wait_until_ready(folkmoot, endpoint, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = subprocess.run([folkmoot, "--endpoints", endpoint, "endpoint", "health"], capture_output=True)
        if answer.returncode == 0:
            return
        if server.poll() is not None:
            sys.exit("the server stopped")
    sys.exit("the server was not ready within a minute")


def main():
    folkmoot = os.path.realpath(sys.argv[1])
    root = pathlib.Path(__file__).resolve().parent.parent
    tour = list(steps((root / "README.md").read_text()))
    work = tempfile.mkdtemp()
    client, peer = free_port(), free_port()
    url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    server = subprocess.Popen(
        [folkmoot, "serve", "--data-dir", f"{work}/data", "--listen-client-urls", url, "--advertise-client-urls", url,
         "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
         "--initial-cluster", f"default={peer_url}"],
        stderr=subprocess.DEVNULL,
    )
    failed = 0
    try:
        endpoint = f"127.0.0.1:{client}"
        wait_until_ready(folkmoot, endpoint, server)
        env = dict(os.environ, FOLKMOOT_ENDPOINTS=endpoint, PATH=f"{os.path.dirname(folkmoot)}:{os.environ['PATH']}")
        printed = run_all([command for command, _ in tour], work, env)
        for (command, expected), found in zip(tour, printed, strict=True):
            expected = expected.strip("\n").replace("127.0.0.1:2379", endpoint)
            pattern = ".*".join(re.escape(part) for part in expected.split("…"))
            if re.fullmatch(pattern, found, re.S):
                continue
            failed += 1
            print(f"$ {command}\n--- the page says\n{expected}\n--- it printed\n{found}\n")
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(work, ignore_errors=True)
    print(f"tour: {len(tour) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
