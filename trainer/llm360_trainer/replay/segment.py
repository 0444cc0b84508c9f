"""Which steps are trained anew, from where, with which settings, and what the release says came of them.

    init ── ckpt_000 ── … ── start ══ step, step, step, … ══▶ checkpoint
                               ╰── its state is loaded        ╰── its digests, and each step's loss, are compared

Everything is read from the chain as it was when the checkpoint was committed: what came later does not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from llm360.canonical import sha256_digest
from llm360.errors import InputError, IntegrityError
from llm360.release.checkpoint import CheckpointManifest, load_checkpoint_manifest
from llm360.release.create import load_config
from llm360.release.entries import Attempt
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import environment_key
from llm360.release.metrics import run_table
from llm360.release.selection import find_checkpoint, name_of, select_checkpoints
from llm360.spec import ResolvedRun
from llm360.spec.identity import identity_changes
from llm360.spec.layers import merge
from llm360.spec.resolution import resolve
from llm360.spec.run import API_VERSION, KIND, RESOLVED
from llm360.storage import Storage

BEGINNING = "start"
"""The word for the untrained model, as the seed or the imported weights give it."""

_ADDRESS = re.compile(r"spec\.(storage|tokenizer|data(\.stages\[\d+\])?|model\.weights)\.uri: ")


@dataclass(frozen=True)
class StepLoss:
    """What a step's record says of its update.

    Attributes:
        loss: Mean over the step's predictions; NaN where its rows were passed over.
        skipped: Whether the weights stayed as they were.
    """

    loss: float
    skipped: bool


@dataclass(frozen=True)
class Segment:
    """Steps of a release that are trained anew.

    Attributes:
        end: The checkpoint that they lead to.
        start: The checkpoint that they start from; None: the untrained model.
        last_step: Finished steps at the end; before `end` where only its first steps are asked for.
        claim: The attempt that made `end`.
        losses: What was recorded, by step (finished steps after it).
        checkpoints: Those committed on the way, `end` included where it is reached.
        environment: What that attempt ran on, as recorded.
    """

    end: CheckpointEntry
    start: CheckpointEntry | None
    last_step: int
    claim: Attempt
    losses: Mapping[int, StepLoss]
    checkpoints: tuple[CheckpointEntry, ...]
    environment: Mapping[str, Any]

    @property
    def first_step(self) -> int:
        """Finished steps at its start."""
        return self.start.step if self.start else 0


def find_segment(
    storage: Storage, history: History, checkpoint: str, *, start: str | None = None, steps: int | None = None
) -> Segment:
    """The segment that a command line means.

    Args:
        storage: Rooted at the release.
        history: Of the release.
        checkpoint: Step, label or entry's digest of the one that it leads to, or `latest`.
        start: Step or label of the one that it starts from, or `start`: the untrained model; None: the nearest before
            whose state is kept.
        steps: Only so many steps; None: all.

    Raises:
        InputError: there is no such segment; says what there is.
        IntegrityError: records are not those that the ledger names.
        StorageError: the release cannot be read.
    """
    found = select_checkpoints(history, checkpoint)
    if len(found) != 1:
        raise InputError(f"'{checkpoint}' means {len(found)} checkpoints; a replay leads to one")
    end = found[0]
    then = History.from_entries(history.entries[: end.seq + 1])
    first = _start(then, history, end, start)
    first_step = first.step if first else 0
    if steps is not None and not 1 <= steps <= end.step - first_step:
        raise InputError(
            f"--steps {steps}: from {name_of(first) if first else 'the untrained model'} to {name_of(end)} there are"
            f" {end.step - first_step}; ask for 1 to so many"
        )
    last_step = end.step if steps is None else first_step + steps
    table = run_table(storage, then, first_step=first_step + 1)
    records = table.filter(pc.field("step") <= last_step).select(["step", "loss", "skipped"]).to_pylist()
    losses = {record["step"]: StepLoss(record["loss"], record["skipped"]) for record in records}
    if list(losses) != list(range(first_step + 1, last_step + 1)):
        raise IntegrityError(
            f"the ledger names records of {len(losses)} of the {last_step - first_step} steps to {name_of(end)};"
            " see `llm360 verify`"
        )
    return Segment(
        end=end,
        start=first,
        last_step=last_step,
        claim=next(claim for claim in then.attempts if claim.attempt == end.body.attempt),
        losses=losses,
        checkpoints=tuple(
            known for known in then.branch if (-1 if first is None else first.step) < known.step <= last_step
        ),
        environment=load_environment(storage, end),
    )


def _start(then: History, now: History, end: CheckpointEntry, wanted: str | None) -> CheckpointEntry | None:
    """The checkpoint from which a segment starts, by the chain as it was then; what was pruned since is gone."""
    if wanted == BEGINNING:
        return None
    kept = [known for known in then.branch if known.step < end.step and "state" not in now.pruned_parts(known.name)]
    if wanted is None:
        return kept[-1] if kept else None
    chosen = find_checkpoint(then, wanted)
    if chosen not in kept:
        why = (
            f"does not lie before {name_of(end)}" if chosen.step >= end.step else "has no state any more: it was pruned"
        )
        names = ", ".join([BEGINNING, *map(name_of, kept)])
        raise InputError(f"--from {wanted}: that checkpoint {why}; a replay to {name_of(end)} can start from {names}")
    return chosen


def load_environment(storage: Storage, checkpoint: CheckpointEntry) -> Mapping[str, Any]:
    """What the attempt that made a checkpoint ran on.

    Raises:
        IntegrityError: it is not what the ledger names.
        StorageError: it cannot be read.
    """
    key = environment_key(checkpoint.body.attempt)
    data = storage.get(key)
    if (digest := sha256_digest(data)) != checkpoint.body.digests.environment:
        raise IntegrityError(f"{key} has digest {digest}, but the ledger names {checkpoint.body.digests.environment}")
    environment: Mapping[str, Any] = json.loads(data)
    return environment


def start_manifest(storage: Storage, segment: Segment) -> CheckpointManifest | None:
    """The manifest of the checkpoint that a segment starts from; None for the untrained model.

    Raises:
        IntegrityError: it is not what the ledger names.
        StorageError: it cannot be read.
    """
    if segment.start is None:
        return None
    body = segment.start.body
    return load_checkpoint_manifest(storage, body.prefix, body.digests.manifest)


def recorded_run(storage: Storage, history: History, claim: Attempt, overrides: Sequence[str] = ()) -> ResolvedRun:
    """The specification with which an attempt ran; `storage.uri` is where its release was written.

    Args:
        storage: Rooted at the release.
        history: Of the release.
        claim: The attempt.
        overrides: Values of `--set`: operations, and addresses at which the same data lies elsewhere.

    Raises:
        InputError: an override would make it another run.
        SpecError: an override is wrong.
        IntegrityError: the configuration is not what the ledger names.
    """
    identity = load_config(storage, history.config_digest)
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "replay", "annotations": {RESOLVED: "true"}},
        "spec": merge(identity, claim.operations),
    }
    recorded, run = resolve(document), resolve(document, overrides, local=True)
    changes = [change for change in identity_changes(recorded.identity(), run.identity()) if not _ADDRESS.match(change)]
    if changes:
        raise InputError(
            f"--set would make this another run: {'; '.join(changes)}. A replay may change how steps are spread over"
            " workers, and where data lies",
            reason="IdentityChanged",
        )
    return run


def moved(run: ResolvedRun, uri: str) -> ResolvedRun:
    """The run with its release at another address, which may be one that can only be read."""
    storage = run.spec.storage.model_copy(update={"uri": uri})
    return run.model_copy(update={"spec": run.spec.model_copy(update={"storage": storage})})
