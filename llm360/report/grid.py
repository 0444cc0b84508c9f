"""Grids of shaded cells: a value for every pair, as a heat map that is read by its shade and by its numbers.

One hue from none to strong: it is told apart with any kind of colour vision, in print and in the dark, for only the
lightness speaks. Where the grid is small enough every cell also says its value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The strongest shade is so opaque that text upon it can still be read, on a light page and on a dark one.
STRONGEST = 0.55

# What fits on a phone: cells that say their value, and labels beside them.
MAX_TOLD_COLUMNS, MAX_TOLD_ROWS = 7, 12
MAX_COLUMN_LABELS, MAX_ROW_LABELS = 4, 12

# A larger matrix is drawn by every n-th row and column: 360 checkpoints against each other would be 130,000 cells.
MAX_SIDE = 60


class Shade(NamedTuple):
    """One cell; opacity 0 to `STRONGEST`, None where there is no value."""

    text: str
    title: str
    opacity: float | None


@dataclass(frozen=True)
class Grid:
    """A heat map, ready to be drawn.

    Args:
        key: Unique on the page.
        title: What is shown, with its unit.
        caption: One sentence that says what the reader sees.
        x_label: What the columns are.
        y_label: What the rows are.
        columns: Their labels; empty where one has no room.
        rows: From the top, each with its label and its cells.
        low: The value without shade.
        high: The value of the strongest shade.
        values: By row and column.
        notes: Sentences below.
    """

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Shade, ...]], ...]
    low: str
    high: str
    values: tuple[tuple[float | None, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def is_told(self) -> bool:
        """Whether every cell says its value."""
        return len(self.columns) <= MAX_TOLD_COLUMNS and len(self.rows) <= MAX_TOLD_ROWS


def grid(
    key: str,
    title: str,
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    limits: tuple[float, float] | None = None,
) -> Grid:
    """Shade a matrix.

    Args:
        key: Unique on the page.
        title: What is shown.
        values: By row and column; None where there is none.
        rows: Labels, from the top.
        columns: Labels.
        caption: One sentence.
        x_label: What the columns are.
        y_label: What the rows are.
        percent: The values are shares.
        limits: Values of no and of the strongest shade; those that there are where not given, from 0 for shares.
    """
    every_row, every_column = -(-len(rows) // MAX_SIDE) or 1, -(-len(columns) // MAX_SIDE) or 1
    notes = []
    if every_row > 1 or every_column > 1:
        notes.append(f"every {every_row}. row and every {every_column}. column of {len(rows)} × {len(columns)} shown")
    rows, columns = rows[::every_row], columns[::every_column]
    values = [row[::every_column] for row in values[::every_row]]
    known = [value for row in values for value in row if value is not None]
    low, high = limits or ((0.0 if percent else min(known, default=0.0)), max(known, default=1.0))

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.2f}"

    def shade(row: str, column: str, value: float | None) -> Shade:
        if value is None:
            return Shade("–", f"{row}, {column}: no value", None)
        share = (value - low) / (high - low) if high > low else 0.0
        said = text(value) + (" %" if percent else "")
        return Shade(text(value), f"{row}, {column}: {said}", STRONGEST * min(1.0, max(0.0, share)))

    return Grid(
        key=key,
        title=title + (" (%)" if percent else ""),
        caption=caption,
        x_label=x_label,
        y_label=y_label,
        columns=thinned(columns, MAX_COLUMN_LABELS),
        rows=tuple(
            (label, tuple(shade(row, column, value) for column, value in zip(columns, cells, strict=True)))
            for label, row, cells in zip(thinned(rows, MAX_ROW_LABELS), rows, values, strict=True)
        ),
        low=text(low),
        high=text(high),
        values=tuple(map(tuple, values)),
        notes=tuple(notes),
    )


def thinned(labels: Sequence[str], at_most: int) -> tuple[str, ...]:
    """Every n-th label, so that at most so many are left; the others empty."""
    every = -(-len(labels) // at_most) or 1
    return tuple(label if index % every == 0 else "" for index, label in enumerate(labels))
