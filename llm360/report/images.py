"""The report's figures as files for papers and slides: SVG and PNG, on white, by matplotlib.

The same data and colours as on the page; dashes and shades tell apart what a printer has no colours for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm360.report.chart import Chart
from llm360.report.grid import Grid
from llm360.storage.local import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Those of the page's style sheet, on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#444b54")
DASHES: tuple[Any, ...] = ("-", (0, (6, 3)), (0, (2, 3)))
STYLES: dict[str, dict[str, Any]] = {
    "main": {"linewidth": 1.6, "zorder": 4},
    "raw": {"linewidth": 0.6, "alpha": 0.35, "zorder": 2},
    "reference": {"linewidth": 1.3, "linestyle": (0, (7, 4)), "zorder": 3},
    "published": {"linewidth": 1.0, "alpha": 0.75, "zorder": 1},
}
INCHES, DOTS_PER_INCH = (6.4, 3.6), 200


def write_images(figures: Sequence[Chart | Grid], folder: Path) -> list[Path]:
    """Draw each figure that has points as `<key>.svg` and `<key>.png`.

    Args:
        figures: Of the report.
        folder: Made if missing; files of the same names are replaced.

    Returns:
        The files, in the order of the figures.

    Raises:
        StorageError: the folder cannot be written, or its disk is full; no file is left half written.
    """
    return [path for figure in figures for path in _write(figure, folder)]


def _write(figure: Chart | Grid, folder: Path) -> Iterator[Path]:
    import matplotlib as mpl  # here: loading its backends takes a second, which other commands need not wait for
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if isinstance(figure, Chart) and figure.drawn is None:
        return
    # The same data give the same bytes; text stays text, so that it can be searched and edited.
    with mpl.rc_context({"svg.hashsalt": "llm360", "svg.fonttype": "none", "font.size": 9}):
        drawn = Figure(figsize=INCHES, layout="constrained")
        FigureCanvasAgg(drawn)
        axes = drawn.subplots()
        if isinstance(figure, Grid):
            _draw_grid(axes, figure)
        else:
            draw_lines(axes, figure)
        axes.set_title(figure.title, loc="left", fontsize=10)
        for suffix, metadata in (("svg", {"Date": None, "Creator": "llm360"}), ("png", {"Software": "llm360"})):
            path, data = folder / f"{figure.key}.{suffix}", io.BytesIO()
            drawn.savefig(data, format=suffix, dpi=DOTS_PER_INCH, metadata=metadata)
            write_file(path, data.getvalue())
            yield path


def draw_lines(axes: Axes, chart: Chart, *, has_legend: bool = True) -> None:
    """A chart of lines with its ticks and marks, into axes of matplotlib.

    Args:
        axes: Empty.
        chart: One that has points.
        has_legend: Whether the lines are named, where there is more than one.
    """
    drawn = chart.drawn
    assert drawn is not None
    seen: set[tuple[str, int, str]] = set()
    for line in drawn.lines:
        x, y = line.series.finite()
        color = COLORS[line.color % len(COLORS)]
        style: dict[str, Any] = (
            {"linestyle": DASHES[line.color // len(COLORS) % len(DASHES)]} if line.role == "main" else {}
        )
        style |= {"marker": "o", "markersize": 3} if len(x) < 2 else {}
        identity = (line.name, line.color, line.role)
        label = None if identity in seen else line.name
        seen.add(identity)
        axes.plot(x, y, color=color, label=label, **STYLES[line.role], **style)
        if line.band is not None:
            axes.fill_between(*line.band, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log" if drawn.x.log else "linear")
    axes.set_yscale("log" if drawn.y.log else "linear")
    axes.set_xlim(drawn.x.low, drawn.x.high)
    axes.set_ylim(drawn.y.low, drawn.y.high)
    if not drawn.x.log:
        axes.set_xticks([drawn.x.at(tick.position) for tick in chart.x_ticks], [tick.label for tick in chart.x_ticks])
        for mark in chart.marks:
            axes.axvline(drawn.x.at(mark.position), color="#6e7781", linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    axes.set_xlabel(chart.x_label)
    axes.grid(color="#e6e9ed", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend and len(seen) > 1:
        axes.legend(frameon=False, fontsize=7, ncols=2 if len(seen) > 6 else 1)


def _draw_grid(axes: Axes, grid: Grid) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = [[np.nan if cell.opacity is None else cell.opacity for cell in cells] for _, cells in grid.rows]
    white_to_blue = LinearSegmentedColormap.from_list("shade", ["#ffffff", COLORS[0]])
    axes.imshow(shades, cmap=white_to_blue, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    columns = [(index, label) for index, label in enumerate(grid.columns) if label]
    rows = [(index, label) for index, (label, _) in enumerate(grid.rows) if label]
    axes.set_xticks([index for index, _ in columns], [label for _, label in columns])
    axes.set_yticks([index for index, _ in rows], [label for _, label in rows])
    axes.set_xlabel(f"{grid.x_label}    (white: {grid.low}, darkest: {grid.high})")
    axes.set_ylabel(grid.y_label)
    if grid.is_told:
        for row, (_, cells) in enumerate(grid.rows):
            for column, cell in enumerate(cells):
                axes.text(column, row, cell.text, ha="center", va="center", fontsize=8)
