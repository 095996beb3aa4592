"""Puts a second by this package and by aetcd, in turns, against the same server.

``python bench/puts.py ENDPOINT [SECONDS]``. Each client does puts one after the other, and 64 at a time; the
rounds are interleaved, and the best of each counts, because on a busy machine the worst says more about the
machine.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import folkmoot

VALUE = b"v" * 32
Put = Callable[[bytes, bytes], Awaitable[object]]


async def rate(put: Put, tasks: int, seconds: float) -> tuple[float, float]:
    """Tell the puts a second, and the processor's microseconds that each took in this process."""
    until = time.perf_counter() + seconds

    async def work(number: int) -> int:
        done = 0
        while time.perf_counter() < until:
            await put(b"bench/%d" % number, VALUE)
            done += 1
        return done

    begun, used = time.perf_counter(), time.process_time()
    done = sum(await asyncio.gather(*[work(number) for number in range(tasks)]))
    return done / (time.perf_counter() - begun), (time.process_time() - used) / done * 1e6


async def main(endpoint: str, seconds: float) -> None:
    host, port = endpoint.rsplit(":", 1)
    aetcd: Any = importlib.import_module("aetcd")
    async with folkmoot.Client(endpoint) as ours, aetcd.Client(host=host, port=int(port)) as theirs:
        puts: dict[str, Put] = {"folkmoot": ours.put, "aetcd": theirs.put}
        for put in puts.values():
            await rate(put, 8, 0.5)
        for tasks in (1, 64):
            best = dict.fromkeys(puts, (0.0, 0.0))
            for _ in range(3):
                for name, put in puts.items():
                    best[name] = max(best[name], await rate(put, tasks, seconds))
            ours_best, theirs_best = best["folkmoot"], best["aetcd"]
            print(
                f"{tasks:>3} at a time: folkmoot {ours_best[0]:>7.0f}/s ({ours_best[1]:.0f} us of CPU), "
                f"aetcd {theirs_best[0]:>7.0f}/s ({theirs_best[1]:.0f} us), "
                f"ratio {ours_best[0] / theirs_best[0]:.2f}"
            )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 2.0))
