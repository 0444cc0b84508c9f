"""`/status` (JSON) and `/metrics` (Prometheus) of a run, read-only, on one port of the driver's host.

Watching must never stop or slow the training: a taken port, a scraper that hangs or a client that goes away
are said once, or not at all, and nothing else follows from them.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from llm360.errors import InputError

DEFAULT_PORT = 9360
SOCKET_TIMEOUT_SECONDS = 10
ASKING_SECONDS = 60.0
"""Whoever asked for a page within so long is taken to ask again; operator and Prometheus do every 15 s."""


def check_host(host: str) -> None:
    """See that this machine can listen on an address: a mistyped one would be noticed when the run is long under way.

    Raises:
        InputError: it cannot.
    """
    try:
        with socket.socket(_Server.address_family, socket.SOCK_STREAM) as listener:
            listener.bind((host, 0))
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"/status and /metrics cannot listen on --host {host}: {why}; give an IPv4 address or name of this machine,"
            " such as 127.0.0.1, or 0.0.0.0 for all that it has",
            reason="HostUnusable",
        ) from error


class StatusService:
    """Serves the two pages from threads of its own until closed.

    Args:
        status: Gives the current status as a JSON value; called for each request.
        registry: The Prometheus collectors to expose.
        host: Address to listen on.
        port: Port to listen on; where it is taken any free one is used instead. 0: any free one.
        say: Takes a sentence for a person.
    """

    def __init__(
        self,
        status: Callable[[], Any],
        registry: CollectorRegistry,
        *,
        host: str,
        port: int,
        say: Callable[[str], None],
    ) -> None:
        self._readers = _Readers()
        self._server = _listen(host, port, _handler(status, registry, self._readers), say)
        self.port = int(self._server.server_address[1]) if self._server else 0
        """Where it listens; 0: nowhere."""
        if self._server:
            self._thread = threading.Thread(target=self._server.serve_forever, name="status-service", daemon=True)
            self._thread.start()

    def wait_for_readers(self, seconds: float) -> None:
        """Wait, so long at most, until whoever follows a page has read it as it is now; at once where nobody does."""
        self._readers.wait(seconds)

    def close(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(timeout=5)


class _Readers:
    """When each page was last asked for and sent."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._changed = threading.Condition()

    def note(self, page: str, asked: float) -> None:
        """Somebody has the page, as it was when they asked for it, in monotonic seconds."""
        with self._changed:
            self._asked[page] = asked
            self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until who asked for a page lately has asked again."""
        now = time.monotonic()
        with self._changed:
            followed = [page for page, asked in self._asked.items() if now - asked < ASKING_SECONDS]
            self._changed.wait_for(lambda: all(self._asked[page] > now for page in followed), seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A second driver on the same host must find the port taken, not share it.
    allow_reuse_address = False
    # Many clients that hang must not keep one that does not from being heard.
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback in the run's log."""


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler], say: Callable[[str], None]) -> _Server | None:
    """Listen on the port, else on any other, else not at all."""
    for each in (port, 0):
        try:
            return _Server((host, each), handler)
        except OSError as error:
            say(f"/status and /metrics cannot listen on {host}:{each}: {error}; training goes on")
    return None


def _handler(status: Callable[[], Any], registry: CollectorRegistry, readers: _Readers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SOCKET_TIMEOUT_SECONDS

        def do_GET(self) -> None:
            asked = time.monotonic()
            if self.path == "/status":
                self._answer("application/json", json.dumps(status(), sort_keys=True).encode() + b"\n")
                readers.note(self.path, asked)
            elif self.path == "/metrics":
                self._answer(CONTENT_TYPE_LATEST, generate_latest(registry))
                readers.note(self.path, asked)
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "this service has /status and /metrics")

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Requests are not logged: a scrape every few seconds would drown the run's log."""

    return Handler
