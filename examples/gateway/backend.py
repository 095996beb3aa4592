"""A backend of the gateway, in Python: ``backend.py ENDPOINTS ID``.

It registers itself as an instance of the service ``greeter``. On ``SIGTERM`` it drains: it says in the
registry that it takes nothing new, and ends when what it has is answered.
"""

import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from folkmoot.sync import Client


class Server(ThreadingHTTPServer):
    """Waits at its end for what it is answering."""

    daemon_threads = False
    request_queue_size = 128


class Greeter(BaseHTTPRequestHandler):
    """Says hello."""

    wbufsize = -1  # An answer is written in one piece.

    def do_GET(self) -> None:
        """Answer."""
        body = f"hello from {sys.argv[2]}, in Python\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def main(endpoints: str, name: str) -> None:
    """Serve until ``SIGTERM``."""
    # Before there is any other thread: whichever took the signal, the main thread would not wake up.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = Server(("127.0.0.1", 0), Greeter)
    threading.Thread(target=server.serve_forever).start()
    try:
        with Client(endpoints) as client:
            registry = client.registry("example")
            # An id that stays the same over restarts; the new process takes the place of one that died.
            with registry.register(
                "greeter", host="127.0.0.1", port=server.server_port, id=name, on_conflict="takeover", drain=2
            ):
                print(f"registered {name} at 127.0.0.1:{server.server_port}", flush=True)
                signal.sigwait({signal.SIGTERM})
                print(f"draining {name}", flush=True)
    finally:
        server.shutdown()
        server.server_close()
    print(f"stopped {name}", flush=True)


main(*sys.argv[1:3])
