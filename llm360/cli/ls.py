"""`llm360 ls`: list a release's checkpoints, attempts and data, as its ledger tells them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from llm360.cli.arguments import add_output, add_release
from llm360.errors import InputError, nearest
from llm360.release.create import open_release
from llm360.release.entries import Stage
from llm360.release.history import CheckpointEntry, History
from llm360.report.text import short_bytes, short_count, short_digest
from llm360.storage import open_storage

EPILOG = """\
examples:
  llm360 ls runs/amber-tiny              checkpoints, attempts and stages
  llm360 ls runs/amber-tiny --all        also checkpoints that a restart or a rewind gave up
  llm360 ls runs/crystal --stage stage2  the checkpoints of one stage, by its name or number
  llm360 ls https://host/run -o json     the same, with whole digests
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    parser.add_argument("--all", action="store_true", help="also checkpoints that are no longer the run's")
    parser.add_argument("--stage", metavar="NAME|NUMBER", help="only checkpoints of this stage (default: of all)")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the ledger and print what it lists."""
    facts = listing(open_release(open_storage(args.uri)).history(), every=args.all, stage=args.stage)
    print(json.dumps(facts, indent=2) if args.output == "json" else describe(facts))
    return 0


def listing(history: History, *, every: bool = False, stage: str | None = None) -> dict[str, Any]:
    """What `ls` shows, as JSON values.

    Args:
        history: What the ledger says.
        every: Also checkpoints that were given up.
        stage: Name or index of the stage whose checkpoints are listed; None lists those of all.

    Raises:
        InputError: there is no such stage.
    """
    known = list(history.all_checkpoints.values()) if every else history.branch
    if stage is not None:
        wanted = find_stage(history, stage)
        known = [checkpoint for checkpoint in known if checkpoint.body.stage == wanted.stage]
    return {
        "config": history.config_digest,
        "headDigest": history.head.name if history.head else None,
        "complete": history.complete is not None,
        "checkpoints": [_checkpoint(history, checkpoint) for checkpoint in known],
        "attempts": [
            {
                "attempt": body.attempt,
                "time": entry.time,
                "fromStep": body.step,
                "worldSize": body.world_size,
                "device": body.device,
            }
            for entry in history.entries
            if (body := entry.body).kind == "attempt"
        ],
        "stages": [
            {
                "stage": stage.stage,
                "name": stage.name,
                "firstStep": stage.step,
                "steps": stage.num_steps,
                "batchRows": stage.batch_rows,
                "chunks": len(stage.chunk_rows),
                "data": stage.data,
                "manifest": stage.digests.manifest,
            }
            for stage in history.stages
        ],
    }


def find_stage(history: History, stage: str) -> Stage:
    """The stage of a name or an index.

    Raises:
        InputError: the ledger has no such stage.
    """
    for pinned in history.stages:
        if stage in (pinned.name, str(pinned.stage)):
            return pinned
    names = [pinned.name for pinned in history.stages]
    raise InputError(
        f"there is no stage '{stage}'{nearest(stage, names)}; stages pinned so far are {', '.join(names) or 'none'}"
    )


def _checkpoint(history: History, checkpoint: CheckpointEntry) -> dict[str, Any]:
    body = checkpoint.body
    first_step = next((pinned.step for pinned in history.stages if pinned.stage == body.stage), 0)
    return {
        "step": body.step,
        "stageStep": body.step - first_step,
        "tokens": body.tokens,
        "labels": list(body.labels),
        "published": body.published,
        "attempt": body.attempt,
        "stage": body.stage,
        "chunk": body.chunk,
        "bytes": body.bytes,
        "modelDigest": body.digests.model,
        "stateDigest": body.digests.state,
        "prefix": body.prefix,
        "entry": checkpoint.name,
        "time": checkpoint.time,
        "pruned": sorted(history.pruned_parts(checkpoint.name)),
        "current": history.is_on_branch(checkpoint.name),
    }


def describe(facts: dict[str, Any]) -> str:
    """The listing as text."""
    checkpoints = [
        (
            f"{item['step']:,}",
            short_count(item["tokens"]),
            ",".join(item["labels"]) or ("-" if item["published"] else "(resume)"),
            _or_dash(item["stage"]),
            f"{item['stageStep']:,}",
            _or_dash(item["chunk"]),
            f"a{item['attempt']:03d}",
            short_bytes(item["bytes"]),
            short_digest(item["modelDigest"]),
            ("without " + "+".join(item["pruned"]) if item["pruned"] else "")
            + ("" if item["current"] else " given up"),
        )
        for item in facts["checkpoints"]
    ]
    attempts = [
        (f"a{item['attempt']:03d}", item["time"], f"{item['fromStep']:,}", f"{item['worldSize']} × {item['device']}")
        for item in facts["attempts"]
    ]
    stages = [
        (str(item["stage"]), item["name"], f"{item['firstStep']:,}", f"{item['steps']:,}", f"{item['batchRows']:,}",
         str(item["chunks"]), short_digest(item["manifest"]), item["data"])
        for item in facts["stages"]
    ]  # fmt: skip
    return "\n\n".join(
        [
            table(
                ("STEP", "TOKENS", "LABELS", "STAGE", "STAGE STEP", "CHUNK", "ATTEMPT", "SIZE", "MODEL DIGEST", ""),
                checkpoints,
            ),
            table(("ATTEMPT", "CLAIMED", "FROM STEP", "WORKERS"), attempts),
            table(("STAGE", "NAME", "FROM STEP", "STEPS", "BATCH ROWS", "CHUNKS", "MANIFEST", "DATA"), stages),
            "complete" if facts["complete"] else "in progress",
        ]
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; a sentence where there are no rows."""
    if not rows:
        return f"no {header[0].lower()}s yet" if header[0] != "STEP" else "no checkpoints yet"
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(line.rstrip() for line in lines)


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
