"""`llm360 preflight`: check a run's store, data and tokenizer before it is given workers."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from llm360.cli.arguments import local_path
from llm360.errors import LLM360Error, StorageError
from llm360.release.preflight import preflight
from llm360.spec import load_run
from llm360.storage import local

MAX_BYTES = 4096
"""What Kubernetes keeps of a termination message."""

EXAMPLES = """\
examples:
  llm360 preflight run.yaml                                      before it is applied, with its credentials (AWS_*)
  llm360 preflight run.yaml --termination-message /dev/termination-log    as the operator's job does it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("source", metavar="FILE|PRESET", help="an LLM360Run as YAML or JSON, or a preset's name")
    parser.add_argument("--store", metavar="URI", help="where the release goes (storage.uri)")
    parser.add_argument(
        "--termination-message",
        type=local_path,
        metavar="FILE",
        help="also write the answer there as JSON {reason, message, prepares}",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, and leave the answer, good or bad, where it is asked for."""
    try:
        prepares = preflight(load_run(args.source, store=args.store))
    except LLM360Error as error:
        with contextlib.suppress(StorageError):  # what is wrong with the run is said, wherever else it cannot be
            leave_answer(args.termination_message, error.reason, error.message, ())
        raise
    message = "the store, the data and the tokenizer can be used"
    if prepares:
        message = f"the store can be used; data is prepared first for: {', '.join(prepares)}"
    leave_answer(args.termination_message, "Passed", message, prepares)
    print(message)
    return 0


def leave_answer(path: Path | None, reason: str, message: str, prepares: tuple[str, ...]) -> None:
    """Write the answer, its message cut where Kubernetes would not keep it whole.

    Raises:
        StorageError: the file cannot be written.
    """
    if path is None:
        return
    answer: dict[str, Any] = {"reason": reason, "message": message, "prepares": list(prepares)}
    while len(data := json.dumps(answer).encode()) > MAX_BYTES:
        answer["message"] = answer["message"][: -(len(data) - MAX_BYTES) - 1] + "…"
    local.write_in_place(path, data)
