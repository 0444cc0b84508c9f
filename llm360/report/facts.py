"""Where a run stands, derived from its ledger and from the last metrics segments that it names.

What `llm360 status` prints, what the summary after a run says, and the head of the report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from pydantic.alias_generators import to_camel

from llm360.data.manifest import DataManifest, load_manifest
from llm360.errors import IntegrityError, LLM360Error
from llm360.release.create import load_config
from llm360.release.entries import Checkpoint, Metrics, Stage
from llm360.release.entry import Entry
from llm360.release.history import History
from llm360.release.metrics import run_table
from llm360.report.series import column
from llm360.storage import Storage, open_storage

Phase = Literal["in progress", "not progressing", "complete"]

# A training run commits its metrics every 5 minutes: without an entry for three times as long, nobody is writing.
SILENCE = timedelta(minutes=15)

# Rate and smoothed loss are those of so many steps.
RECENT_STEPS = 100


@dataclass(frozen=True)
class RunFacts:
    """Where a run stands. What no entry says yet is None.

    Attributes:
        uri: Where the release lies.
        name: The last part of its address.
        preset: The preset that the configuration started from.
        phase: `not progressing`: not complete, and the training has written no entry for a while.
        step: Finished optimizer steps as far as committed.
        total_steps: Steps of the whole run, as far as the stages' data is known.
        tokens: Predictions up to `step`.
        total_tokens: Predictions of the whole run.
        loss: Of the last committed step, in nats.
        recent_loss: Mean of the last 100 committed steps' finite losses, in nats.
        tokens_per_second: Of the last 100 committed steps, over all workers.
        mfu: Mean model FLOPs utilisation of the same steps.
        checkpoints: Valid checkpoints, published or for resuming.
        last_checkpoint: Label of the newest, or its step.
        attempts: Starts of the worker group.
        evaluations: Evaluations committed.
        head_seq, head_digest: The ledger's last entry.
        last_entry_time: When it was written.
        estimated_completion: By the recent rate; None unless in progress.
        config_digest: Of the run's configuration.
    """

    uri: str
    name: str
    preset: str | None
    phase: Phase
    step: int
    total_steps: int | None
    tokens: int
    total_tokens: int | None
    loss: float | None
    recent_loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    checkpoints: int
    last_checkpoint: str | None
    attempts: int
    evaluations: int
    head_seq: int
    head_digest: str
    last_entry_time: datetime
    estimated_completion: datetime | None
    config_digest: str

    @property
    def recent_steps(self) -> int:
        """How many steps the recent averages are of."""
        return min(RECENT_STEPS, self.step)

    def to_json(self) -> dict[str, Any]:
        """JSON values, named as in the status of an LLM360Run; numbers that JSON lacks are null."""
        return {to_camel(name): _json_value(value) for name, value in vars(self).items()}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_facts(storage: Storage, history: History, now: datetime) -> RunFacts:
    """Where the run stands.

    Args:
        storage: The release.
        history: What its ledger says; not empty.
        now: The present time, to tell a silent run.

    Raises:
        ObjectNotFoundError, IntegrityError: what the ledger names is missing or changed.
    """
    head, config = history.head, load_config(storage, history.config_digest)
    assert head is not None
    step, tokens = committed(history)
    total_steps, total_tokens = totals(history, config)
    recent = _Recent.read(storage, history, step)
    phase = phase_of(history, now)
    estimate = None
    if phase == "in progress" and total_steps is not None and recent.time is not None:
        left = timedelta(seconds=(total_steps - step) * recent.step_seconds)
        estimate = max(now, recent.time + left)
    newest = history.latest_checkpoint
    return RunFacts(
        uri=storage.uri,
        name=name_of(storage.uri),
        preset=config.get("preset"),
        phase=phase,
        step=step,
        total_steps=total_steps,
        tokens=tokens,
        total_tokens=total_tokens,
        loss=recent.last_loss,
        recent_loss=recent.loss,
        tokens_per_second=recent.tokens_per_second,
        mfu=recent.mfu,
        checkpoints=len(history.branch),
        last_checkpoint=checkpoint_label(newest.body) if newest else None,
        attempts=len(history.attempts),
        evaluations=len(history.evals),
        head_seq=head.seq,
        head_digest=head.name,
        last_entry_time=time_of(head),
        estimated_completion=estimate,
        config_digest=history.config_digest,
    )


def name_of(uri: str) -> str:
    """The last part of an address."""
    last = uri.rstrip("/").rpartition("/")[2]
    return (unquote(last) if uri.startswith("file://") else last) or uri


def time_of(entry: Entry) -> datetime:
    """An entry's time."""
    return datetime.fromisoformat(entry.time).astimezone(UTC)


def checkpoint_label(body: Checkpoint) -> str:
    """A checkpoint's first label, or its step where it was made for resuming only."""
    return body.labels[0] if body.labels else f"step {body.step:,}"


def phase_of(history: History, now: datetime) -> Phase:
    """Complete if the ledger says so; otherwise by how long ago the training wrote its last entry."""
    if history.complete is not None:
        return "complete"
    written = next((e for e in reversed(history.entries) if e.body.training), history.entries[0])
    return "in progress" if now - time_of(written) <= SILENCE else "not progressing"


def committed(history: History) -> tuple[int, int]:
    """The step that the branch has reached and the tokens up to it, by its checkpoints and metrics."""
    reached = [(checkpoint.body.step, checkpoint.body.tokens) for checkpoint in history.branch[-1:]]
    for entry in reversed(history.entries):
        if isinstance(entry.body, Metrics) and history.branch_segments(entry.body.step, entry.body.step):
            reached.append((entry.body.step, entry.body.tokens))
            break
    return max(reached, default=(0, 0))


def totals(history: History, config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Steps and tokens of the whole run; None where a stage is neither pinned nor of configured length."""
    pinned = history.stages
    steps = pinned[-1].last_step if pinned else 0
    tokens: int | None = pinned[-1].tokens_after(steps) if pinned else 0
    configured = config.get("data", {}).get("stages") or [{}]
    for stage in configured[len(pinned) :]:
        length = stage.get("steps") or config.get("training", {}).get("steps")
        if length is None:
            return None, None
        # How many predictions a row of data not yet pinned has, nobody can say.
        steps, tokens = steps + length, None
    return steps, tokens


def read_stage_data(storage: Storage, stage: Stage) -> DataManifest | str:
    """A stage's manifest, or why it cannot be shown: its data may lie in a store that this reader cannot reach."""
    try:
        place = open_storage(stage.data, storage.options) if "://" in stage.data else storage.at(stage.data)
        manifest, digest = load_manifest(place)
        if digest != stage.digests.manifest:
            raise IntegrityError(f"its manifest has the digest {digest}, but the ledger names {stage.digests.manifest}")
    except LLM360Error as error:
        return f"the data of stage '{stage.name}' could not be read: {error.message}"
    return manifest


@dataclass(frozen=True)
class _Recent:
    """The last steps' averages."""

    last_loss: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    step_seconds: float = 0.0
    mfu: float | None = None
    time: datetime | None = None

    @classmethod
    def read(cls, storage: Storage, history: History, step: int) -> _Recent:
        """Read the segments that hold the last steps, and no others."""
        table = run_table(storage, history, first_step=max(1, step - RECENT_STEPS + 1))
        if not table.num_rows:
            return cls()
        table = table.slice(max(0, table.num_rows - RECENT_STEPS))
        losses, seconds = column(table, "loss"), column(table, "step_seconds")
        mfu, usual = column(table, "mfu"), float(np.median(seconds))
        finite = losses[np.isfinite(losses)]
        return cls(
            last_loss=float(losses[-1]),
            loss=float(finite.mean()) if len(finite) else None,
            tokens_per_second=float(np.median(column(table, "tokens_per_second"))),
            step_seconds=usual,
            mfu=float(np.nanmean(mfu)) if np.isfinite(mfu).any() else None,
            time=table["time"][-1].as_py(),
        )
