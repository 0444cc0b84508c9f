"""A driver's page scraped by a real Prometheus, with the real rules, and its alert at a real Alertmanager."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import build
from testbed.process import wait_until

from llm360.release.history import History
from llm360.release.metrics import StepRecord
from llm360.spec import load_run
from llm360_trainer.driver.metrics import RunMetrics
from llm360_trainer.driver.service import StatusService

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def fetch(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def running(log: Path, *command: Any) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@dataclass
class Watched:
    """A driver's metrics, and addresses of who watches them."""

    metrics: RunMetrics
    prometheus: str
    alertmanager: str

    def value(self, query: str) -> float | None:
        result = fetch(f"{self.prometheus}/api/v1/query?query={query}")["data"]["result"]
        return float(result[0]["value"][1]) if result else None


@pytest.fixture
def watched(request: pytest.FixtureRequest, programs: Path, tmp_path: Path) -> Iterator[Watched]:
    """A driver without a training, Prometheus and Alertmanager, in processes of this machine."""
    if not build.component("alertmanager").is_built():
        request.getfixturevalue("machine")
    metrics = RunMetrics(load_run("amber-tiny", store=str(tmp_path)), (), History(), print)
    service = StatusService(dict, metrics.registry, host="127.0.0.1", port=0, say=print)
    web, alerts = free_port(), free_port()
    target = {"targets": [f"127.0.0.1:{service.port}"], "labels": {"namespace": "ml"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "helm/llm360/files/rules.yaml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerts}"]}]}]},
        "scrape_configs": [{"job_name": "runs", "static_configs": [target]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    with ExitStack() as stack:
        stack.callback(service.close)
        stack.enter_context(
            running(
                tmp_path / "alertmanager.log",
                build.program("alertmanager", "alertmanager"),
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alerts}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            running(
                tmp_path / "prometheus.log",
                programs / "prometheus",
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{web}",
            )
        )
        made = Watched(metrics, f"http://127.0.0.1:{web}", f"http://127.0.0.1:{alerts}")
        wait_until(lambda: answers(f"{made.prometheus}/-/ready"), "Prometheus", 60)
        wait_until(lambda: answers(f"{made.alertmanager}/-/ready"), "Alertmanager", 60)
        yield made


def answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(address, timeout=5).status == 200)
    except OSError:
        return False


def test_a_step_is_seen_and_one_that_is_no_number_reaches_alertmanager(watched):
    record = StepRecord(
        step=7,
        attempt=1,
        stage=0,
        time=datetime.now(UTC),
        tokens=7000,
        loss=4.25,
        source_loss={"docs": 4.25},
        source_tokens={"docs": 1000},
        learning_rate=1e-3,
        grad_norm=0.5,
        step_seconds=0.5,
        tokens_per_second=2000.0,
    )
    watched.metrics.observe(record, workers=2)
    wait_until(lambda: watched.value('llm360_train_loss{run="amber-tiny"}') == 4.25, "the loss in Prometheus", 60)
    assert watched.value("llm360_train_tokens_total") == 1000
    watched.metrics.observe(replace(record, step=8, loss=math.nan), workers=2)

    def fired() -> list[Any]:
        return [
            alert
            for alert in fetch(f"{watched.alertmanager}/api/v2/alerts")
            if alert["labels"]["alertname"] == "LLM360LossNotFinite"
        ]

    wait_until(lambda: bool(fired()), "the alert at Alertmanager", 60)
    (alert,) = fired()
    assert (alert["labels"]["namespace"], alert["labels"]["run"]) == ("ml", "amber-tiny")
    assert alert["labels"]["severity"] == "warning"
    assert "Run ml/amber-tiny computed" in alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"].endswith("/docs/runbooks/LLM360LossNotFinite.md")
