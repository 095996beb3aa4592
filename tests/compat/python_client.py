"""The Python client `etcd3` against one endpoint: python_client.py HOST:PORT PREFIX"""

import os
import queue
import sys
import threading
import time

import etcd3

HOST, PORT = sys.argv[1].rsplit(":", 1)
PREFIX = sys.argv[2]
PATIENCE = 10


def key(name):
    return PREFIX + name


def put_and_get(client):
    client.put(key("a"), "one")
    value, meta = client.get(key("a"))
    assert value == b"one", value
    assert meta.version == 1 and meta.create_revision == meta.mod_revision, meta
    client.put(key("a"), "two")
    value, again = client.get(key("a"))
    assert value == b"two" and again.version == 2, again
    assert again.create_revision == meta.create_revision < again.mod_revision


def absent_key(client):
    assert client.get(key("absent")) == (None, None)


def binary_key(client):
    name = PREFIX.encode() + b"\x00\xff"
    client.put(name, b"\xff\x00")
    assert client.get(name)[0] == b"\xff\x00"


def prefix_list(client):
    for name in ("list/1", "list/2", "list/3", "other"):
        client.put(key(name), name)
    listed = [(meta.key.decode(), value.decode()) for value, meta in client.get_prefix(key("list/"))]
    assert listed == [(key(f"list/{i}"), f"list/{i}") for i in (1, 2, 3)], listed
    backwards = [value for value, _ in client.get_prefix(key("list/"), sort_order="descend")]
    assert backwards == [b"list/3", b"list/2", b"list/1"], backwards


def range_of_keys(client):
    names = [meta.key.decode() for _, meta in client.get_range(key("list/1"), key("list/3"))]
    assert names == [key("list/1"), key("list/2")], names


def delete(client):
    client.put(key("gone"), "x")
    assert client.delete(key("gone")) is True
    assert client.delete(key("gone")) is False
    assert client.delete_prefix(key("list/")).deleted == 3


def compare_and_swap(client):
    client.put(key("swap"), "old")
    assert client.replace(key("swap"), "old", "new") is True
    assert client.replace(key("swap"), "old", "newer") is False
    assert client.get(key("swap"))[0] == b"new"
    assert client.put_if_not_exists(key("swap"), "x") is False
    assert client.put_if_not_exists(key("fresh"), "x") is True


def transaction(client):
    ok, answers = client.transaction(
        compare=[client.transactions.version(key("swap")) > 0, client.transactions.value(key("swap")) == "new"],
        success=[client.transactions.put(key("txn"), "yes"), client.transactions.get(key("txn"))],
        failure=[client.transactions.delete(key("swap"))],
    )
    assert ok, answers
    assert answers[1][0][0] == b"yes", answers


def watch_history_and_live(client):
    client.put(key("watched"), "1")
    start = client.get(key("watched"))[1].mod_revision
    client.put(key("watched"), "2")
    events, cancel = client.watch(key("watched"), start_revision=start)
    client.put(key("watched"), "3")
    client.delete(key("watched"))
    seen = [next(events) for _ in range(4)]
    cancel()
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["PutEvent", "PutEvent", "PutEvent", "DeleteEvent"], kinds
    assert [event.value for event in seen[:3]] == [b"1", b"2", b"3"], seen


def watch_prefix_with_callback(client):
    seen = queue.Queue()
    watch_id = client.add_watch_prefix_callback(key("cb/"), lambda response: [seen.put(e) for e in response.events])
    client.put(key("cb/a"), "x")
    client.put(key("cb/b"), "y")
    got = [seen.get(timeout=PATIENCE).key.decode() for _ in range(2)]
    client.cancel_watch(watch_id)
    assert got == [key("cb/a"), key("cb/b")], got


def compaction(client):
    client.put(key("old"), "1")
    first = client.get(key("old"))[1].mod_revision
    client.put(key("old"), "2")
    client.compact(client.get(key("old"))[1].mod_revision)
    events, cancel = client.watch(key("old"), start_revision=first)
    try:
        event = next(events)
        raise AssertionError(f"no error for a compacted revision, but {event}")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision > first
    cancel()


def lease(client):
    lease = client.lease(600)
    client.put(key("leased"), "x", lease=lease)
    assert lease.granted_ttl == 600 and 0 < lease.remaining_ttl <= 600
    assert lease.keys == [key("leased").encode()], lease.keys
    (answer,) = lease.refresh()
    assert answer.TTL == 600, answer
    lease.revoke()
    assert client.get(key("leased"))[0] is None


def lease_kept_alive(client):
    lease = client.lease(2)
    client.put(key("kept"), "x", lease=lease)
    # Longer than the lease would live by itself.
    end = time.monotonic() + 5
    while time.monotonic() < end:
        list(lease.refresh())
        time.sleep(0.5)
    assert client.get(key("kept"))[0] == b"x"
    deadline = time.monotonic() + 15
    while client.get(key("kept"))[0] is not None:
        assert time.monotonic() < deadline, "the lease never expired"
        time.sleep(0.1)


def lock(client):
    first = client.lock(key("mutex"), ttl=60)
    second = client.lock(key("mutex"), ttl=60)
    assert first.acquire(timeout=PATIENCE)
    assert first.is_acquired()
    assert not second.acquire(timeout=0.3)
    waiter = threading.Thread(target=lambda: second.acquire(timeout=PATIENCE))
    waiter.start()
    assert first.release()
    waiter.join()
    assert second.is_acquired()
    second.release()


def status_and_members(client):
    status = client.status()
    assert status.db_size > 0 and status.version, status
    (member,) = list(client.members)
    assert member.id == status.leader.id, member


def main():
    checks = [
        put_and_get, absent_key, binary_key, prefix_list, range_of_keys, delete, compare_and_swap, transaction,
        watch_history_and_live, watch_prefix_with_callback, compaction, lease, lease_kept_alive, lock,
        status_and_members,
    ]
    failed = False
    client = etcd3.client(host=HOST, port=int(PORT), timeout=PATIENCE)
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            check(client)
            print(f"ok {name}")
        except Exception as error:  # pylint: disable=broad-except
            failed = True
            text = " ".join(f"{type(error).__name__} {error}".split())
            print(f"FAILED {name}: {text}")
    client.delete_prefix(PREFIX)
    print("done", flush=True)
    # The client's watch thread would complain about the closing channel.
    os._exit(1 if failed else 0)


main()
