"""From which checkpoint an attempt goes on, and which ones it passes by because they do not verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import load_checkpoint_manifest
from llm360.release.history import CheckpointEntry, History
from llm360.release.ledger import Ledger
from llm360.release.writer import TrainingWriter
from llm360.storage import Storage
from llm360_trainer.train.plan import AttemptPlan, Resume, StagePlan

Say = Callable[[str], None]


def plan_attempt(writer: TrainingWriter, ledger: Ledger, stages: Sequence[StagePlan], say: Say) -> AttemptPlan:
    """The plan of the attempt that the writer has claimed: from the newest checkpoint whose manifest the ledger names.

    Args:
        writer: Records each checkpoint that is passed by.
        ledger: Of the release.
        stages: All stages of the run.
        say: Told of each checkpoint that is passed by.

    Raises:
        StorageError: the store does not answer.
    """
    while True:
        history = ledger.history()
        checkpoint = history.resume_point().checkpoint
        skip = skipped_steps(history, stages)
        resume = None
        if checkpoint is not None:
            try:
                resume = resume_from(ledger.storage, checkpoint)
            except (IntegrityError, ObjectNotFoundError) as error:
                refuse(writer, ledger, checkpoint, error.message, say)
                continue
        return AttemptPlan(
            writer.attempt, resume, skip, needs_new_attempt=_is_written_again(history, writer.attempt, checkpoint)
        )


def resume_from(storage: Storage, checkpoint: CheckpointEntry) -> Resume:
    """A checkpoint as ranks go on from it, its manifest checked against the ledger.

    Raises:
        IntegrityError: the manifest is not what the ledger names.
        ObjectNotFoundError: it is not there.
    """
    body = checkpoint.body
    return Resume(checkpoint.name, body.prefix, load_checkpoint_manifest(storage, body.prefix, body.digests.manifest))


def skipped_steps(history: History, stages: Sequence[StagePlan]) -> frozenset[int]:
    """Steps of the run (counted from 0) whose rows are passed over without an update."""
    return frozenset(step + stage.first_step for stage in stages for step in history.skipped_steps(stage.index))


def refuse(writer: TrainingWriter, ledger: Ledger, checkpoint: CheckpointEntry, problem: str, say: Say) -> None:
    """Record that training falls back to the checkpoint before one that does not verify.

    Args:
        writer: Records it.
        ledger: Of the release.
        checkpoint: The one that does not verify.
        problem: Why it does not.
        say: Told of it.
    """
    older = [known for known in ledger.history().resume_candidates() if known.step < checkpoint.step]
    to = older[-1] if older else None
    writer.fallback([checkpoint], to, problem[:2000])
    say(f"{problem}; falling back to {f'step {to.step}' if to else 'the beginning'}")


def _is_written_again(history: History, attempt: int, start: CheckpointEntry | None) -> bool:
    """Whether training from `start` (None: the beginning) comes to a checkpoint that the attempt has committed already.

    Its files would be written into the same folder. The ledger may no longer know that they are there: pruning the
    refused checkpoint would delete them, and the same bits would count as the entry that was refused.
    """
    first = 0 if start is None else start.step + 1
    return any(known.body.attempt == attempt and known.step >= first for known in history.all_checkpoints.values())
