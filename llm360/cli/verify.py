"""`llm360 verify`: check a release's whole history against its bytes."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time

from llm360.canonical import DIGEST_PATTERN
from llm360.cli.arguments import add_output, add_release
from llm360.errors import InputError
from llm360.release.verify import Progress, verify
from llm360.release.verify_report import TITLES, VerifyReport
from llm360.report.text import short_bytes
from llm360.storage import Storage, open_storage

EPILOG = (
    """\
checks:
"""
    + "".join(f"  {number:2d}  {title}\n" for number, title in TITLES.items())
    + """
examples:
  llm360 verify runs/amber-tiny                          every entry, every checkpoint's every byte
  llm360 verify s3://bucket/run --bytes latest           the whole chain, the bytes of the last checkpoint
  llm360 verify https://host/run --tensors all --data    every claim: each tensor's digest, and the data's shards
  llm360 verify runs/amber-tiny --head sha256:9f2c…      also that this entry is in the chain: nothing was cut off

exit codes:
  0 everything holds · 1 a link is broken (named in the output); or, with an error and no output, the store gave no
  answer: nothing is said of the release, try again · 2 there is no release, it may not be read, or an option is wrong
"""
)

FAULTS_SHOWN = 20
PROGRESS_SECONDS = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is asked of any release, however it is named."""
    parser.add_argument(
        "--bytes",
        choices=("all", "latest", "none"),
        default="all",
        help="read the files of all checkpoints, of the latest only, or of none (default: all)",
    )
    parser.add_argument(
        "--tensors",
        choices=("all", "latest", "none"),
        default="latest",
        help="of the files read, also hash each tensor by itself; costs a second hash of the same bytes"
        " (default: latest)",
    )
    parser.add_argument("--data", action="store_true", help="also check every shard of the training data")
    parser.add_argument("--head", metavar="DIGEST", help="the name of an entry that must be in the chain")
    parser.add_argument("--workers", type=int, metavar="N", help="files under way at a time (default: all cores)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Verify, print the report, and return 0 or 1."""
    return verify_release(open_storage(args.uri), args)


def verify_release(storage: Storage, args: argparse.Namespace) -> int:
    """The same of a release that is open already."""
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}; it must be at least 1")
    if args.head is not None and not re.fullmatch(DIGEST_PATTERN, args.head):
        raise InputError(f"--head is {args.head!r}, which is no digest; write it whole, as sha256:<64 hex digits>")
    line = _ProgressLine() if sys.stderr.isatty() else None
    try:
        report = verify(
            storage,
            bytes=args.bytes,
            tensors=args.tensors,
            data=args.data,
            expected_head=args.head,
            progress=line,
            workers=args.workers,
        )
    finally:
        if line:
            line.clear()
    print(json.dumps(report.to_json(), indent=2) if args.output == "json" else describe(report))
    return 0 if report.ok else 1


def describe(report: VerifyReport) -> str:
    """The report as text."""
    lines = []
    for check in report.checks.values():
        note = f"  ({check.note})" if check.note else ""
        count = f"{check.checked:>8,}" if check.checked else " " * 8
        lines.append(f"{check.number:2d}  {check.status:<7} {count}  {TITLES[check.number]}{note}")
        lines += [f"      {fault.key}: {fault.problem}" for fault in check.faults[:FAULTS_SHOWN]]
        if len(check.faults) > FAULTS_SHOWN:
            lines.append(f"      … and {len(check.faults) - FAULTS_SHOWN} more")
    lines.append("")
    at = f"{report.head} (entry {report.entries - 1}, {report.state})" if report.head else "none: no entry can be read"
    lines.append(f"head    {at}")
    lines.append(f"read    {short_bytes(report.bytes_hashed)} of checkpoints")
    first = report.first_fault
    if first is None:
        lines.append("result  verified: every link that was checked holds")
    else:
        check, fault = first
        lines.append(f"result  BROKEN at check {check.number}: {fault.key}: {fault.problem}")
    return "\n".join(lines)


class _ProgressLine:
    """One line on standard error, rewritten in place."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < PROGRESS_SECONDS:
            return
        self._last = now
        amount = ""
        if progress.total_bytes:
            share = 100 * progress.done_bytes / progress.total_bytes
            amount = f" · {short_bytes(progress.done_bytes)} of {short_bytes(progress.total_bytes)} · {share:.0f}%"
        title = f"check {progress.check} of {len(TITLES)}: {TITLES[progress.check]}"
        print(f"\r\x1b[K{title}{amount}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
