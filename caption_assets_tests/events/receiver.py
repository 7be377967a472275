"""A receiver of events on loopback: keeps what it was sent, and answers as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Delivery:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)


Status = int | tuple[int, dict[str, str]]


class Receiver:
    """Requests in the order they came, and what to answer them: a status, with headers or without."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[Delivery] = []
        self.answer: Callable[[Delivery], Status] = lambda delivery: 204
        self.lock = threading.Lock()

    def url(self, path: str = "/hook") -> str:
        """URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def callback(self, path: str = "/hook", **options: Any) -> dict[str, Any]:
        """An entry of `callbacks` for a path."""
        return {"url": self.url(path), "allow_hosts": ["127.0.0.1"], **options}

    def at(self, path: str = "/hook") -> list[Delivery]:
        """What came to a path."""
        return [each for each in self.requests if each.path == path]

    def types(self, path: str = "/hook") -> list[str]:
        """The types of the events that came to a path."""
        return [each.event["type"] for each in self.at(path)]

    def shards(self, path: str = "/hook") -> list[str]:
        """The shards of the events of shards that came to a path."""
        return [each.event["data"]["shard"] for each in self.at(path) if "shard" in each.event["data"]]


def slow(seconds: float) -> Callable[[Delivery], Status]:
    """An answer that comes late."""

    def answer(delivery: Delivery) -> Status:
        time.sleep(seconds)
        return 204

    return answer


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on a port; 0: a free one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            delivery = Delivery(self.path, dict(self.headers.items()), body)
            with receiver.lock:
                receiver.requests.append(delivery)
            answer = receiver.answer(delivery)
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", port), Handler)
    receiver = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
