"""`llm360 metrics`: the whole record of a run's steps, for other programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from llm360.cli.arguments import add_release, local_path
from llm360.errors import InputError
from llm360.monitoring.replay import write_openmetrics
from llm360.monitoring.tables import write_csv, write_jsonl, write_parquet, write_tensorboard
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.metrics import run_table
from llm360.report.facts import name_of
from llm360.storage import open_storage

FORMATS = ("openmetrics", "parquet", "csv", "jsonl")
TARGETS = ("tensorboard",)

EPILOG = """\
Every record is checked against the ledger before it is written. Each step is given once, as it counts for the run;
--all-attempts gives those that a restart or a rewind took back, too. openmetrics always does: it is what Prometheus
would have seen, with the true times. --to tensorboard replaces what it wrote into the folder before; a TensorBoard
that shows it must be started again.

examples:
  llm360 metrics runs/amber-tiny --format csv > steps.csv
  llm360 metrics s3://bucket/run --format openmetrics > run.om
  promtool tsdb create-blocks-from openmetrics run.om prometheus/
  llm360 metrics https://host/run --format jsonl --from-step 1000 --to-step 1999
  llm360 metrics runs/amber-tiny --to tensorboard logs/amber-tiny
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    parser.add_argument("--format", choices=FORMATS, help="write to standard output in this form")
    parser.add_argument("--to", nargs=2, metavar=("PROGRAM", "DIR"), help="write the files of a program: tensorboard")
    parser.add_argument("--from-step", type=int, metavar="STEP", help="first step (default: 1)")
    parser.add_argument("--to-step", type=int, metavar="STEP", help="last step (default: the last there is)")
    parser.add_argument("--all-attempts", action="store_true", help="also the records that were taken back")
    parser.add_argument("--name", help="the run's name in openmetrics (default: the URI's last part)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the records to standard output, or as the files of another program."""
    check(args)
    storage = open_storage(args.uri)
    history = open_release(storage).history()
    all_attempts = args.all_attempts or args.format == "openmetrics"
    table = run_table(storage, history, first_step=args.from_step or 1, all_attempts=all_attempts)
    if args.to_step is not None:
        table = table.filter(pc.field("step") <= args.to_step)
    if args.to is not None:
        count = write_tensorboard(table, folder_of(args.to))
        print(f"{count} records in {args.to[1]}; look at them with: tensorboard --logdir {args.to[1]}")
    else:
        name = args.name or name_of(storage.uri)
        write(args.format, table, history, name, sys.stdout.buffer)
    return 0


def folder_of(to: Sequence[str]) -> Path:
    """The folder of `--to PROGRAM DIR`.

    Raises:
        InputError: it is the address of a store, or empty.
    """
    try:
        return local_path(to[1])
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--to {to[0]}: {error}") from error


def check(args: argparse.Namespace) -> None:
    """See that the arguments go together.

    Raises:
        InputError: says what to write instead.
    """
    if (args.format is None) == (args.to is None):
        raise InputError(f"say either --format ({', '.join(FORMATS)}) or --to tensorboard DIR, one of the two")
    if args.to is not None and args.to[0] not in TARGETS:
        raise InputError(f"--to {args.to[0]} is not known; allowed is: {', '.join(TARGETS)}")
    if args.to is not None and folder_of(args.to).is_file():
        raise InputError(f"--to tensorboard {args.to[1]} is a file; give a folder")
    first, last = 1 if args.from_step is None else args.from_step, args.to_step
    if first < 1 or (last is not None and last < first):
        raise InputError(f"steps {first} to {last or 'the last'} are none; a run's first step is 1")
    if args.format == "parquet" and sys.stdout.isatty():
        raise InputError("Parquet is not for a terminal's eyes; send it to a file: … --format parquet > steps.parquet")


def write(form: str, table: pa.Table, history: History, name: str, out: BinaryIO) -> None:
    """Write in one of the forms."""
    match form:
        case "openmetrics":
            write_openmetrics(table, history, name, out)
        case "parquet":
            write_parquet(table, out)
        case "csv":
            write_csv(table, out)
        case "jsonl":
            write_jsonl(table, out)
