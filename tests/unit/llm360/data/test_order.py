from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.data.order import RowRange, StageOrder, largest_share, micro_steps
from llm360.errors import InputError

AMBER_CHUNK = 1_706_976


def rows_of(ranges) -> list[tuple[int, int]]:
    return [(r.chunk, row) for r in ranges for row in range(r.start, r.stop)]


def by_formula(order: StageOrder, step: int) -> list[tuple[int, int]]:
    """The design's definition, written out row by row and independently of the implementation."""
    batch = order.batch_rows
    if order.remainder == "carry":
        stream = [(chunk, row) for chunk, rows in enumerate(order.chunk_rows) for row in range(rows)]
    else:
        stream = [(chunk, row) for chunk, rows in enumerate(order.chunk_rows) for row in range(rows // batch * batch)]
    return stream[step * batch : (step + 1) * batch]


@st.composite
def orders(draw) -> StageOrder:
    batch = draw(st.integers(1, 40))
    if draw(st.booleans()):
        chunks = draw(st.lists(st.integers(batch, 120), min_size=1, max_size=5))
        return StageOrder(tuple(chunks), batch, "drop")
    chunks = draw(st.lists(st.integers(1, 120), min_size=1, max_size=5).filter(lambda rows: sum(rows) >= batch))
    return StageOrder(tuple(chunks), batch, "carry")


def test_amber_reads_762_steps_of_a_chunk_and_drops_96_rows():
    amber = StageOrder((AMBER_CHUNK,) * 360, 2240, "drop")
    assert amber.num_steps == 360 * 762
    assert AMBER_CHUNK - 762 * 2240 == 96
    assert amber.step_rows(0) == (RowRange(0, 0, 2240),)
    assert amber.step_rows(761) == (RowRange(0, 761 * 2240, AMBER_CHUNK - 96),)
    assert amber.step_rows(762) == (RowRange(1, 0, 2240),)
    assert amber.is_chunk_end(762)
    assert not amber.is_chunk_end(761)
    assert amber.chunk_of(761) == 0
    assert amber.chunk_of(762) == 1
    assert amber.finished_chunks(762 * 360) == 360


def test_carry_runs_a_chunks_remainder_into_the_next():
    pythia = StageOrder((10, 10, 10), 4, "carry")
    assert pythia.num_steps == 7  # 30 rows; the last two fill no batch
    assert pythia.step_rows(2) == (RowRange(0, 8, 10), RowRange(1, 0, 2))
    assert [pythia.chunk_of(step) for step in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [pythia.is_chunk_end(done) for done in range(8)] == [False, False, False, True, False, True, False, True]
    assert [pythia.finished_chunks(done) for done in range(8)] == [0, 0, 0, 1, 1, 2, 2, 3]


def test_carry_spans_chunks_smaller_than_the_batch():
    order = StageOrder((3, 2, 1, 9), 7, "carry")
    assert order.step_rows(0) == (RowRange(0, 0, 3), RowRange(1, 0, 2), RowRange(2, 0, 1), RowRange(3, 0, 1))
    assert order.is_chunk_end(1)
    assert order.finished_chunks(1) == 3


@pytest.mark.parametrize(
    ("chunk_rows", "batch_rows", "remainder", "message"),
    [
        ((), 4, "drop", "no chunks"),
        ((4, 0), 4, "carry", "chunk 1 of the data has 0 rows"),
        ((8,), 0, "drop", "a batch has 0 rows"),
        ((8, 3), 4, "drop", "batch of 4 rows is larger than chunk 1 with 3 rows"),
        ((3, 3), 7, "carry", "batch of 7 rows is larger than all the data with 6 rows"),
        ((8,), 4, "keep", "allowed are 'drop' and 'carry'"),
    ],
)
def test_impossible_orders_are_refused(chunk_rows, batch_rows, remainder, message):
    with pytest.raises(InputError, match=message):
        StageOrder(chunk_rows, batch_rows, remainder)


def test_steps_and_ranks_that_do_not_exist_are_refused():
    order = StageOrder((8,), 4, "drop")
    for step in (-1, 2):
        with pytest.raises(InputError, match=f"step {step} does not exist; the stage has the steps 0 to 1"):
            order.step_rows(step)
        with pytest.raises(InputError):
            order.chunk_of(step)
    with pytest.raises(InputError, match="rank 2 does not exist in a world of 2"):
        order.rank_rows(0, 2, 2)
    with pytest.raises(InputError, match=r"steps \[1, 3\)"):
        order.rows_between(1, 3)


@given(orders(), st.data())
def test_steps_follow_the_formula(order, data):
    step = data.draw(st.integers(0, order.num_steps - 1))
    assert rows_of(order.step_rows(step)) == by_formula(order, step)
    assert order.chunk_of(step) == by_formula(order, step)[0][0]


@given(orders(), st.integers(1, 50), st.data())
def test_ranks_together_read_the_step_in_order(order, world, data):
    step = data.draw(st.integers(0, order.num_steps - 1))
    parts = [rows_of(order.rank_rows(step, rank, world)) for rank in range(world)]
    assert [row for part in parts for row in part] == by_formula(order, step)
    sizes = [len(part) for part in parts]
    assert max(sizes) == largest_share(order.batch_rows, world)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(orders(), st.data())
def test_segments_join_to_the_whole(order, data):
    first = data.draw(st.integers(0, order.num_steps))
    last = data.draw(st.integers(first, order.num_steps))
    expected = [row for step in range(first, last) for row in by_formula(order, step)]
    ranges = order.rows_between(first, last)
    assert rows_of(ranges) == expected
    assert len({r.chunk for r in ranges}) == len(ranges)
    assert sum(r.rows for r in ranges) == len(expected)


@given(orders())
def test_every_chunk_ends_once(order):
    ended = [order.finished_chunks(done) - order.finished_chunks(done - 1) for done in range(1, order.num_steps + 1)]
    assert sum(ended) == len(order.chunk_rows)
    assert [bool(count) for count in ended] == [order.is_chunk_end(done) for done in range(1, order.num_steps + 1)]
    assert not order.is_chunk_end(0)
    assert not order.is_chunk_end(order.num_steps + 1)


@given(st.integers(0, 500), st.integers(1, 64))
def test_micro_steps_hold_all_rows_and_no_micro_step_is_empty(rows, micro_batch):
    count = micro_steps(rows, micro_batch)
    assert count * micro_batch >= rows
    assert (count - 1) * micro_batch < rows or count == 0


def test_a_micro_batch_needs_a_row():
    with pytest.raises(InputError, match="micro batch has 0 rows"):
        micro_steps(8, 0)


def test_an_order_pickles_and_compares_by_value():
    order = StageOrder((10, 10), 4, "carry")
    assert order.num_steps == 5
    assert pickle.loads(pickle.dumps(order)) == order == StageOrder((10, 10), 4, "carry")


@pytest.mark.parametrize("remainder", ["drop", "carry"])
@pytest.mark.parametrize("chunk_rows", [(10, 7, 9), (3, 3, 4), (12,)])
def test_chunks_end_at_the_steps_that_end_them(chunk_rows, remainder):
    order = StageOrder(chunk_rows, 3, remainder)
    assert set(order.chunk_end_steps()) == {step for step in range(order.num_steps + 1) if order.is_chunk_end(step)}
