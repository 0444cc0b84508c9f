"""Addresses of Ray clusters: told from what is none, and asked for within seconds."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from llm360.errors import InputError
from llm360_trainer.prepare import cluster
from llm360_trainer.prepare.cluster import check_reachable


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Starts a server that answers every client with these bytes; gives its port."""
    with contextlib.ExitStack() as started:

        def start(answer: bytes) -> int:
            class Handler(socketserver.BaseRequestHandler):
                def handle(self) -> None:
                    self.request.recv(1024)
                    self.request.sendall(answer)

            server = started.enter_context(socketserver.TCPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            started.callback(server.shutdown)
            return int(server.server_address[1])

        yield start


@pytest.mark.parametrize(
    "address", ["", "foo", "bad:addr", "127.0.0.1", ":6379", "127.0.0.1:0", "127.0.0.1:99999", "a b:1", "http://a:8265"]
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(InputError, match="is no address of a Ray cluster; write HOST:PORT") as caught:
        check_reachable(address)
    assert caught.value.reason == "RayUnreachable"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "no..such.host:6379"])
def test_a_dead_cluster_is_told_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=r"there is no Ray cluster at '.*' that lets us in: "):
        check_reachable(address)
    assert time.monotonic() - started < 30


def test_one_that_speaks_grpc_is_tried(answering: Callable[[bytes], int]) -> None:
    port = answering(bytes((0, 0, 18, 4, 0, 0, 0, 0, 0)) + bytes(18))
    check_reachable(f"127.0.0.1:{port}")
    check_reachable(f"ray://127.0.0.1:{port}")
    check_reachable("auto")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_something_else_that_listens_is_told(
    answering: Callable[[bytes], int], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{answering(answer)}"
    with pytest.raises(InputError, match="lets us in: what listens there is not Ray"):
        check_reachable(address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    check_reachable(address)


def test_somebody_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="lets us in: timed out"):
        check_reachable(f"127.0.0.1:{silent.getsockname()[1]}")
