"""The one writer of a training attempt: claims it, commits what it made, and stops when it is fenced.

An attempt is claimed before it writes a byte. From then on every commit looks at the chain it is about to
extend: where a newer attempt stands in it, the writer raises `FencedError` and has written nothing. Because
an entry lands only on the very chain that was looked at, no entry of an older attempt can follow a newer claim.

Every method may be called again after `StorageUnavailableError`, with the same arguments, until it succeeds:
an entry that took effect although its answer was lost is recognised and not appended twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from llm360.canonical import canonical_json, digest_of, sha256_digest
from llm360.errors import FencedError, InputError
from llm360.release.checkpoint import CheckpointManifest
from llm360.release.entries import (
    Attempt,
    Checkpoint,
    CheckpointDigests,
    Complete,
    CompleteDigests,
    DataSpan,
    EntryDraft,
    Fallback,
    Metrics,
    MetricsDigests,
    Prune,
    Rewind,
    Skip,
    Stage,
)
from llm360.release.entry import Entry, new_uid
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import environment_key, metrics_key
from llm360.release.ledger import Ledger


class TrainingWriter:
    """Writes the ledger's training entries for one attempt. Safe to use from several threads.

    Args:
        ledger: Of the release.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._uid = new_uid()
        self._claim: Attempt | None = None
        self._environment_digest = ""

    @property
    def claimed(self) -> Attempt:
        """The claim's entry: attempt number, and the checkpoint and step it resumes from."""
        assert self._claim is not None, "claim() comes before anything else"
        return self._claim

    @property
    def attempt(self) -> int:
        """This attempt's number."""
        return self.claimed.attempt

    def history(self) -> History:
        """What the chain says now."""
        return self.ledger.history()

    def claim(
        self,
        *,
        world_size: int,
        device: Literal["cuda", "cpu"],
        operations: Mapping[str, Any],
        environment: Mapping[str, Any],
        allow: Callable[[History], None] | None = None,
    ) -> int:
        """Claim the next attempt, fencing all before it, then write its `environment/aNNN.json`.

        Args:
            world_size: Ranks of the worker group.
            device: What they compute on.
            operations: The run's settings outside its identity (JSON values).
            environment: What the attempt runs on: packages, commit, devices (JSON values).
            allow: Looks at the history that the claim is built on and raises to give up, for instance where
                `recovery` allows no further attempt.

        Returns:
            The attempt's number: one more than the newest in the chain.

        Raises:
            InputError: the run is complete.
            StorageUnavailableError: call again; a writer claims at most one attempt.
        """
        data = canonical_json(dict(environment))

        def build(history: History) -> EntryDraft:
            point = history.resume_point()
            return Attempt(
                attempt=history.attempt + 1,
                step=point.step,
                tokens=point.tokens,
                checkpoint=point.name,
                world_size=world_size,
                device=device,
                operations=dict(operations),
            )

        def guard(history: History) -> None:
            if history.complete is not None:
                raise InputError(
                    f"the run at {self.ledger.storage.uri} is complete: there is nothing left to train",
                    reason="AlreadyComplete",
                )
            if allow is not None:
                allow(history)

        entry = self.ledger.append(build, guard, uid=self._uid)
        assert isinstance(entry.body, Attempt)
        self._claim = entry.body
        self._environment_digest = sha256_digest(data)
        self.check_fenced()
        self.ledger.storage.put(environment_key(self.attempt), data)
        return self.attempt

    def check_fenced(self) -> None:
        """Look at the chain now; call every 10 s.

        Raises:
            FencedError: a newer attempt owns the run.
        """
        self._guard(self.ledger.history())

    def stage(self, stage: Stage) -> Entry:
        """Pin a stage's data and order before its first step; where an earlier attempt did, check it against that.

        Raises:
            InputError: the stage is pinned already, differently: its data has changed since.
        """
        history = self.ledger.history()
        self._guard(history)
        for entry in history.entries:
            if isinstance(entry.body, Stage) and entry.body.stage == stage.stage:
                check_stage(entry.body, stage)
                return entry
        return self._append(stage)

    def metrics(self, first_step: int, last_step: int, tokens: int, data: bytes) -> Entry:
        """Write a Parquet segment with the records of steps `first_step` to `last_step` and commit it."""
        digest = sha256_digest(data)
        draft = Metrics(
            attempt=self.attempt,
            step=last_step,
            tokens=tokens,
            first_step=first_step,
            key=metrics_key(self.attempt, first_step, last_step, digest),
            bytes=len(data),
            digests=MetricsDigests(segment=digest, environment=self._environment_digest),
        )
        self.check_fenced()
        self.ledger.storage.put(draft.key, data)
        return self._append(draft)

    def checkpoint(
        self,
        manifest: CheckpointManifest,
        *,
        labels: Sequence[str] = (),
        published: bool = True,
    ) -> Entry:
        """Commit a checkpoint whose files, `manifest.json` included, are all in the store.

        What led to it (the checkpoint before, the rows and the metrics segments since) is taken from the
        chain, so commit the metrics up to its step and the stages it lies in first.
        """
        identity = {"manifest": sha256_digest(manifest.encode()), "labels": list(labels), "published": published}

        def build(history: History) -> EntryDraft:
            return build_checkpoint(
                history,
                manifest,
                labels=tuple(labels),
                published=published,
                environment=self._environment_digest,
            )

        return self._append_built(build, {"kind": "checkpoint"} | identity)

    def fallback(self, refused: Sequence[CheckpointEntry], to: CheckpointEntry | None, reason: str) -> Entry:
        """Record that checkpoints did not verify and that training goes on from an older one (None: step 0)."""
        draft = Fallback(
            attempt=self.attempt,
            step=to.body.step if to else 0,
            tokens=to.body.tokens if to else 0,
            refused=tuple(checkpoint.name for checkpoint in refused),
            checkpoint=to.name if to else None,
            reason=reason,
        )
        return self._append(draft)

    def rewind(self, from_step: int, to: CheckpointEntry | None, reason: str) -> Entry:
        """Record that training goes back from step `from_step` to a checkpoint (None: step 0)."""
        draft = Rewind(
            attempt=self.attempt,
            step=to.body.step if to else 0,
            tokens=to.body.tokens if to else 0,
            from_step=from_step,
            checkpoint=to.name if to else None,
            reason=reason,
        )
        return self._append(draft)

    def skip(self, step: int, tokens: int, stage: int, steps: Sequence[int], reason: str) -> Entry:
        """Record steps of a stage (counted inside it, from 0) whose rows are passed over without an update.

        Args:
            step: Finished optimizer steps when this was decided.
            tokens: Predictions up to there.
            stage: The stage's index.
            steps: Inside the stage.
            reason: One sentence.
        """
        draft = Skip(attempt=self.attempt, step=step, tokens=tokens, stage=stage, steps=tuple(steps), reason=reason)
        return self._append(draft)

    def prune(self, checkpoint: CheckpointEntry, parts: Sequence[Literal["model", "state"]], reason: str) -> Entry:
        """Record that parts of a checkpoint may be gone from here on; remove the files only afterwards."""
        draft = Prune(
            attempt=self.attempt,
            step=checkpoint.step,
            checkpoint=checkpoint.name,
            parts=tuple(parts),
            reason=reason,
        )
        return self._append(draft)

    def complete(self) -> Entry:
        """Record that all steps are done; the last checkpoint of the branch is the run's outcome."""

        def build(history: History) -> EntryDraft:
            last = history.latest_checkpoint
            assert last is not None, "a run ends with a checkpoint"
            return Complete(
                attempt=self.attempt,
                step=last.body.step,
                tokens=last.body.tokens,
                checkpoint=last.name,
                digests=CompleteDigests(
                    config=history.config_digest,
                    model=last.body.digests.model,
                    state=last.body.digests.state,
                ),
            )

        return self._append_built(build, {"kind": "complete"})

    # -- how -----------------------------------------------------------------------------------------------

    def _append(self, draft: EntryDraft) -> Entry:
        """Append a draft that does not depend on what the chain says."""
        return self._append_built(lambda _: draft, draft.model_dump(mode="json"))

    def _append_built(self, build: Callable[[History], EntryDraft], identity: Mapping[str, Any]) -> Entry:
        """Append once per attempt: the uid follows from the claim's and from `identity`, what the entry says."""
        uid = digest_of({"claim": self._uid, "attempt": self.attempt, "entry": dict(identity)})[-32:]
        return self.ledger.append(build, self._guard, uid=uid)

    def _guard(self, history: History) -> None:
        newest = history.attempt
        if newest > self.attempt:
            raise FencedError(
                f"attempt {newest} has claimed the run at {self.ledger.storage.uri};"
                f" this is attempt {self.attempt}, which stops here and writes nothing more"
            )


def check_stage(pinned: Stage, given: Stage) -> None:
    """Check that a stage still has the data and order that it was started with.

    Raises:
        InputError: names what differs.
    """
    ignored = {"attempt", "data"}  # a copy of the same data at another place is the same data
    before, now = pinned.model_dump(exclude=ignored), given.model_dump(exclude=ignored)
    for field, value in before.items():
        if now[field] != value:
            raise InputError(
                f"the data of stage {given.stage} ('{given.name}') has changed since the run began:"
                f" {field} is {now[field]}, started with {value}. Restore the data, or start a new run elsewhere",
                reason="DataChanged",
            )


def build_checkpoint(
    history: History,
    manifest: CheckpointManifest,
    *,
    labels: tuple[str, ...],
    published: bool,
    environment: str,
) -> Checkpoint:
    """The entry of a checkpoint at this place of the chain."""
    previous = next((known for known in reversed(history.branch) if known.step < manifest.step), None)
    since = previous.step if previous else 0
    assert history.covers(since + 1, manifest.step), f"metrics of steps {since + 1} to {manifest.step} come first"
    stage = history.stage_at(manifest.step - 1) if manifest.step else None
    chunk = None
    if stage is not None and stage.order.is_chunk_end(manifest.step - stage.step):
        chunk = stage.order.chunk_of(manifest.step - stage.step - 1)
    return Checkpoint(
        attempt=manifest.attempt,
        step=manifest.step,
        tokens=manifest.tokens,
        prefix=manifest.prefix,
        labels=labels,
        published=published,
        chunk=chunk,
        stage=stage.stage if stage else None,
        bytes=manifest.total_bytes,
        previous=previous.name if previous else None,
        data=data_between(history.stages, since, manifest.step),
        metrics=tuple(segment.name for segment in history.branch_segments(since + 1, manifest.step)),
        digests=CheckpointDigests(
            config=manifest.config_digest,
            environment=environment,
            manifest=sha256_digest(manifest.encode()),
            model=manifest.model_digest,
            state=manifest.state_digest,
        ),
    )


def data_between(stages: Sequence[Stage], first: int, last: int) -> tuple[DataSpan, ...]:
    """The rows that training reads between `first` and `last` finished steps of the run, stage by stage."""
    spans = []
    for stage in stages:
        start, stop = max(first, stage.step) - stage.step, min(last, stage.last_step) - stage.step
        if start < stop:
            spans.append(
                DataSpan(
                    stage=stage.stage,
                    manifest=stage.digests.manifest,
                    first_step=start,
                    last_step=stop - 1,
                    rows=tuple(tuple(part) for part in stage.order.rows_between(start, stop)),
                )
            )
    return tuple(spans)
