"""`llm360 analyze`: what each checkpoint remembers, predicts and forgets."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import torch

from llm360.cli.arguments import add_command, add_output, add_release
from llm360.errors import InputError, LLM360Error, StorageError
from llm360.release.create import open_release
from llm360.release.history import CheckpointEntry, History
from llm360.release.selection import select_checkpoints
from llm360.storage import Storage
from llm360_trainer.analyze.analysis import Analysis, Subject, available, load_analysis, telling, telling_place
from llm360_trainer.analyze.work import Finished, Task, analyze
from llm360_trainer.cli.evaluate import later_checkpoints, leave_answer, termination_answer, termination_log
from llm360_trainer.exchange.opened import open_checkpoint
from llm360_trainer.exchange.outputs import open_writable_release
from llm360_trainer.prepare.progress import ProgressLine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXAMPLES = """\
examples:
  llm360 analyze memorization runs/amber-tiny                                   every checkpoint on every chunk
  llm360 analyze memorization runs/amber-tiny --checkpoints ckpt_003,latest --chunks 0,3
  llm360 analyze perplexity runs/mine --source web=web.jsonl.zst                what data prepare --held-out left out
  llm360 analyze forgetting s3://bucket/run --device cuda --batch-size 256 -o json

Results and an entry in the ledger go into the release, the figures into its report (`llm360 report`). Interrupted,
the same command goes on where it stopped. Other packages may bring analyses of their own: docs/how-to/analyze.md.

exit codes:
  0 done, or done before · 1 failed · 2 bad input
"""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for every analysis there is."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(metavar="NAME", required=True)
    broken: list[InputError] = []
    for name, point in available().items():
        try:
            analysis = load_analysis(name)
            if isinstance(point, EntryPoint):
                _try_options(point, analysis)
        except InputError as error:  # of another package: it must not take the others with it
            broken.append(error)
            _add_broken(commands, name, error)
        else:
            _add_analysis(commands, analysis, broken)


def _try_options(point: EntryPoint, analysis: Analysis) -> None:
    """Add another package's analysis to a parser that is thrown away: what fails half-way cannot be taken back."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    with telling(point):
        _add_analysis(commands, analysis, [])
        for each in (parser, *commands.choices.values()):
            each.format_help()


def _add_broken(commands: Commands, name: str, error: InputError) -> None:
    """Have the name say what is wrong with it, whatever else is typed."""
    sub = _add(commands, name, f"(cannot be used: {error.message})", "")
    sub.prefix_chars = ""  # no word is an option
    sub.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    sub.set_defaults(run=partial(_refuse, error))


def _refuse(error: InputError, _: argparse.Namespace) -> int:
    raise error


def _add(commands: Commands, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """Add a sub-command whose summary may have a percent sign, which argparse replaces in help but not above it."""
    sub = add_command(commands, name, summary.replace("%", "%%"), epilog)
    sub.description = (sub.description or "").replace("%%", "%")
    return sub


def _add_analysis(commands: Commands, analysis: Analysis, broken: Sequence[InputError]) -> None:
    epilog = f"reads:  {analysis.reads}\nwrites: {analysis.writes}\n\n{EXAMPLES}"
    sub = _add(commands, analysis.name, analysis.summary, epilog)
    add_release(sub, writes=True)
    sub.add_argument(
        "--checkpoints",
        metavar="LABEL|STEP,…",
        default="all",
        help="which: labels, steps, names of entries, latest, all published (default: all)",
    )
    analysis.configure(sub)
    sub.add_argument("--batch-size", type=int, default=32, metavar="N", help="sequences at a time (default: 32)")
    sub.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the weights (default: float32)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    add_output(sub)
    sub.set_defaults(run=partial(run, analysis, broken))


def run(analysis: Analysis, broken: Sequence[InputError], args: argparse.Namespace) -> int:
    """Analyse, print the results, and leave the answer, good or bad, where a job's environment asks for it.

    Args:
        analysis: Which.
        broken: What is wrong with analyses of other packages.
        args: As they were typed.
    """
    for error in broken:
        print(f"llm360: warning: {error.message}", file=sys.stderr)
    answer = termination_log()
    try:
        with telling_place(analysis):
            done = _analyze(analysis, args)
    except LLM360Error as error:
        with contextlib.suppress(StorageError):  # what went wrong is said, wherever else it cannot be
            leave_answer(answer, termination_answer(error.reason, error.message, ()))
        raise
    print(_json(done) if args.output == "json" else _text(done))
    if answer is not None:
        said = f"{done.measured} new measurements: {done.prefix}"
        later = later_checkpoints(args.uri, args.checkpoints)
        leave_answer(answer, termination_answer("Analysed", said, (), later))
    return 0


def _analyze(analysis: Analysis, args: argparse.Namespace) -> Finished:
    """Check what was given, then do what is left of the analysis."""
    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; it must be at least 1")
    device = _device(args.device)
    storage = open_writable_release(args.uri)
    ledger = open_release(storage)
    history = ledger.history()
    task = Task(
        analysis,
        {**analysis.settings(args), "dtype": args.dtype},
        select_checkpoints(history, args.checkpoints),
        analysis.pieces(storage, history, args),
    )
    opener = _opener(storage, history, args.batch_size, DTYPES[args.dtype], device)
    return analyze(ledger, task, opener, ProgressLine())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"--device {name} cannot be used here ({reason}); give auto or cpu") from error
    return device


def _opener(
    storage: Storage, history: History, batch_size: int, dtype: torch.dtype, device: torch.device
) -> Callable[[CheckpointEntry], Subject]:
    def open_subject(checkpoint: CheckpointEntry) -> Subject:
        opened = open_checkpoint(storage, history, checkpoint, dtype=dtype, device=device)
        return Subject(checkpoint, opened.decoder, batch_size)

    return open_subject


def _json(done: Finished) -> str:
    facts = {"prefix": done.prefix, "entry": done.entry, "measured": done.measured}
    return json.dumps(facts | done.results.model_dump(mode="json", exclude_none=True), indent=2)


def number_text(value: float) -> str:
    """Four digits, but large whole numbers, such as counts of tokens, in full."""
    return f"{value:,.0f}" if abs(value) >= 10_000 and value.is_integer() else f"{value:.4g}"


def _text(done: Finished) -> str:
    """A line for each checkpoint and piece, all sources together."""
    cells = [cell for cell in done.results.cells if cell.source is None]
    names = [name for name in cells[0].values if not name.endswith("_stderr")] if cells else []
    rows = [("checkpoint", "step", "on", "items", *names)]
    for cell in cells:
        errors = {name: cell.values.get(f"{name}_stderr") for name in names}
        shown = [number_text(cell.values[n]) + (f" ±{errors[n]:.2g}" if errors[n] is not None else "") for n in names]
        rows.append((cell.label, f"{cell.step:,}", cell.piece, f"{cell.items:,}", *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    made = f"{done.measured} of them measured now" if done.measured else "all of them measured before"
    return "\n".join([*lines, "", f"{len(cells)} measurements, {made}: {done.prefix}/results.json"])
