"""What must hold between the entries of a chain: checks 3 to 6 of `verify`, as far as they need no other bytes.

Each check looks at one entry and at the history of all entries before it, and says in one sentence per fault
what is wrong, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator

from llm360.errors import InputError
from llm360.release.entries import (
    Analysis,
    Attempt,
    Checkpoint,
    Complete,
    DataSpan,
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
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import checkpoint_prefix, eval_prefix, metrics_key
from llm360.release.writer import data_between


def check_attempt(before: History, entry: Entry) -> Iterator[str]:
    """Check 3: attempts count up, resume from where the chain says, and only the newest writes."""
    body = entry.body
    if not isinstance(body, TrainingDraft):
        return
    if before.complete is not None:
        yield f"'{entry.kind}' of attempt {body.attempt} follows 'complete'; training ends there"
    if isinstance(body, Attempt):
        if body.attempt != before.attempt + 1:
            yield f"attempt {body.attempt} is claimed; expected {before.attempt + 1}"
        point = before.resume_point()
        found, expected = (body.checkpoint, body.step, body.tokens), (point.name, point.step, point.tokens)
        if found != expected:
            yield f"attempt {body.attempt} resumes from checkpoint, step and tokens {found}; expected {expected}"
    elif body.attempt != before.attempt:
        yield f"'{entry.kind}' of attempt {body.attempt}; the newest claim before it is attempt {before.attempt}"


def check_position(before: History, entry: Entry) -> Iterator[str]:
    """Check 4: steps and tokens fit the stages, and what an entry refers to is there."""
    body = entry.body
    match body:
        case Stage():
            yield from _check_stage(before, body)
        case Checkpoint():
            yield from _check_checkpoint(before, body)
        case Fallback() | Rewind():
            yield from _check_going_back(before, body)
        case Skip():
            yield from _check_skip(before, body)
        case Complete():
            yield from _check_complete(before, body)
        case Eval() | Analysis() | Prune():
            yield from _check_reference(before, body)
    if isinstance(body, TrainingDraft) and not isinstance(body, Attempt | Stage):
        expected = tokens_at(before, body.step)
        if expected is None:
            yield f"'{entry.kind}' is of step {body.step}, which lies in no stage pinned before it"
        elif body.tokens != expected:
            yield f"'{entry.kind}' says {body.tokens} tokens at step {body.step}; the stages give {expected}"


def check_data(before: History, entry: Entry) -> Iterator[str]:
    """Check 5: the rows since the checkpoint before are those of the order's formula, without hole or overlap."""
    body = entry.body
    if not isinstance(body, Checkpoint):
        return
    previous = before.latest_checkpoint
    since = previous.step if previous else 0
    try:
        expected = data_between(before.stages, since, body.step)
    except InputError as error:
        yield f"the rows between step {since} and step {body.step} cannot be told: {error}"
        return
    if body.data == expected:
        return
    for index in range(max(len(body.data), len(expected))):
        found_span = body.data[index] if index < len(body.data) else None
        expected_span = expected[index] if index < len(expected) else None
        if found_span != expected_span:
            yield (
                f"rows read between step {since} and step {body.step}: {_span(found_span)};"
                f" the order gives {_span(expected_span)}"
            )
            return


def check_metrics(before: History, entry: Entry) -> Iterator[str]:
    """Check 6: segments are named for what they hold and cover every step between two checkpoints."""
    body = entry.body
    if isinstance(body, Metrics):
        key = metrics_key(body.attempt, body.first_step, body.step, body.digests.segment)
        if body.key != key:
            yield f"the segment's key is {body.key}; expected {key}"
        if not 1 <= body.first_step <= body.step:
            yield f"the segment's steps are {body.first_step} to {body.step}; the first record of a run is of step 1"
        # A record that a checkpoint is bound to is never made again, unless an entry gave that checkpoint up.
        last = before.last_recorded_step
        if body.first_step != last + 1:
            yield f"the segment begins with step {body.first_step}; the records before it end with step {last}"
    if isinstance(body, Checkpoint):
        first = (before.latest_checkpoint.step if before.latest_checkpoint else 0) + 1
        if not before.covers(first, body.step):
            yield f"not every step from {first} to {body.step} has a metrics record before the checkpoint"
        expected = tuple(segment.name for segment in before.branch_segments(first, body.step))
        if body.metrics != expected:
            yield f"names the metrics entries {list(body.metrics)}; those since the last are {list(expected)}"


def tokens_at(history: History, step: int) -> int | None:
    """Predictions up to a step of the run; None where no stage reaches it."""
    for stage in history.stages:
        if stage.step <= step <= stage.last_step:
            return stage.tokens_after(step)
    return 0 if step == 0 else None


def _check_stage(before: History, body: Stage) -> Iterator[str]:
    last = before.stages[-1] if before.stages else None
    expected = (last.stage + 1, last.last_step, last.tokens_after(last.last_step)) if last else (0, 0, 0)
    found = (body.stage, body.step, body.tokens)
    if found != expected:
        yield f"the stage's index, first step and tokens are {found}; expected {expected}"
    try:
        available = body.order.num_steps
    except InputError as error:
        yield f"stage {body.stage} has no order: {error}"
        return
    if body.num_steps > available:
        yield f"stage {body.stage} says {body.num_steps} steps; its rows fill {available}"


def _check_checkpoint(before: History, body: Checkpoint) -> Iterator[str]:
    previous = before.latest_checkpoint
    name = previous.name if previous else None
    if body.previous != name:
        yield f"the checkpoint before it is said to be {body.previous}; on this branch it is {name}"
    if previous is not None and body.step <= previous.step:
        yield f"step {body.step} does not come after step {previous.step} of the checkpoint before it"
    prefix = checkpoint_prefix(body.step, body.attempt)
    if body.prefix != prefix:
        yield f"its folder is {body.prefix}; step {body.step} of attempt {body.attempt} lies in {prefix}"
    # Made again by the same attempt, it may lie in the folder of one that was found to be damaged.
    other = before.newest_in(body.prefix)
    if other is not None and other.name not in before.refused:
        yield f"its folder {body.prefix} is that of the checkpoint of entry {other.seq}"
    if body.digests.config != before.config_digest:
        yield f"it names the configuration {body.digests.config}; the run's is {before.config_digest}"
    place = _place(before, body.step)
    if (body.stage, body.chunk) != place:
        yield f"it is said to be in stage and chunk {(body.stage, body.chunk)}; expected {place}"
    taken = {label for known in before.branch for label in known.body.labels}
    for label in body.labels:
        if label in taken or body.labels.count(label) > 1:
            yield f"its label '{label}' is that of another checkpoint"


def _place(before: History, step: int) -> tuple[int | None, int | None]:
    """Stage of a checkpoint's last step, and the chunk that ended there."""
    stage = before.stage_at(step - 1) if step else None
    if stage is None:
        return None, None
    inside = step - stage.step
    try:
        order = stage.order
        ends = order.is_chunk_end(inside)
        return stage.stage, order.chunk_of(inside - 1) if ends else None
    except InputError:  # said where the stage is pinned
        return stage.stage, None


def _check_going_back(before: History, body: Fallback | Rewind) -> Iterator[str]:
    target: CheckpointEntry | None = None
    if body.checkpoint is not None:
        target = before.all_checkpoints.get(body.checkpoint)
        if target is None or not before.is_on_branch(body.checkpoint):
            yield f"goes back to {body.checkpoint}, which is no checkpoint of the branch"
            return
    step = target.step if target else 0
    if body.step != step:
        yield f"goes back to step {body.step}; the checkpoint it names is of step {step}"
    if isinstance(body, Fallback):
        for name in body.refused:
            refused = before.all_checkpoints.get(name)
            if refused is None or refused.step < step or name == body.checkpoint:
                yield f"passes over {name}, which is no checkpoint after step {step}"
    elif body.from_step < step:
        yield f"goes back from step {body.from_step} to step {step}, which lies ahead"


def _check_skip(before: History, body: Skip) -> Iterator[str]:
    """Only steps that are still to be made can be left out: those that a checkpoint holds were read."""
    stage = next((stage for stage in before.stages if stage.stage == body.stage), None)
    if stage is None:
        yield f"skips steps of stage {body.stage}, which is not pinned before it"
        return
    held = before.latest_checkpoint.step if before.latest_checkpoint else 0
    for step in body.steps:
        if step >= stage.num_steps:
            yield f"skips step {step} of stage {body.stage}, which has {stage.num_steps} steps"
        elif stage.step + step < held:
            yield f"skips step {step} of stage {body.stage}, which the checkpoint of step {held} holds already"


def _check_reference(before: History, body: Eval | Analysis | Prune) -> Iterator[str]:
    if body.checkpoint is None:
        return
    known = before.all_checkpoints.get(body.checkpoint)
    if known is None:
        yield f"'{body.kind}' names the checkpoint {body.checkpoint}, which no entry before it is"
    elif not isinstance(body, Analysis) and known.step != body.step:
        yield f"'{body.kind}' says step {body.step}; the checkpoint it names is of step {known.step}"
    elif isinstance(body, Eval):
        folder = eval_prefix(body.step, known.name, body.task, "")
        if not body.prefix.startswith(folder):
            yield f"its folder is {body.prefix}; expected {folder}…"


def _check_complete(before: History, body: Complete) -> Iterator[str]:
    last = before.latest_checkpoint
    if last is None or body.checkpoint != last.name:
        yield f"names {body.checkpoint} as the last checkpoint; it is {last.name if last else None}"
        return
    found = (body.step, body.digests.model, body.digests.state, body.digests.config)
    expected = (last.step, last.body.digests.model, last.body.digests.state, before.config_digest)
    if found != expected:
        yield f"says step, model, state and configuration {found}; the last checkpoint has {expected}"
    end = before.stages[-1].last_step if before.stages else 0
    if body.step != end:
        yield f"is complete at step {body.step}; the stages end at step {end}"


def _span(span: DataSpan | None) -> str:
    if span is None:
        return "nothing"
    rows = ", ".join(f"chunk {chunk} rows [{start}, {stop})" for chunk, start, stop in span.rows)
    return f"stage {span.stage} steps {span.first_step} to {span.last_step}: {rows} of {span.manifest}"
