"""`llm360 gc`: remove litter that no ledger entry names."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC, datetime

from llm360.cli.arguments import add_output, add_release
from llm360.errors import InputError
from llm360.release.create import open_release
from llm360.release.gc import DAY_SECONDS, delete_litter, find_litter
from llm360.report.text import counted, short_bytes
from llm360.storage import open_storage

EPILOG = """\
Litter is what an attempt wrote and never committed, and what prunes and crashes left behind. Only that of attempts
older than the newest goes, never anything that the ledger names, and nothing written within the last day.

examples:
  llm360 gc runs/amber-tiny                         list what would go; nothing is removed
  llm360 gc runs/amber-tiny --delete                remove it
  llm360 gc s3://bucket/run --older-than 7d         only what is older than a week
"""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_SECONDS}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser, writes=True)
    parser.add_argument("--delete", action="store_true", help="remove the litter (default: only list it)")
    parser.add_argument("--older-than", metavar="AGE", default="1d", help="such as 90m, 36h, 7d (default: 1d)")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the litter, and remove it where asked to."""
    age = parse_age(args.older_than)
    storage = open_storage(args.uri)
    litter = find_litter(storage, open_release(storage).history(), older_than=age)
    if args.delete:
        delete_litter(storage, litter)
    size = sum(item.info.size for item in litter)
    if args.output == "json":
        facts = {
            "deleted": args.delete,
            "bytes": size,
            "litter": [{"key": item.info.key, "bytes": item.info.size, "why": item.why} for item in litter],
        }
        print(json.dumps(facts, indent=2))
        return 0
    for item in litter:
        written = datetime.fromtimestamp(item.info.modified, UTC).strftime("%Y-%m-%d %H:%M")
        print(f"{written}  {short_bytes(item.info.size):>10}  {item.info.key}  ({item.why})")
    done = "removed" if args.delete else "would be removed; run again with --delete to do it"
    print(f"{counted(len(litter), 'object')}, {short_bytes(size)} {done}" if litter else "no litter")
    return 0


def parse_age(text: str) -> float:
    """Seconds of `90m`, `36h`, `7d`.

    Raises:
        InputError: it is not of that form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise InputError(f"--older-than is '{text}'; write a number and one of s, m, h, d, such as 36h")
    return float(match[1]) * UNITS[match[2]]
