from __future__ import annotations

import re

import numpy as np
import pytest

from llm360.report.chart import Axis, Line, Mark, area_chart, line_chart, number_label, place_marks, polyline, y_axis
from llm360.report.series import Mixture, Series


def line(values, role="main", name="loss") -> Line:
    return Line(name, Series(np.arange(1.0, len(values) + 1), np.asarray(values, dtype=np.float64)), role=role)


def chart(lines, **options):
    return line_chart("loss", "Loss", lines, caption="The loss.", **options)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def test_line_goes_through_its_points():
    path = polyline(line([0.0, 5.0, 10.0]).series, Axis(1, 3), Axis(0, 10))

    assert points(path) == [(0, 300), (500, 150), (1000, 0)]


def test_single_point_is_drawn():
    assert chart([line([2.0])]).paths[0].d.count(",") == 2


def test_path_never_holds_a_value_that_svg_lacks():
    made = chart([line([1.0, np.nan, np.inf, -np.inf, 1e300, 2.0])])

    assert "nan" not in made.paths[0].d
    assert "inf" not in made.paths[0].d


def test_lines_without_a_value_are_left_out():
    assert chart([line([np.nan, np.nan])]).paths == ()


def test_raw_lines_lie_behind_the_others():
    made = chart([line([1, 2], "main"), line([1, 2], "raw"), line([1, 2], "reference")])

    assert [path.role for path in made.paths] == ["raw", "main", "reference"]


def test_rare_spikes_do_not_flatten_the_curve_and_are_counted():
    values = np.full(10_000, 3.0) + np.sin(np.arange(10_000))
    values[[500, 7000]] = 1e6

    axis, note = y_axis([line(values, "raw"), line(np.full(100, 3.0))])

    assert axis.high < 10
    assert note == "2 of 10,100 values lie above the chart; the greatest is 1e+06"


def test_range_holds_every_strong_line():
    axis, note = y_axis([line(np.full(1000, 3.0), "raw"), line([9.0, 9.0], "reference")])

    assert axis.high > 9.0
    assert note is None


def test_constant_line_has_a_range_around_it():
    axis, _ = y_axis([line([0.0, 0.0])])
    assert (axis.low, axis.high) == (-0.05, 1.0), "shares that are 0 have no ticks below it"
    axis, _ = y_axis([line([2.0, 2.0])])

    assert axis.low < 2.0 < axis.high


def test_logarithmic_range_leaves_out_what_has_no_logarithm():
    made = chart([line([0.0, -1.0, 0.01, 100.0])], log=True)

    assert len(points(made.paths[0].d)) == 2
    assert made.y_ticks[0].label == "0.01"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 2, 4], ["0", "2", "4"]),
        ([0, 2.5, 5], ["0", "2.5", "5.0"]),
        ([2.95, 3.0, 3.05], ["2.95", "3.00", "3.05"]),
        ([0, 0.0001, 0.0002], ["0", "1e-4", "2e-4"]),
        ([0, 0.00025, 0.0005], ["0", "2.5e-4", "5e-4"]),
        ([0, 0.0005, 0.001], ["0", "0.0005", "0.0010"]),
        ([0, 50_000, 100_000], ["0", "50k", "100k"]),
        ([5000, 10_000], ["5,000", "10k"]),
    ],
)
def test_labels_tell_ticks_apart(values, labels):
    assert [number_label(v, values) for v in values] == labels


@pytest.mark.parametrize("last", [1, 2, 3, 7, 400, 1430, 99_999, 358_500, 1_430_000])
def test_steps_have_few_whole_ticks_inside_the_chart(last):
    ticks = chart([line([1, 2])], x_range=(0, last)).x_ticks

    assert 2 <= len(ticks) <= 7
    assert len({tick.label for tick in ticks}) == len(ticks)
    assert all(0 <= tick.position <= 100 for tick in ticks)


def test_marks_are_placed_and_those_too_close_lose_their_label():
    marks = [Mark(50.0, "restart", "2", "b"), Mark(10.0, "restart", "1", "a"), Mark(51.0, "restart", "3", "c")]

    placed = place_marks([*marks, Mark(200.0, "restart", "9", "outside")], Axis(0, 100))

    assert [(mark.position, mark.label) for mark in placed] == [(10, "1"), (50, "2"), (51, "")]


def test_shares_are_stacked_to_the_whole():
    shares = Mixture(np.array([0.0, 5.0, 10.0]), {"a": np.array([0.25, 0.5]), "b": np.array([0.75, 0.5])})

    made = area_chart("mixture", "Mixture", shares, caption="Shares.", x_range=(0, 10))

    lower, upper = (points(path.d) for path in made.paths)
    assert lower[:4] == [(0, 225), (500, 225), (500, 150), (1000, 150)]
    assert {y for _, y in upper[:4]} == {0.0}
    assert [tick.label for tick in made.y_ticks] == ["0%", "25%", "50%", "75%", "100%"]
