from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.data.order import RowRange, StageOrder
from llm360.errors import InputError, IntegrityError
from llm360.storage import StorageOptions
from llm360_trainer.stream.plan import plan_blocks
from llm360_trainer.stream.shards import ShardCache
from llm360_trainer.stream.source import RowFormat, read_block
from llm360_trainer.stream.steps import StepStream, check_positions, stream_steps

FORMAT = RowFormat(5, "uint16", has_loss_mask=True)


def blocks_of(data_set, order, cache, rank, world, first, last, skip, block_rows):
    """What Ray Data would bring: the plan's blocks, read in this process."""
    plan = plan_blocks(
        data_set.manifest,
        order,
        rank=rank,
        world=world,
        first_step=first,
        last_step=last,
        skip=skip,
        block_bytes=block_rows * 10,
    )
    for block in plan:
        (table,) = read_block(data_set.uri, StorageOptions(), FORMAT, cache, block.parts)
        yield block, table


@st.composite
def segments(draw, chunk_rows=(40, 33, 27)):
    order = StageOrder(chunk_rows, draw(st.integers(1, min(chunk_rows))), draw(st.sampled_from(["drop", "carry"])))
    first = draw(st.integers(0, order.num_steps))
    last = draw(st.integers(first, order.num_steps))
    skip = draw(st.sets(st.integers(first, last), max_size=3))
    return order, draw(st.integers(1, min(7, order.batch_rows))), first, last, skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> ShardCache:
    return ShardCache(tmp_path_factory.mktemp("cache"))


@settings(max_examples=40)
@given(segments(), st.integers(1, 60))
def test_the_ranks_together_read_what_the_formula_names(data_set, rows_named, cache, segment, block_rows):
    order, world, first, last, skip = segment
    read: dict[int, list[np.ndarray]] = {}
    for rank in range(world):
        blocks = blocks_of(data_set, order, cache, rank, world, first, last, skip, block_rows)
        with StepStream(blocks, FORMAT, partial(order.rank_rows, rank=rank, world=world)) as stream:
            for rows in stream:
                read.setdefault(rows.step, []).append(rows.ids)
                np.testing.assert_array_equal(rows.loss_mask, rows.ids[:, 1:] % 2)
                assert len(rows.source) == len(rows.ids)
    assert list(read) == [step for step in range(first, last) if step not in skip]
    for step, parts in read.items():
        np.testing.assert_array_equal(np.concatenate(parts), rows_named(order.step_rows(step)))


def test_arrays_are_views_of_the_block(data_set, cache):
    order = data_set.order(10)
    ((block, table),) = blocks_of(data_set, order, cache, 0, 1, 0, 3, (), 100)
    steps = list(StepStream(iter_of([(block, table)]), FORMAT, partial(order.rank_rows, rank=0, world=1)))
    start = table["ids"].chunks[0].buffers()[1].address
    assert [rows.ids.ctypes.data - start for rows in steps] == [0, 10 * 10, 2 * 10 * 10]


def iter_of(blocks):
    yield from blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table.take([1, 0, *range(2, 30)]).combine_chunks(),
            "row 0 of this rank in step 0 must be row 0",
        ),
        (lambda table: table.slice(10), r"in step 0 must be row 0 of chunk 0, but row 10 of chunk 0 came"),
        (lambda table: table.slice(0, 25), "row 5 of this rank in step 2 must be row 25 of chunk 0, but no row came"),
    ],
)
def test_rows_in_the_wrong_place_are_refused(data_set, cache, change, message):
    order = data_set.order(10)
    ((block, table),) = blocks_of(data_set, order, cache, 0, 1, 0, 3, (), 100)
    stream = StepStream(iter_of([(block, change(table))]), FORMAT, partial(order.rank_rows, rank=0, world=1))
    with pytest.raises(IntegrityError, match=message):
        list(stream)


def test_rows_too_many_are_refused(data_set, cache):
    order = data_set.order(10)
    ((block, table),) = blocks_of(data_set, order, cache, 0, 1, 0, 3, (), 100)
    stream = StepStream(
        iter_of([(block._replace(steps=(0, 1)), table)]), FORMAT, partial(order.rank_rows, rank=0, world=1)
    )
    with pytest.raises(IntegrityError, match="steps 0 to 1 brought 30 rows, expected 20"):
        list(stream)


def test_positions_name_the_first_difference():
    expected = (RowRange(0, 8, 10), RowRange(1, 0, 2))
    check_positions(3, expected, np.array([0, 0, 1, 1]), np.array([8, 9, 0, 1]))
    with pytest.raises(
        IntegrityError, match="row 2 of this rank in step 3 must be row 0 of chunk 1, but row 0 of chunk"
    ):
        check_positions(3, expected, np.array([0, 0, 2, 1]), np.array([8, 9, 0, 1]))
    with pytest.raises(IntegrityError, match="must be no row, but row 2 of chunk 1 came"):
        check_positions(3, expected, np.array([0, 0, 1, 1, 1]), np.array([8, 9, 0, 1, 2]))


def test_an_error_of_the_reader_reaches_the_step_and_ends_the_stream():
    def blocks():
        raise IntegrityError("shard x is not what the manifest names")
        yield

    stream = StepStream(blocks(), FORMAT, lambda _step: ())
    with pytest.raises(IntegrityError, match="shard x"):
        next(stream)
    assert list(stream) == []


def test_closing_ends_the_reader(data_set, cache):
    closed = []

    def blocks():
        try:
            yield from blocks_of(data_set, order, cache, 0, 1, 0, 4, (), 10)
        finally:
            closed.append(True)

    order = data_set.order(10)
    stream = StepStream(blocks(), FORMAT, partial(order.rank_rows, rank=0, world=1))
    next(stream)
    stream.close()
    stream.close()
    stream._reader.shutdown(wait=True)
    assert closed == [True]
    assert list(stream) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_step": 11}, r"steps \[0, 11\) are not within"),
        ({"first_step": 3, "last_step": 2}, r"steps \[3, 2\)"),
        ({"rank": 2}, "rank 2 does not exist in a world of 2"),
        ({"order": StageOrder((100,), 10)}, "the order is for 1 chunks"),
    ],
)
def test_impossible_streams_are_refused_at_once(data_set, changes, message):
    arguments = {
        "order": data_set.order(10, "carry"),
        "rank": 0,
        "world": 2,
        "first_step": 0,
        "last_step": 10,
    } | changes
    with pytest.raises(InputError, match=message):
        stream_steps(data_set.uri, StorageOptions(), data_set.manifest, **arguments)


def test_a_rank_beyond_the_batch_gets_steps_without_rows(data_set):
    order = data_set.order(3)
    stream = stream_steps(
        data_set.uri, StorageOptions(), data_set.manifest, order, rank=3, world=4, first_step=2, last_step=5, skip=(3,)
    )
    steps = list(stream)
    assert [rows.step for rows in steps] == [2, 4]
    assert steps[0].ids.shape == (0, 5)
    assert steps[0].loss_mask.shape == (0, 4)
    assert steps[0].source.shape == (0,)
