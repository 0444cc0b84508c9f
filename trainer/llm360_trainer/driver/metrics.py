"""The run's Prometheus metrics: a view of what the recorder knows, never its source.

Whatever goes wrong here is said once and then left: watching must not stop a training.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm360.monitoring.catalogue import DRIVER
from llm360.monitoring.collectors import Collectors
from llm360.monitoring.readings import Reading, of_entry, of_record
from llm360.release.history import History
from llm360.release.metrics import StepRecord
from llm360.spec import ResolvedRun
from llm360.spec.checkpoints import Checkpoints
from llm360_trainer.train.plan import StagePlan, WorkerReport


class RunMetrics:
    """All series of one run on a registry of their own; safe to call from several threads.

    Args:
        run: The specification; its name is a label of every series.
        stages: All stages of the run.
        history: What the ledger says when the driver starts: counters begin behind it.
        say: Takes a sentence for a person.
    """

    def __init__(
        self, run: ResolvedRun, stages: tuple[StagePlan, ...], history: History, say: Callable[[str], None]
    ) -> None:
        self._spec, self._stages = run.spec, stages
        self._collectors = Collectors(DRIVER, {"run": run.name})
        self.registry = self._collectors.registry
        self._say, self._has_said, self._lock = say, False, threading.Lock()
        self._num_entries = 0
        with self._safely():
            for entry in history.entries:
                for reading in of_entry(entry):
                    self._take(reading, is_past=True)
            self._num_entries = len(history.entries)

    def observe(self, record: StepRecord, workers: int) -> None:
        """Take a finished step of so many workers in."""
        with self._safely():
            for reading in of_record(record, workers):
                self._take(reading)

    def report(self, report: WorkerReport) -> None:
        """Take in what a rank says of its own steps."""
        with self._safely():
            rank, on = str(report.rank), self._collectors
            on.gauge("llm360_worker_step_seconds", rank=rank).set(report.step_seconds)
            on.gauge("llm360_worker_memory_bytes", rank=rank).set(report.memory_bytes)
            on.counter("llm360_worker_own_seconds_total", rank=rank).inc(report.own_seconds)
            on.counter("llm360_worker_data_wait_seconds_total", rank=rank).inc(report.data_wait_seconds)

    def note_ledger(self, history: History) -> None:
        """Take in the entries that are new, and with them when the next checkpoint is due."""
        with self._safely():
            for entry in history.entries[self._num_entries :]:
                for reading in of_entry(entry):
                    self._take(reading)
            self._num_entries = len(history.entries)
            due = due_step(self._stages, self._spec.checkpoints, history)
            self._collectors.gauge("llm360_checkpoint_due_step").set(math.inf if due is None else due)

    def note_waiting(self, is_waiting: bool) -> None:
        """Note whether a commit waits for the store."""
        with self._safely():
            self._collectors.gauge("llm360_storage_waiting").set(is_waiting)

    def forget_workers(self) -> None:
        """A new worker group: ranks that it does not have must not stand beside its own."""
        with self._safely():
            for each in DRIVER:
                if "rank" in each.labels:
                    self._collectors.clear(each.name)

    def _take(self, reading: Reading, *, is_past: bool = False) -> None:
        """Note a reading; of the past only what still holds, which is a gauge's."""
        metric, value = reading.metric, reading.value
        labels = reading.named()
        if metric.kind == "gauge":
            self._collectors.gauge(metric.name, **labels).set(value)
        elif metric.kind == "counter" and not is_past:
            self._collectors.counter(metric.name, **labels).inc(value)
        elif metric.kind == "histogram" and not is_past:
            self._collectors.histogram(metric.name, **labels).observe(value)

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except Exception as error:
            if not self._has_said:
                self._has_said = True
                self._say(f"the metrics are wrong from here on: {type(error).__name__}: {error}; training goes on")


def due_step(stages: tuple[StagePlan, ...], checkpoints: Checkpoints, history: History) -> int | None:
    """The first step after the newest checkpoint that asks for another; None after the last."""
    newest = history.latest_checkpoint.step if history.latest_checkpoint else -1
    every = checkpoints.resume_every
    for stage in stages:
        for step in range(max(newest + 1, stage.first_step), stage.last_step + 1):
            if stage.publishes(checkpoints, step) or (every is not None and step > 0 and step % every == 0):
                return step
    return None
