"""Web servers that hold a few objects, and a user who may do little."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

DEADLINE = 30.0
SLOW = 0.2
"""Seconds in which half an object arrives from a slow server."""


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No notice of an earlier test keeps one back: servers take the ports of others."""
    monkeypatch.setattr("llm360.storage.retry._told", {})


class Handler(http.server.BaseHTTPRequestHandler):
    """Objects by path, with ranges unless `ranges` is off; `faults` happen to the next requests, one each."""

    objects: ClassVar[dict[str, bytes]]
    faults: ClassVar[deque[str]]
    requests: ClassVar[list[str]]
    ranges: ClassVar[bool]
    authorization: ClassVar[list[str]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.requests.append(f"{self.command} {self.path} {asked or ''}".strip())
        fault = self.faults.popleft() if self.faults else ""
        if self.authorization and self.headers.get("Authorization") not in self.authorization:
            return self.answer(401, b"no")
        if fault.isdigit():
            return self.answer(int(fault), b"no")
        data = self.objects.get(self.path)
        if data is None:
            return self.answer(404, b"no such thing")
        if asked is None or not self.ranges:
            return self.answer(200, data, fault=fault)
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups()
        part = data[int(first) : int(last) + 1 if last else None]
        if not part:
            return self.answer(416, b"", f"bytes */{len(data)}")
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        return self.answer(206, part, "bytes 0-0/1" if fault == "shift" else span, fault=fault)

    def answer(self, status: int, body: bytes, span: str | None = None, *, fault: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if self.command == "GET":
            if fault == "slow":
                self.trickle(body[: len(body) // 2])
            else:
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)

    def trickle(self, body: bytes) -> None:
        for start in range(0, len(body), -(-len(body) // 10)):
            self.wfile.write(body[start : start + -(-len(body) // 10)])
            time.sleep(SLOW / 10)

    def log_message(self, *args: object) -> None:
        pass


class Web:
    """A running web server and what it holds, at `http://…/release`."""

    def __init__(self, *, ranges: bool) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: deque[str] = deque()
        self.requests: list[str] = []
        self.authorization: list[str] = []
        shared = ("objects", "faults", "requests", "authorization")
        namespace = {name: getattr(self, name) for name in shared} | {"ranges": ranges}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), namespace))
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        self.uri = f"http://127.0.0.1:{self.server.server_port}/release"

    def add(self, key: str, data: bytes) -> None:
        self.objects[f"/release/{key}"] = data

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(DEADLINE)
        self.server.server_close()


@pytest.fixture(params=[True, False], ids=["ranges", "no-ranges"])
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    """A web server with and one without support of ranges."""
    made = Web(ranges=request.param)
    yield made
    made.close()


@pytest.fixture
def ranged_web() -> Iterator[Web]:
    made = Web(ranges=True)
    yield made
    made.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder in which the user of this test may read but not write, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    (folder / "key").write_bytes(b"readable")
    (folder / "secret").write_bytes(b"")
    (folder / "secret").chmod(0o000)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)
