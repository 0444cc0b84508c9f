"""The `ray.data.Datasource` of prepared rows: one read task per block, one block per read task."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from llm360.data.rows import shard_schema
from llm360.errors import IntegrityError
from llm360.storage import Storage, StorageOptions, open_storage
from llm360_trainer.stream.plan import BlockPlan, ShardPart
from llm360_trainer.stream.shards import ShardCache

if TYPE_CHECKING:
    from ray.data import DataContext


class RowFormat(NamedTuple):
    """What the columns of a shard must look like."""

    row_tokens: int
    id_dtype: str  # numpy name of the ids' type, little endian in the files
    has_loss_mask: bool

    @property
    def columns(self) -> pa.Schema:
        """The columns of a shard that training reads; the documents stay in the file."""
        schema = shard_schema(self.row_tokens, self.id_dtype, self.has_loss_mask)
        return pa.schema([field for field in schema if field.name != "documents"])

    @property
    def schema(self) -> pa.Schema:
        """A block's columns: those, and two that say where in the data each row came from."""
        return self.columns.append(pa.field("chunk", pa.uint32())).append(pa.field("row", pa.uint64()))

    @property
    def row_bytes(self) -> int:
        """Uncompressed bytes of a row of a block."""
        mask = self.row_tokens - 1 if self.has_loss_mask else 0
        return self.row_tokens * np.dtype(self.id_dtype).itemsize + mask + 2 + 4 + 8


class RowsDatasource(Datasource):  # type: ignore[misc] # Ray's classes are Any to the checker
    """Prepared rows in the order of the plan.

    Reads happen on the node of the process that asks: there lie the checked shards, and there the blocks are
    wanted.

    Args:
        data_uri: The folder of the manifest.
        options: How to reach it.
        row_format: What its shards hold.
        cache: The node's checked shards.
        blocks: What each read task brings, in order; every one has rows.
    """

    def __init__(
        self, data_uri: str, options: StorageOptions, row_format: RowFormat, cache: ShardCache, blocks: list[BlockPlan]
    ) -> None:
        super().__init__()
        self._tasks = [
            ReadTask(
                partial(read_block, data_uri, options, row_format, cache, block.parts),
                BlockMetadata(
                    num_rows=block.rows,
                    size_bytes=block.rows * row_format.row_bytes,
                    input_files=[part.key for part in block.parts],
                    exec_stats=None,
                ),
                schema=row_format.schema,
            )
            for block in blocks
        ]

    @property
    def supports_distributed_reads(self) -> bool:
        """False keeps the read tasks on this process's node."""
        return False

    @property
    def largest_block(self) -> int:
        """Bytes of the largest block."""
        return max(task.metadata.size_bytes or 0 for task in self._tasks)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all blocks."""
        return sum(task.metadata.size_bytes or 0 for task in self._tasks)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - the plan decides
        per_task_row_limit: int | None = None,  # noqa: ARG002
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """One task per block of the plan, in its order."""
        return self._tasks


def read_block(
    data_uri: str, options: StorageOptions, row_format: RowFormat, cache: ShardCache, parts: tuple[ShardPart, ...]
) -> Iterable[pa.Table]:
    """Read one block; runs in a Ray worker.

    Returns:
        One table in contiguous memory: `ids`, `loss_mask` if there is one, `source`, `chunk`, `row`.

    Raises:
        ObjectNotFoundError: a shard is missing.
        IntegrityError: a shard is not what the manifest names.
    """
    storage = _storage(data_uri, options)
    tables: list[pa.Table] = []
    for _, group in groupby(parts, key=lambda part: part.key):
        tables.extend(_read_shard(storage, row_format, list(group), cache))
    table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
    return [table.combine_chunks()]


def _read_shard(
    storage: Storage, row_format: RowFormat, parts: list[ShardPart], cache: ShardCache
) -> Iterable[pa.Table]:
    """The parts of one shard, decoding only the row groups that they touch."""
    with cache.open(storage, parts[0]) as raw, pq.ParquetFile(raw) as file:
        _check_footer(storage, parts[0], row_format.columns, file)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.array([0, *accumulate(sizes)])
        groups = _touched(starts, parts)
        table = file.read_row_groups(groups, columns=row_format.columns.names, use_threads=False)
    # Where each row lies in the file, from the footer and not from the plan: this is what the rank checks.
    rows_in_file = np.concatenate([np.arange(starts[group], starts[group + 1], dtype=np.uint64) for group in groups])
    table = table.append_column("chunk", pa.array(np.full(len(rows_in_file), parts[0].chunk, dtype=np.uint32)))
    table = table.append_column("row", pa.array(rows_in_file + np.uint64(parts[0].first_row)))
    return [table.slice(int(np.searchsorted(rows_in_file, part.start)), part.stop - part.start) for part in parts]


def _touched(starts: NDArray[np.int64], parts: list[ShardPart]) -> list[int]:
    """The row groups, in order, that hold rows of the parts."""
    touched: dict[int, None] = {}
    for part in parts:
        first = int(np.searchsorted(starts, part.start, side="right")) - 1
        last = int(np.searchsorted(starts, part.stop, side="left"))
        touched.update(dict.fromkeys(range(first, last)))
    return list(touched)


def _check_footer(storage: Storage, shard: ShardPart, wanted: pa.Schema, file: pq.ParquetFile) -> None:
    found = file.schema_arrow
    name = f"shard {storage.uri}/{shard.key} of chunk {shard.chunk}"
    for field in wanted:
        index = found.get_field_index(field.name)
        if index < 0 or found.field(index).type != field.type:
            kind = found.field(index).type if index >= 0 else "no such column"
            raise IntegrityError(
                f"column '{field.name}' of {name} is {field.type} by the manifest but {kind} in the file;"
                " prepare the data again"
            )
    if file.metadata.num_rows != shard.rows:
        raise IntegrityError(
            f"{name} has {file.metadata.num_rows} rows, the manifest says {shard.rows}; prepare the data again"
        )


@lru_cache(maxsize=8)
def _storage(data_uri: str, options: StorageOptions) -> Storage:
    """One store, and so one set of connections, per worker process."""
    return open_storage(data_uri, options)
