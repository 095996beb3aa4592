"""Plays the example: backends are restarted one by one, and one is killed, while requests come in."""

from __future__ import annotations

import importlib.util

from stage import HERE, Program, Stage, node, python, rust

_spec = importlib.util.spec_from_file_location("load", HERE / "gateway/load.py")
assert _spec is not None
assert _spec.loader is not None
_load = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_load)

COMMANDS = {"python": python("gateway/backend.py"), "rust": rust("example-backend")}
BACKENDS = ("python-1", "python-2", "rust-1", "rust-2")


def play(stage: Stage) -> None:
    """Restart all backends in turn, and then kill one, under load; no request may fail."""

    def start(name: str) -> Program:
        backend = stage.start(name, [*COMMANDS[name.split("-")[0]], stage.endpoints, name])
        backend.expect("^registered")
        return backend

    def gateway(retries: int) -> tuple[Program, str]:
        program = stage.start("gateway", [*node("gateway/gateway.mjs"), stage.endpoints, str(retries)])
        return program, program.expect(r"^listening on (\S+)")[1]

    backends = {name: start(name) for name in BACKENDS}

    stage.say("a rolling restart; the gateway retries nothing")
    program, url = gateway(retries=0)
    load = _load.Load(url)
    try:
        for name in BACKENDS:
            load.serves(name)
        for name in BACKENDS:
            backends[name].terminate()
            backends[name] = start(name)
            load.serves(name)
    finally:
        load.stop()
    stage.say(str(load))
    assert not load.failures, str(load)
    assert load.retried == 0
    program.terminate()

    stage.say("a backend dies; the gateway sends a GET to another one if no answer had begun")
    program, url = gateway(retries=5)
    load = _load.Load(url)
    try:
        for name in BACKENDS:
            load.serves(name)
        backends["python-1"].kill()
        load.wait("a retry", lambda: load.retried > 0)
        for name in BACKENDS[1:]:
            load.serves(name)
        backends["rust-2"].kill()
        load.serves("python-2")
        load.serves("rust-1")
        stage.say("started again under their old names, they take the places of the dead ones")
        for name in ("python-1", "rust-2"):
            backends[name] = start(name)
            load.serves(name)
    finally:
        load.stop()
    stage.say(str(load))
    assert not load.failures, str(load)
    program.terminate()
    for backend in backends.values():
        backend.terminate()
    assert stage.client.registry("example").resolve("greeter") == ()
