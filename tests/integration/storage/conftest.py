"""Stores to test against, and a proxy that loses answers on purpose."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic.careless import careless_server

from llm360.storage import Storage, open_storage

DEADLINE = 60.0


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of each kind that can be written."""
    if request.param == "file":
        return open_storage(str(tmp_path / "store"))
    bucket = request.getfixturevalue("s3_bucket")
    return open_storage(bucket.uri, bucket.options)


@dataclasses.dataclass
class Fault:
    """What the proxy does to the next `times` requests whose head holds `match`.

    drop: forwards the request and closes without its answer. stall: forwards it and never answers.
    refuse: answers 503 by itself. reset: closes at once. cut: forwards half of the answer.
    """

    kind: str
    times: int = 1
    match: bytes = b"PUT "
    met: int = 0


class Proxy:
    """Forwards requests to a server, one per connection, and does to them what `fault` says."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.fault: Fault | None = None
        self.requests: list[bytes] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(DEADLINE)
        with client, contextlib.suppress(OSError):
            request = read_message(client)
            if not request:
                return
            fault = self._claim(request)
            kind = fault.kind if fault else "pass"
            if kind == "refuse":
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            if kind == "reset":
                return
            answer = self._forward(request)
            if kind == "stall":
                self._stopped.wait(DEADLINE)
            elif kind != "drop":
                client.sendall(answer[: len(answer) // 2] if kind == "cut" else answer)

    def _claim(self, request: bytes) -> Fault | None:
        with self._lock:
            self.requests.append(request.partition(b"\r\n")[0])
            fault = self.fault
            if fault is None or fault.times == fault.met or fault.match not in request.partition(b"\r\n\r\n")[0]:
                return None
            fault.met += 1
            return fault

    def _forward(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        with socket.create_connection(self.server, timeout=DEADLINE) as upstream:
            upstream.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
            answer = bytearray()
            while chunk := upstream.recv(1 << 16):
                answer += chunk
        return bytes(answer)


def read_message(connection: socket.socket) -> bytes:
    """A request's head and its body of `Content-Length` bytes; nothing if the client only connected."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return b""
        data += chunk
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = (int(lengths[0]) if lengths else 0) - len(body)
    if b"100-continue" in head.lower() and missing > 0:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while missing > 0:
        chunk = connection.recv(min(missing, 1 << 16))
        if not chunk:
            return b""
        data += chunk
        missing -= len(chunk)
    return bytes(data)


@pytest.fixture
def proxy(s3_server) -> Iterator[Proxy]:
    """A way to the S3 server on which answers get lost."""
    made = Proxy(("127.0.0.1", s3_server.port))
    yield made
    made.close()


@pytest.fixture
def flaky_storage(proxy: Proxy, s3_bucket) -> Storage:
    """A bucket behind the proxy, with little patience."""
    options = dataclasses.replace(
        s3_bucket.options, endpoint=proxy.endpoint, connect_timeout=2.0, read_timeout=1.0, max_attempts=3
    )
    return open_storage(s3_bucket.uri, options)


@pytest.fixture
def fault(proxy: Proxy) -> Callable[..., Fault]:
    """Sets what the proxy does to the next requests."""

    def set_fault(kind: str, **settings: Any) -> Fault:
        proxy.fault = Fault(kind, **settings)
        return proxy.fault

    return set_fault


@pytest.fixture
def careless_objects() -> dict[str, bytes]:
    return {}


@pytest.fixture
def careless_storage(careless_objects: dict[str, bytes], s3_bucket) -> Iterator[Storage]:
    """A store that ignores `If-None-Match`."""
    with careless_server("127.0.0.1", careless_objects) as endpoint:
        yield open_storage("s3://careless/runs", dataclasses.replace(s3_bucket.options, endpoint=endpoint))
