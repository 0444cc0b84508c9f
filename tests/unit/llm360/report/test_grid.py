from __future__ import annotations

import pytest

from llm360.report.grid import MAX_SIDE, STRONGEST, grid

LABELS = {"caption": "", "x_label": "x", "y_label": "y"}


def test_shades_go_from_none_to_the_strongest():
    made = grid("k", "t", [[0.0, 0.25], [0.5, None]], rows=["a", "b"], columns=["c", "d"], percent=True, **LABELS)
    assert [[cell.opacity for cell in cells] for _, cells in made.rows] == [
        [0.0, pytest.approx(STRONGEST / 2)],
        [STRONGEST, None],
    ]
    assert [[cell.text for cell in cells] for _, cells in made.rows] == [["0.0", "25.0"], ["50.0", "–"]]
    assert made.rows[1][1][0].title == "b, c: 50.0 %"
    assert (made.low, made.high, made.title) == ("0.0", "50.0", "t (%)")


def test_values_beyond_the_limits_are_shaded_as_the_limit():
    made = grid("k", "t", [[-0.5, 1.0]], rows=["a"], columns=["c", "d"], limits=(0.0, 1.0), **LABELS)
    assert [cell.opacity for cell in made.rows[0][1]] == [0.0, STRONGEST]
    assert made.rows[0][1][0].text == "-0.50"


def test_one_value_alone_has_a_shade():
    (cell,) = grid("k", "t", [[0.3]], rows=["a"], columns=["c"], **LABELS).rows[0][1]
    assert cell.opacity == 0.0


def test_large_grids_are_drawn_by_every_nth_and_say_so():
    side = 3 * MAX_SIDE - 5
    names = [f"{n}" for n in range(side)]
    made = grid(
        "k", "t", [[float(r * c) for c in range(side)] for r in range(side)], rows=names, columns=names, **LABELS
    )
    assert len(made.rows) == len(made.columns) == len(made.rows[0][1]) <= MAX_SIDE
    assert made.rows[2][1][1].title == f"6, 3: {18:.2f}"
    assert made.notes == (f"every 3. row and every 3. column of {side} × {side} shown",)
    assert not made.is_told
    assert sum(map(bool, made.columns)) <= 5
