"""A service that follows its configuration, in Python: ``service.py ENDPOINTS CACHE``.

The configuration is typed and checked. A bad one is refused and the last good one stays; without the store
the service starts with the last good one from the folder CACHE.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass

import folkmoot


@dataclass(frozen=True)
class Settings:
    """What can be set: each field is an item of the namespace."""

    greeting: str
    timeout_ms: int = 500


def sensible(_: Settings | None, new: Settings) -> None:
    """Refuse what has the right types and makes no sense."""
    if not 1 <= new.timeout_ms <= 60_000:
        raise ValueError(f"timeout_ms must be from 1 to 60000, not {new.timeout_ms}")


async def main(endpoints: str, cache: str) -> None:
    """Follow the configuration."""
    # Not entered with `async with`, which would wait for the store.
    client = folkmoot.Client(endpoints)
    shop = client.config("example-shop")
    async with shop.typed(Settings, validate=sensible, cache_dir=cache, initial_timeout=2) as config:
        async for event in config.events():
            if isinstance(event, folkmoot.ConfigChange):
                print(f"using {json.dumps(asdict(event.new))} from {event.source}", flush=True)
            else:
                print(f"refused: {event.error}", flush=True)
                print(f"keeping {json.dumps(asdict(config.current))}", flush=True)


asyncio.run(main(*sys.argv[1:3]))
