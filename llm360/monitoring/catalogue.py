"""Every metric that llm360 exposes: name, kind, labels, meaning, and how a step's record gives its value.

Driver and operator make their collectors from here, the replay writes the same series from a release's record, and
`docs/reference/metrics.md` lists them. Labels are bounded: a run, a source, a rank; never a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the operator counts too, and has no use for the tables that records lie in
    from llm360.release.metrics import StepRecord

Kind = Literal["gauge", "counter", "histogram"]

Values = float | Mapping[str, float] | None
"""What one record says: a number, a number by the value of the metric's last label, or nothing."""

STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 20, 40, 80, 160, 320)
"""Seconds; closest where the steps of large runs are, at 1 to 12."""

RECONCILE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Seconds."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: As queries write it; the unit, and `_total` of a counter, are its end.
        kind: Of Prometheus' kinds.
        help: One sentence, its unit said.
        labels: In their order.
        of: What a step's record says of it: a gauge's value, a counter's increase, a histogram's observation. None:
            it does not come from records of steps.
        buckets: Upper bounds of a histogram's.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ("run",)
    of: Callable[[StepRecord], Values] | None = None
    buckets: tuple[float, ...] = ()


def _tokens(record: StepRecord) -> float:
    return float(sum(record.source_tokens.values()))


def _nonfinite(record: StepRecord) -> float:
    """1 for a step that was computed and came out NaN or infinite; a step that is passed over has no tokens."""
    is_finite = math.isfinite(record.loss) and math.isfinite(record.grad_norm)
    return float(bool(record.source_tokens) and not is_finite)


_SOURCE = ("run", "source")
_RANK = ("run", "rank")

STEPS = (
    Metric("llm360_train_step", "gauge", "Finished optimizer steps.", of=lambda r: r.step),
    Metric("llm360_train_loss", "gauge", "Mean loss of the last step over all real tokens, nats.", of=lambda r: r.loss),
    Metric(
        "llm360_train_source_loss",
        "gauge",
        "Mean loss of the last step by source of data, nats.",
        _SOURCE,
        lambda r: r.source_loss,
    ),
    Metric("llm360_train_tokens_total", "counter", "Predictions that steps were trained on.", of=_tokens),
    Metric(
        "llm360_train_source_tokens_total", "counter", "The same by source of data.", _SOURCE, lambda r: r.source_tokens
    ),
    Metric(
        "llm360_train_tokens_per_second",
        "gauge",
        "Predictions of the last step per second of it, all workers together.",
        of=lambda r: r.tokens_per_second,
    ),
    Metric("llm360_train_learning_rate", "gauge", "Learning rate of the last step.", of=lambda r: r.learning_rate),
    Metric(
        "llm360_train_gradient_norm",
        "gauge",
        "Global 2-norm of the last step's gradient before clipping.",
        of=lambda r: r.grad_norm,
    ),
    Metric(
        "llm360_train_memory_bytes",
        "gauge",
        "Peak memory so far of the worker that used most: of its GPU, or resident where it has none.",
        of=lambda r: r.memory_bytes,
    ),
    Metric(
        "llm360_mfu_ratio",
        "gauge",
        "Model FLOPs utilisation of the last step, 0 to 1; absent where the device's peak is unknown.",
        of=lambda r: r.mfu,
    ),
    Metric(
        "llm360_step_seconds",
        "histogram",
        "Wall time of an optimizer step, from the end of the one before.",
        of=lambda r: r.step_seconds,
        buckets=STEP_BUCKETS,
    ),
    Metric(
        "llm360_data_wait_seconds_total",
        "counter",
        "Time of steps spent waiting for data, mean over workers.",
        of=lambda r: r.data_wait_seconds,
    ),
    Metric(
        "llm360_checkpoint_blocked_seconds_total",
        "counter",
        "Time of steps in which a checkpoint kept the training waiting.",
        of=lambda r: r.checkpoint_stall_seconds,
    ),
    Metric(
        "llm360_nonfinite_total",
        "counter",
        "Steps whose loss or gradient came out infinite or not a number.",
        of=_nonfinite,
    ),
)
"""What every record of a step says."""

RUN = (
    Metric("llm360_train_total_steps", "gauge", "Optimizer steps of the whole run."),
    Metric("llm360_attempt", "gauge", "Number of the newest attempt."),
    Metric("llm360_workers", "gauge", "Workers (ranks) of the newest attempt; on GPUs each has one."),
    Metric("llm360_worker_seconds_total", "counter", "Time of steps times workers; of GPU workers the cost."),
    Metric("llm360_attempts_total", "counter", "Attempts claimed: starts of the worker group."),
    Metric("llm360_rewinds_total", "counter", "Times the training went back to a checkpoint inside an attempt."),
    Metric("llm360_checkpoint_committed_total", "counter", "Checkpoints committed to the ledger."),
    Metric("llm360_checkpoint_refused_total", "counter", "Checkpoints that did not verify and were passed over."),
    Metric("llm360_checkpoint_step", "gauge", "Step of the newest committed checkpoint."),
    Metric("llm360_ledger_sequence", "gauge", "Sequence number of the ledger's newest entry."),
)
"""What the ledger's entries say, live and in a replay."""

LIVE = (
    Metric("llm360_checkpoint_due_step", "gauge", "First step after the newest checkpoint that asks for another."),
    Metric("llm360_storage_waiting", "gauge", "1 while a commit waits for the object store, else 0."),
    Metric("llm360_worker_step_seconds", "gauge", "Wall time of a rank's last step.", _RANK),
    Metric(
        "llm360_worker_own_seconds_total",
        "counter",
        "Time a rank spent between its steps by itself (data, checkpoints, records) while the others waited for it.",
        _RANK,
    ),
    Metric(
        "llm360_worker_data_wait_seconds_total", "counter", "Of that, the time in which it waited for its data.", _RANK
    ),
    Metric(
        "llm360_worker_memory_bytes",
        "gauge",
        "Peak memory of a rank so far: of its GPU, or resident where it has none.",
        _RANK,
    ),
)
"""What only the running driver knows."""

DRIVER = STEPS + RUN + LIVE
"""All that a driver serves on its port, its ranks' included."""

OPERATOR = (
    Metric(
        "llm360_run_phase",
        "gauge",
        "1 for the phase in which a run is and the reason of its condition Ready.",
        ("namespace", "run", "phase", "reason"),
    ),
    Metric("llm360_operator_runs", "gauge", "Runs by phase.", ("phase",)),
    Metric(
        "llm360_run_evaluations",
        "gauge",
        "Checkpoints to be evaluated, by where they stand: done, running, waiting, failed.",
        ("namespace", "run", "state"),
    ),
    Metric(
        "llm360_evaluation_score",
        "gauge",
        "A task's number at the newest checkpoint that has it, in the metric's own unit.",
        ("namespace", "run", "task", "metric"),
    ),
    Metric(
        "llm360_evaluation_score_step",
        "gauge",
        "Step of the checkpoint that it is of.",
        ("namespace", "run", "task", "metric"),
    ),
    Metric(
        "llm360_operator_reconcile_seconds",
        "histogram",
        "Wall time of a round of a run: observe, decide, act, write the status.",
        (),
        buckets=RECONCILE_BUCKETS,
    ),
    Metric(
        "llm360_operator_decision_seconds", "histogram", "CPU time of deciding what to do.", (), None, RECONCILE_BUCKETS
    ),
    Metric("llm360_operator_queue_length", "gauge", "Runs whose round is due and has not begun.", ()),
    Metric("llm360_operator_tick_age_seconds", "gauge", "Seconds since the queue's loop last turned.", ()),
    Metric(
        "llm360_operator_errors_total", "counter", "Rounds that failed and are taken again, by reason.", ("reason",)
    ),
    Metric(
        "llm360_operator_api_requests_total",
        "counter",
        "Requests to the Kubernetes API, by verb, kind and the answer's code.",
        ("verb", "kind", "code"),
    ),
)
"""What the operator serves."""

SCORES = tuple(metric for metric in OPERATOR if metric.name.startswith("llm360_evaluation_score"))
"""What entries of evaluations say; served by the operator while the run's object is there, and in a replay."""

CATALOGUE = DRIVER + OPERATOR


def metric(name: str) -> Metric:
    """The metric of that name."""
    return next(each for each in CATALOGUE if each.name == name)
