"""`llm360 replay`: train the steps that led to a checkpoint anew, and compare the bits."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm360.cli.arguments import add_output, add_overrides, add_release
from llm360.errors import InputError
from llm360.release.create import open_release
from llm360.report.text import counted
from llm360.storage import open_storage
from llm360.storage.open import without_credentials
from llm360_trainer.cli.arguments import add_address, add_log
from llm360_trainer.prepare.signals import exit_code_of
from llm360_trainer.replay.comparison import ComparedCheckpoint, Comparison
from llm360_trainer.replay.segment import BEGINNING, Segment, find_segment

if TYPE_CHECKING:
    from llm360_trainer.driver.messages import Outcome

EXAMPLES = f"""\
examples:
  llm360 replay runs/amber-tiny                                 the last steps before the latest checkpoint
  llm360 replay runs/amber-tiny --checkpoint ckpt_003           from the checkpoint before it
  llm360 replay s3://bucket/run --checkpoint ckpt_003 --steps 10 only the first ten steps' losses
  llm360 replay runs/amber-tiny --checkpoint init               what the seed gives
  llm360 replay https://host/run --checkpoint ckpt_001 --from {BEGINNING}   from the untrained model
  llm360 replay s3://bucket/run --address auto                  on the Ray cluster that this machine belongs to

It loads the optimizer's state of the checkpoint before, reads the recorded rows, and trains as the attempt did that
made the checkpoint, on as many workers. Nothing is written. The same bits are promised where the run was
deterministic, for the same kind of device, number of workers and threads, and the same versions; what differs is said.

exit codes:
  0 the same bits · 1 not the same, or it failed · 2 bad input · 130 interrupted (Ctrl-C) · 143 ended by SIGTERM
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    add_release(parser)
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="LABEL|STEP",
        default="latest",
        help="the one whose last steps are trained anew, as `llm360 ls` shows it (default: %(default)s)",
    )
    add(
        "--from",
        dest="start",
        metavar="LABEL|STEP",
        help=f"where to start, or '{BEGINNING}' for the untrained model (default: the nearest before whose state is"
        " kept)",
    )
    add("--steps", type=int, metavar="N", help="only the first N steps: their losses, not the checkpoint")
    add_overrides(parser)
    add_address(parser)
    add_log(parser)
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, and say whether the bits are the same.

    Raises:
        LLM360Error: see `find_segment` and `replay`; or the address has a password.
    """
    storage = open_storage(args.uri)
    _refuse_password(args.uri)
    history = open_release(storage).history()
    segment = find_segment(storage, history, args.checkpoint, start=args.start, steps=args.steps)
    # Imported here: torch and Ray take seconds, which a mistyped label should not have to wait for.
    from llm360_trainer.replay.launch import ReplayOptions, replay

    options = ReplayOptions(args.address, args.log_format, args.log_interval)
    try:
        comparison = replay(storage, segment, args.overrides, options, say_end=say_end)
    except KeyboardInterrupt as interrupt:
        print("llm360: interrupted before training began; nothing was written, run it again", file=sys.stderr)
        return exit_code_of(interrupt)
    if args.output == "json":
        print(json.dumps(facts(segment, comparison), indent=2))
    else:
        print(describe(segment, comparison))
    return 0 if comparison.is_same else 1


def _refuse_password(uri: str) -> None:
    """See that the workers can read a release at its address: they get it as text, without a password."""
    if (shown := without_credentials(uri)) != uri:
        raise InputError(
            f"{shown} is given with a name and password, but a replay's workers open the release by its address without"
            " them; leave them away if it can be read so, or copy it to a folder or a bucket and replay the copy",
            reason="CredentialsInAddress",
        )


def say_end(outcome: Outcome) -> None:
    """Say how a replay ended that has no result."""
    print(f"llm360: error: {outcome.message}", file=sys.stderr)


def facts(segment: Segment, comparison: Comparison) -> dict[str, Any]:
    """The outcome for programs; an infinite difference is null."""
    largest = comparison.largest_difference
    return {
        "same": comparison.is_same,
        "checkpoint": segment.end.name,
        "attempt": segment.claim.attempt,
        "firstStep": segment.first_step,
        "lastStep": segment.last_step,
        "steps": comparison.num_steps,
        "differentSteps": list(comparison.different),
        "largestDifference": None if largest == float("inf") else largest,
        "checkpoints": [asdict(checkpoint) | {"same": checkpoint.is_same} for checkpoint in comparison.checkpoints],
        "environment": list(comparison.environment),
    }


def describe(segment: Segment, comparison: Comparison) -> str:
    """The outcome for a person."""
    start, end = segment.start_name, segment.end_name
    lines = []
    if comparison.num_steps:
        same = comparison.num_steps - len(comparison.different)
        lines.append(f"losses  {same} of {counted(comparison.num_steps, 'step')} have the recorded bits")
        if comparison.different:
            lines.append(
                f"        the first other one is step {comparison.different[0]}; the largest difference is"
                f" {comparison.largest_difference:.3g}"
            )
    for checkpoint in comparison.checkpoints:
        lines += _describe_digests(checkpoint)
    lines += [f"other   {difference}" for difference in comparison.environment]
    if comparison.is_same:
        lines.append(f"result  the same bits: {end} follows from {start} by the recorded data")
    else:
        why = "what differs is named above" if comparison.environment else "nothing known of the two places differs"
        lines.append(f"result  NOT the same bits from {start} to {end}; {why}")
    return "\n".join(lines)


def _describe_digests(checkpoint: ComparedCheckpoint) -> list[str]:
    """A line for each of a checkpoint's digests."""
    return [
        f"{part:<7} {checkpoint.name}: {recorded}" + ("" if recorded == found else f" recorded, {found} here")
        for part, recorded, found in (
            ("model", checkpoint.recorded.model, checkpoint.found.model),
            ("state", checkpoint.recorded.state, checkpoint.found.state),
        )
    ]
