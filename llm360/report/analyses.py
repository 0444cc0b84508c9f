"""Figures of analyses, as their results declare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from llm360.release.analyses import AnalysisResults, Cell, Figure
from llm360.report.chart import Chart, Line, line_chart
from llm360.report.grid import Grid, grid
from llm360.report.series import Floats, Series

# More lines than these cannot be told apart by seven colours and three kinds of dashes.
MAX_LINES = 14

ALL_SOURCES = "all sources"


def analysis_figures(found: Sequence[AnalysisResults]) -> list[Chart | Grid]:
    """Every figure of the results; settings are told where an analysis was made with several."""
    names = [results.name for results in found]
    figures: list[Chart | Grid] = []
    for results in found:
        is_one_of_several = names.count(results.name) > 1
        suffix = f"-{results.comparable[-6:]}" if is_one_of_several else ""
        told = f" {_settings(results)}." if is_one_of_several else ""
        for declared in results.figures:
            changes = {"key": declared.key + suffix, "caption": (declared.caption + told).strip()}
            drawn = _draw(results, declared.key, declared.model_copy(update=changes))
            figures += [] if drawn is None else [drawn]
    return figures


def _settings(results: AnalysisResults) -> str:
    return "With " + ", ".join(f"{name} {value}" for name, value in sorted(results.settings.items()))


def _draw(results: AnalysisResults, declared_key: str, figure: Figure) -> Chart | Grid | None:
    if figure.kind == "lines":
        return _lines(results, figure)
    if figure.kind == "heatmap":
        return _heatmap(results, figure)
    if figure.kind == "distribution":
        return _distribution(results, figure)
    matrix = results.matrices.get(declared_key)
    if matrix is None or len(matrix.names) < 2:
        return None
    return grid(
        figure.key,
        figure.title,
        matrix.values,
        rows=matrix.names,
        columns=matrix.names,
        caption=figure.caption,
        x_label="checkpoint",
        y_label="checkpoint",
        limits=(0.0, 1.0),
    )


def _lines(results: AnalysisResults, figure: Figure) -> Chart | None:
    """A line for each piece, or for each source of all pieces together."""
    by_source = figure.by == "source"
    cells = [c for c in results.cells if figure.value in c.values and (by_source or c.source is None)]
    cells = list(_pooled(cells, figure)) if by_source else cells
    name_of = _source_name if by_source else _piece_name
    names = sorted({name_of(cell) for cell in cells}, key=lambda name: (name != ALL_SOURCES, name))
    shown = names[:: -(-len(names) // MAX_LINES)] if names else []
    lines = [
        _line_of(name, [cell for cell in cells if name_of(cell) == name], figure, color)
        for color, name in enumerate(shown)
    ]
    notes = [f"{len(shown)} of {len(names)} shown"] if len(shown) < len(names) else []
    return _line_chart(figure, lines, notes) if lines else None


def _line_of(name: str, cells: Sequence[Cell], figure: Figure, color: int) -> Line:
    factor = 100.0 if figure.percent else 1.0
    ordered = sorted(cells, key=lambda cell: _x(cell, figure))
    x = np.array([_x(cell, figure) for cell in ordered])
    y = np.array([factor * cell.values[figure.value] for cell in ordered])
    errors = np.array([factor * cell.values.get(figure.error, np.nan) for cell in ordered])
    return Line(name, Series(x, y), color, error=errors if np.isfinite(errors).any() else None)


def _line_chart(figure: Figure, lines: Sequence[Line], notes: Sequence[str] = ()) -> Chart:
    has_bands = any(line.error is not None for line in lines)
    caption = figure.caption + (" Bands: one standard error to either side." if has_bands else "")
    title = figure.title + (" (%)" if figure.percent else "")
    return line_chart(
        figure.key, title, lines, caption=caption.strip(), x_label=figure.x_label, log=figure.log, notes=notes
    )


def _source_name(cell: Cell) -> str:
    return ALL_SOURCES if cell.source is None else cell.source


def _piece_name(cell: Cell) -> str:
    return cell.piece


def _x(cell: Cell, figure: Figure) -> float:
    return float(cell.tokens) if figure.x == "tokens" else cell.values.get(figure.x, np.nan)


def _pooled(cells: Sequence[Cell], figure: Figure) -> Iterator[Cell]:
    """One cell per checkpoint and source: over several pieces the mean by items, its error that of independent ones."""
    groups: dict[tuple[str, str | None], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.checkpoint, cell.source), []).append(cell)
    for group in groups.values():
        items = np.array([cell.items for cell in group], dtype=np.float64)
        value = float(np.average([cell.values[figure.value] for cell in group], weights=items))
        values = {**group[0].values, figure.value: value}
        errors = [cell.values.get(figure.error) for cell in group] if figure.error else []
        values.pop(figure.error, None)
        if errors and all(error is not None for error in errors):
            spread = sum((error or 0.0) ** 2 * count**2 for error, count in zip(errors, items, strict=True))
            values[figure.error] = float(np.sqrt(spread) / items.sum())
        yield group[0].model_copy(update={"values": values, "items": int(items.sum())})


def overall_lines(runs: Mapping[str, Sequence[AnalysisResults]]) -> list[Chart]:
    """A chart for each value that some analysis draws by source: all sources together, a line per run.

    Args:
        runs: Results by the run's name.
    """
    lines: dict[str, tuple[Figure, list[Line]]] = {}
    for number, (run, found) in enumerate(runs.items()):
        for results in found:
            cells = [cell for cell in results.cells if cell.source is None]
            for figure in results.figures:
                if figure.kind != "lines" or figure.by != "source":
                    continue
                pooled = sorted(_pooled([c for c in cells if figure.value in c.values], figure), key=lambda c: c.tokens)
                key = f"{figure.key}-{results.comparable[-6:]}"
                caption = f"All sources together. {_settings(results)}."
                _, own = lines.setdefault(key, (figure.model_copy(update={"key": key, "caption": caption}), []))
                own.append(_line_of(run, pooled, figure, number))
    return [_line_chart(figure, own) for figure, own in lines.values()]


def _heatmap(results: AnalysisResults, figure: Figure) -> Grid | None:
    """Checkpoints from left to right, pieces from top to bottom."""
    cells = [cell for cell in results.cells if cell.source is None and figure.value in cell.values]
    if not cells:
        return None
    columns = {cell.checkpoint: cell.label for cell in sorted(cells, key=lambda cell: cell.step)}
    rows = sorted({cell.piece for cell in cells})
    known = {(cell.piece, cell.checkpoint): cell.values[figure.value] for cell in cells}
    return grid(
        figure.key,
        figure.title,
        [[known.get((row, column)) for column in columns] for row in rows],
        rows=rows,
        columns=tuple(columns.values()),
        caption=figure.caption,
        x_label="checkpoint",
        y_label="measured on",
        percent=figure.percent,
    )


def _distribution(results: AnalysisResults, figure: Figure) -> Chart | None:
    """A line per checkpoint over all pieces, of at most seven checkpoints from the first to the last."""
    totals: dict[str, Floats] = {}
    labels: dict[str, str] = {}
    for cell in sorted(results.cells, key=lambda cell: cell.step):
        if cell.source is None and cell.counts is not None:
            counts = np.array(cell.counts, dtype=np.float64)
            totals[cell.checkpoint] = totals.get(cell.checkpoint, np.zeros(len(counts))) + counts
            labels[cell.checkpoint] = cell.label
    if not totals:
        return None
    names = list(totals)
    chosen = [names[round(at)] for at in np.unique(np.linspace(0, len(names) - 1, min(7, len(names))).round())]
    lines = [
        Line(
            labels[name], Series(np.arange(len(totals[name]), dtype=float), 100 * totals[name] / totals[name].sum()), n
        )
        for n, name in enumerate(chosen)
    ]
    notes = [f"{len(chosen)} of {len(names)} checkpoints shown"] if len(chosen) < len(names) else []
    title = f"{figure.title} (% of the items)"
    return line_chart(figure.key, title, lines, caption=figure.caption, x_label="matches", zero=True, notes=notes)
