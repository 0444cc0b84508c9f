"""Line and area charts as SVG geometry that a template draws.

Made by hand rather than with a plotting library because the page must do what their SVG cannot: follow the
reader's dark mode and a phone's width. So the SVG holds lines alone, stretches to any width with strokes that
do not stretch, and takes its colours from the page's style sheet; labels are text of the page, placed in per
cent. Matplotlib's locators choose the ticks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from llm360.report.series import Floats, Mixture, Series, thin
from llm360.report.text import short_count

# The SVG's own units; the page stretches them to the figure's size.
WIDTH, HEIGHT = 1000, 300

# Values beyond the chart are drawn at most this far outside, where they are cut off.
OVERSHOOT = HEIGHT

# Labels of marks that are nearer than this (per cent of the width) to the one before are left out.
MIN_LABEL_DISTANCE = 4.0


class Tick(NamedTuple):
    """A label on an axis; `position` in per cent from the left or from the top."""

    position: float
    label: str


class Mark(NamedTuple):
    """A vertical line at a step: a restart, a rewind, a new stage."""

    x: float
    kind: Literal["restart", "skip", "stage"]
    label: str
    title: str


class PlacedMark(NamedTuple):
    """A mark in per cent from the left; its label is empty where it would lie over another's."""

    position: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Line:
    """A series to draw.

    Args:
        name: Its text in the legend.
        series: Points in ascending x.
        color: Number of the colour in the page's palette; the dash pattern follows it.
        role: `main` is strong, `raw` is faint and lies behind, `reference` is a dashed line to compare with,
            `published` is what others have published, thin and behind.
        error: Standard errors of the points, drawn as a band of one to either side.
    """

    name: str
    series: Series
    color: int = 0
    role: Literal["main", "raw", "reference", "published"] = "main"
    error: Floats | None = None

    @property
    def band(self) -> tuple[Floats, Floats, Floats] | None:
        """x, the low and the high end, where both the value and its error are known."""
        if self.error is None:
            return None
        known = np.isfinite(self.series.y) & np.isfinite(self.error)
        x, y, error = self.series.x[known], self.series.y[known], self.error[known]
        return (x, y - error, y + error) if known.any() else None


class Path(NamedTuple):
    """A drawn line or area."""

    name: str
    d: str
    color: int
    role: str


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn."""

    key: str
    title: str
    caption: str
    x_label: str
    paths: tuple[Path, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[PlacedMark, ...] = ()
    notes: tuple[str, ...] = field(default=())
    drawn: Drawn | None = None


class Axis(NamedTuple):
    """A range of values and whether it is drawn by its logarithm."""

    low: float
    high: float
    log: bool = False

    def place(self, values: Floats) -> Floats:
        """0 at the low end, 1 at the high end."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return np.asarray((np.log10(np.maximum(values, self.low * 1e-3)) - low) / (high - low))
        return (values - self.low) / (self.high - self.low)

    def percent(self, value: float) -> float:
        """0 at the low end, 100 at the high end."""
        return 100 * float(self.place(np.array([value]))[0])

    def at(self, percent: float) -> float:
        """The value so far from the low end of an axis that is not logarithmic."""
        return self.low + (self.high - self.low) * percent / 100

    def ticks(self, max_ticks: int) -> list[float]:
        """Round values inside the range."""
        locator = (
            LogLocator(subs=(1.0, 2.0, 5.0) if self.high < 1000 * self.low else (1.0,), numticks=max_ticks)
            if self.log
            else MaxNLocator(max_ticks, steps=[1, 2, 2.5, 5, 10])
        )
        margin = (self.high - self.low) * 1e-9
        return [
            float(v) for v in locator.tick_values(self.low, self.high) if self.low - margin <= v <= self.high + margin
        ]


@dataclass(frozen=True)
class Drawn:
    """What a chart of lines was made of, for those who draw it otherwise."""

    lines: tuple[Line, ...]
    x: Axis
    y: Axis


def y_axis(lines: Sequence[Line], *, zero: bool = False, log: bool = False) -> tuple[Axis, str | None]:
    """The range that shows the lines, and a note if rare extremes lie outside it.

    A few spikes a hundred times the rest would flatten all else into one line: the range then ends at one and a
    half times what 99.5% of the values span. Main and reference lines are always inside.
    """
    values = [np.concatenate([line.series.finite().y, *(line.band or ())[1:]]) for line in lines]
    together = np.concatenate(values) if values else np.empty(0)
    if not len(together):
        return Axis(0.0, 1.0), None
    if log:
        together = together[together > 0]
        if not len(together):
            return Axis(0.1, 1.0, log=True), None
        low, high = float(together.min()), float(together.max())
        return Axis(low / 1.15, high * 1.15, log=True), None
    low, high = float(together.min()), float(together.max())
    strong = [v for line, v in zip(lines, values, strict=True) if line.role != "raw" and len(v)]
    strong_high = max((float(v.max()) for v in strong), default=low)
    usual_low, usual_high = np.quantile(together, [0.0025, 0.9975])
    cut = max(strong_high, usual_high + 0.5 * (usual_high - usual_low))
    note = None
    if high > cut + (usual_high - usual_low):
        count = int((together > cut).sum())
        note = f"{count:,} of {len(together):,} values lie above the chart; the greatest is {high:,.4g}"
        high = cut
    low = min(0.0, low) if zero else low
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    if low == high == 0 and not zero:
        return Axis(-0.05, 1.0), note  # shares that are 0: no ticks below it, and the line beside the axis
    return Axis(low if zero and low == 0 else low - margin, high + margin), note


def line_chart(
    key: str,
    title: str,
    lines: Sequence[Line],
    *,
    caption: str,
    marks: Sequence[Mark] = (),
    x_range: tuple[float, float] | None = None,
    x_label: str = "step",
    x_ticks: Sequence[Tick] | None = None,
    zero: bool = False,
    log: bool = False,
    x_log: bool = False,
    notes: Sequence[str] = (),
) -> Chart:
    """Lines over a common axis.

    Args:
        key: Unique on the page.
        title: What is shown, with its unit.
        lines: In the order of the legend; `raw` ones are drawn behind the others.
        caption: One sentence that says what the reader sees.
        marks: Vertical lines.
        x_range: First and last x; those of the lines where not given.
        x_label: What x is.
        x_ticks: Ticks of an axis that is not a number of steps.
        zero: Whether y begins at 0.
        log: Whether y is drawn by its logarithm; values that are not positive are left out.
        x_log: Whether x is; the same.
        notes: Sentences below the chart.
    """
    lines = [_right_of_zero(line) for line in lines] if x_log else lines
    lines = [line for line in lines if len(line.series.finite().y)]
    y, note = y_axis(lines, zero=zero, log=log)
    x = Axis(*_x_range(lines, x_range), log=x_log)
    behind_first = sorted(lines, key=lambda line: line.role not in ("raw", "published"))
    bands = (
        Path(line.name, _area(*line.band, x, y), line.color, "band") for line in behind_first if line.band is not None
    )
    curves = (Path(line.name, polyline(line.series, x, y), line.color, line.role) for line in behind_first)
    return Chart(
        key,
        title,
        caption,
        x_label,
        (*bands, *curves),
        tuple(x_ticks) if x_ticks is not None else step_ticks(x),
        y_ticks(y),
        place_marks(marks, x),
        (*notes, note) if note else tuple(notes),
        Drawn(tuple(behind_first), x, y),
    )


def area_chart(
    key: str, title: str, shares: Mixture, *, caption: str, marks: Sequence[Mark] = (), x_range: tuple[float, float]
) -> Chart:
    """Shares of a whole, stacked from the bottom in the order of the sources."""
    x, y = Axis(*x_range), Axis(0.0, 1.0)
    paths, bottom = [], np.zeros(max(0, len(shares.edges) - 1))
    for color, (name, share) in enumerate(shares.shares.items()):
        top = bottom + share
        paths.append(Path(name, _band(shares.edges, bottom, top, x, y), color, "area"))
        bottom = top
    percent = tuple(Tick(100 * (1 - v), f"{100 * v:.0f}%") for v in (0, 0.25, 0.5, 0.75, 1))
    return Chart(key, title, caption, "step", tuple(paths), step_ticks(x), percent, place_marks(marks, x))


def _right_of_zero(line: Line) -> Line:
    keep = line.series.x > 0
    error = None if line.error is None else line.error[keep]
    return replace(line, series=Series(line.series.x[keep], line.series.y[keep]), error=error)


def _x_range(lines: Sequence[Line], given: tuple[float, float] | None) -> tuple[float, float]:
    if given is None:
        xs = [line.series.x for line in lines if len(line.series.x)]
        given = (min(float(x[0]) for x in xs), max(float(x[-1]) for x in xs)) if xs else (0.0, 1.0)
    low, high = given
    return (low, high) if high > low else (low, low + 1)


def polyline(series: Series, x: Axis, y: Axis) -> str:
    """An SVG path through the points, thinned to what the eye can tell apart."""
    points = series.finite()
    if y.log:
        points = Series(points.x[points.y > 0], points.y[points.y > 0])
    points = thin(points)
    return _path(_place_x(points.x, x), _place_y(points.y, y))


def _area(x: Floats, low: Floats, high: Floats, x_axis: Axis, y_axis: Axis) -> str:
    across = _place_x(x, x_axis)
    down = np.concatenate([_place_y(high, y_axis), _place_y(low, y_axis)[::-1]])
    return _path(np.concatenate([across, across[::-1]]), down) + "Z"


def _band(edges: Floats, bottom: Floats, top: Floats, x: Axis, y: Axis) -> str:
    across = _place_x(np.repeat(edges, 2)[1:-1], x)
    upper, lower = _place_y(np.repeat(top, 2), y), _place_y(np.repeat(bottom, 2), y)
    return _path(np.concatenate([across, across[::-1]]), np.concatenate([upper, lower[::-1]])) + "Z"


def _place_x(values: Floats, axis: Axis) -> Floats:
    return axis.place(values) * WIDTH


def _place_y(values: Floats, axis: Axis) -> Floats:
    return np.clip((1 - axis.place(values)) * HEIGHT, -OVERSHOOT, HEIGHT + OVERSHOOT)


def _path(across: Floats, down: Floats) -> str:
    points = [f"{a:.1f},{d:.1f}" for a, d in zip(across.tolist(), down.tolist(), strict=True)]
    if len(points) == 1:  # a single step: a dot, by a line of no length with round ends
        points *= 2
    return "M" + "L".join(points) if points else ""


def step_ticks(axis: Axis) -> tuple[Tick, ...]:
    """Ticks of an axis of steps: whole numbers, few enough for a phone."""
    values = [v for v in axis.ticks(5) if v == round(v)]
    return tuple(Tick(axis.percent(v), _step_label(v)) for v in values)


def _step_label(value: float) -> str:
    text = short_count(value) if abs(value) >= 10_000 else f"{value:,.0f}"
    # 100k, not 100k against 50.0k.
    return text[:-1].rstrip("0").rstrip(".") + text[-1] if "." in text else text


def y_ticks(axis: Axis) -> tuple[Tick, ...]:
    """Ticks of a value's axis, written alike."""
    values = axis.ticks(6)
    labels = [number_label(v, values, log=axis.log) for v in values]
    return tuple(Tick(100 - axis.percent(v), t) for v, t in zip(values, labels, strict=True))


def number_label(value: float, among: Sequence[float], *, log: bool = False) -> str:
    """A tick's text: as many decimals as tell the ticks apart; powers of ten for the very small."""
    if value == 0:
        return "0"
    greatest = max(abs(v) for v in among)
    if greatest >= 10_000:
        return _step_label(value) if value > 0 else f"{value:,.0f}"
    if greatest < 1e-3 or (log and abs(value) < 1e-3):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if log:
        return f"{value:g}"
    distance = min((abs(b - a) for a, b in itertools.pairwise(among)), default=abs(value))
    decimals = max(0, -math.floor(math.log10(distance) + 1e-9))
    # 2.5 between 0 and 5 needs its decimal.
    decimals += round(distance * 10**decimals, 6) != round(distance * 10**decimals)
    return f"{value:,.{decimals}f}"


def place_marks(marks: Sequence[Mark], axis: Axis) -> tuple[PlacedMark, ...]:
    """Marks inside the range, in order; a label that would lie over the one before is left out."""
    placed: list[PlacedMark] = []
    last_label = -math.inf
    for mark in sorted(marks):
        position = axis.percent(mark.x)
        if not 0 <= position <= 100:
            continue
        has_room = position - last_label >= MIN_LABEL_DISTANCE
        if has_room and mark.label:
            last_label = position
        placed.append(PlacedMark(position, mark.kind, mark.label if has_room else "", mark.title))
    return tuple(placed)
