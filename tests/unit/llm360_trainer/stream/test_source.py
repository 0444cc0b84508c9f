from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from llm360.errors import IntegrityError
from llm360.storage import StorageOptions
from llm360_trainer.stream.plan import plan_blocks
from llm360_trainer.stream.shards import ShardCache
from llm360_trainer.stream.source import RowFormat, RowsDatasource, read_block

FORMAT = RowFormat(5, "uint16", has_loss_mask=True)


def plan(data_set, **changes):
    arguments = {"rank": 0, "world": 1, "first_step": 0, "last_step": 10, "skip": (), "block_bytes": 250}
    return list(plan_blocks(data_set.manifest, data_set.order(10, "carry"), **(arguments | changes)))


def test_one_task_per_block_with_its_rows_and_bytes(data_set, tmp_path):
    blocks = plan(data_set)
    source = RowsDatasource(data_set.uri, StorageOptions(), FORMAT, ShardCache(tmp_path / "cache"), blocks)
    tasks = source.get_read_tasks(200)
    assert len(tasks) == len(blocks) == 5
    for task in tasks:
        (table,) = task()
        assert table.num_rows == task.metadata.num_rows == 20
        assert table.schema.names == FORMAT.schema.names
        assert all(column.num_chunks == 1 for column in table.columns)
        assert table.nbytes == task.metadata.size_bytes
    assert source.largest_block == 20 * FORMAT.row_bytes
    assert source.estimate_inmemory_data_size() == 100 * FORMAT.row_bytes
    assert source.get_name() == "Rows"


def test_only_the_row_groups_that_are_wanted_are_decoded(data_set, tmp_path, monkeypatch):
    decoded = []
    read_row_groups = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda file, groups, **options: decoded.append(list(groups)) or read_row_groups(file, groups, **options),
    )
    (block,) = plan(data_set, rank=1, world=5, first_step=4, last_step=7, block_bytes=10**6, skip=(5,))
    (table,) = read_block(data_set.uri, StorageOptions(), FORMAT, ShardCache(tmp_path / "cache"), block.parts)
    # Steps 4 and 6 are rows 0-9 and 20-29 of chunk 1; this rank has the third and fourth of each.
    assert table["row"].to_pylist() == [2, 3, 22, 23]
    assert decoded == [[0, 2]]


@pytest.mark.parametrize(
    ("row_format", "message"),
    [
        (RowFormat(6, "uint16", True), "column 'ids' of shard .* is fixed_size_binary.12. by the manifest but fixed"),
        (RowFormat(5, "uint32", True), "column 'ids' of shard .*0-0.parquet of chunk 0"),
    ],
)
def test_a_shard_of_other_columns_is_refused(data_set, tmp_path, row_format, message):
    block = plan(data_set)[0]
    with pytest.raises(IntegrityError, match=message):
        read_block(data_set.uri, StorageOptions(), row_format, ShardCache(tmp_path / "cache"), block.parts)


def test_a_shard_without_the_mask_is_refused(new_data_set, tmp_path):
    bare = new_data_set([[20]])
    block = plan(bare, last_step=2)[0]
    with pytest.raises(IntegrityError, match=r"column 'loss_mask' .* but no such column in the file"):
        read_block(bare.uri, StorageOptions(), FORMAT, ShardCache(tmp_path / "cache"), block.parts)


def test_a_shard_of_other_length_is_refused(data_set, tmp_path):
    parts = tuple(part._replace(rows=part.rows + 1) for part in plan(data_set)[0].parts)
    with pytest.raises(IntegrityError, match=r"0-0\.parquet of chunk 0 has 19 rows, the manifest says 20"):
        read_block(data_set.uri, StorageOptions(), FORMAT, ShardCache(tmp_path / "cache"), parts)
