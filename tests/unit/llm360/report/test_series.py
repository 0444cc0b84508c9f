from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from llm360.report.series import Series, map_columns, mixture, smooth, thin

VALUES = npst.arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32))


def series(values) -> Series:
    return Series(np.arange(1.0, len(values) + 1), np.asarray(values, dtype=np.float64))


@given(VALUES, st.integers(4, 50))
def test_thinning_keeps_extremes_ends_and_order(values, max_points):
    thinned = thin(series(values), max_points)

    assert len(thinned.x) <= max(max_points, 4)
    assert (thinned.y.min(), thinned.y.max()) == (values.min(), values.max())
    assert (thinned.x[0], thinned.x[-1]) == (1, len(values))
    assert (np.diff(thinned.x) > 0).all()
    assert (values[thinned.x.astype(int) - 1] == thinned.y).all(), "every point is one that was measured"


def test_thinning_keeps_a_single_spike_among_many_steps():
    values = np.ones(300_000)
    values[123_456] = 40.0

    thinned = thin(series(values))

    assert len(thinned.x) <= 2000
    assert 40.0 in thinned.y


def test_thinning_leaves_out_what_is_not_finite():
    thinned = thin(series([1.0, np.nan, np.inf, 2.0]))

    assert thinned.x.tolist() == [1, 4]


@given(VALUES, st.integers(1, 40))
def test_smoothing_is_the_mean_of_a_symmetric_window(values, reach):
    smoothed = smooth(series(values), reach)

    for i in range(len(values)):
        half = min(reach, i, len(values) - 1 - i)
        assert smoothed.y[i] == pytest.approx(values[i - half : i + half + 1].mean(), abs=1e-4, rel=1e-6)


def test_smoothing_passes_over_what_is_not_finite():
    smoothed = smooth(series([1.0, np.nan, 3.0, 5.0]), 1)

    assert smoothed.x.tolist() == [1, 3, 4]
    assert smoothed.y.tolist() == [1.0, 3.0, 5.0]


def test_smoothing_nothing_gives_nothing():
    assert len(smooth(series([np.nan]), 3).x) == 0


def map_table(rows: list[list[tuple[str, float]]]) -> pa.Table:
    return pa.table({"m": pa.array(rows, pa.map_(pa.string(), pa.float64()))})


def test_map_becomes_a_column_per_key():
    columns = map_columns(map_table([[("b", 1.0)], [], [("a", 2.0), ("b", 3.0)]]), "m")

    assert list(columns) == ["a", "b"]
    np.testing.assert_array_equal(columns["a"], [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(columns["b"], [1.0, np.nan, 3.0])


def test_map_of_a_slice_and_of_chunks():
    table = pa.concat_tables([map_table([[("a", 1.0)], [("a", 2.0)]]), map_table([[("b", 3.0)], [("a", 4.0)]])])

    columns = map_columns(table.slice(1, 2), "m")

    np.testing.assert_array_equal(columns["a"], [2.0, np.nan])
    np.testing.assert_array_equal(columns["b"], [np.nan, 3.0])


def test_map_without_rows():
    assert map_columns(map_table([]), "m") == {}


def test_mixture_is_shares_over_intervals():
    steps = np.arange(1.0, 11.0)
    code, docs = np.array([1.0] * 5 + [3.0] * 5), np.array([1.0] * 5 + [np.nan] * 5)

    shares = mixture(steps, {"code": code, "docs": docs}, max_intervals=2)

    assert shares.edges.tolist() == [0, 5, 10]
    assert shares.shares["code"].tolist() == [0.5, 1.0]
    assert shares.shares["docs"].tolist() == [0.5, 0.0]


def test_mixture_of_fewer_steps_than_intervals():
    assert mixture(np.array([1.0, 2.0]), {"a": np.ones(2)}, max_intervals=80).edges.tolist() == [0, 1, 2]


def test_mixture_of_nothing():
    assert mixture(np.empty(0), {}).shares == {}
