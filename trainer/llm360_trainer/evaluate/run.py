"""Evaluations of a release's checkpoints: what is missing is computed, stored, and bound by an entry of the ledger."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import torch

from llm360.canonical import sha256_digest
from llm360.errors import InputError, LLM360Error, ObjectExistsError
from llm360.release.entries import Eval, Score
from llm360.release.entry import new_uid, utc_now
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import eval_prefix
from llm360.release.ledger import Ledger
from llm360.release.scores import RESULTS_NAME, scores_of
from llm360.release.selection import name_of, select_checkpoints
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.data import TaskData
from llm360_trainer.evaluate.harness import Seeds, run_task, set_shots
from llm360_trainer.evaluate.mirror import DataName
from llm360_trainer.evaluate.model import DecoderLM
from llm360_trainer.evaluate.results import EXECUTION_NAME, execution_file, result_files
from llm360_trainer.evaluate.tasks import HARNESS, SANDBOXED_TASKS, TaskRequest, Tasks
from llm360_trainer.exchange.opened import OpenedCheckpoint, open_checkpoint
from llm360_trainer.model import is_out_of_memory
from llm360_trainer.prepare.progress import Progress, silent

FORMAT = "llm360-eval/1"
AUTOMATIC_BATCH = {"cpu": 16, "cuda": 64}
"""Sequences at a time where none are asked for; a device that cannot hold them halves it."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How checkpoints are evaluated.

    Attributes:
        tasks: What is evaluated.
        limit: Only so many samples of each task; None: all.
        seed: Of all that is drawn; None: the harness's own seeds.
        samples: Whether to keep each sample with what the model said.
        batch_size: Sequences of one forward pass; None: `AUTOMATIC_BATCH`.
        device: `cpu`, `cuda`, `cuda:1`.
        dtype: Of the computation; None: as published.
        uid: Stands for this evaluation in keys, as the job's uid; None: drawn.
        allow_code: Whether tasks may run code that the model writes, in a sandbox.
    """

    tasks: tuple[TaskRequest, ...]
    limit: int | None = None
    seed: int | None = None
    samples: bool = False
    batch_size: int | None = None
    device: str = "cpu"
    dtype: torch.dtype | None = None
    uid: str | None = None
    allow_code: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one task on one checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        task: As asked for.
        entry: Its entry in the ledger; None where it failed.
        was_there: Whether the entry was there before.
        error: Why there is none.
    """

    checkpoint: CheckpointEntry
    task: TaskRequest
    entry: Eval | None
    was_there: bool = False
    error: LLM360Error | None = None


@dataclass(frozen=True)
class Loaded:
    """A task with its data.

    Attributes:
        tasks: As the harness's `evaluate` takes them.
        data: The data sets that they took.
    """

    tasks: Mapping[str, Any]
    data: Sequence[DataName]


def load_tasks(requests: Sequence[TaskRequest], data: TaskData, *, allow_code: bool) -> dict[TaskRequest, Loaded]:
    """Tasks with their data; all are known to the harness before the first is loaded.

    Args:
        requests: Names and shots.
        data: Where the data come from.
        allow_code: Whether tasks may run code that the model writes.

    Raises:
        InputError: the harness has no such task, its data is not there, or it runs code although it may not.
        LLM360Error: a task cannot be made of its data.
    """
    if not requests:
        return {}
    tasks = Tasks([request.name for request in requests])
    coding = {request for request in requests if tasks.runs_code(request.name)}
    for request in coding:
        _check_coding(request.name, allow_code)
    loaded = {}
    for request in requests:
        with data.serving() as taken, _sandbox() if request in coding else contextlib.nullcontext():
            try:
                loaded[request] = Loaded(tasks.load(request.name), taken)
            except LLM360Error:
                raise
            except Exception as error:
                raise LLM360Error(
                    f"task '{request}' cannot be made of its data: {type(error).__name__}: {error}", reason="TaskFailed"
                ) from error
    return loaded


def _check_coding(name: str, allow_code: bool) -> None:
    """Refuse a task that runs code, unless it is allowed to and can be shut in."""
    if not allow_code:
        raise InputError(
            f"task '{name}' runs code that the model writes; add --allow-code-execution to run it in a sandbox without"
            " network, or leave the task out",
            reason="CodeExecutionRefused",
        )
    if name not in SANDBOXED_TASKS:
        raise InputError(
            f"task '{name}' runs code that the model writes by ways of its own, which cannot be shut in here; of the"
            f" tasks that do, these can: {', '.join(sorted(SANDBOXED_TASKS))}",
            reason="CodeExecutionRefused",
        )


def _sandbox() -> contextlib.AbstractContextManager[None]:
    # Imported here: the package `evaluate` takes a second that few need.
    from llm360_trainer.evaluate.sandbox import serving

    return serving()


def find_eval(history: History, checkpoint: str, task: TaskRequest, settings: EvaluationSettings) -> Eval | None:
    """The ledger's evaluation by the same harness, task, shots, limit and seed of a checkpoint, if there is one.

    Args:
        history: Of the release.
        checkpoint: Name of the checkpoint's entry.
        task: As asked for.
        settings: As asked for.
    """
    wanted = (checkpoint, task.name, task.shots, HARNESS, settings.limit, settings.seed)
    for known in history.evals:
        if (known.checkpoint, known.task, known.shots, known.harness, known.limit, known.seed) == wanted:
            return known
    return None


@dataclass(frozen=True)
class Evaluator:
    """Evaluates checkpoints of a release; what its ledger has already is not computed again.

    Attributes:
        ledger: Of the release.
        settings: What is evaluated, and how.
        data: Where the tasks' data come from.
        say: Takes a sentence for a person.
        progress: Shown how far a task is.
    """

    ledger: Ledger
    settings: EvaluationSettings
    data: TaskData
    say: Callable[[str], None]
    progress: Progress = silent

    def run(self, selector: str) -> Iterator[Outcome]:
        """Evaluate the checkpoints of a selector (`select_checkpoints`), task by task.

        A checkpoint that does not verify, and a task that fails, is told; the others go on.

        Raises:
            InputError: no such checkpoint or task, or its data is not there. Nothing was computed then.
        """
        history = self.ledger.history()
        checkpoints = select_checkpoints(history, selector)
        there = {
            (known.name, task): find_eval(history, known.name, task, self.settings)
            for known in checkpoints
            for task in self.settings.tasks
        }
        loaded = self._load(
            [task for task in self.settings.tasks if any(there[known.name, task] is None for known in checkpoints)]
        )
        for checkpoint in checkpoints:
            opened: OpenedCheckpoint | LLM360Error | None = None
            for task in self.settings.tasks:
                entry = there[checkpoint.name, task]
                if entry is not None:
                    yield Outcome(checkpoint, task, entry, was_there=True)
                    continue
                opened = opened or self._open(history, checkpoint)
                if isinstance(opened, LLM360Error):
                    yield Outcome(checkpoint, task, None, error=opened)
                    continue
                try:
                    yield self._evaluate(opened, task, loaded[task])
                except LLM360Error as error:
                    yield Outcome(checkpoint, task, None, error=error)

    def _load(self, requests: Sequence[TaskRequest]) -> dict[TaskRequest, Loaded]:
        loaded = load_tasks(requests, self.data, allow_code=self.settings.allow_code)
        for request, tasks in loaded.items():
            set_shots(tasks.tasks, request)
        return loaded

    def _open(self, history: History, checkpoint: CheckpointEntry) -> OpenedCheckpoint | LLM360Error:
        try:
            return open_checkpoint(
                self.ledger.storage, history, checkpoint, dtype=self.settings.dtype, device=self.settings.device
            )
        except LLM360Error as error:
            return error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return LLM360Error(
                f"the weights of {name_of(checkpoint)} do not fit into the memory of {self.settings.device}; take one"
                " with more, or --dtype bfloat16",
                reason="OutOfMemory",
            )

    def _evaluate(self, opened: OpenedCheckpoint, task: TaskRequest, loaded: Loaded) -> Outcome:
        """Run one task, and record its results."""
        settings, weight = self.settings, opened.decoder.embed.weight
        begun, started = utc_now(), time.monotonic()
        counted = _Counted(f"{name_of(opened.entry)} · {task}", self.progress)
        size = settings.batch_size or AUTOMATIC_BATCH.get(weight.device.type, AUTOMATIC_BATCH["cpu"])
        batches = Batches(size, self.say, counted.expect, counted.done)
        seeds = Seeds.of(settings.seed)
        results = run_task(
            DecoderLM(opened, batches),
            loaded.tasks,
            task,
            seeds=seeds,
            limit=settings.limit,
            samples=settings.samples,
            allow_code=settings.allow_code,
        )
        bound_to = {
            "format": FORMAT,
            "harness": HARNESS,
            "task": task.name,
            "shots": task.shots,
            "limit": settings.limit,
            "seeds": asdict(seeds),
            "checkpoint": {
                "entry": opened.entry.name,
                "labels": list(opened.entry.body.labels),
                "step": opened.entry.step,
                "tokens": opened.entry.body.tokens,
                "model_digest": opened.manifest.model_digest,
            },
            "data": self.data.digests(loaded.data),
            "device": weight.device.type,
            "dtype": str(weight.dtype).removeprefix("torch."),
        }
        execution = {
            "begun": begun,
            "seconds": round(time.monotonic() - started, 3),
            "device": _device_name(weight.device),
            "batch_size": batches.size,
        }
        files = result_files(results, bound_to) | {EXECUTION_NAME: execution_file(execution)}
        entry, was_there = self._record(
            opened.entry, task, files, scores_of(json.loads(files[RESULTS_NAME]), task.name)
        )
        return Outcome(opened.entry, task, entry, was_there)

    def _record(
        self, checkpoint: CheckpointEntry, task: TaskRequest, files: Mapping[str, bytes], scores: tuple[Score, ...]
    ) -> tuple[Eval, bool]:
        """Store the files, then append the entry, unless another writer was first; whether one was is returned too."""
        prefix = self._store(checkpoint, task, files)
        draft = Eval(
            step=checkpoint.step,
            checkpoint=checkpoint.name,
            task=task.name,
            shots=task.shots,
            harness=HARNESS,
            limit=self.settings.limit,
            seed=self.settings.seed,
            scores=scores,
            prefix=prefix,
            digests={name: sha256_digest(data) for name, data in files.items()},
        )
        found: list[Eval] = []

        def look(history: History) -> None:
            known = find_eval(history, checkpoint.name, task, self.settings)
            if known is not None:
                found.append(known)
                raise _AlreadyThere

        try:
            self.ledger.append(lambda _: draft, look)
        except _AlreadyThere:
            return found[0], True
        return draft, False

    def _store(self, checkpoint: CheckpointEntry, task: TaskRequest, files: Mapping[str, bytes]) -> str:
        """Write the files into a folder that nobody has written to, not even an earlier try of the same job."""
        uid = self.settings.uid or new_uid()
        for again in count(1):
            prefix = eval_prefix(checkpoint.step, checkpoint.name, task.name, uid if again == 1 else f"{uid}.{again}")
            place = self.ledger.storage.at(prefix)
            try:
                place.create(RESULTS_NAME, files[RESULTS_NAME])
            except ObjectExistsError:
                continue
            for name, data in files.items():
                if name != RESULTS_NAME:
                    place.put(name, data)
            return prefix
        raise AssertionError("numbers do not end")


@dataclass
class _Counted:
    """Turns counts into progress."""

    title: str
    progress: Progress
    total: int = 0
    finished: int = 0

    def expect(self, num_requests: int) -> None:
        self.total += num_requests

    def done(self, num_requests: int) -> None:
        self.finished += num_requests
        self.progress(self.title, self.finished, self.total, "")


class _AlreadyThere(Exception):  # noqa: N818  (not an error: another writer was first)
    pass


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
