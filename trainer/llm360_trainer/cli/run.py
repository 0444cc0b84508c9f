"""`llm360 run`: train, resume, or say that nothing is left to do."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from typing import TYPE_CHECKING

from llm360.cli.arguments import add_overrides
from llm360.cli.main import missing_package
from llm360.errors import LLM360Error
from llm360.spec import load_run
from llm360_trainer.cli.arguments import add_address, add_log
from llm360_trainer.driver.log_copy import VARIABLE, copied_output
from llm360_trainer.driver.service import DEFAULT_PORT
from llm360_trainer.prepare.signals import exit_code_of

if TYPE_CHECKING:
    from llm360_trainer.driver.messages import Outcome

EXAMPLES = """\
examples:
  llm360 run amber-tiny --store runs/amber-tiny          on this machine, into a folder
  llm360 run amber-tiny --store s3://bucket/amber-tiny   into a bucket (AWS_* environment variables)
  llm360 run amber-run.yaml --address auto               on the Ray cluster that this machine belongs to
  llm360 run amber-tiny --store runs/x --set training.seed=7

The same command again goes on where the run was interrupted, and says so where it is complete.
The last line on standard error is JSON {"reason", "message"} where the run did not end well.
A first Ctrl-C or SIGTERM checkpoints the steps so far (recovery.stopSeconds bounds the time) and stops; a second
one stops at once.

exit codes:
  0 complete · 1 failed · 2 bad input · 3 a newer attempt owns the run · 4 attempts exhausted
  130 interrupted (Ctrl-C) · 143 ended by SIGTERM
"""

LAST_PORT = 65_535
EVERY_INTERFACE = "0.0.0.0"  # noqa: S104  (read-only and without secrets; a NetworkPolicy says who may ask)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("source", metavar="FILE|PRESET", help="an LLM360Run as YAML or JSON, '-' for stdin, or a preset's name")
    add("--store", metavar="URI", help="where the release goes: a folder or s3://bucket/prefix (sets storage.uri)")
    add_overrides(parser)
    add_address(parser)
    add(
        "--host",
        help="address for /status and /metrics (default: this machine alone; with --address every interface, since"
        " the operator and Prometheus ask from other machines)",
    )
    add(
        "--port",
        type=port,
        default=DEFAULT_PORT,
        help="port for /status and /metrics, or a free one where it is taken (default: %(default)s)",
    )
    add(
        "--push",
        type=gateway,
        metavar="URL",
        help="also push metrics to this Prometheus Pushgateway, for machines that no Prometheus can reach",
    )
    add_log(parser)
    parser.set_defaults(run=run)


def port(text: str) -> int:
    """A TCP port; 0 takes any free one."""
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed are 0 (any free one) to {LAST_PORT}")
    return int(text)


def gateway(text: str) -> str:
    """The address of a Pushgateway."""
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL; write it as http://pushgateway:9091")
    return text


def run(args: argparse.Namespace) -> int:
    """Run the command, its lines copied to where the environment asks for it."""
    with copied_output(os.environ.get(VARIABLE)):
        return train(args)


def train(args: argparse.Namespace) -> int:
    """Train; every bad end leaves JSON as the last line on standard error."""
    try:
        resolved = load_run(args.source, args.overrides, store=args.store)
        # Imported here: torch and Ray take seconds, which a mistyped field should not have to wait for.
        from llm360_trainer.driver.launch import LaunchOptions, launch

        host = args.host or (EVERY_INTERFACE if args.address else "127.0.0.1")
        options = LaunchOptions(args.address, host, args.port, args.push, args.log_format, args.log_interval)
        outcome = launch(resolved, options, say_end=end_with)
    except LLM360Error as error:
        return end(error.exit_code, error.reason, error.message)
    except KeyboardInterrupt as interrupt:
        return end(exit_code_of(interrupt), "Interrupted", "interrupted before training began; run it again to go on")
    except Exception as error:
        missing = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None:
            return end(missing.exit_code, missing.reason, f"'run' {missing.message}")
        traceback.print_exc()
        return end(1, "InternalError", f"{type(error).__name__}: {error}; this is a defect of llm360, please report it")
    if outcome.exit_code:
        return end_with(outcome)
    print(outcome.message)
    return 0


def end_with(outcome: Outcome) -> int:
    """Say how the run ended, where it did not end well."""
    return end(outcome.exit_code, outcome.reason, outcome.message)


def end(exit_code: int, reason: str, message: str) -> int:
    """Say how the run ended: a sentence for a person, then one line for a program."""
    print(f"llm360: {message}", file=sys.stderr)
    print(json.dumps({"reason": reason, "message": message}), file=sys.stderr)
    return exit_code
