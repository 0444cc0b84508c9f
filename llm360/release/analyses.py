"""What an analysis left in a release: numbers by checkpoint and piece of data, and how they are to be drawn.

    analysis/<name>-<uid>/results.json                       an `AnalysisResults`
    analysis/<name>-<uid>/parts/<checkpoint>/<piece>-<sha12>.parquet   one row per item that was measured

A piece is what a checkpoint was measured on: a sample of a data chunk, a held-out set. The figures are declared, not
drawn: whoever reads the results needs nothing of the program that made them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from llm360.canonical import canonical_json, digest_of, sha256_digest
from llm360.errors import IntegrityError, LLM360Error
from llm360.release.checkpoint import first_problem
from llm360.release.entries import Analysis, Name
from llm360.release.fields import Count, Digest, StrictModel
from llm360.release.history import History
from llm360.storage.base import Storage

RESULTS_NAME = "results.json"
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Figure(StrictModel):
    """How the numbers of one kind are drawn.

    `lines`: a value over `x`, a line for each piece or source. `heatmap`: a value by checkpoint and piece.
    `distribution`: the cells' counts. `correlation`: a matrix of the results, by the figure's key.
    """

    key: Name
    kind: Literal["lines", "heatmap", "distribution", "correlation"]
    title: str = Field(min_length=1, max_length=200)
    caption: str = Field("", max_length=2000)
    value: str = Field("", description="which of the cells' values")
    error: str = Field("", description="the value that is its standard error, drawn as a band")
    x: str = Field("tokens", description="`tokens`, or one of the cells' values")
    x_label: str = Field("tokens", max_length=100)
    by: Literal["piece", "source"] = "piece"
    log: bool = Field(False, description="drawn by its logarithm")
    percent: bool = Field(False, description="the value is a share, drawn in per cent")


class Cell(StrictModel):
    """One checkpoint measured on one piece, or on what one source gave of it."""

    checkpoint: Digest = Field(description="name of the checkpoint's entry")
    label: str
    step: Count
    tokens: Count = Field(description="predictions up to the checkpoint")
    piece: Name
    source: str | None = Field(None, description="none: all sources together")
    items: Count = Field(description="how many were measured")
    values: dict[str, Finite]
    counts: tuple[Count, ...] | None = Field(None, description="a histogram of the items")


class Matrix(StrictModel):
    """A value for every pair."""

    names: tuple[str, ...]
    values: tuple[tuple[Finite | None, ...], ...]


class AnalysisResults(StrictModel):
    """`results.json`."""

    format: Literal["llm360-analysis/1"] = "llm360-analysis/1"
    name: Name
    summary: str
    reads: str
    writes: str
    settings: dict[str, JsonValue] = Field(description="what decides the numbers; those of others are never mixed in")
    cells: tuple[Cell, ...]
    matrices: dict[str, Matrix] = Field(default_factory=dict)
    figures: tuple[Figure, ...] = ()

    @property
    def comparable(self) -> str:
        """Equal where numbers may stand side by side."""
        return digest_of([self.name, self.settings])

    def encode(self) -> bytes:
        """The bytes stored."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True))


def load_results(storage: Storage, body: Analysis) -> AnalysisResults | None:
    """The results of an analysis; None where it left none in this form.

    Raises:
        IntegrityError: its bytes are not those of its entry, or no results.
        StorageError: they cannot be read.
    """
    digest = body.digests.get(RESULTS_NAME)
    if digest is None:
        return None
    key = f"{body.prefix}/{RESULTS_NAME}"
    data = storage.get(key)
    if (found := sha256_digest(data)) != digest:
        raise IntegrityError(f"'{key}' has the digest {found}, but the ledger names {digest}")
    try:
        return AnalysisResults.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(f"'{key}' is no result of an analysis: {first_problem(error)}") from error


def merged_results(storage: Storage, history: History) -> tuple[list[AnalysisResults], list[str]]:
    """Everything analysed on the run's checkpoints, cells of equal settings together, the newest of each.

    Results of other settings stay apart; of checkpoints that the run went back behind nothing is taken.

    Returns:
        The results in the order in which they were first made, and a sentence for each that could not be read.
    """
    found: dict[str, AnalysisResults] = {}
    problems = []
    for body in history.analyses:
        try:
            results = load_results(storage, body)
        except LLM360Error as error:
            problems.append(f"The analysis '{body.name}' could not be read: {error}")
            continue
        if results is not None:
            earlier = found.get(results.comparable)
            found[results.comparable] = results if earlier is None else _joined(earlier, results)
    valid = {checkpoint.name for checkpoint in history.branch}
    kept = [_only(results, valid) for results in found.values()]
    return [results for results in kept if results.cells], problems


def _joined(earlier: AnalysisResults, later: AnalysisResults) -> AnalysisResults:
    cells: dict[Any, Cell] = {}
    for cell in (*earlier.cells, *later.cells):
        cells[cell.checkpoint, cell.piece, cell.source] = cell
    ordered = sorted(cells.values(), key=lambda cell: (cell.step, cell.piece, cell.source or ""))
    return later.model_copy(update={"cells": tuple(ordered), "matrices": {**earlier.matrices, **later.matrices}})


def _only(results: AnalysisResults, checkpoints: set[str]) -> AnalysisResults:
    return results.model_copy(update={"cells": tuple(c for c in results.cells if c.checkpoint in checkpoints)})
