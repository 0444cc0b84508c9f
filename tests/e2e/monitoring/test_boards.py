"""Every query of every panel, on a real Prometheus: it is understood, and it returns data."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llm360.monitoring.boards import BOARDS
from llm360.monitoring.catalogue import LIVE, OPERATOR, Metric
from llm360.monitoring.catalogue import metric as metric_named
from llm360.monitoring.pictures import Window
from llm360.monitoring.prometheus import Prometheus
from llm360.monitoring.replay import write_labels, write_openmetrics
from llm360.release.history import History

DASHBOARDS = Path(__file__).parents[3] / "helm/llm360/dashboards"
EVERY = 5
"""Seconds between the samples of what only a live run has."""
BEGIN = datetime.fromisoformat("2026-01-02T03:00:00Z").timestamp()
SECONDS = 180
"""The synthetic release's time."""

STRAGGLER = 2
"""The rank of four whose counters grow four times as fast."""
LABELS = {"namespace": "ml", "run": "amber-tiny", "phase": "Failed", "reason": "Fenced"}
LABELS |= {"verb": "patch", "kind": "LLM360Run", "code": "409", "task": "arc_easy", "metric": "acc", "state": "done"}
FOREIGN = (
    Metric("DCGM_FI_DEV_GPU_TEMP", "gauge", "", ("pod", "gpu")),
    Metric("DCGM_FI_DEV_SM_CLOCK", "gauge", "", ("pod", "gpu")),
    Metric("container_network_receive_bytes_total", "counter", "", ("pod",)),
    Metric("container_network_transmit_bytes_total", "counter", "", ("pod",)),
    Metric("ray_object_store_memory", "gauge", "", ("pod",)),
)
POD = {"pod": "amber-tiny-workers-0", "gpu": "0"}

QUERIES = [
    pytest.param(query.expr, id=f"{board.uid}-{row}-{panel.title}-{query.legend}")
    for board in BOARDS
    for row, panels in board.rows
    for panel in panels
    for query in panel.queries
]
NOT_ON_CPU = "Model FLOPs utilisation"
"""No peak of a CPU is known."""


def live_text() -> bytes:
    """What driver, operator and exporters would have served during the synthetic release's time."""
    lines = []
    for metric in (*LIVE, *OPERATOR, *FOREIGN, metric_named("llm360_mfu_ratio")):
        family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        lines.append(f"# TYPE {family} {metric.kind}")
        for rank in range(4 if "rank" in metric.labels else 1):
            labels = {name: (LABELS | POD | {"rank": str(rank)})[name] for name in metric.labels}
            lines += live_samples(metric, write_labels(labels), 0.2 if rank == STRAGGLER else 0.05)
    return "\n".join([*lines, "# EOF\n"]).encode()


def live_samples(metric: Metric, labels: str, slope: float) -> Iterator[str]:
    """A series that rises by so much in a second."""
    for second in range(0, SECONDS, EVERY):
        at = f"{BEGIN + second:.3f}"
        if metric.kind == "histogram":
            for bound in (*map(float, metric.buckets), "+Inf"):
                yield f"{metric.name}_bucket{{{write_labels({'le': str(bound)})}}} {second} {at}"
            yield f"{metric.name}_count {second} {at}"
            yield f"{metric.name}_sum {second * 0.01} {at}"
        else:
            yield f"{metric.name}{{{labels}}} {1 + slope * second} {at}"


@pytest.fixture(scope="module")
def filled(replay_into: Any, serve: Any, promtool: Any, real_records: Any, tmp_path_factory: Any) -> Iterator[Any]:
    """A Prometheus with the synthetic release, what only its live driver would have had, and a real record."""
    folder = tmp_path_factory.mktemp("filled")
    replay_into(folder / "data")
    (folder / "live.om").write_bytes(live_text())
    with (folder / "real.om").open("wb") as text:
        write_openmetrics(real_records, History(), "real", text)
    for name in ("live.om", "real.om"):
        promtool("tsdb", "create-blocks-from", "openmetrics", folder / name, folder / "data")
    with serve(folder / "data") as prometheus:
        yield prometheus


def ask(prometheus: Any, expr: str, run: str, start: float, end: float) -> list[Any]:
    """A panel's query as Grafana sends it, on all namespaces."""
    filled = Window(start, end, {"namespace": ".*", "run": run}, EVERY).fill(expr)
    series: list[Any] = prometheus.ask("query_range", query=filled, start=start, end=end, step=EVERY)["result"]
    return [value for each in series for value in each["values"]]


@pytest.mark.parametrize("expr", QUERIES)
def test_it_returns_data(filled, expr):
    values = ask(filled, expr, "amber-tiny", BEGIN, BEGIN + SECONDS)
    assert values, expr


def test_learning_and_speed_of_a_real_run_return_data(filled, real_records):
    times = real_records["time"].to_pylist()
    start, end = times[0].timestamp(), times[-1].timestamp()
    rows = dict(BOARDS[0].rows)
    for panel in itertools.chain(rows["Learning"], rows["Speed"]):
        for query in panel.queries:
            values = ask(filled, query.expr, "real", start, end)
            assert values or panel.title == NOT_ON_CPU, query.expr


def test_annotations_mark_the_attempts_and_the_rewind(filled):
    for name, expr in BOARDS[0].annotations:
        assert ask(filled, expr, "amber-tiny", BEGIN, BEGIN + SECONDS), name


def test_a_straggler_stands_out(filled):
    window = Window(BEGIN, BEGIN + SECONDS, {"namespace": ".*", "run": "amber-tiny"}, EVERY)
    expr = next(p.queries[0].expr for _, ps in BOARDS[2].rows for p in ps if p.title == "Own time by rank")
    found = Prometheus(filled.address).range(window.fill(expr), window.start, window.end, EVERY)
    last = {each.labels["rank"]: each.series.y[-1] for each in found}
    assert last == {str(rank): pytest.approx(0.2 if rank == STRAGGLER else 0.05) for rank in range(4)}


def test_every_panel_is_drawn_with_data(filled, tmp_path):
    times = [datetime.fromtimestamp(at, UTC).isoformat() for at in (BEGIN, BEGIN + SECONDS)]
    command = [sys.executable, "-m", "llm360.monitoring.draw", filled.address, *sorted(DASHBOARDS.glob("*.json"))]
    options = ["--var", "run=amber-tiny", "--from", times[0], "--to", times[1], "--scrape-seconds", str(EVERY)]
    for suffix in ("svg", "png"):
        subprocess.run([*command, *options, "--format", suffix, "--out", tmp_path], check=True, timeout=300)
    drawn = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert drawn.keys() == {board.uid for board in BOARDS} == {path.stem for path in tmp_path.glob("*.png")}
    for name, text in drawn.items():
        assert "no data" not in text, name
        assert len(text) < 100_000, name


def test_variables_have_values(filled):
    start, end = BEGIN, BEGIN + SECONDS
    assert "amber-tiny" in filled.ask("label/run/values", **{"match[]": "llm360_ledger_sequence"}, start=start, end=end)
    selector = '{__name__=~"llm360_train_step|llm360_run_phase"}'
    assert filled.ask("label/namespace/values", **{"match[]": selector}, start=start, end=end) == ["ml"]
