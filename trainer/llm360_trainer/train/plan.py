"""The messages between the ranks and the driver's recorder: plain, frozen, picklable.

A rank knows nothing of the ledger. Rank 0 asks the recorder for a plan, reports each finished step, and
obeys the command that comes back; every rank sends the part of a checkpoint that it wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from llm360.data.manifest import DataManifest
from llm360.data.order import StageOrder
from llm360.data.steps import StageSteps
from llm360.release.checkpoint import CheckpointManifest
from llm360.release.metrics import StepRecord
from llm360.spec.checkpoints import Checkpoints
from llm360_trainer.checkpoint.parts import RankPart


class Command(StrEnum):
    """What the ranks are to do next."""

    CONTINUE = "continue"
    """Go on with the next step; after a non-finite one: leave the weights as they are and count it as finished."""
    STOP = "stop"
    """Leave the loop at once: the run is fenced, interrupted, halted or has failed; the driver knows why."""
    CHECKPOINT = "checkpoint"
    """Finish one more step, checkpoint what it led to, and leave the loop: somebody wants the run to stop."""
    REWIND = "rewind"
    """Ask for a new plan: back to the last checkpoint, the offending step left out."""


@dataclass(frozen=True)
class GroupInfo:
    """A worker group that has just started.

    Attributes:
        ranks: Per rank what it computes on: host name, device name, number of threads.
        libraries: Name and version of the libraries that decide the bits (torch, CUDA, NCCL).
    """

    ranks: tuple[dict[str, Any], ...]
    libraries: dict[str, str]

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self.ranks)


@dataclass(frozen=True)
class StagePlan(StageSteps):
    """One stage of the run: its data as pinned in the ledger, and the steps between which it lies.

    Attributes:
        index: Number of the stage, from 0.
        data_uri: Folder of the stage's manifest and shards.
        manifest: What that folder holds.
        manifest_digest: sha256 digest of the manifest's stored bytes.
        tokenizer: Bytes of its tokenizer.json; None where it has none.
        order: The formula from the stage's steps to rows.
        first_step: Finished steps of the run when the stage begins.
        num_steps: Steps of the stage; fewer than the order's where the specification caps them.
        first_tokens: Predictions of the run when the stage begins.
        checkpoint_every: A checkpoint follows every so many steps of the stage; None: none for that reason.
        moments_from: Finished steps of the run at which AdamW's moments began, from which its bias correction counts:
            the start of this stage where it resets them, else that of the last stage that did.
    """

    index: int
    data_uri: str
    manifest: DataManifest
    manifest_digest: str
    tokenizer: bytes | None
    order: StageOrder
    first_step: int
    num_steps: int
    first_tokens: int
    moments_from: int = 0
    checkpoint_every: int | None = None

    @property
    def resets_moments(self) -> bool:
        """Whether the stage's first step starts from empty moments."""
        return self.moments_from == self.first_step

    @property
    def step_tokens(self) -> int:
        """See `StageSteps`."""
        return self.order.batch_rows * self.manifest.predictions

    def publishes(self, checkpoints: Checkpoints, step: int) -> bool:
        """Whether a checkpoint is published after `step` finished steps of the run (0: before the first)."""
        return self.publishes_after(checkpoints.schedule, step)


@dataclass(frozen=True)
class Resume:
    """The committed checkpoint from which training goes on.

    Attributes:
        name: Name of its ledger entry.
        prefix: Its folder in the release.
        manifest: Its manifest, whose digest the recorder has checked against the ledger.
    """

    name: str
    prefix: str
    manifest: CheckpointManifest


@dataclass(frozen=True)
class AttemptPlan:
    """What an attempt is to do.

    Attributes:
        attempt: Its number, claimed in the ledger.
        resume: Where it starts; None: at step 0 with the first values.
        skip: Steps of the run (counted from 0) whose rows are passed over without an update.
        last_step: Finished steps at its end, which is where its last checkpoint is due; None: the run's.
        needs_new_attempt: It leads once more to a step whose checkpoint this very attempt has committed. One attempt
            writes a checkpoint's folder once: the group has to start again, under a number of its own.
    """

    attempt: int
    resume: Resume | None
    skip: frozenset[int]
    last_step: int | None = None
    needs_new_attempt: bool = False

    @property
    def first_step(self) -> int:
        """Finished steps at the start."""
        return self.resume.manifest.step if self.resume else 0

    def stage_steps(self, stage: StagePlan) -> range:
        """The steps of a stage, counted inside it, that the attempt makes."""
        last = stage.last_step if self.last_step is None else min(self.last_step, stage.last_step)
        return range(max(0, self.first_step - stage.first_step), max(0, last - stage.first_step))


@dataclass(frozen=True)
class WorkerReport:
    """What a rank says of its own steps since its last report; for watchers alone.

    Attributes:
        rank: Its number.
        step_seconds: Wall time of its last step.
        own_seconds: Time between its steps, in which the other ranks waited for it: data, checkpoints, records.
        data_wait_seconds: Of that, waiting for its data.
        memory_bytes: Peak memory of its process so far: of its GPU, or resident.
    """

    rank: int
    step_seconds: float
    own_seconds: float
    data_wait_seconds: float
    memory_bytes: int


class Recorder(Protocol):
    """What a rank may ask of the recorder. Every call but `report` blocks until the recorder has answered."""

    def begin_attempt(self, group: GroupInfo) -> AttemptPlan | None:
        """Claim an attempt. None: there is nothing to do for this group; the driver knows why."""

    def fall_back(self, refused: str, problem: str) -> AttemptPlan | None:
        """The checkpoint whose entry is named `refused` does not verify: go on from an older one."""

    def record_step(self, record: StepRecord) -> Command:
        """Hand over a finished step's record."""

    def nonfinite(self, step: int, problem: str) -> Command:
        """Step `step` (of the run, from 0) had a loss or gradient that is not finite: what is to be done?"""

    def rewind(self, step: int, problem: str) -> AttemptPlan | None:
        """Go back to the last checkpoint, step `step` left out; all parts under way have been handed over."""

    def checkpoint_part(self, part: RankPart) -> None:
        """Hand over what this rank wrote of a checkpoint."""

    def stopped(self, step: int) -> None:
        """All ranks have left after `step` finished steps, its checkpoint handed over; returns when it is committed."""

    def finish(self) -> None:
        """All steps are done and all parts handed over; returns when the end is committed."""

    def report(self, report: WorkerReport) -> None:
        """Say how this rank does. Nobody waits for it, and where it is lost nothing else is."""

    def event(self, text: str) -> None:
        """Something a person should see."""

    def fail(self, message: str, reason: str, exit_code: int) -> None:
        """This rank cannot go on. Exit codes 2 and 3 end the run; any other is a failed attempt."""
