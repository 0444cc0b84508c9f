from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import InputError
from llm360_trainer.prepare.layout import SHARD_BYTES, Layout, apportion, plan_layout, plan_shard_rows

WEIGHTS = st.fractions(min_value=Fraction(1, 50), max_value=20, max_denominator=50)
SOURCES = st.lists(st.tuples(st.integers(1, 5000), WEIGHTS), min_size=1, max_size=5)


@given(SOURCES, st.none() | st.integers(0, 10_000))
def test_mix_has_the_shares_repeats_nothing_and_is_the_largest(sources, most):
    available, weights = zip(*sources, strict=True)
    taken = apportion(available, weights, most)
    total = sum(taken)
    shares = [weight / sum(weights) for weight in weights]
    assert all(0 <= part <= rows for part, rows in zip(taken, available, strict=True))
    assert all(abs(part - total * share) < 1 for part, share in zip(taken, shares, strict=True))
    grown = total + 1
    assert total == most or any(grown * share > rows for share, rows in zip(shares, available, strict=True))


def test_source_that_runs_out_first_sets_the_size():
    assert apportion([100, 1000], [Fraction(1, 2), Fraction(1, 2)]) == (100, 100)
    assert apportion([100, 1000], [Fraction(1), Fraction(3)]) == (100, 300)
    assert apportion([492, 8444], [Fraction("0.08"), Fraction("0.92")], 5200) == (416, 4784)


def plan(**changes):
    return plan_layout(
        **{
            "names": ["a", "b"],
            "available": [10, 30],
            "weights": [None, None],
            "chunks": 3,
            "max_rows": None,
            "row_bytes": 4098,
            "seed": 1,
            "prefix": "rows",
        }
        | changes
    )


def test_without_weights_everything_is_taken_once():
    layout = plan()
    assert layout.taken == (10, 30)
    assert layout.chunk_rows == (14, 13, 13)


def test_at_most_so_many_rows_are_taken_in_the_proportions_of_the_sources():
    assert plan(max_rows=20).taken == (5, 15)
    assert plan(max_rows=10_000).taken == (10, 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"available": [0, 30]}, "source a has too little text"),
        ({"chunks": 41}, "too few for 41 chunks"),
        ({"max_rows": 2}, "too few for 3 chunks"),
    ],
)
def test_too_little_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plan(**changes)


@given(
    available=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    data=st.data(),
    seed=st.none() | st.integers(0, 9),
)
def test_places_are_a_permutation_of_the_rows_taken(available, data, seed):
    taken = tuple(data.draw(st.integers(0, rows)) for rows in available)
    layout = Layout(tuple(available), taken, (sum(taken),), 4, seed, "rows")
    places = [layout.places(source, np.arange(rows)) for source, rows in enumerate(available)]
    assert [int((place >= 0).sum()) for place in places] == list(taken)
    together = np.concatenate(places)
    assert np.array_equal(np.sort(together[together >= 0]), np.arange(sum(taken)))
    if seed is None:
        assert np.all(np.diff(together[together >= 0]) == 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 12))
def test_shards_tile_the_chunks(chunk_rows, shard_rows):
    layout = Layout((sum(chunk_rows),), (sum(chunk_rows),), tuple(chunk_rows), shard_rows, None, "rows")
    position = 0
    for shard in layout.shards:
        assert shard.start == position
        assert 0 < shard.stop - shard.start <= shard_rows
        position = shard.stop
    rows = [
        sum(shard.stop - shard.start for shard in layout.shards if shard.chunk == chunk)
        for chunk in range(len(chunk_rows))
    ]
    assert rows == chunk_rows
    assert len({shard.key for shard in layout.shards}) == len(layout.shards)


@pytest.mark.parametrize("row_bytes", [4, 514, 4098, 10**9])
def test_shards_are_whole_row_groups_within_the_limit(row_bytes):
    rows = plan_shard_rows(row_bytes)
    assert rows % 1024 == 0
    assert rows * row_bytes <= SHARD_BYTES or rows == 1024
