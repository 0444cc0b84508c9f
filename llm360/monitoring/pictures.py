"""A dashboard as a picture: Grafana's JSON, the answers to its queries, and the charts of the report.

    JSON ─ panels, places, queries ─▶ ask ─▶ series ─▶ report.chart ─▶ SVG │ PNG

For pages that cannot hold a Grafana, and to see a dashboard without one. The SVG is text of a few dozen kilobytes,
loads nothing and follows the reader's dark mode; a PNG, on white, is for what takes no SVG.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
import numpy as np

from llm360.monitoring.prometheus import Found
from llm360.monitoring.units import say, scale_of
from llm360.report.chart import Chart, Line, Mark, line_chart
from llm360.report.figures import elapsed_ticks
from llm360.report.images import COLORS
from llm360.report.series import Series

COLUMN, UNIT, GAP = 50, 30, 6
"""Pixels of a 24th of the width, of Grafana's unit of height, and between panels."""
WIDTH, HEAD = 24 * COLUMN, 40
"""Pixels of a picture's width, and of its title above the panels."""
POINTS = 200
"""Of a line, at most."""
LETTER = 6.6
"""Pixels of a legend's letter, about."""

LIGHT = COLORS
DARK = ("#56b4e9", "#ff8f4d", "#2fc598", "#e59bc4", "#e6b34a", "#8fa8ff", "#c3cad3")
"""The report's colours of lines (report.css says whose they are), for a light and for a dark page."""

Ask = Callable[[str, float], list[Found]]
"""Asks a query, its variables filled in, with so many seconds between the values."""


@dataclass(frozen=True)
class Window:
    """What time is shown, and of what.

    Args:
        start: Seconds since the Epoch.
        end: Likewise.
        variables: Values of the dashboard's variables by their names; regular expressions where its queries match so.
        scrape_seconds: How often Prometheus scrapes.
    """

    start: float
    end: float
    variables: Mapping[str, str]
    scrape_seconds: float = 15.0

    @property
    def step(self) -> float:
        """Seconds between the values of a line: whole, and not more often than there are new ones."""
        return float(max(1, math.ceil(self.scrape_seconds), math.ceil((self.end - self.start) / POINTS)))

    def fill(self, expr: str) -> str:
        """The expression as Grafana sends it."""
        own = {
            "__rate_interval": f"{max(4 * self.scrape_seconds, self.step + self.scrape_seconds):.0f}s",
            "__range": f"{self.end - self.start:.0f}s",
        }
        return re.sub(r"\$(\w+)", lambda match: (own | dict(self.variables))[match[1]], expr)


class LegendItem(NamedTuple):
    """A line's name below its chart; `x` in pixels from the chart's left."""

    x: float
    name: str
    color: int


@dataclass(frozen=True)
class Picture:
    """A panel in its place, in pixels; without a chart and values there is no data."""

    title: str
    x: int
    y: int
    width: int
    height: int
    chart: Chart | None = None
    legend: tuple[LegendItem, ...] = ()
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Canvas:
    """A dashboard whose queries are answered, its panels in their places.

    Args:
        title: The dashboard's.
        description: Likewise.
        pictures: Its panels.
        rows: Titles between them, each with its place from the top in pixels.
        height: Of all panels, pixels.
        marks: What the vertical lines are; none where there are none.
    """

    title: str
    description: str
    pictures: tuple[Picture, ...]
    rows: tuple[tuple[str, int], ...]
    height: int
    marks: tuple[str, ...]


def lay_out(board: Mapping[str, Any], window: Window, ask: Ask) -> Canvas:
    """The dashboard with the answers to its queries.

    Args:
        board: Grafana's JSON.
        window: What is shown.
        ask: Gives the answers.
    """
    annotations = board["annotations"].get("list", ())
    marks = [mark for each in annotations for mark in _marks(each, window, ask)]
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    return Canvas(
        board["title"],
        board["description"],
        tuple(_picture(panel, window, ask, marks) for panel in panels),
        tuple((row["title"], row["gridPos"]["y"] * UNIT) for row in board["panels"] if row["type"] == "row"),
        max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) * UNIT,
        tuple(each["name"] for each in annotations) if marks else (),
    )


def svg_of(canvas: Canvas) -> str:
    """The dashboard as SVG text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llm360.monitoring"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("board.svg.j2").render(board=canvas, width=WIDTH, light=LIGHT, dark=DARK)


def _picture(panel: Mapping[str, Any], window: Window, ask: Ask, marks: list[Mark]) -> Picture:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    found = [
        (_named(target["legendFormat"], each.labels), each.series)
        for target in panel["targets"]
        for each in ask(window.fill(target["expr"]), window.step)
    ]
    found = [(name, series) for name, series in found if len(series.finite().y)]
    place = panel["gridPos"]
    left, top = place["x"] * COLUMN, place["y"] * UNIT
    picture = Picture(panel["title"], left, top, place["w"] * COLUMN - GAP, place["h"] * UNIT - GAP)
    if not found:
        return picture
    if panel["type"] == "stat":
        room = int(picture.width / len(found) / LETTER)
        values = tuple((_cut(name, room), say(unit, float(series.finite().y[-1]))) for name, series in found)
        return _with(picture, values=values)
    greatest = max(float(np.abs(series.finite().y).max()) for _, series in found)
    scale = scale_of(unit, greatest)
    lines = [
        Line(name, Series(part.x - window.start, part.y * scale.factor), color)
        for color, (name, series) in enumerate(found)
        for part in _unbroken(series, 1.5 * window.step)
    ]
    seconds = window.end - window.start
    chart = line_chart(
        "", panel["title"], lines, caption=panel["description"], marks=marks, x_range=(0.0, seconds),
        x_ticks=elapsed_ticks(seconds), zero=unit != "none" or greatest == 0,
    )  # fmt: skip
    title = f"{panel['title']} ({scale.symbol})" if scale.symbol else panel["title"]
    return _with(picture, title=title, chart=chart, legend=_legend([name for name, _ in found], picture.width - 80))


def _with(picture: Picture, **changes: Any) -> Picture:
    return Picture(**{**vars(picture), **changes})


def _marks(annotation: Mapping[str, Any], window: Window, ask: Ask) -> list[Mark]:
    """A vertical line where an annotation's query begins to be true."""
    step = min(window.step, 30.0)  # a rise is there for a minute
    return [
        Mark(float(part.x[0]) - window.start, "restart", "", annotation["name"])
        for each in ask(window.fill(annotation["target"]["expr"]), step)
        for part in _unbroken(each.series, 1.5 * step)
    ]


def _unbroken(series: Series, gap: float) -> list[Series]:
    """The parts of a series between gaps that are longer: a line must not cross a time without values."""
    x, y = series.finite()
    cuts = np.flatnonzero(np.diff(x) > gap) + 1
    return [Series(*pair) for pair in zip(np.split(x, cuts), np.split(y, cuts), strict=True) if len(pair[0])]


def _named(legend: str, labels: Mapping[str, str]) -> str:
    """A line's name: `{{label}}` is replaced."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def _cut(name: str, letters: int) -> str:
    """A name's end, which tells it from others, where there is no room for all of it."""
    return name if len(name) <= letters else f"…{name[len(name) - letters + 1 :]}"


def _legend(names: list[str], width: float) -> tuple[LegendItem, ...]:
    """As many names as there is room for."""
    items, x = [], 0.0
    for color, name in enumerate(names):
        next_x = x + 24 + LETTER * len(name)
        if next_x > width:
            break
        items.append(LegendItem(x, name, color))
        x = next_x
    return tuple(items)
