"""A release's record as OpenMetrics text: the series that a Prometheus would have, had it seen every step.

    promtool tsdb create-blocks-from openmetrics run.om data/

All attempts' records are in it, those that were taken back too, since that is what was to be seen. Each sample has
the time of its step or entry. What an entry says holds on, so it is said again at each step, or Prometheus would
forget it after five minutes; what entries count begins at 0, or the first would not be seen.

OpenMetrics wants all samples of a series together, so each series is kept in a file of its own until the end; what is
in memory does not grow with the run.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO

import pyarrow as pa

from llm360.monitoring.catalogue import RUN, SCORES, STEPS, Metric
from llm360.monitoring.readings import Reading, of_entry, of_record, of_scores
from llm360.monitoring.tables import records
from llm360.release.entries import Eval
from llm360.release.entry import Entry
from llm360.release.history import History
from llm360.release.metrics import StepRecord

SPOOL_BYTES = 1 << 20
"""A series up to this size stays in memory."""

FROM_ENTRIES = tuple(metric for metric in RUN if metric.name != "llm360_worker_seconds_total")
"""What the ledger's entries alone say."""

REPEATED = frozenset(FROM_ENTRIES + SCORES)
"""What holds on between entries."""

UNITS = ("seconds", "bytes", "ratio")


def write_openmetrics(table: pa.Table, history: History, run: str, out: BinaryIO) -> None:
    """Write all series of a run.

    Args:
        table: Records of steps, of all attempts.
        history: What the ledger says; all its entries are replayed, whichever steps the table has.
        run: The label `run`.
        out: Takes UTF-8 text.
    """
    workers = {claim.attempt: claim.world_size for claim in history.attempts}
    steps: Iterator[tuple[datetime, StepRecord | Entry]] = (
        (record.time, record) for record in records(table.sort_by("time"))
    )
    entries: list[tuple[datetime, StepRecord | Entry]] = [
        (datetime.fromisoformat(entry.time), entry) for entry in history.entries
    ]
    entries.sort(key=itemgetter(0))
    replay = _Replay(run)
    if entries:
        replay.take(entries[0][0], (Reading(metric, 0.0) for metric in FROM_ENTRIES if metric.kind == "counter"))
    for time, each in heapq.merge(steps, entries, key=itemgetter(0)):
        if isinstance(each, StepRecord):
            replay.take(time, of_record(each, workers.get(each.attempt, 1)))
            replay.repeat(time)
        else:
            replay.take(time, of_entry(each))
            replay.take_scores(time, each)
    for chunk in replay.text():
        out.write(chunk)


@dataclass
class _Series:
    """The samples so far of one series, a histogram's buckets included, and what they have come to."""

    metric: Metric
    labels: str
    lines: IO[bytes] = field(default_factory=lambda: SpooledTemporaryFile(SPOOL_BYTES))  # noqa: SIM115 - until read
    total: float = 0.0
    """Of a gauge: its value."""
    counts: list[int] = field(default_factory=list)
    last: int = -1

    def add(self, milliseconds: int, value: float) -> None:
        """Take a reading in. Prometheus knows milliseconds: of two in the same one the later is put into the next."""
        self.last = max(self.last + 1, milliseconds)
        time = f"{self.last // 1000}.{self.last % 1000:03d}"
        name = self.metric.name
        self.total = value if self.metric.kind == "gauge" else self.total + value
        if self.metric.kind != "histogram":
            self._line(name, self.labels, self.total, time)
            return
        bounds = self.metric.buckets
        self.counts = self.counts or [0] * (len(bounds) + 1)
        self.counts[bisect_left(bounds, value)] += 1
        count = 0
        for bound, more in zip((*bounds, math.inf), self.counts, strict=True):
            count += more
            self._line(f"{name}_bucket", f'{self.labels},le="{write_number(bound)}"', count, time)
        self._line(f"{name}_count", self.labels, count, time)
        self._line(f"{name}_sum", self.labels, self.total, time)

    def _line(self, name: str, labels: str, value: float, time: str) -> None:
        self.lines.write(f"{name}{{{labels}}} {write_number(value)} {time}\n".encode())


class _Replay:
    """All series of a run.

    Args:
        run: The label `run`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._series: dict[tuple[str, tuple[str, ...]], _Series] = {}
        self._evaluated: dict[str, int] = {}

    def take(self, time: datetime, readings: Iterable[Reading]) -> None:
        """Add what was read at a time."""
        milliseconds = round(time.timestamp() * 1000)
        for reading in readings:
            key = (reading.metric.name, reading.labels)
            series = self._series.get(key)
            if series is None:
                labels = write_labels({"run": self._run} | reading.named())
                series = self._series[key] = _Series(reading.metric, labels)
            series.add(milliseconds, reading.value)

    def take_scores(self, time: datetime, entry: Entry) -> None:
        """Add an evaluation's scores, unless its task has been done at a later checkpoint already."""
        if isinstance(body := entry.body, Eval) and body.step >= self._evaluated.get(body.task, 0):
            self._evaluated[body.task] = body.step
            self.take(time, of_scores(entry))

    def repeat(self, time: datetime) -> None:
        """Say again what the entries said last."""
        milliseconds = round(time.timestamp() * 1000)
        for series in self._series.values():
            if series.metric in REPEATED:
                series.add(milliseconds, series.total if series.metric.kind == "gauge" else 0.0)

    def text(self) -> Iterator[bytes]:
        """The whole, family by family, each series' samples together."""
        for metric in STEPS + RUN + SCORES:
            found = [series for (name, _), series in self._series.items() if name == metric.name]
            if not found:
                continue
            yield _head(metric)
            for series in found:
                series.lines.seek(0)
                while chunk := series.lines.read(SPOOL_BYTES):
                    yield chunk
                series.lines.close()
        yield b"# EOF\n"


def _head(metric: Metric) -> bytes:
    """A family's metadata; OpenMetrics' name of a counter's family lacks `_total`."""
    family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
    lines = [f"# TYPE {family} {metric.kind}\n", f"# HELP {family} {metric.help}\n"]
    if unit := next((unit for unit in UNITS if family.endswith(f"_{unit}")), None):
        lines.insert(1, f"# UNIT {family} {unit}\n")
    return "".join(lines).encode()


def write_labels(labels: Mapping[str, str]) -> str:
    """Labels as OpenMetrics writes them, without the braces."""
    escaped = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
    return ",".join(f'{name}="{value.translate(escaped)}"' for name, value in labels.items())


def write_number(value: float) -> str:
    """A number as OpenMetrics writes it; every bit of it can be read back."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
