"""What a step's record and a ledger's entry say in terms of the catalogue's metrics; live and in a replay alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from llm360.monitoring.catalogue import STEPS, Metric, metric
from llm360.release.entries import Attempt, Checkpoint, Eval, Fallback, Rewind, Stage
from llm360.release.entry import Entry
from llm360.release.metrics import StepRecord


class Reading(NamedTuple):
    """A gauge's value, a counter's increase or a histogram's observation."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()
    """Values of the metric's last labels, where it has some besides those that name the run."""

    def named(self) -> dict[str, str]:
        """These labels with their names."""
        names = self.metric.labels[len(self.metric.labels) - len(self.labels) :]
        return dict(zip(names, self.labels, strict=True))


def of_record(record: StepRecord, workers: int) -> Iterator[Reading]:
    """What a step's record says.

    Args:
        record: Of the step.
        workers: Ranks of the attempt that made it.
    """
    for each in STEPS:
        values = each.of(record) if each.of else None
        if isinstance(values, Mapping):
            yield from (Reading(each, value, (label,)) for label, value in values.items())
        elif values is not None:
            yield Reading(each, values)
    yield _reading("llm360_worker_seconds_total", record.step_seconds * workers)


def of_entry(entry: Entry) -> Iterator[Reading]:
    """What a ledger's entry says."""
    yield _reading("llm360_ledger_sequence", entry.seq)
    match entry.body:
        case Attempt() as body:
            yield _reading("llm360_attempts_total", 1)
            yield _reading("llm360_attempt", body.attempt)
            yield _reading("llm360_workers", body.world_size)
        case Stage() as body:
            yield _reading("llm360_train_total_steps", body.last_step)
        case Checkpoint() as body:
            yield _reading("llm360_checkpoint_committed_total", 1)
            yield _reading("llm360_checkpoint_step", body.step)
        case Fallback() as body:
            yield _reading("llm360_checkpoint_refused_total", len(body.refused))
            yield _reading("llm360_checkpoint_step", body.step)
        case Rewind():
            yield _reading("llm360_rewinds_total", 1)


def of_scores(entry: Entry) -> Iterator[Reading]:
    """What an evaluation's entry says of its task."""
    if isinstance(body := entry.body, Eval):
        for score in body.scores or ():
            labels = (body.task, score.metric)
            yield Reading(metric("llm360_evaluation_score"), score.value, labels)
            yield Reading(metric("llm360_evaluation_score_step"), body.step, labels)


def _reading(name: str, value: float) -> Reading:
    return Reading(metric(name), value)
