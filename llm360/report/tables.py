"""The report's tables: checkpoints with the data that led to them, attempts, events, data, environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from llm360.release.entries import (
    Analysis,
    Attempt,
    Checkpoint,
    Complete,
    DataSpan,
    EntryDraft,
    Eval,
    Fallback,
    Metrics,
    Prune,
    Rewind,
    Skip,
    Stage,
    TrainingDraft,
)
from llm360.release.entry import Entry
from llm360.release.history import History
from llm360.report.facts import checkpoint_label, time_of

# A list of single steps in a sentence ends after so many.
MAX_LISTED = 8


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint, and the rows of data that were read since the one before."""

    label: str
    other_labels: tuple[str, ...]
    step: int
    tokens: int
    chunk: str
    rows: str
    num_rows: int
    attempt: int
    loss: float | None
    model_digest: str
    state_digest: str
    entry: str
    bytes: int
    prefix: str
    status: str


def checkpoint_rows(history: History, losses: dict[int, float]) -> list[CheckpointRow]:
    """Every checkpoint ever committed, by step; those that are no longer the run's say so.

    Args:
        history: What the ledger says.
        losses: The smoothed loss by step.
    """
    known = sorted(history.all_checkpoints.values(), key=lambda c: (c.step, c.seq))
    return [
        CheckpointRow(
            label=checkpoint_label(checkpoint.body),
            other_labels=checkpoint.body.labels[1:],
            step=checkpoint.step,
            tokens=checkpoint.body.tokens,
            chunk=chunk_text(checkpoint.body, len(history.stages)),
            rows="; ".join(span_text(span, len(history.stages)) for span in checkpoint.body.data),
            num_rows=sum(stop - start for span in checkpoint.body.data for _, start, stop in span.rows),
            attempt=checkpoint.body.attempt,
            loss=losses.get(checkpoint.step),
            model_digest=checkpoint.body.digests.model,
            state_digest=checkpoint.body.digests.state,
            entry=checkpoint.name,
            bytes=checkpoint.body.bytes,
            prefix=checkpoint.body.prefix,
            status=checkpoint_status(history, checkpoint.name, checkpoint.body),
        )
        for checkpoint in known
    ]


def checkpoint_status(history: History, name: str, body: Checkpoint) -> str:
    """What a reader must know before using it; empty for a published checkpoint that is all there."""
    notes = []
    if not history.is_on_branch(name):
        notes.append("given up")
    elif not body.published:
        notes.append("for resuming")
    if pruned := history.pruned_parts(name):
        notes.append(f"{' and '.join(sorted(pruned))} pruned")
    return ", ".join(notes)


def chunk_text(body: Checkpoint, num_stages: int) -> str:
    """The data chunk that ended at the checkpoint; empty where none did."""
    if body.chunk is None:
        return ""
    return f"{body.chunk}" if num_stages < 2 else f"stage {body.stage} chunk {body.chunk}"


def span_text(span: DataSpan, num_stages: int) -> str:
    """`chunk 3: 0–799`: first and last row of each chunk read, both inside."""
    stage = "" if num_stages < 2 else f"stage {span.stage} "
    return ", ".join(f"{stage}chunk {chunk}: {start:,}–{stop - 1:,}" for chunk, start, stop in span.rows)


@dataclass(frozen=True)
class AttemptRow:
    """One start of the worker group and how it ended."""

    attempt: int
    time: datetime
    last_time: datetime
    resumed: str
    step: int
    reached: int
    again: int
    workers: str
    checkpoints: int
    outcome: str
    environment: str


def attempt_rows(history: History) -> list[AttemptRow]:
    """Every attempt in its order; `again` are the steps beyond what the next one went on from."""
    claims = [entry for entry in history.entries if isinstance(entry.body, Attempt)]
    own = {claim.seq: _entries_of(history, claim) for claim in claims}
    begun = {claim.seq: _begun(claim, own[claim.seq]) for claim in claims}
    rows = []
    for claim, following in zip(claims, [*claims[1:], None], strict=True):
        assert isinstance(claim.body, Attempt)
        entries, (step, checkpoint) = own[claim.seq], begun[claim.seq]
        reached = max((e.body.step for e in entries if isinstance(e.body, Metrics | Checkpoint)), default=step)
        bound = [e.body.digests.environment for e in entries if isinstance(e.body, Metrics | Checkpoint)]
        rows.append(
            AttemptRow(
                attempt=claim.body.attempt,
                time=time_of(claim),
                last_time=time_of(entries[-1]),
                resumed=resumed_from(history, checkpoint),
                step=step,
                reached=reached,
                again=max(0, reached - begun[following.seq][0]) if following else 0,
                workers=f"{claim.body.world_size} × {claim.body.device}",
                checkpoints=sum(isinstance(e.body, Checkpoint) for e in entries),
                outcome=_outcome(history, entries, is_last=following is None),
                environment=bound[0] if bound else "",
            )
        )
    return rows


def _entries_of(history: History, claim: Entry) -> list[Entry]:
    """What the training of one attempt wrote, its claim first."""
    assert isinstance(claim.body, Attempt)
    return [e for e in history.entries if isinstance(e.body, TrainingDraft) and e.body.attempt == claim.body.attempt]


def _begun(claim: Entry, entries: Sequence[Entry]) -> tuple[int, str | None]:
    """The step and the checkpoint that an attempt went on from, after those that it refused."""
    assert isinstance(claim.body, Attempt)
    fallbacks = [e.body for e in entries if isinstance(e.body, Fallback)]
    return (fallbacks[-1].step, fallbacks[-1].checkpoint) if fallbacks else (claim.body.step, claim.body.checkpoint)


def resumed_from(history: History, name: str | None) -> str:
    """The label of a checkpoint by its entry's name."""
    checkpoint = history.all_checkpoints.get(name) if name else None
    return checkpoint_label(checkpoint.body) if checkpoint else "the start"


def _outcome(history: History, own: Sequence[Entry], *, is_last: bool) -> str:
    rewinds = [e.body.reason for e in own if isinstance(e.body, Rewind)]
    if any(isinstance(e.body, Complete) for e in own):
        return "completed the run"
    if rewinds:
        return f"went back: {rewinds[-1]}"
    if is_last:
        return "the newest" if history.complete is None else ""
    return "ended; the next one went on"


@dataclass(frozen=True)
class EventRow:
    """One entry of the ledger that a reader should know of, as a sentence."""

    seq: int
    time: datetime
    kind: str
    step: int | None
    text: str


def event_rows(history: History) -> list[EventRow]:
    """What happened besides steps, checkpoints and attempts, in the order of the ledger."""
    return [
        EventRow(entry.seq, time_of(entry), entry.kind, getattr(entry.body, "step", None), text)
        for entry in history.entries
        for text in _sentences(history, entry.body)
    ]


def _sentences(history: History, body: EntryDraft) -> Iterator[str]:
    match body:
        case Stage():
            yield f"stage '{body.name}' pinned: {body.num_steps:,} steps of {body.batch_rows:,} rows"
        case Skip():
            yield f"{_steps(body.steps)} of stage {body.stage} passed over without an update: {body.reason}"
        case Rewind():
            back_to = resumed_from(history, body.checkpoint)
            yield f"went back from step {body.from_step:,} to {back_to} (step {body.step:,}): {body.reason}"
        case Fallback():
            refused = ", ".join(resumed_from(history, name) for name in body.refused)
            yield f"{refused} refused, fell back to {resumed_from(history, body.checkpoint)}: {body.reason}"
        case Prune():
            parts = " and ".join(body.parts)
            yield f"{parts} of {resumed_from(history, body.checkpoint)} given up: {body.reason}"
        case Eval():
            yield f"{resumed_from(history, body.checkpoint)} evaluated on {body.task}: {body.prefix}/"
        case Analysis():
            yield f"analysis '{body.name}': {body.prefix}/"
        case Complete():
            yield f"the run is complete after {body.step:,} steps and {body.tokens:,} tokens"


def _steps(steps: Sequence[int]) -> str:
    listed = ", ".join(f"{step:,}" for step in steps[:MAX_LISTED])
    more = f" and {len(steps) - MAX_LISTED:,} more" if len(steps) > MAX_LISTED else ""
    return f"step {listed}" if len(steps) == 1 else f"steps {listed}{more}"
