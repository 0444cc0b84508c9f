"""The kinds of entries a ledger holds, one class each. docs/reference/ledger.md lists their fields.

A class here is the part of an entry that its writer decides (`EntryDraft`); `seq`, `prev`, `uid` and `time`
are added when it is appended (ledger.py). Fields that are None are left out of the stored JSON.

Counting: a *step* of the run is a number of finished optimizer steps, so step 0 is the initial model and a
run of N steps ends at step N. A step *inside a stage* counts from 0, as the order of the data does (the first
batch of a stage is its step 0). `tokens` at step s is the number of predictions in the rows of all steps up to
s, a pure function of s: a skipped step's rows are passed over and count too; `skip` entries say which.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, TypeAdapter

from llm360.data.order import RowRange, StageOrder
from llm360.release.fields import AttemptNumber, Count, Digest, Key, StrictModel

LEDGER_FORMAT = "llm360-ledger/1"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Reason = Annotated[str, Field(min_length=1, max_length=2000, description="why, in a sentence")]


class Draft(StrictModel):
    """Base of all kinds."""

    kind: str
    training: ClassVar[bool] = False
    """Whether only the newest attempt may append it."""


class TrainingDraft(Draft):
    """Base of what an attempt of the training writes."""

    training: ClassVar[bool] = True

    attempt: AttemptNumber = Field(description="the attempt that appended it")
    step: Count = Field(description="finished optimizer steps")
    tokens: Count = Field(description="predictions up to that step")


class ConfigDigests(StrictModel):
    """Digests of a genesis entry."""

    config: Digest = Field(description="of `config/<hex>.json`")


class Genesis(Draft):
    """The first entry: which run this is."""

    kind: Literal["genesis"] = "genesis"
    format: Literal["llm360-ledger/1"] = Field("llm360-ledger/1", description="`llm360-ledger/1`")
    digests: ConfigDigests


class Attempt(TrainingDraft):
    """A start of the worker group, claimed before the attempt writes anything; older attempts are fenced from here."""

    kind: Literal["attempt"] = "attempt"
    checkpoint: Digest | None = Field(
        None, description="name of the checkpoint entry it resumes from; none: from step 0"
    )
    world_size: Annotated[int, Field(ge=1)] = Field(description="ranks")
    device: Literal["cuda", "cpu"] = Field(description="what the ranks compute on")
    operations: dict[str, JsonValue] = Field(description="the settings outside the run's identity, as they were")


class StageDigests(StrictModel):
    """Digests of a stage entry."""

    manifest: Digest = Field(description="of the stage's data manifest")


class Stage(TrainingDraft):
    """A stage's data and order, pinned before its first step. `step` is the run's step at which it starts."""

    kind: Literal["stage"] = "stage"
    stage: Count = Field(description="its index, from 0")
    name: Name = Field(description="as the configuration names it")
    num_steps: Count = Field(description="optimizer steps of the stage")
    data: str = Field(
        min_length=1,
        max_length=2000,
        description="where its data lies: a key in the release, or a URI; the manifest is `<data>/manifest.json`",
    )
    chunk_rows: tuple[Count, ...] = Field(description="rows of each chunk")
    batch_rows: Annotated[int, Field(ge=1)] = Field(description="rows of one step")
    remainder: Literal["drop", "carry"] = Field(description="what happens to a chunk's last rows that fill no batch")
    predictions: Annotated[int, Field(ge=1)] = Field(description="predictions of one row")
    digests: StageDigests

    @property
    def order(self) -> StageOrder:
        """The formula from steps to rows."""
        return StageOrder(chunk_rows=self.chunk_rows, batch_rows=self.batch_rows, remainder=self.remainder)

    @property
    def last_step(self) -> int:
        """The run's step at which the stage ends."""
        return self.step + self.num_steps

    def tokens_after(self, step: int) -> int:
        """Predictions of the run up to `step`, which lies in this stage."""
        return self.tokens + (step - self.step) * self.batch_rows * self.predictions


class MetricsDigests(StrictModel):
    """Digests of a metrics entry."""

    segment: Digest = Field(description="of the Parquet file")
    environment: Digest = Field(description="of `environment/aNNN.json`")


class Metrics(TrainingDraft):
    """A Parquet segment with one record per step, `first_step` to `step`, both inside."""

    kind: Literal["metrics"] = "metrics"
    first_step: Count = Field(description="the first step that has a record; `step` is the last")
    key: Key = Field(description="of the segment")
    bytes: Count = Field(description="its size")
    digests: MetricsDigests


class DataSpan(StrictModel):
    """The rows that a range of steps of one stage read, in order."""

    stage: Count = Field(description="the stage's index")
    manifest: Digest = Field(description="of the stage's data manifest")
    first_step: Count = Field(description="first step, inside the stage, from 0")
    last_step: Count = Field(description="last step, inside the stage, from 0, itself included")
    rows: tuple[tuple[Count, Count, Count], ...] = Field(description="[chunk, first row, row after the last], in order")

    def ranges(self) -> tuple[RowRange, ...]:
        """The rows as ranges."""
        return tuple(RowRange(*row) for row in self.rows)


class CheckpointDigests(StrictModel):
    """Digests of a checkpoint entry."""

    config: Digest = Field(description="of the run's configuration")
    environment: Digest = Field(description="of `environment/aNNN.json`")
    manifest: Digest = Field(description="of the checkpoint's `manifest.json`")
    model: Digest = Field(description="model_digest: what the weights hold")
    state: Digest = Field(description="state_digest: what the optimizer holds")


class Checkpoint(TrainingDraft):
    """A checkpoint and everything since the one before that led to it."""

    kind: Literal["checkpoint"] = "checkpoint"
    prefix: Key = Field(description="its folder")
    labels: tuple[Name, ...] = Field((), description="names for people: init, ckpt_000, …")
    published: bool = Field(description="whether the schedule asked for it; others are only there to resume from")
    chunk: Count | None = Field(None, description="the data chunk that ended at this step")
    stage: Count | None = Field(None, description="the stage of its last step; none for the initial one")
    bytes: Count = Field(description="of all its files")
    previous: Digest | None = Field(None, description="name of the entry of the checkpoint before it on its branch")
    data: tuple[DataSpan, ...] = Field(description="all rows read since the previous checkpoint")
    metrics: tuple[Digest, ...] = Field(description="names of the metrics entries that cover the steps since")
    digests: CheckpointDigests


class Fallback(TrainingDraft):
    """Checkpoints that did not verify were passed over; training goes on from an older one (`step`)."""

    kind: Literal["fallback"] = "fallback"
    refused: tuple[Digest, ...] = Field(min_length=1, description="names of the checkpoint entries passed over")
    checkpoint: Digest | None = Field(None, description="name of the one resumed from; none: from step 0")
    reason: Reason


class Skip(TrainingDraft):
    """Steps whose rows are passed over without an update."""

    kind: Literal["skip"] = "skip"
    stage: Count = Field(description="the stage's index")
    steps: tuple[Count, ...] = Field(min_length=1, description="steps inside the stage, from 0")
    reason: Reason


class Rewind(TrainingDraft):
    """Training went back to a checkpoint (`step`) and goes on from there."""

    kind: Literal["rewind"] = "rewind"
    from_step: Count = Field(description="the step it had reached")
    checkpoint: Digest | None = Field(None, description="name of the checkpoint entry gone back to; none: step 0")
    reason: Reason


class Score(StrictModel):
    """One number of an evaluation."""

    metric: str = Field(
        min_length=1, max_length=200, description="as the harness names it: acc_norm, exact_match,strict-match"
    )
    value: Number = Field(description="over all samples")
    stderr: Number | None = Field(None, description="standard error of the value; none: the harness gives none")


class Eval(Draft):
    """An evaluation of a checkpoint. Those of another harness, shots, limit or seed are other evaluations."""

    kind: Literal["eval"] = "eval"
    step: Count = Field(description="of the checkpoint")
    checkpoint: Digest = Field(description="name of the checkpoint's entry")
    task: Name = Field(description="what was evaluated")
    shots: Count | None = Field(None, description="solved examples in the prompt; none: the task's own number")
    harness: Annotated[str, Field(max_length=100)] | None = Field(None, description="name and version of what ran it")
    limit: Count | None = Field(None, description="only so many of the task's samples; none: all")
    seed: Count | None = Field(None, description="of all that is drawn; none: the harness's own seeds")
    scores: tuple[Score, ...] | None = Field(None, description="the task's numbers, as in its files")
    prefix: Key = Field(description="folder of its files")
    digests: dict[Key, Digest] = Field(min_length=1, description="of each file, by its key inside the folder")


class Analysis(Draft):
    """An analysis of the run."""

    kind: Literal["analysis"] = "analysis"
    name: Name = Field(description="what was analysed")
    prefix: Key = Field(description="folder of its files")
    checkpoint: Digest | None = Field(None, description="name of the checkpoint's entry, if it is of one")
    digests: dict[Key, Digest] = Field(min_length=1, description="of each file, by its key inside the folder")


class Prune(Draft):
    """Parts of a checkpoint that may be gone from here on. The manifest stays."""

    kind: Literal["prune"] = "prune"
    attempt: AttemptNumber | None = Field(None, description="the attempt that removed them; none: a person")
    step: Count = Field(description="of the checkpoint")
    checkpoint: Digest = Field(description="name of the checkpoint's entry")
    parts: tuple[Literal["model", "state"], ...] = Field(min_length=1, description="folders that were removed")
    reason: Reason


class CompleteDigests(StrictModel):
    """Digests of a complete entry: the outcome of the run in three lines."""

    config: Digest = Field(description="of the run's configuration")
    model: Digest = Field(description="of the last checkpoint")
    state: Digest = Field(description="of the last checkpoint")


class Complete(TrainingDraft):
    """All steps are done; evaluations, analyses and prunes may still follow."""

    kind: Literal["complete"] = "complete"
    checkpoint: Digest = Field(description="name of the last checkpoint's entry")
    digests: CompleteDigests


EntryDraft = (
    Genesis | Attempt | Stage | Metrics | Checkpoint | Fallback | Skip | Rewind | Eval | Analysis | Prune | Complete
)

DRAFT: TypeAdapter[EntryDraft] = TypeAdapter(Annotated[EntryDraft, Field(discriminator="kind")])
"""Parses the draft part of a stored entry, by its kind."""
