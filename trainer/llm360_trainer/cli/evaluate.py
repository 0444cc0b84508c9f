"""`llm360 eval`: scores of checkpoints by lm-evaluation-harness, and mirrors of the tasks' data."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm360.cli.arguments import add_output
from llm360.cli.preflight import MAX_BYTES
from llm360.errors import InputError, LLM360Error, StorageError
from llm360.storage import local, open_storage
from llm360_trainer.exchange.outputs import open_writable, open_writable_release

if TYPE_CHECKING:
    from llm360_trainer.evaluate.run import Outcome

TERMINATION_LOG = "LLM360_TERMINATION_LOG"
"""Environment variable that names a file; it takes the answer of a job's pod."""
MAX_BATCH = 65_536
MAX_LATER = 8
"""Checkpoints that an answer names besides its own: of Kubernetes' 4,096 bytes the scores need the most."""

EXAMPLES = """\
Results lie below evals/ of the release, each bound by an entry of its ledger. What is there already, of the same
checkpoint, task, shots, limit, seed and version of the harness, is shown and not computed again.

examples:
  llm360 eval runs/amber-tiny --checkpoint latest --tasks arc_easy:5
  llm360 eval s3://bucket/run --checkpoint all --tasks arc_challenge:25,hellaswag:10,mmlu:5,truthfulqa_mc2:0
  llm360 eval s3://bucket/run --checkpoint ckpt_007,ckpt_143 --tasks mmlu:5 --mirror s3://bucket/eval-data
  llm360 eval mirror --tasks arc_challenge,hellaswag,mmlu --out s3://bucket/eval-data    where there is internet
  llm360 eval s3://bucket/run --checkpoint latest --tasks toxigen,crows_pairs_english --samples

exit codes:
  0 all results are there · 1 a task failed, or a checkpoint does not verify · 2 bad input: nothing was computed
"""

OF_EVALUATION = {
    **dict.fromkeys(("checkpoint", "mirror", "limit", "seed", "device", "dtype", "uid")),
    "batch_size": "auto",
    "samples": False,
}
"""Options that filling a mirror has no use for, with what they are where they are not given."""

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add(
        "uri",
        metavar="URI|mirror",
        help="a run's release: a folder or s3://bucket/prefix; 'mirror' fills a mirror of the tasks' data (a folder of"
        " that name is ./mirror)",
    )
    add("--checkpoint", metavar="K,…|all|latest", help="steps, labels, digests of entries; all: every published one")
    add("--tasks", metavar="NAME[:SHOTS],…", required=True, help="tasks or groups of the harness, in their order")
    add("--mirror", metavar="URI", help="take the tasks' data from there, not from the hub")
    add("--out", metavar="URI", help="of 'mirror': the folder or s3://bucket/prefix that is filled")
    add("--batch-size", metavar="N|auto", default="auto", help="sequences at a time; halved where memory is short")
    add("--limit", metavar="N", type=int, help="only the first N samples of each task, to try it out")
    add("--samples", action="store_true", help="keep every sample with what the model said")
    add("--seed", metavar="S", type=int, help="of all that is drawn (default: the harness's own seeds)")
    add("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the computation (default: as published)")
    add("--uid", metavar="UID", help="stands for this evaluation in keys, as a job's uid (default: drawn)")
    add(
        "--allow-code-execution",
        action="store_true",
        help="let tasks such as humaneval run code that the model writes, in a sandbox without network",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, or fill a mirror."""
    return run_mirror(args) if args.uri == "mirror" else run_evaluation(args)


def run_evaluation(args: argparse.Namespace) -> int:
    """Evaluate checkpoints, and leave the answer, good or bad, where the environment asks for it.

    Raises:
        InputError: nothing can be computed with what was given.
    """
    answer = termination_log()
    try:
        outcomes = _evaluate(args)
    except LLM360Error as error:
        with contextlib.suppress(StorageError):  # what went wrong is said, wherever else it cannot be
            leave_answer(answer, termination_answer(error.reason, error.message, ()))
        raise
    if args.output == "json":
        print(json.dumps({"results": [to_json(outcome) for outcome in outcomes]}, indent=2))
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        message = "; ".join(error.message for error in failed)
        with contextlib.suppress(StorageError):
            leave_answer(answer, termination_answer(failed[0].reason, message, outcomes))
        return max(error.exit_code for error in failed) if all(error.exit_code == 2 for error in failed) else 1
    new = sum(not outcome.was_there for outcome in outcomes)
    if answer is not None:
        said = f"{new} new results, {len(outcomes) - new} were there"
        later = later_checkpoints(args.uri, args.checkpoint)
        leave_answer(answer, termination_answer("Evaluated", said, outcomes, later))
    return 0


def _evaluate(args: argparse.Namespace) -> list[Outcome]:
    """Check the arguments, then evaluate; each result is printed as it comes."""
    if args.checkpoint is None:
        raise InputError("--checkpoint is missing: give a step, a label, 'latest' or 'all'; `llm360 ls` shows them")
    if args.out is not None:
        raise InputError("--out belongs to 'llm360 eval mirror'; results go into the release itself")
    if args.uid is not None and not _UID.fullmatch(args.uid):
        raise InputError(f"--uid '{args.uid}': letters, digits and '-', at most 100")
    for name, least in (("limit", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} is {value}; it must be at least {least}")
    batch_size = _batch_size(args.batch_size)
    storage = open_writable_release(args.uri)
    mirror = open_storage(args.mirror) if args.mirror else None
    quiet()
    # Imported here: the harness and torch take seconds, which a mistyped number should not have to wait for.
    from llm360.release.create import open_release
    from llm360_trainer.evaluate.data import TaskData
    from llm360_trainer.evaluate.run import EvaluationSettings, Evaluator
    from llm360_trainer.evaluate.tasks import parse_tasks
    from llm360_trainer.prepare.progress import ProgressLine
    from llm360_trainer.train.settings import DTYPES

    settings = EvaluationSettings(
        tasks=parse_tasks(args.tasks),
        limit=args.limit,
        seed=args.seed,
        samples=args.samples,
        batch_size=batch_size,
        device=_device(args.device),
        dtype=DTYPES[args.dtype] if args.dtype else None,
        uid=args.uid,
        allow_code=args.allow_code_execution,
    )
    evaluator = Evaluator(open_release(storage), settings, TaskData(mirror=mirror), _say, ProgressLine())
    outcomes = []
    for outcome in evaluator.run(args.checkpoint):
        outcomes.append(outcome)
        if outcome.error:
            print(f"llm360: error: {outcome.error.message}", file=sys.stderr)
        elif args.output == "text":
            print(describe(outcome), flush=True)
    return outcomes


def run_mirror(args: argparse.Namespace) -> int:
    """Fill a mirror.

    Raises:
        InputError: an option is an evaluation's, the mirror cannot be written, there is no such task, or the hub does
            not have its data.
    """
    for name, unset in OF_EVALUATION.items():
        if getattr(args, name) != unset:
            raise InputError(
                f"--{name.replace('_', '-')} belongs to an evaluation; 'llm360 eval mirror' takes --tasks, --out and"
                " --allow-code-execution"
            )
    if args.out is None:
        raise InputError("--out is missing: the folder or s3://bucket/prefix that becomes the mirror")
    mirror = open_writable(args.out)
    quiet()
    from llm360_trainer.evaluate.data import TaskData
    from llm360_trainer.evaluate.run import load_tasks
    from llm360_trainer.evaluate.tasks import parse_tasks

    loaded = load_tasks(parse_tasks(args.tasks), TaskData(fill=mirror), allow_code=args.allow_code_execution)
    names = sorted({str(name) for tasks in loaded.values() for name in tasks.data})
    if args.output == "json":
        print(json.dumps({"mirror": mirror.uri, "data": names}, indent=2))
    else:
        print(f"{mirror.uri} has the data of {args.tasks}: {', '.join(names)}")
    return 0


def describe(outcome: Outcome) -> str:
    """A result as a line of text."""
    assert outcome.entry is not None
    labels = outcome.checkpoint.body.labels
    scores = " · ".join(
        f"{score.metric} {score.value:.4f}" + (f" ± {score.stderr:.4f}" if score.stderr is not None else "")
        for score in outcome.entry.scores or ()
    )
    note = "  (was there)" if outcome.was_there else ""
    return f"{labels[0] if labels else f'step {outcome.checkpoint.step}'}  {outcome.task}  {scores}{note}"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """A result as JSON values."""
    entry = outcome.entry
    return {
        "checkpoint": outcome.checkpoint.name,
        "labels": list(outcome.checkpoint.body.labels),
        "step": outcome.checkpoint.step,
        "task": outcome.task.name,
        "shots": outcome.task.shots,
        "scores": [score.model_dump(mode="json") for score in (entry.scores or ())] if entry else [],
        "prefix": entry.prefix if entry else None,
        "was_there": outcome.was_there,
        "error": outcome.error.message if outcome.error else None,
    }


def later_checkpoints(uri: str, selector: str) -> list[dict[str, Any]]:
    """The next published checkpoints after those selected, {step, entry} each: an operator may have missed them."""
    from llm360.release.create import open_release
    from llm360.release.selection import select_checkpoints

    history = open_release(open_storage(uri)).history()
    last = select_checkpoints(history, selector)[-1].step
    later = [checkpoint for checkpoint in history.branch if checkpoint.body.published and checkpoint.step > last]
    return [{"step": checkpoint.step, "entry": checkpoint.name} for checkpoint in later[:MAX_LATER]]


def termination_answer(
    reason: str, message: str, outcomes: Sequence[Outcome], later: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """What a pod's last word is: JSON {reason, message, scores, later}, cut to what Kubernetes keeps."""
    scores = [
        {"task": outcome.task.name, **score.model_dump(mode="json")}
        for outcome in outcomes
        if outcome.entry
        for score in outcome.entry.scores or ()
    ]
    message = message[:1000]
    rest: dict[str, Any] = {"later": list(later)} if later else {}
    while len(data := json.dumps({"reason": reason, "message": message, "scores": scores} | rest).encode()) > MAX_BYTES:
        if scores:
            scores.pop()
        else:
            message = message[: len(message) // 2]
    return data


def quiet() -> None:
    """Leave the harness's and the hub's bars and notes out: what matters of them is said in sentences."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read when it is imported, whatever its logger is set to
    for name in ("lm_eval", "datasets", "huggingface_hub", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def termination_log() -> Path | None:
    """Where a job's environment wants its last word, if anywhere."""
    path = os.environ.get(TERMINATION_LOG)
    return Path(path) if path else None


def leave_answer(path: Path | None, answer: bytes) -> None:
    """Write a job's last word.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is not None:
        local.write_in_place(path, answer)


def _batch_size(word: str) -> int | None:
    if word == "auto":
        return None
    if not word.isdecimal() or not 1 <= int(word) <= MAX_BATCH:
        raise InputError(f"--batch-size '{word}': a number from 1 to {MAX_BATCH:,}, or auto")
    return int(word)


def _device(word: str | None) -> str:
    import torch

    if word is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not _DEVICE.fullmatch(word):
        raise InputError(f"--device '{word}': cpu, cuda or cuda:N")
    number = int(word.partition(":")[2] or 0)
    if word != "cpu" and number >= torch.cuda.device_count():
        raise InputError(
            f"--device {word}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use"
        )
    return word


def _say(sentence: str) -> None:
    print(f"llm360: {sentence}", file=sys.stderr)
