"""An S3 server that has never heard of conditions: what no ledger can be kept in."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class CarelessHandler(http.server.BaseHTTPRequestHandler):
    """As much of S3 as a store needs."""

    objects: ClassVar[dict[str, bytes]]

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        missing = b"<Error><Code>NoSuchKey</Code></Error>"
        self.answer(404 if found is None else 200, missing if found is None else found)

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self.answer(204)

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def careless_server(host: str, objects: dict[str, bytes]) -> Iterator[str]:
    """Serve `objects` (by the path of the request) at an address of this machine; gives the endpoint."""
    handler = type("Handler", (CarelessHandler,), {"objects": objects})
    with http.server.ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
