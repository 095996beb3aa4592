"""Load for the gateway: ``load.py URL [SECONDS]``. Counts what was answered, by whom, and what failed."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

WORKERS = 8
PAUSE = 0.01
"""Between two requests of a worker, in seconds."""


class Load:
    """Workers that send requests, each over a connection of its own, until they are stopped."""

    def __init__(self, url: str) -> None:
        self.served: Counter[str] = Counter()
        """Answers by backend."""
        self.retried = 0
        """Answers that took the gateway more than one attempt."""
        self.failures: list[str] = []
        self._address = urlsplit(url).netloc
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._workers = [threading.Thread(target=self._work) for _ in range(WORKERS)]
        for worker in self._workers:
            worker.start()

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=10)
        while not self._stop.is_set():
            failure, backend, attempts = "", "", 1
            try:
                connection.request("GET", "/greeter/hello")
                response = connection.getresponse()
                body = response.read()
                backend = response.getheader("x-served-by", "")
                attempts = int(response.getheader("x-attempts", "1"))
                if response.status != 200:
                    failure = f"{response.status} {body.decode(errors='replace').strip()}"
            except (OSError, http.client.HTTPException) as error:
                failure = repr(error)
                connection.close()
            with self._changed:
                if failure:
                    self.failures.append(failure)
                else:
                    self.served[backend] += 1
                    self.retried += attempts > 1
                self._changed.notify_all()
            self._stop.wait(PAUSE)
        connection.close()

    def wait(self, what: str, seen: Callable[[], bool], within: float = 60) -> None:
        """Wait for something among the counts; a failure ends the wait, too."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self.failures) or seen(), within):
                raise AssertionError(f"never came: {what}; {self}")

    def serves(self, backend: str, more: int = 20) -> None:
        """Wait until a backend has given some more answers."""
        goal = self.served[backend] + more
        self.wait(f"{more} answers of {backend}", lambda: self.served[backend] >= goal)

    def stop(self) -> None:
        """Stop the workers."""
        self._stop.set()
        for worker in self._workers:
            worker.join()

    def __str__(self) -> str:
        by = ", ".join(f"{backend} {count}" for backend, count in sorted(self.served.items()))
        total, failed = self.served.total() + len(self.failures), len(self.failures)
        first = f"; the first: {self.failures[0]}" if self.failures else ""
        return f"{total} requests, {failed} failed, {self.retried} retried by the gateway ({by}){first}"


if __name__ == "__main__":
    load = Load(sys.argv[1])
    try:
        time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 10)
    finally:
        load.stop()
        print(load)
    sys.exit(bool(load.failures))
