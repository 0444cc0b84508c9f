"""What a driver serves: the whole catalogue, and never at the training's expense."""

from __future__ import annotations

import math
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from llm360.errors import StorageUnavailableError
from llm360.monitoring.catalogue import DRIVER
from llm360.release.history import History
from llm360_trainer.driver.metrics import RunMetrics, due_step
from llm360_trainer.driver.recorder import Recorder
from llm360_trainer.driver.service import StatusService
from llm360_trainer.train.plan import GroupInfo, StagePlan, WorkerReport

REPORT = WorkerReport(rank=0, step_seconds=1.5, own_seconds=0.5, data_wait_seconds=0.25, memory_bytes=1000)


def value(recorder: Recorder, name: str, **labels: str) -> float | None:
    return recorder._metrics.registry.get_sample_value(name, {"run": "amber-tiny", **labels})


def scrape(recorder: Recorder) -> dict[str, set[str]]:
    """Names of the served families, each with its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{recorder.port()}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            family.name + ("_total" if family.type == "counter" else ""): {
                label for sample in family.samples for label in sample.labels if label != "le"
            }
            for family in families
        }


@pytest.fixture
def trained(make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, make_part: Any) -> Recorder:
    """A recorder after four steps, a checkpoint and a rank's report."""
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    for step in range(1, 5):
        recorder.record_step(replace(make_record(step), mfu=0.4, source_loss={"docs": 1.0}, source_tokens={"docs": 9}))
    recorder.report(REPORT)
    recorder.checkpoint_part(make_part(4))
    recorder.flush()
    return recorder


def test_the_whole_catalogue_is_served_and_nothing_else(trained: Recorder) -> None:
    trained._metrics.note_waiting(False)
    assert scrape(trained) == {metric.name: set(metric.labels) for metric in DRIVER}


def test_values_are_those_of_steps_ledger_and_ranks(trained: Recorder) -> None:
    assert value(trained, "llm360_train_step") == 4
    assert value(trained, "llm360_train_total_steps") == 8
    assert value(trained, "llm360_train_source_tokens_total", source="docs") == 36
    assert value(trained, "llm360_worker_seconds_total") == 4
    assert value(trained, "llm360_step_seconds_sum") == 4
    assert value(trained, "llm360_checkpoint_committed_total") == 1
    assert (value(trained, "llm360_checkpoint_step"), value(trained, "llm360_checkpoint_due_step")) == (4, 8)
    assert value(trained, "llm360_ledger_sequence") == len(trained._known.entries) - 1
    assert value(trained, "llm360_worker_own_seconds_total", rank="0") == 0.5


def test_counters_begin_at_zero_with_a_driver_and_ranks_with_a_group(
    trained: Recorder, make_run: Any, start_recorder: Any, group: GroupInfo
) -> None:
    trained.begin_attempt(group)
    assert value(trained, "llm360_attempts_total") == 2
    assert value(trained, "llm360_worker_own_seconds_total", rank="0") is None
    later = start_recorder(make_run())
    assert value(later, "llm360_attempts_total") == value(later, "llm360_checkpoint_committed_total") == 0
    assert value(later, "llm360_checkpoint_step") == 4


def test_when_a_checkpoint_is_due(make_run: Any, stage: StagePlan) -> None:
    run, history = make_run().spec.checkpoints, History()
    assert due_step((stage,), run, history) == 0  # amber-tiny publishes the untrained model
    resume = run.model_copy(update={"resume_every": 3})
    history.branch = [Checkpointed(0)]
    assert (due_step((stage,), run, history), due_step((stage,), resume, history)) == (4, 3)
    history.branch = [Checkpointed(8)]
    assert due_step((stage,), run, history) is None


class Checkpointed:
    """As much of a checkpoint's entry as `due_step` asks for."""

    def __init__(self, step: int) -> None:
        self.step = step


def test_waiting_for_the_store_shows(
    trained: Recorder, make_record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, seen = trained._ledger.storage, []
    create = storage.create

    def away_once(key: str, data: bytes) -> None:
        monkeypatch.setattr(
            storage, "create", lambda *args: (seen.append(value(trained, "llm360_storage_waiting")), create(*args))
        )
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr(storage, "create", away_once)
    trained.record_step(make_record(5))
    trained.flush()
    assert seen == [1]
    assert value(trained, "llm360_storage_waiting") == 0


def test_a_fault_in_the_metrics_is_said_once_and_stops_nothing(
    trained: Recorder, make_record: Callable[..., Any]
) -> None:
    trained.drain()
    for step in (5, 6):
        trained.record_step(replace(make_record(step), source_loss={"docs": "not a number"}))
    trained.report(replace(REPORT, own_seconds=-1.0))  # a counter that would fall
    trained.flush()
    said = [event.text for event in trained.drain().events]
    assert [text for text in said if "training goes on" in text] == [said[0]]
    assert trained.status()["step"] == 6


def test_a_scraper_that_hangs_holds_nobody_up(trained: Recorder, make_record: Callable[..., Any]) -> None:
    address = ("127.0.0.1", trained.port())
    silent = [socket.create_connection(address) for _ in range(30)]
    deaf = [socket.create_connection(address) for _ in range(30)]
    try:
        for each in deaf:  # asks, and never reads what comes
            each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        trained.record_step(make_record(5))
        trained.flush()
        assert "llm360_train_step" in scrape(trained)
        assert trained.status()["step"] == 5
    finally:
        for each in (*silent, *deaf):
            each.close()


def test_where_nothing_can_be_listened_on_it_is_said_and_left() -> None:
    said: list[str] = []
    service = StatusService(dict, CollectorRegistry(), host="203.0.113.1", port=9360, say=said.append)
    assert service.port == 0
    assert len(said) == 2
    assert "203.0.113.1:9360" in said[0]
    service.close()


def test_a_ledger_that_cannot_be_read_as_metrics_is_said(make_run: Any, stage: StagePlan) -> None:
    said: list[str] = []
    history = History()
    history.entries = [object()]  # type: ignore[list-item]
    metrics = RunMetrics(make_run(), (stage,), history, said.append)
    assert len(said) == 1
    metrics.note_ledger(History())
    assert metrics.registry.get_sample_value("llm360_checkpoint_due_step", {"run": "amber-tiny"}) != math.inf
