"""The programs of the README, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Server, run_script

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAMS = [
    block
    for block in re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    if "import" in block
]


def adapted(program: str, store: Server) -> str:
    assert "127.0.0.1:2379" in program
    return program.replace("127.0.0.1:2379", store.endpoint)


def test_the_quick_start_works(store: Server) -> None:
    printed = run_script(adapted(PROGRAMS[0], store))
    words = [line.split(":")[0] for line in printed.splitlines()]
    assert words[:6] == ["watched", "locked", "leader", "picked", "timeout", "changed"], printed
    assert printed.splitlines()[0] == "watched: hello"
    assert printed.splitlines()[-1] == "changed: 300"


def test_the_twin_of_the_quick_start_works(store: Server) -> None:
    assert run_script(adapted(PROGRAMS[1], store)).startswith("leading with token ")


@pytest.mark.fork
def test_a_client_made_before_workers_are_forked_serves_them(folkmoot_server: Server) -> None:
    # What gunicorn does with --preload, without gunicorn.
    script = """
        import os, sys
        from folkmoot.sync import Client
        client = Client(sys.argv[1])
        client.put("preloaded", "1")
        workers = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    registration = client.registry("prod").register("myapp", port=8000, id=f"worker-{number}")
                    with client.session() as session, session.mutex("shared").lock(timeout=60):
                        assert client.get("preloaded").value == b"1"
                    registration.deregister()
                    status = 0
                finally:
                    os._exit(status)
            workers.append(pid)
        for pid in workers:
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.registry("prod").resolve("myapp") == ()
        print("served")
    """
    import textwrap

    assert (
        run_script(
            "import warnings; warnings.simplefilter('ignore')\n" + textwrap.dedent(script),
            folkmoot_server.endpoint,
        )
        == "served\n"
    )
