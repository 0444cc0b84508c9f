"""`llm360 status`: where a run stands, derived from its ledger and metrics."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llm360.cli.arguments import add_output, add_release, add_watch, check_interval, show_again
from llm360.release.create import open_release
from llm360.report.facts import RunFacts, read_facts
from llm360.report.summary import status_text
from llm360.storage import open_storage

if TYPE_CHECKING:
    from llm360.release.ledger import Ledger

EPILOG = """\
A run commits its metrics every five minutes and at every checkpoint; status shows what is committed.
'not progressing' means: not complete, and the training has committed nothing for a quarter of an hour.

examples:
  llm360 status runs/amber-tiny                  where it stands
  llm360 status s3://bucket/amber-tiny -w        again whenever something was committed, until it is complete
  llm360 status https://host/amber-tiny -o json  for programs; most names as in an LLM360Run's status
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    add_output(parser)
    add_watch(parser, "complete")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the facts, once or until the run is complete."""
    check_interval(args)
    ledger = open_release(open_storage(args.uri))
    shown = ""
    while True:
        facts, now = _read(ledger)
        text = _format(facts, now, args.output, compact=args.watch)
        if not args.watch:
            print(text)
            return 0
        # On a terminal the times go on; in a log only what is new in the ledger is worth another line.
        current = text if sys.stdout.isatty() else facts.head_digest + facts.phase
        if current != shown:
            show_again(text, args.output)
            shown = current
        if facts.phase == "complete":
            return 0
        time.sleep(args.interval)


def _read(ledger: Ledger) -> tuple[RunFacts, datetime]:
    now = datetime.now(UTC)
    return read_facts(ledger.storage, ledger.history(), now), now


def _format(facts: RunFacts, now: datetime, output: str, *, compact: bool) -> str:
    if output == "json":
        return json.dumps(facts.to_json(), indent=None if compact else 2)
    return status_text(facts, now)
