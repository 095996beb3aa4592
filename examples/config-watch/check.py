"""Plays the example: good and bad configurations are published, and the store is killed."""

from __future__ import annotations

import json

from stage import Program, Stage, node, python

COMMANDS = {"python": python("config-watch/service.py"), "node": node("config-watch/service.mjs")}


def play(stage: Stage) -> None:
    """Publish, and look what each service makes of it."""
    config = stage.client.config("example-shop")

    def start() -> list[Program]:
        return [
            stage.start(name, [*command, stage.endpoints, str(stage.folder / name)])
            for name, command in COMMANDS.items()
        ]

    def all_use(greeting: str, timeout_ms: int, source: str = "live") -> None:
        for service in services:
            line = service.expect(rf'^using (.*"{greeting}".*) from {source}')
            assert json.loads(line[1]) == {"greeting": greeting, "timeout_ms": timeout_ms}, line[0]

    def all_refuse(why: str, greeting: str, timeout_ms: int) -> None:
        for service in services:
            service.expect(rf"^refused: .*{why}")
            line = service.expect("^keeping (.*)")
            assert json.loads(line[1]) == {"greeting": greeting, "timeout_ms": timeout_ms}, line[0]

    stage.say("publish greeting=hello")
    config.publish({"greeting": "hello"})
    services = start()
    all_use("hello", 500)

    stage.say("publish two items together; nobody sees one without the other")
    config.publish({"greeting": "good day", "timeout_ms": "250"})
    all_use("good day", 250)

    stage.say("put a timeout that is no number")
    stage.client.put("config/example-shop/items/timeout_ms", "soon")
    all_refuse("timeout_ms", "good day", 250)

    stage.say("put a timeout that is a number and makes no sense")
    stage.client.put("config/example-shop/items/timeout_ms", "-5")
    all_refuse("timeout_ms must be from 1 to 60000", "good day", 250)

    stage.say("and a good one again")
    config.publish({"greeting": "good evening", "timeout_ms": "300"})
    all_use("good evening", 300)

    if not stage.owns_store:
        stage.say("the store is not ours to kill, so the story ends here")
        return
    for service in services:
        service.kill()
    with stage.store_away():
        stage.say("the services start without it")
        services = start()
        all_use("good evening", 300, source="disk.cache")
    config.publish({"greeting": "good night"})
    all_use("good night", 300)
