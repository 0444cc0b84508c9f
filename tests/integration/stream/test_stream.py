from __future__ import annotations

import gc
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import ray
import ray.train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from llm360.data.order import StageOrder
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.storage import open_storage
from llm360_trainer.stream import blocks, stream_steps


def open_stream(data_set, order, rank=0, world=1, first_step=0, last_step=None, **options):
    last = order.num_steps if last_step is None else last_step
    return stream_steps(
        data_set.uri,
        data_set.options,
        data_set.manifest,
        order,
        rank=rank,
        world=world,
        first_step=first_step,
        last_step=last,
        **options,
    )


def block_bytes(rows: int) -> int:
    return rows * 64 * 2


def store_bytes_used() -> int:
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used


@st.composite
def segments(draw, chunk_rows=(400, 333, 270)):
    order = StageOrder(chunk_rows, draw(st.integers(20, min(chunk_rows))), draw(st.sampled_from(["drop", "carry"])))
    first = draw(st.integers(0, order.num_steps - 1))
    last = draw(st.integers(first + 1, order.num_steps))
    skip = draw(st.sets(st.integers(first, last), max_size=2))
    return order, draw(st.integers(1, 4)), first, last, skip


@pytest.mark.slow
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(segments(), st.integers(1, 300), st.integers(1, 4), st.integers(1, 3))
def test_the_ranks_together_read_what_the_formula_names(data_set, segment, block_rows, tasks, segment_blocks):
    order, world, first, last, skip = segment
    read: dict[int, list[np.ndarray]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "TASKS_AT_A_TIME", tasks)
        patch.setattr(blocks, "SEGMENT_BLOCKS", segment_blocks)
        for rank in range(world):
            stream = open_stream(
                data_set, order, rank, world, first, last, skip=skip, block_bytes=block_bytes(block_rows)
            )
            for rows in stream:
                read.setdefault(rows.step, []).append(rows.ids)
    assert list(read) == [step for step in range(first, last) if step not in skip]
    for step, parts in read.items():
        np.testing.assert_array_equal(np.concatenate(parts), data_set.ids(order.step_rows(step)))


def test_arrays_are_views_of_the_object_store(data_set):
    with open_stream(data_set, data_set.order(100)) as stream:
        first, second = next(stream), next(stream)
    assert not first.ids.flags.owndata
    assert not first.ids.flags.writeable
    assert second.ids.ctypes.data - first.ids.ctypes.data == 100 * 64 * 2
    assert first.wait_seconds > 0 == second.wait_seconds


def test_many_segments_leave_nothing_behind(data_set, monkeypatch):
    monkeypatch.setattr(blocks, "SEGMENT_BLOCKS", 1)
    order = data_set.order(30)
    list(open_stream(data_set, order, block_bytes=1, last_step=2))
    threads, used = threading.active_count(), store_bytes_used()
    steps = 0
    for rows in open_stream(data_set, order, block_bytes=1):
        steps += 1
        assert store_bytes_used() - used <= 8 * len(rows.ids) * (64 * 2 + 14) + 200_000
        del rows
    assert steps == order.num_steps == 33
    assert threading.active_count() <= threads + 2
    # Ray frees what the last segment held a moment after its last reference went.
    assert any(left <= used for left in watch(store_bytes_left, seconds=30.0))


def test_reading_runs_ahead_by_a_bounded_number_of_blocks(new_data_set):
    wide = new_data_set([[4000] * 8])
    before, block = store_bytes_used(), 1000 * (64 * 2 + 14)
    with open_stream(wide, wide.order(1000), block_bytes=1) as stream:
        next(stream)
        most = max(watch(store_bytes_used, seconds=2.0)) - before
    # Beside those that Ray Data counts: the one in use, the one that waits here, one on its way.
    assert 0 < most <= (blocks.BLOCKS_IN_STORE + 3) * (block + 20_000) < 32 * block


def store_bytes_left() -> int:
    gc.collect()
    return store_bytes_used()


def watch(read, seconds: float):
    """What `read` says during the next seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield read()
        time.sleep(0.05)


def test_a_next_segment_is_open_while_one_is_read(data_set):
    order = data_set.order(50)
    with open_stream(data_set, order, last_step=3) as now, open_stream(data_set, order, first_step=3) as ahead:
        steps = [rows.step for stream in (now, ahead) for rows in stream]
    assert steps == list(range(order.num_steps))


def test_a_stream_closed_half_way_does_not_disturb_the_next(data_set):
    order = data_set.order(50)
    for first in range(3):
        with closing(open_stream(data_set, order, first_step=first, block_bytes=1)) as stream:
            assert next(stream).step == first
    assert len(list(open_stream(data_set, order))) == order.num_steps


def test_a_flipped_byte_is_refused_by_name(new_data_set, tmp_path):
    data_set = new_data_set([[100, 100], [150]])
    path = tmp_path / "data" / "chunk0-1.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    read = []
    with pytest.raises(IntegrityError, match=r"data/chunk0-1\.parquet of chunk 0 is not what the manifest names"):
        read.extend(rows.step for rows in open_stream(data_set, data_set.order(50), block_bytes=1))
    assert read == [0, 1][: len(read)]  # a read ahead may fail before the steps in front of it are asked for
    assert [rows.step for rows in open_stream(data_set, data_set.order(50), first_step=4)] == [4, 5, 6]


def test_a_missing_shard_is_refused_by_name(new_data_set, tmp_path):
    data_set = new_data_set([[100], [150]])
    (tmp_path / "data" / "chunk1-0.parquet").unlink()
    with pytest.raises(ObjectNotFoundError, match=r"data/chunk1-0\.parquet of chunk 1 is missing"):
        list(open_stream(data_set, data_set.order(50)))


def test_s3(new_data_set, s3_bucket):
    data_set = new_data_set([[100, 100], [150]], f"{s3_bucket.uri}/data", s3_bucket.options)
    order = data_set.order(40, "carry")
    for rank in range(3):
        for rows in open_stream(data_set, order, rank, 3, block_bytes=1):
            np.testing.assert_array_equal(rows.ids, data_set.ids(order.rank_rows(rows.step, rank, 3)))

    spoiled = new_data_set([[101, 100]], f"{s3_bucket.uri}/spoiled", s3_bucket.options)
    open_storage(spoiled.uri, spoiled.options).put("chunk0-1.parquet", b"PAR1")
    with pytest.raises(IntegrityError, match=r"shard s3://.*/spoiled/chunk0-1\.parquet of chunk 0"):
        list(open_stream(spoiled, spoiled.order(50)))


def stream_in_a_worker(config) -> None:
    """What a rank of Ray Train does, its CPUs all taken by training; writes what it read into a file."""
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    data_set, order = config["data_set"], config["order"]
    steps = [rows.ids for rows in open_stream(data_set, order, rank, world, block_bytes=1)]
    for step, ids in enumerate(steps):
        np.testing.assert_array_equal(ids, data_set.ids(order.rank_rows(step, rank, world)))
    (config["folder"] / f"{rank}").write_text(str(len(steps)))


@pytest.mark.slow
def test_workers_of_ray_train_stream_while_training_has_all_cpus(data_set, tmp_path):
    order = data_set.order(101, "carry")
    trainer = DataParallelTrainer(
        stream_in_a_worker,
        train_loop_config={"data_set": data_set, "order": order, "folder": tmp_path},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "train")),
    )
    trainer.fit()
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [str(order.num_steps)] * 2
