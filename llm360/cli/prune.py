"""`llm360 prune`: remove a checkpoint's state or model, recorded in the ledger first."""

from __future__ import annotations

import argparse

from llm360.cli.arguments import add_release
from llm360.release.create import open_release
from llm360.release.prune import PARTS, prune_by_hand
from llm360.release.selection import find_checkpoint
from llm360.storage import open_storage

EPILOG = """\
The ledger's entry comes first, then the files go; the manifest stays, so the digests can still be checked.
What training would go on from is refused until the run is complete.

examples:
  llm360 prune runs/amber-tiny --checkpoint ckpt_003 --state            remove the optimizer's state
  llm360 prune runs/amber-tiny --checkpoint 96 --state --model          remove all of step 96 but its manifest
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser, writes=True)
    parser.add_argument("--checkpoint", metavar="LABEL|STEP", required=True, help="which one, as `llm360 ls` shows it")
    parser.add_argument("--state", action="store_true", help="remove the optimizer's state (the default)")
    parser.add_argument("--model", action="store_true", help="remove the model")
    parser.add_argument("--reason", default="removed by hand", help="kept in the ledger")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Record the removal, then remove."""
    ledger = open_release(open_storage(args.uri))
    checkpoint = find_checkpoint(ledger.history(), args.checkpoint)
    asked = {"model": args.model, "state": args.state or not args.model}
    parts = tuple(part for part in PARTS if asked[part])
    removal = prune_by_hand(ledger, checkpoint, parts, args.reason)
    if removal is None:
        print(f"step {checkpoint.step}: {' and '.join(parts)} had been pruned before")
    else:
        print(f"step {checkpoint.step}: {' and '.join(removal.parts)} pruned")
    return 0
