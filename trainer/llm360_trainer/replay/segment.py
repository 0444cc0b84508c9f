"""Which steps are trained anew, from where, with which settings, and what the release says came of them.

    init ── ckpt_000 ── … ── start ══ step, step, step, … ══▶ checkpoint
                               ╰── its state is loaded        ╰── its digests, and each step's loss, are compared

Everything is read from the chain as it was when the checkpoint was committed: what came later does not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from llm360.errors import InputError, IntegrityError
from llm360.release.entries import Attempt
from llm360.release.environment import load_environment
from llm360.release.history import CheckpointEntry, History
from llm360.release.metrics import run_table
from llm360.release.recorded import recorded_document
from llm360.release.selection import find_checkpoint, name_of, select_checkpoints
from llm360.spec import ResolvedRun
from llm360.spec.identity import identity_changes
from llm360.spec.resolution import resolve
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
        history: What the chain said when `end` was committed.
    """

    end: CheckpointEntry
    start: CheckpointEntry | None
    last_step: int
    claim: Attempt
    losses: Mapping[int, StepLoss]
    checkpoints: tuple[CheckpointEntry, ...]
    environment: Mapping[str, Any]
    history: History

    @property
    def first_step(self) -> int:
        """Finished steps at its start."""
        return self.start.step if self.start else 0

    @property
    def start_name(self) -> str:
        """Where it starts, for people."""
        return _name_of_start(self.start)

    @property
    def end_name(self) -> str:
        """Where it ends, for people."""
        return name_of(self.end) if self.last_step == self.end.step else f"step {self.last_step}"


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
            f"--steps {steps}: from {_name_of_start(first)} to {name_of(end)} there are"
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
        environment=load_environment(storage, end.body.attempt, end.body.digests.environment),
        history=then,
    )


def _name_of_start(checkpoint: CheckpointEntry | None) -> str:
    return name_of(checkpoint) if checkpoint else "the untrained model"


def _start(then: History, now: History, end: CheckpointEntry, wanted: str | None) -> CheckpointEntry | None:
    """The checkpoint from which a segment starts, by the chain as it was then; what was pruned since is gone."""
    if wanted == BEGINNING:
        return None
    kept = [known for known in then.branch if known.step < end.step and "state" not in now.pruned_parts(known.name)]
    if wanted is None:
        return kept[-1] if kept else None
    chosen = _wanted(then, now, wanted)
    if chosen not in kept:
        why = "has no state any more: it was pruned"
        if chosen.step >= end.step:
            why = f"does not lie before {name_of(end)}"
        elif chosen.seq > end.seq:
            why = f"was made after {name_of(end)}"
        names = ", ".join([BEGINNING, *map(name_of, kept)])
        raise InputError(f"--from {wanted}: that checkpoint {why}; a replay to {name_of(end)} can start from {names}")
    return chosen


def _wanted(then: History, now: History, label_or_step: str) -> CheckpointEntry:
    """The checkpoint that is meant: one that was there then, or else one that came later, which is told so."""
    try:
        return find_checkpoint(then, label_or_step)
    except InputError:
        return find_checkpoint(now, label_or_step)


def replayed_run(storage: Storage, history: History, claim: Attempt, overrides: Sequence[str] = ()) -> ResolvedRun:
    """The specification with which an attempt's steps are trained anew; `storage.uri` is where its release was written.

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
    document = recorded_document(storage, history, claim)
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
