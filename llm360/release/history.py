"""What a chain of entries says about a run: where it stands, what is valid, what was given up.

Pure: entries in, facts out. Resuming, verifying, reporting and status all derive from here.

The *branch* is the line of checkpoints that the run stands on. A new attempt, `fallback` and `rewind` go back to
one of its checkpoints and give up whatever came after it, checkpoints and records of steps alike; what is made
from there replaces it. What was given up stays readable (`all_checkpoints`), it is just no longer the run's.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from llm360.release.entries import (
    Analysis,
    Attempt,
    Checkpoint,
    Complete,
    Eval,
    Fallback,
    Genesis,
    Metrics,
    Prune,
    Rewind,
    Skip,
    Stage,
)
from llm360.release.entry import Entry


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint together with the name and place of its entry."""

    name: str
    seq: int
    time: str
    body: Checkpoint

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self.body.step


@dataclass(frozen=True)
class Segment:
    """The part of a metrics segment that counts: records of the steps `first_step` to `last_step`, both inside."""

    name: str
    seq: int
    body: Metrics
    first_step: int
    last_step: int


@dataclass(frozen=True)
class ResumePoint:
    """Where training goes on: a checkpoint, or step 0 of an untrained model."""

    checkpoint: CheckpointEntry | None

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self.checkpoint.body.step if self.checkpoint else 0

    @property
    def tokens(self) -> int:
        """Predictions up to that step."""
        return self.checkpoint.body.tokens if self.checkpoint else 0

    @property
    def name(self) -> str | None:
        """The name of the checkpoint's entry."""
        return self.checkpoint.name if self.checkpoint else None


class History:
    """The facts that follow from a chain, taken in one entry at a time.

    Attributes:
        entries: All entries, in order.
        config_digest: Of the run's configuration; empty before genesis.
        attempts: The claims, in order.
        stages: The stages pinned so far, in order.
        branch: The valid checkpoints, by step.
        all_checkpoints: Every checkpoint ever committed, by the name of its entry.
        skips, rewinds, fallbacks, evals, analyses: Those entries' bodies, in order.
        pruned: Parts (`model`, `state`) given up, by the name of the checkpoint's entry.
        complete: The complete entry's body, once there is one.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.config_digest = ""
        self.attempts: list[Attempt] = []
        self.stages: list[Stage] = []
        self.branch: list[CheckpointEntry] = []
        self.all_checkpoints: dict[str, CheckpointEntry] = {}
        self.skips: list[Skip] = []
        self.rewinds: list[Rewind] = []
        self.fallbacks: list[Fallback] = []
        self.evals: list[Eval] = []
        self.analyses: list[Analysis] = []
        self.pruned: dict[str, frozenset[str]] = {}
        self.complete: Complete | None = None
        self.attempts_since_checkpoint = 0
        self._segments: list[Segment] = []  # of the branch: by step, without overlap
        self._by_uid: dict[str, Entry] = {}
        self._by_prefix: dict[str, CheckpointEntry] = {}

    @classmethod
    def from_entries(cls, entries: Iterable[Entry]) -> Self:
        """The history of a chain, which the reader has checked (ledger.py)."""
        history = cls()
        for entry in entries:
            history.apply(entry)
        return history

    def copy(self) -> Self:
        """A snapshot that later entries do not change."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, list | dict):
                setattr(other, name, value.copy())
        return other

    def apply(self, entry: Entry) -> None:
        """Take in the next entry."""
        self.entries.append(entry)
        self._by_uid[entry.uid] = entry
        self._move(entry)
        match entry.body:
            case Genesis() as body:
                self.config_digest = body.digests.config
            case Attempt() as body:
                self.attempts.append(body)
            case Stage() as body:
                self.stages.append(body)
            case Skip() as body:
                self.skips.append(body)
            case Eval() as body:
                self.evals.append(body)
            case Analysis() as body:
                self.analyses.append(body)
            case Prune() as body:
                self.pruned[body.checkpoint] = self.pruned_parts(body.checkpoint) | set(body.parts)
            case Complete() as body:
                self.complete = body

    def _move(self, entry: Entry) -> None:
        """Follow the branch: entries that go forward on it or back."""
        match entry.body:
            case Attempt() as body:
                self.attempts_since_checkpoint += 1
                self._go_back(body.checkpoint, body.step)
            case Metrics() as body:
                self._add_segment(entry, body)
            case Checkpoint() as body:
                self._add_checkpoint(entry, body)
            case Fallback() as body:
                self.fallbacks.append(body)
                self._go_back(body.checkpoint, body.step)
            case Rewind() as body:
                self.rewinds.append(body)
                self._go_back(body.checkpoint, body.step)

    # -- where the run stands ------------------------------------------------------------------------------

    @property
    def head(self) -> Entry | None:
        """The last entry."""
        return self.entries[-1] if self.entries else None

    @property
    def attempt(self) -> int:
        """The newest attempt's number; 0 before the first."""
        return max((claim.attempt for claim in self.attempts), default=0)

    @property
    def latest_checkpoint(self) -> CheckpointEntry | None:
        """The last checkpoint of the branch."""
        return self.branch[-1] if self.branch else None

    def resume_point(self) -> ResumePoint:
        """The newest checkpoint of the branch whose optimizer state is kept, or step 0."""
        return ResumePoint(next(reversed(self.resume_candidates()), None))

    def resume_candidates(self) -> list[CheckpointEntry]:
        """Checkpoints of the branch that training can go on from, oldest first."""
        return [checkpoint for checkpoint in self.branch if "state" not in self.pruned_parts(checkpoint.name)]

    def stage_at(self, step: int) -> Stage | None:
        """The stage whose steps the step following `step` finished ones belongs to."""
        return next((stage for stage in self.stages if stage.step <= step < stage.last_step), None)

    def skipped_steps(self, stage: int) -> frozenset[int]:
        """Steps of a stage (counted inside it, from 0) whose rows are passed over without an update."""
        return frozenset(step for skip in self.skips if skip.stage == stage for step in skip.steps)

    # -- what there is -------------------------------------------------------------------------------------

    @property
    def refused(self) -> frozenset[str]:
        """Names of the checkpoints that a fallback entry says are damaged."""
        return frozenset(name for fallback in self.fallbacks for name in fallback.refused)

    def pruned_parts(self, checkpoint: str) -> frozenset[str]:
        """Which of `model` and `state` of a checkpoint were given up."""
        return self.pruned.get(checkpoint, frozenset())

    def is_on_branch(self, checkpoint: str) -> bool:
        """Whether the checkpoint with this entry name is still valid."""
        return any(known.name == checkpoint for known in self.branch)

    def newest_in(self, prefix: str) -> CheckpointEntry | None:
        """The last checkpoint that was committed in this folder."""
        return self._by_prefix.get(prefix)

    def entry_of(self, uid: str) -> Entry | None:
        """The entry that an append with this uid made, if it took effect."""
        return self._by_uid.get(uid)

    def branch_segments(self, first_step: int, last_step: int) -> list[Segment]:
        """Segments of the branch, as it was trained, that hold steps `first_step` to `last_step`, both inside."""
        start = bisect_left(self._segments, first_step, key=lambda segment: segment.last_step)
        stop = bisect_right(self._segments, last_step, key=lambda segment: segment.first_step)
        return self._segments[start:stop]

    @property
    def last_recorded_step(self) -> int:
        """The last step of the branch that has a metrics record; 0 before the first."""
        return self._segments[-1].last_step if self._segments else 0

    def covers(self, first_step: int, last_step: int) -> bool:
        """Whether the branch has a metrics record of every step from `first_step` to `last_step`, both inside."""
        expected = first_step
        for segment in self.branch_segments(first_step, last_step):
            if segment.first_step > expected:
                return False
            expected = segment.last_step + 1
        return expected > last_step

    # -- taking in -----------------------------------------------------------------------------------------

    def _add_checkpoint(self, entry: Entry, body: Checkpoint) -> None:
        checkpoint = CheckpointEntry(entry.name, entry.seq, entry.time, body)
        self.all_checkpoints[entry.name] = checkpoint
        self._by_prefix[body.prefix] = checkpoint
        while self.branch and self.branch[-1].step >= body.step:
            self.branch.pop()
        self.branch.append(checkpoint)
        self.attempts_since_checkpoint = 0

    def _go_back(self, checkpoint: str | None, step: int) -> None:
        while self.branch and self.branch[-1].step >= step and self.branch[-1].name != checkpoint:
            self.branch.pop()
        self._drop_segments_after(step)

    def _drop_segments_after(self, step: int) -> None:
        """Take back the records of all steps after `step`: another training makes them anew."""
        while self._segments and self._segments[-1].first_step > step:
            self._segments.pop()
        if self._segments and self._segments[-1].last_step > step:
            self._segments[-1] = replace(self._segments[-1], last_step=step)

    def _add_segment(self, entry: Entry, body: Metrics) -> None:
        self._drop_segments_after(body.first_step - 1)
        self._segments.append(Segment(entry.name, entry.seq, body, body.first_step, body.step))
