"""A gateway that is gone, hangs or refuses is said once; the training does not notice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm360_trainer.driver import push as module
from llm360_trainer.train.plan import Command, GroupInfo


class Gateway(ThreadingHTTPServer):
    """Takes what is pushed as a Pushgateway does: by PUT, to the group of the path."""

    def __init__(self, port: int = 0) -> None:
        self.pushed: list[tuple[str, dict[str, float]]] = []
        self.status = 200
        super().__init__(("127.0.0.1", port), Taking)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Taking(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        assert isinstance(self.server, Gateway)
        self.server.pushed.append((self.path, {sample.name: sample.value for sample in samples}))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def serving(gateway: Gateway) -> threading.Thread:
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()
    return thread


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(module, "PUSH_SECONDS", 0.02)
    made = Gateway()
    thread = serving(made)
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def wait_for(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.01)


def test_what_a_run_says_is_pushed_to_its_own_group(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, gateway: Gateway
) -> None:
    recorder = start_recorder(make_run(), push=gateway.url)
    recorder.begin_attempt(group)
    recorder.record_step(make_record(1))
    wait_for(lambda: any(values.get("llm360_train_step") == 1 for _, values in gateway.pushed), "no step was pushed")
    assert {path for path, _ in gateway.pushed} == {"/metrics/job/llm360/run/amber-tiny"}
    recorder.record_step(make_record(2))
    recorder.push_end()
    assert gateway.pushed[-1][1]["llm360_train_step"] == 2, "the last value was not pushed"
    count = len(gateway.pushed)
    recorder.push_end()
    assert len(gateway.pushed) == count, "it pushes on after its end"


def test_a_gateway_that_is_gone_is_said_once_and_stops_nothing(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUSH_SECONDS", 0.02)
    gone = Gateway()  # bound and not served, then closed: nobody else has this port meanwhile
    url, port = gone.url, gone.server_address[1]
    gone.server_close()
    recorder = start_recorder(make_run(), push=url)
    recorder.begin_attempt(group)
    said: list[str] = []

    def hear() -> bool:
        said.extend(event.text for event in recorder.drain().events)
        return any("cannot be pushed" in text for text in said)

    wait_for(hear, "nobody said that the gateway is gone")
    for step in range(1, 9):
        assert recorder.record_step(make_record(step)) is Command.CONTINUE
    back = Gateway(int(port))
    thread = serving(back)
    try:
        wait_for(lambda: any(values.get("llm360_train_step") == 8 for _, values in back.pushed), "it is not pushed")
        wait_for(lambda: hear() and said[-1] == f"metrics are pushed to {url} again", "nobody said that it is back")
    finally:
        back.shutdown()
        thread.join()
        back.server_close()
    assert sum("cannot be pushed" in text for text in said) == 1
    assert "; training goes on" in next(text for text in said if "cannot be pushed" in text)


def test_a_gateway_that_refuses_is_said(make_run: Any, start_recorder: Any, group: GroupInfo, gateway: Gateway) -> None:
    gateway.status = 400
    recorder = start_recorder(make_run(), push=gateway.url)
    said: list[str] = []

    def hear() -> bool:
        said.extend(event.text for event in recorder.drain().events)
        return any("HTTP Error 400" in text for text in said)

    wait_for(hear, "nobody said that the gateway refuses")


def test_a_gateway_that_hangs_keeps_neither_a_step_nor_the_end_waiting(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.4)
    with socket.socket() as hanging:  # takes connections and never answers
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        recorder = start_recorder(make_run(), push=f"http://127.0.0.1:{hanging.getsockname()[1]}")
        recorder.begin_attempt(group)
        began = time.monotonic()
        for step in range(1, 101):
            recorder.record_step(make_record(step))
        assert time.monotonic() - began < 5
        began = time.monotonic()
        recorder.push_end()
        assert time.monotonic() - began < 5
