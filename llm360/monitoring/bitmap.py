"""A dashboard's panels as PNG, on white, by matplotlib: the report's figures in the dashboard's places."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from llm360.monitoring.pictures import HEAD, WIDTH, Canvas, Picture
from llm360.report.images import COLORS, draw_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 100
"""Of matplotlib's measures; a picture has two pixels for each, so that it is sharp on today's screens."""
POINT = 72 / DOTS_PER_INCH
"""Points of a pixel: matplotlib's text is measured in them."""
LEFT, RIGHT, TOP, BOTTOM = 54, 26, 30, 40
"""Pixels around a chart, within its panel."""


def png_of(canvas: Canvas) -> bytes:
    """The dashboard as PNG, 2,400 pixels wide; the same answers give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: loading it takes a second
    from matplotlib.figure import Figure

    height = canvas.height + HEAD
    figure = Figure(figsize=(WIDTH / DOTS_PER_INCH, height / DOTS_PER_INCH), facecolor="white")
    FigureCanvasAgg(figure)
    page = _Page(figure, height)
    page.write(4, 26, canvas.title, size=18)
    if canvas.marks:
        page.write(WIDTH - 8, 26, f"dashed: {', '.join(canvas.marks)}", align="right")
    for title, y in canvas.rows:
        page.write(4, HEAD + y + 20, title, size=14, weight="bold")
    for picture in canvas.pictures:
        _draw_panel(page, picture, picture.x, picture.y + HEAD)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * DOTS_PER_INCH, metadata={"Software": "llm360"})
    return file.getvalue()


class _Page:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, figure: Figure, height: int) -> None:
        self.figure, self.height = figure, height

    def write(
        self, x: float, y: float, text: str, *, size: float = 11, align: str = "left", weight: str = "normal"
    ) -> None:
        """A line of text whose baseline ends `y` pixels from the top."""
        color = "#1b1f24" if size > 11 else "#57606a"
        place = x / WIDTH, 1 - y / self.height
        # A `$` in a name or a query is no formula.
        self.figure.text(*place, text, fontsize=size * POINT, ha=align, weight=weight, color=color, parse_math=False)

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Matplotlib's (left, bottom, width, height), in parts of the figure."""
        return x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height


def _draw_panel(page: _Page, picture: Picture, x: int, y: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    left, bottom, width, height = page.box(x, y, picture.width, picture.height)
    page.figure.add_artist(
        Rectangle((left, bottom), width, height, facecolor="#f6f7f9", edgecolor="#d0d7de", linewidth=0.7, zorder=-1)
    )
    page.write(x + 8, y + 19, picture.title, size=13)
    if picture.chart is not None:
        chart_width, chart_height = picture.width - LEFT - RIGHT, picture.height - TOP - BOTTOM
        axes = page.figure.add_axes(page.box(x + LEFT, y + TOP, chart_width, chart_height))
        axes.set_facecolor("none")
        draw_lines(axes, picture.chart, has_legend=False)
        axes.set_xlabel("")
        axes.spines[:].set_visible(False)
        ticks = picture.chart.y_ticks
        axes.set_yticks([_value(picture, tick.position) for tick in ticks], [tick.label for tick in ticks])
        axes.tick_params(length=0, labelsize=11 * POINT, labelcolor="#57606a")
        for item in picture.legend:
            color = COLORS[item.color % len(COLORS)]
            start, level = x + LEFT + item.x, 1 - (y + picture.height - 13) / page.height
            page.figure.add_artist(Line2D([start / WIDTH, (start + 12) / WIDTH], [level, level], color=color, lw=1.5))
            page.write(start + 16, y + picture.height - 9, item.name)
    elif not picture.values:
        page.write(x + picture.width / 2, y + picture.height / 2 + 8, "no data", align="center")
    for number, (name, value) in enumerate(picture.values):
        middle = x + (number + 0.5) * picture.width / len(picture.values)
        is_only = len(picture.values) == 1
        page.write(
            middle, y + picture.height / 2 + (20 if is_only else 14), value, size=26 if is_only else 18, align="center"
        )
        if not is_only:
            page.write(middle, y + picture.height / 2 + 34, name, align="center")


def _value(picture: Picture, percent_from_top: float) -> float:
    assert picture.chart is not None
    assert picture.chart.drawn is not None
    return picture.chart.drawn.y.at(100 - percent_from_top)
