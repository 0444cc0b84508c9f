"""One task of the harness on one model: seeds, shots, samples that crash, and the harness's own results."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate

from llm360.errors import InputError, LLM360Error
from llm360_trainer.evaluate.tasks import TaskRequest

_TOLD = 5  # samples that a message names


@dataclass(frozen=True)
class Seeds:
    """What the draws of an evaluation begin with; the defaults are the harness's own."""

    python: int = DEFAULT_RANDOM_SEED
    numpy: int = DEFAULT_OTHER_SEED
    torch: int = DEFAULT_OTHER_SEED
    fewshot: int = DEFAULT_OTHER_SEED

    @classmethod
    def of(cls, seed: int | None) -> Seeds:
        """The same seed for all; None: the harness's own."""
        return cls() if seed is None else cls(seed, seed, seed, seed)


def set_shots(loaded: Mapping[str, Any], request: TaskRequest) -> None:
    """Give all tasks of a request its number of solved examples.

    Raises:
        InputError: a task holds its number at 0: its prompt has its examples in it.
    """
    for name, task in loaded["tasks"].items():
        own = task.get_config("num_fewshot")
        if request.shots is None:
            task.set_config("num_fewshot", own or 0)
        elif own == 0 and request.shots:
            raise InputError(
                f"--tasks: '{request}' asks for {request.shots} shots, but the harness holds {name} at 0;"
                f" write {request.name}:0"
            )
        else:
            task.set_config("num_fewshot", request.shots)


def run_task(
    model: LM,
    loaded: Mapping[str, Any],
    request: TaskRequest,
    *,
    seeds: Seeds,
    limit: int | None = None,
    samples: bool = False,
    allow_code: bool = False,
) -> dict[str, Any]:
    """The harness's results of a task or group; the same model and seeds give the same.

    Args:
        model: What is evaluated.
        loaded: From `Tasks.load`, its shots set.
        request: What was asked for.
        seeds: Set anew before the task, so that its results do not depend on what ran before.
        limit: Only so many samples of each task.
        samples: Whether to keep each sample with what the model said.
        allow_code: Whether tasks may run code that the model writes.

    Raises:
        LLM360Error: the task crashed, on which samples; those after them were tried too. There is no result then:
            a score of some of the samples is not the task's.
    """
    random.seed(seeds.python)
    np.random.seed(seeds.numpy)  # the harness draws from it
    torch.manual_seed(seeds.torch)
    guards = {name: _Guard(name, task) for name, task in loaded["tasks"].items()}
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(seeds.fewshot)
    try:
        for guard in guards.values():
            guard.put_on()
        results: dict[str, Any] = evaluate(
            model, loaded, limit=limit, log_samples=samples, confirm_run_unsafe_code=allow_code
        )
    except LLM360Error:
        raise
    except Exception as error:
        _refuse_crashed(request, guards.values(), error)
        raise LLM360Error(
            f"task '{request}' failed: {_sentence(error)}; the other tasks go on", reason="TaskFailed"
        ) from error
    finally:
        for guard in guards.values():
            guard.take_off()
    _refuse_crashed(request, guards.values(), None)
    return results


@dataclass
class _Guard:
    """Lets a task go on after a sample that crashes it, and notes which.

    Attributes:
        name: The task's.
        task: Whose methods are guarded.
        crashed: What went wrong, by the sample's number.
        current: The sample that is being scored.
    """

    name: str
    task: Any
    crashed: dict[int, Exception] = field(default_factory=dict)
    current: int = -1

    def put_on(self) -> None:
        """Put guarded methods before the task's own."""
        for method in (self.fewshot_context, self.construct_requests, self.doc_iterator, self.process_results):
            setattr(self.task, method.__name__, method)

    def take_off(self) -> None:
        """Leave the task as it was."""
        for method in (self.fewshot_context, self.construct_requests, self.doc_iterator, self.process_results):
            vars(self.task).pop(method.__name__, None)

    def fewshot_context(self, doc: Any, *args: Any, **kwargs: Any) -> Any:
        """The prompt, or what went wrong when it was made."""
        try:
            return type(self.task).fewshot_context(self.task, doc, *args, **kwargs)
        except Exception as error:
            return _Crash(error)

    def construct_requests(self, doc: Any, ctx: Any, **kwargs: Any) -> Any:
        """The sample's requests; none of one that crashed."""
        _, number, _ = kwargs["metadata"]
        try:
            if isinstance(ctx, _Crash):
                raise ctx.error
            return type(self.task).construct_requests(self.task, doc, ctx, **kwargs)
        except Exception as error:
            self.crashed[number] = error
            return []

    def doc_iterator(self, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """The samples with their numbers, without those that crashed."""
        for number, doc in type(self.task).doc_iterator(self.task, **kwargs):
            if number not in self.crashed:
                self.current = number
                yield number, doc

    def process_results(self, doc: Any, results: Any) -> Any:
        """The sample's scores; none of one that crashes."""
        try:
            return type(self.task).process_results(self.task, doc, results)
        except Exception as error:
            self.crashed[self.current] = error
            return {}


@dataclass(frozen=True)
class _Crash:
    error: Exception


def _refuse_crashed(request: TaskRequest, guards: Iterable[_Guard], cause: Exception | None) -> None:
    crashes = [(guard.name, number, error) for guard in guards for number, error in sorted(guard.crashed.items())]
    if crashes:
        told = "; ".join(f"sample {number} of {name} ({_sentence(error)})" for name, number, error in crashes[:_TOLD])
        more = f" and {len(crashes) - _TOLD} more" if len(crashes) > _TOLD else ""
        raise LLM360Error(
            f"task '{request}' crashed on {told}{more}; its other samples went well, but a score of some is not the"
            " task's: nothing of it is recorded",
            reason="TaskFailed",
        ) from (cause or crashes[0][2])


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
