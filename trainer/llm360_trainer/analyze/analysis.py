"""An analysis: what it reads, what it writes, how it is drawn. Anyone's own is one small class.

An installed package offers its own under the entry point group `llm360.analyses`, by the name that is typed.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from llm360.errors import InputError, LLM360Error, nearest
from llm360.release.analyses import Cell, Figure, Matrix
from llm360.release.history import CheckpointEntry, History
from llm360.report.facts import checkpoint_label
from llm360.storage import Storage
from llm360_trainer.analyze.pieces import Piece, chunk_samples
from llm360_trainer.model import Decoder

GROUP = "llm360.analyses"

BUILT_IN = {
    "memorization": "llm360_trainer.analyze.memorization:Memorization",
    "perplexity": "llm360_trainer.analyze.perplexity:Perplexity",
    "forgetting": "llm360_trainer.analyze.forgetting:Forgetting",
}
"""Named here rather than as entry points, so that no installed package can take their place."""


@dataclass(frozen=True)
class Subject:
    """A verified checkpoint, ready to be measured.

    Attributes:
        checkpoint: Its entry.
        decoder: On the device of the analysis, in evaluation mode.
        batch_size: Sequences that may be computed at a time; no result may depend on it.
    """

    checkpoint: CheckpointEntry
    decoder: Decoder
    batch_size: int


@dataclass(frozen=True)
class Measured:
    """A part of the work that is done: one checkpoint measured on one piece."""

    checkpoint: CheckpointEntry
    piece: Piece
    settings: Mapping[str, Any]
    table: pa.Table


class Analysis(ABC):
    """Derive from it, say what it is, and measure; the command does the rest.

    It opens and verifies the checkpoints, shows progress, keeps each measurement in the release, goes on where it was
    interrupted, writes the results with their entry in the ledger, and draws the figures in the report.
    """

    name: ClassVar[str]
    """As it is typed, and as it stands in the ledger."""
    summary: ClassVar[str]
    """One line of help."""
    reads: ClassVar[str]
    """What is measured, in a sentence."""
    writes: ClassVar[str]
    """What a row of the measurements says, in a sentence."""
    figures: ClassVar[tuple[Figure, ...]] = ()
    """How the results are drawn."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that it has besides those of the command."""
        parser.add_argument(
            "--chunks", metavar="N,…", default="all", help="data chunks, by index or stage:index (default: all)"
        )
        parser.add_argument(
            "--sequences", type=int, metavar="N", default=1000, help="rows sampled of each chunk (default: 1000)"
        )
        parser.add_argument("--seed", type=int, metavar="N", default=42, help="of the sample (default: 42)")

    def settings(self, args: argparse.Namespace) -> dict[str, Any]:
        """What decides the numbers besides checkpoint and piece: JSON values. Bad values raise InputError."""
        if args.sequences < 2:
            raise InputError(f"--sequences is {args.sequences}; a sample has at least 2 rows, 1000 is usual")
        return {"sequences": args.sequences, "seed": args.seed}

    def pieces(self, storage: Storage, history: History, args: argparse.Namespace) -> Sequence[Piece]:
        """What each checkpoint is measured on; samples of the data chunks where not overridden."""
        return chunk_samples(storage, history, args.chunks, count=args.sequences, seed=args.seed)

    @abstractmethod
    def measure(self, subject: Subject, piece: Any, settings: Mapping[str, Any]) -> pa.Table:
        """One row per item (a sequence, a document). A column `source` of strings splits the results by source."""

    def cells(self, measured: Measured) -> list[Cell]:
        """The numbers of one measurement: mean and standard error of each column of floats, overall and by source."""
        return cells_by_source(measured, means)

    def matrices(self, parts: Sequence[Measured]) -> dict[str, Matrix]:  # noqa: ARG002
        """What compares checkpoints with each other, by the key of the figure that draws it."""
        return {}


def means(table: pa.Table) -> dict[str, float]:
    """Mean of each column of floats, and its standard error: the sample's deviation by √n, as the harness has it."""
    values = {}
    for name in table.column_names:
        if not pa.types.is_floating(table.schema.field(name).type):
            continue
        column = np.asarray(table[name].to_numpy(), dtype=np.float64)
        values[name] = float(column.mean())
        if len(column) > 1:
            values[f"{name}_stderr"] = float(column.std(ddof=1) / math.sqrt(len(column)))
    return values


def cells_by_source(measured: Measured, values: Any, counts: Any = None) -> list[Cell]:
    """A cell of the whole table, and one of each of its sources if it names any.

    Args:
        measured: Not empty.
        values: From a table to its numbers.
        counts: From a table to its histogram, if it has one.
    """
    tables: dict[str | None, pa.Table] = {None: measured.table}
    if "source" in measured.table.column_names:
        column = np.array(measured.table["source"].to_pylist())
        tables |= {str(source): measured.table.filter(pa.array(column == source)) for source in np.unique(column)}
    body = measured.checkpoint.body
    return [
        Cell(
            checkpoint=measured.checkpoint.name,
            label=checkpoint_label(body),
            step=body.step,
            tokens=body.tokens,
            piece=measured.piece.name,
            source=source,
            items=table.num_rows,
            values=values(table),
            counts=None if counts is None else counts(table),
        )
        for source, table in tables.items()
    ]


def available() -> dict[str, EntryPoint | str]:
    """Every analysis that can be named: those of llm360, then those of other installed packages."""
    others = {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}
    return {**BUILT_IN, **dict(sorted(others.items()))}


def load_analysis(name: str) -> Analysis:
    """The analysis of a name.

    Raises:
        InputError: there is none, or what its entry point names is none.
    """
    known = available()
    if name not in known:
        raise InputError(f"there is no analysis '{name}'{nearest(name, list(known))}; there are {', '.join(known)}")
    point = known[name]
    return _load_own(point) if isinstance(point, EntryPoint) else _import(point)()


def _load_own(point: EntryPoint) -> Analysis:
    """The analysis of another package, whatever goes wrong in its code told as one sentence."""
    with telling(point):
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, Analysis)):
            raise InputError(f"the entry point '{point.name}' of {GROUP} is no class derived from {__name__}.Analysis")
        if getattr(found, "name", None) != point.name:
            raise InputError(f"the entry point '{point.name}' of {GROUP} is an analysis that calls itself otherwise")
        return found()


@contextlib.contextmanager
def telling(point: EntryPoint) -> Iterator[None]:
    """Turn what another package's code raises into a sentence, and keep what it prints out of our output.

    Raises:
        InputError: it raised something, or ended the program.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{_named(point)} cannot be loaded: {_said(error)}; install its package again, or remove it"
        ) from error


@contextlib.contextmanager
def telling_place(analysis: Analysis) -> Iterator[None]:
    """Turn what an analysis of another package raises at its work into a sentence with the place in its code.

    What no line of its code had a part in is passed on: that is a fault of ours.

    Raises:
        InputError: its code raised something, or ended the program.
    """
    try:
        yield
    except LLM360Error:
        raise
    except (Exception, SystemExit) as error:
        point = available().get(analysis.name)
        place = _place_in(type(analysis).__module__, error)
        if not isinstance(point, EntryPoint) or place is None:
            raise
        raise InputError(f"{_named(point)} failed: {_said(error)}, at {place}", reason="AnalysisFailed") from error


def _named(point: EntryPoint) -> str:
    package = f" of the package '{point.dist.name}'" if point.dist is not None else ""
    return f"the analysis '{point.name}'{package}"


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")[:300]


def _place_in(module: str, error: BaseException) -> str | None:
    """File and line of the innermost frame in a module's package; None where the error did not come through it."""
    package = module.partition(".")[0]
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    return f"{frames[-1][0].co_filename}:{frames[-1][1]} in {frames[-1][0].co_name}" if frames else None


def _import(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
