"""The stub says what the native part has, and both clients have the same names."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import folkmoot
import folkmoot.sync
from folkmoot import _native

STUB = Path(folkmoot.__file__).with_name("_native.pyi")


def stub_functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in body
        if isinstance(node, ast.FunctionDef)
    }


def native_functions(owner: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in vars(owner).items():
        if (name.startswith("__") and name != "__new__") or not callable(value) or isinstance(value, type):
            continue
        if name == "__new__":
            if inspect.isclass(owner) and owner.__text_signature__:
                found[name] = ["cls", *inspect.signature(owner).parameters]
        else:
            found[name] = list(inspect.signature(value).parameters)
    return found


def test_the_stub_says_what_is_there() -> None:
    tree = ast.parse(STUB.read_text())
    classes = {node.name: stub_functions(node.body) for node in tree.body if isinstance(node, ast.ClassDef)}
    there = {name: value for name, value in vars(_native).items() if isinstance(value, type)}
    assert classes.keys() == there.keys()
    for name, functions in classes.items():
        assert functions == native_functions(there[name]), name
    assert stub_functions(tree.body) == native_functions(_native)


def public(owner: Any) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}


# What waits for a loop, or has an iterator's way to wait, is called otherwise or not needed for threads.
ONLY_ASYNC = {"aclose", "cancel_on_lost", "open"}
ONLY_SYNC = {"get"}


@pytest.mark.parametrize("name", [name for name in folkmoot.sync.__all__ if name != "HealthCheck"])
def test_both_clients_have_the_same_names(name: str) -> None:
    ours, twin = getattr(folkmoot, name), getattr(folkmoot.sync, name)
    for_loops, for_threads = public(ours), public(twin)
    assert for_loops.keys() - for_threads.keys() <= ONLY_ASYNC
    extra = for_threads.keys() - for_loops.keys()
    assert extra <= (ONLY_SYNC if issubclass(twin, folkmoot.sync.Stream) else set())
    for method in for_loops.keys() & for_threads.keys():
        one, other = for_loops[method], for_threads[method]
        if not callable(one):
            assert not callable(other), method
            continue
        parameters = list(inspect.signature(one).parameters.values())
        others = list(inspect.signature(other).parameters.values())
        if method == "lost":
            # A thread cannot be cancelled, so it may wait for a while only.
            assert [parameter.name for parameter in others] == ["self", "timeout"]
            continue
        assert [(p.name, p.kind, p.default) for p in parameters] == [
            (p.name, p.kind, p.default) for p in others
        ], method


def test_every_public_name_is_documented() -> None:
    for module in (folkmoot, folkmoot.sync):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                assert value.__doc__, name
                for method, member in vars(value).items():
                    if not method.startswith("_") and (callable(member) or isinstance(member, property)):
                        assert inspect.getdoc(member), f"{name}.{method}"
