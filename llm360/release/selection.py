"""Which checkpoints a person means: by step, label, or the name of their entry.

select_checkpoints(history, "init,ckpt_003")        a step, a label, an entry's digest, latest, all
"""

from __future__ import annotations

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import InputError
from llm360.release.checkpoint import MODEL_FOLDER
from llm360.release.history import CheckpointEntry, History


def name_of(checkpoint: CheckpointEntry) -> str:
    """A checkpoint's name for people: its first label, or `step 96`."""
    return checkpoint.body.labels[0] if checkpoint.body.labels else f"step {checkpoint.step}"


def select_checkpoints(history: History, selector: str) -> list[CheckpointEntry]:
    """The checkpoints that a command line means, by step.

    Args:
        history: Of the release.
        selector: Words with commas between them: a step (`96`), a label (`ckpt_003`), the name of an entry
            (`sha256:…`, also of a checkpoint that a rewind gave up), `latest`, or `all` published ones. `latest` and
            `all` pass over checkpoints whose model was pruned.

    Raises:
        InputError: one of them is not there; names those that are.
    """
    chosen: dict[str, CheckpointEntry] = {}
    for word in selector.split(","):
        for checkpoint in _meant(history, word.strip()):
            chosen[checkpoint.name] = checkpoint
    return sorted(chosen.values(), key=lambda checkpoint: (checkpoint.step, checkpoint.seq))


def find_checkpoint(history: History, label_or_step: str) -> CheckpointEntry:
    """The run's checkpoint of a label or step.

    Raises:
        InputError: there is none; names those that there are.
    """
    for checkpoint in reversed(history.branch):
        if label_or_step in checkpoint.body.labels or label_or_step == str(checkpoint.step):
            return checkpoint
    names = ", ".join(
        checkpoint.body.labels[0] if checkpoint.body.labels else str(checkpoint.step) for checkpoint in history.branch
    )
    raise InputError(f"there is no checkpoint '{label_or_step}'; there are {names or 'none yet'}")


def _meant(history: History, word: str) -> list[CheckpointEntry]:
    if word.startswith(DIGEST_PREFIX):
        if word not in history.all_checkpoints:
            raise InputError(f"no checkpoint's entry is named '{word}'; `llm360 ls --all -o json` shows the names")
        return [history.all_checkpoints[word]]
    if word not in ("all", "latest"):
        return [find_checkpoint(history, word)]
    kept = [known for known in history.branch if MODEL_FOLDER not in history.pruned_parts(known.name)]
    found = [known for known in kept if known.body.published] if word == "all" else kept[-1:]
    if not found:
        raise InputError("the release has no checkpoint yet that could be opened; `llm360 status` tells how far it is")
    return found
