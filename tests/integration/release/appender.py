"""A process that appends to a ledger until it is killed, and says what was acknowledged.

    python appender.py URI analyse NAME     entries of kind analysis
    python appender.py URI train NAME       claims an attempt, then training entries, until it is fenced (exit 3)

Each line on standard output is the name of an acknowledged entry.
"""

from __future__ import annotations

import sys

from llm360.errors import FencedError
from llm360.release.create import create_release
from llm360.release.entries import Analysis
from llm360.release.ledger import Ledger
from llm360.release.writer import TrainingWriter
from llm360.storage import open_storage


def analyse(ledger: Ledger, name: str) -> None:
    for number in range(10_000):
        draft = Analysis(name=f"{name}-{number}", prefix=f"analysis/{name}", digests={"x": "sha256:" + "0" * 64})
        print(ledger.append(lambda _, draft=draft: draft).name, flush=True)


def train(ledger: Ledger, name: str) -> int:
    writer = TrainingWriter(ledger)
    writer.claim(world_size=1, device="cpu", operations={"name": name}, environment={})
    try:
        for number in range(10_000):
            print(writer.skip(0, 0, 0, [number], name).name, flush=True)
    except FencedError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


def main() -> int:
    uri, mode, name = sys.argv[1:]
    ledger = create_release(open_storage(uri), {"run": 1})
    if mode == "train":
        return train(ledger, name)
    analyse(ledger, name)
    return 0


sys.exit(main())
