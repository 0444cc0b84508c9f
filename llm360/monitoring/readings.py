"""What a step's record and a ledger's entry say in terms of the catalogue's metrics; live and in a replay alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from llm360.monitoring.catalogue import STEPS, Metric, metric
from llm360.release.entries import Attempt, Checkpoint, Fallback, Rewind, Stage
from llm360.release.entry import Entry
from llm360.release.metrics import StepRecord


class Reading(NamedTuple):
    """A gauge's value, a counter's increase or a histogram's observation."""

    metric: Metric
    value: float
    label: str | None = None
    """Value of the metric's last label, where it has one besides the run's name."""


def of_record(record: StepRecord, workers: int) -> Iterator[Reading]:
    """What a step's record says.

    Args:
        record: Of the step.
        workers: Ranks of the attempt that made it.
    """
    for each in STEPS:
        values = each.of(record) if each.of else None
        if isinstance(values, Mapping):
            yield from (Reading(each, value, label) for label, value in values.items())
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


def _reading(name: str, value: float) -> Reading:
    return Reading(metric(name), value)
