"""From which checkpoint an attempt goes on, and which ones it passes by because they do not verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import CheckpointManifest
from llm360.release.history import CheckpointEntry
from llm360.release.layout import manifest_key
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
        skip = frozenset(step + stage.first_step for stage in stages for step in history.skipped_steps(stage.index))
        if checkpoint is None:
            return AttemptPlan(writer.attempt, None, skip)
        try:
            manifest = _read_manifest(ledger.storage, checkpoint)
        except (IntegrityError, ObjectNotFoundError) as error:
            refuse(writer, ledger, checkpoint, error.message, say)
            continue
        return AttemptPlan(writer.attempt, Resume(checkpoint.name, checkpoint.body.prefix, manifest), skip)


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


def _read_manifest(storage: Storage, checkpoint: CheckpointEntry) -> CheckpointManifest:
    key = manifest_key(checkpoint.body.prefix)
    data = storage.get(key)
    if (digest := sha256_digest(data)) != checkpoint.body.digests.manifest:
        raise IntegrityError(f"{key} has digest {digest}, but the ledger names {checkpoint.body.digests.manifest}")
    return CheckpointManifest.decode(data, key)
