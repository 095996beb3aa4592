"""Plays the example: the leader dies, stands still, and is deposed, and the job goes on without a gap."""

from __future__ import annotations

from stage import Program, Stage, node, python, rust

ELECTION = "example/report/leader"
LAST = "example/report/last"
COMMANDS = {
    "python": python("leader-election/replica.py"),
    "node": node("leader-election/replica.mjs"),
    "rust": rust("example-replica"),
}


def play(stage: Stage) -> None:
    """Start three replicas, take the leadership away from three of them, and look at what was written."""
    first_revision = stage.client.get_range(LAST).header.revision + 1

    def start(name: str) -> Program:
        replica = stage.start(name, [*COMMANDS[name], stage.endpoints, name])
        replica.expect("^waiting")
        return replica

    def leader_of(candidates: list[Program]) -> tuple[Program, int]:
        leader, line = stage.first(candidates, r"^leading token=(\d+)")
        leader.expect(r"^report \d+")
        stage.say(f"{leader.name} leads, token {line[1]}")
        return leader, int(line[1])

    replicas = {name: start(name) for name in COMMANDS}
    leader, token = leader_of(list(replicas.values()))

    stage.say("the leader dies; the next one leads when its session has ended")
    leader.kill()
    del replicas[leader.name]
    died, killed_token = leader.name, token
    leader, token = leader_of(list(replicas.values()))
    assert token > killed_token

    stage.say("the leader stands still for longer than its session, and then goes on without knowing")
    replicas[died] = start(died)
    leader.pause()
    paused = leader
    leader, new_token = leader_of([replica for replica in replicas.values() if replica is not paused])
    assert new_token > token
    paused.go_on()
    refused = paused.expect(r"^refused token=(\d+)")
    assert int(refused[1]) == token, refused
    paused.expect("^waiting")
    leader.expect(r"^report \d+")

    stage.say("somebody deletes the leader's key; it is the store that refuses the next write")
    present = stage.client.leader(ELECTION)
    assert present is not None
    assert present.token == new_token
    stage.client.delete(present.key)
    deposed = leader
    refused = deposed.expect(r"^refused token=(\d+)")
    assert int(refused[1]) == new_token, refused
    leader, token = leader_of(list(replicas.values()))
    assert token > new_token

    history = written(stage, first_revision)
    stage.say(
        f"{len(history)} reports by {len({token for _, _, token in history})} leaders: {summary(history)}"
    )
    assert [number for number, _, _ in history] == list(range(1, len(history) + 1)), (
        "a report is missing or double"
    )
    tokens = [token for _, _, token in history]
    assert tokens == sorted(tokens), "an old leader wrote after a newer one"
    assert len({(name, token) for _, name, token in history}) == len(set(tokens)), (
        "two replicas had one token"
    )
    assert len(set(tokens)) == 4, "the leadership changed hands three times"


def written(stage: Stage, first_revision: int) -> list[tuple[int, str, int]]:
    """Read from the store's history all that was ever written, in order: number, replica, token."""
    found: list[tuple[int, str, int]] = []
    last = stage.client.get_range(LAST).header.revision
    with stage.client.watch(LAST, from_revision=first_revision) as watch:
        for batch in watch:
            for event in batch.events:
                number, name, token = event.kv.value.decode().split()
                found.append((int(number), name, int(token)))
            # The job goes on, so there is always a later one.
            if batch.revision >= last:
                return found
    raise AssertionError("the history ended")


def summary(history: list[tuple[int, str, int]]) -> str:
    """Say who wrote what."""
    parts: dict[tuple[int, str], list[int]] = {}
    for number, name, token in history:
        parts.setdefault((token, name), []).append(number)
    return ", ".join(f"{name} {numbers[0]}-{numbers[-1]}" for (_, name), numbers in parts.items())
