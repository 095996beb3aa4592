"""Plays every example, against Folkmoot and against etcd, and one against a store that was given."""

from __future__ import annotations

import importlib.util
import shutil
from types import ModuleType

import pytest

from stage import HERE, Stage, Store

STORES = ("folkmoot", "etcd")


def check_of(example: str) -> ModuleType:
    """Load what plays an example."""
    spec = importlib.util.spec_from_file_location("check", HERE / example / "check.py")
    assert spec is not None
    assert spec.loader is not None
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    return check


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("example", ["gateway", "config-watch", "leader-election"])
def test_the_example_keeps_its_promises(example: str, store: str) -> None:
    """The story is told as the README of the example tells it."""
    if store == "etcd" and shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    with Stage(store) as stage:
        check_of(example).play(stage)


def test_a_store_that_was_given_is_left_as_it_was() -> None:
    """Keys of others stay, those of the example go."""
    store = Store("folkmoot")
    try:
        with Stage(endpoints=store.endpoint) as stage:
            stage.client.put("of/others", "1")
            check_of("config-watch").play(stage)
        with Stage(endpoints=store.endpoint) as stage:
            assert stage.client.get("of/others") is not None
            assert stage.client.get_prefix("config/").count == 0
    finally:
        store.close()
