from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.data.order import RowRange, StageOrder
from llm360.errors import InputError
from llm360_trainer.stream.plan import BlockPlan, check_order, plan_blocks, positions

ROW_BYTES = 5 * 2


def rows_of_plan(block: BlockPlan) -> list[tuple[int, int]]:
    return [(part.chunk, part.first_row + row) for part in block.parts for row in range(part.start, part.stop)]


def rows_of(ranges) -> list[tuple[int, int]]:
    return [(part.chunk, row) for part in ranges for row in range(part.start, part.stop)]


@st.composite
def segments(draw, chunk_rows=(40, 33, 27)):
    """An order of the data set, a world that need not divide it, a restart point and steps to skip."""
    remainder = draw(st.sampled_from(["drop", "carry"]))
    order = StageOrder(chunk_rows, draw(st.integers(1, min(chunk_rows))), remainder)
    first = draw(st.integers(0, order.num_steps))
    last = draw(st.integers(first, order.num_steps))
    skip = draw(st.sets(st.integers(0, order.num_steps), max_size=4))
    return order, draw(st.integers(1, 9)), first, last, skip


@given(segments(), st.integers(1, 100))
def test_blocks_hold_the_rows_of_their_steps_in_order(data_set, segment, block_rows):
    order, world, first, last, skip = segment
    for rank in range(world):
        blocks = list(
            plan_blocks(
                data_set.manifest,
                order,
                rank=rank,
                world=world,
                first_step=first,
                last_step=last,
                skip=skip,
                block_bytes=block_rows * ROW_BYTES,
            )
        )
        steps = [step for block in blocks for step in block.steps]
        assert steps == [step for step in range(first, last) if step not in skip]
        for block in blocks:
            expected = [row for step in block.steps for row in rows_of(order.rank_rows(step, rank, world))]
            assert rows_of_plan(block) == expected
            assert block.rows == len(expected)
            assert len(block.steps) == 1 or len(block.steps) * order.batch_rows <= block_rows


def test_parts_stay_within_their_shard(data_set):
    order = data_set.order(30, "carry")
    (block,) = plan_blocks(
        data_set.manifest, order, rank=0, world=1, first_step=0, last_step=3, skip=(), block_bytes=10**6
    )
    assert [(part.key, part.start, part.stop) for part in block.parts] == [
        ("0-0.parquet", 0, 19),
        ("0-1.parquet", 0, 21),
        ("1-0.parquet", 0, 33),
        ("2-0.parquet", 0, 5),
        ("2-1.parquet", 0, 1),
        ("2-2.parquet", 0, 11),
    ]


def test_positions_are_those_of_the_ranges():
    chunk, row = positions((RowRange(3, 8, 10), RowRange(4, 0, 1)))
    assert chunk.tolist() == [3, 3, 4]
    assert row.tolist() == [8, 9, 0]
    assert positions(())[0].dtype == np.uint32


def test_an_order_for_other_data_is_refused(data_set):
    check_order(data_set.manifest, data_set.order(4))
    with pytest.raises(InputError, match="2 chunks of 40, 33 rows, the data has 3 of 40, 33, 27") as caught:
        check_order(data_set.manifest, StageOrder((40, 33), 4))
    assert caught.value.reason == "DataChanged"
