"""Small prepared data sets whose ids say which chunk and row they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.data.order import RowRange, StageOrder
from llm360.data.rows import fixed_binary, shard_schema

ROW_TOKENS = 5
GROUP_ROWS = 8


@dataclass(frozen=True)
class DataSet:
    """A folder with shards, and the manifest that names them."""

    folder: Path
    manifest: DataManifest

    @property
    def uri(self) -> str:
        return self.folder.as_uri()

    def order(self, batch_rows: int, remainder: str = "drop") -> StageOrder:
        return StageOrder(self.manifest.chunk_rows, batch_rows, remainder)

    def shard_path(self, chunk: int, shard: int) -> Path:
        return self.folder / self.manifest.chunks[chunk].shards[shard].key


def ids_of(chunk: int, rows: np.ndarray) -> np.ndarray:
    """What the rows of a chunk hold: [rows, ROW_TOKENS] uint16."""
    columns = [np.full(len(rows), chunk), rows // 256, rows % 256, rows * 7 % 251, rows * 13 % 241]
    return np.stack(columns, axis=1).astype("<u2")


def expected_ids(ranges: Sequence[RowRange]) -> np.ndarray:
    parts = [ids_of(part.chunk, np.arange(part.start, part.stop)) for part in ranges]
    return np.concatenate([np.empty((0, ROW_TOKENS), "<u2"), *parts])


def write_shard(folder: Path, key: str, chunk: int, rows: np.ndarray, has_loss_mask: bool) -> Shard:
    columns = {"ids": fixed_binary(ids_of(chunk, rows)), "source": pa.array(rows % 2, pa.uint16())}
    if has_loss_mask:
        columns["loss_mask"] = fixed_binary((ids_of(chunk, rows)[:, 1:] % 2).astype(np.uint8))
    schema = shard_schema(ROW_TOKENS, "uint16", has_loss_mask)
    columns["documents"] = pa.array([[]] * len(rows), schema.field("documents").type)
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    pq.write_table(table, folder / key, compression="zstd", row_group_size=GROUP_ROWS, use_dictionary=False)
    data = (folder / key).read_bytes()
    return Shard(key=key, rows=len(rows), bytes=len(data), sha256=f"sha256:{hashlib.sha256(data).hexdigest()}")


def write_data_set(folder: Path, chunks: Sequence[Sequence[int]], has_loss_mask: bool = False) -> DataSet:
    """A data set with, for each chunk, shards of the given numbers of rows."""
    folder.mkdir(parents=True)
    made = []
    for chunk, shards in enumerate(chunks):
        starts = np.cumsum([0, *shards])
        made.append(
            [
                write_shard(folder, f"{chunk}-{shard}.parquet", chunk, np.arange(start, start + rows), has_loss_mask)
                for shard, (start, rows) in enumerate(zip(starts, shards, strict=False))
            ]
        )
    rows = sum(map(sum, chunks))
    manifest = DataManifest(
        row_tokens=ROW_TOKENS,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=has_loss_mask,
        sources=(Source(name="a", documents=rows, tokens=rows * ROW_TOKENS, rows=rows, dropped_tokens=0),),
        chunks=tuple(Chunk(rows=sum(shard.rows for shard in shards), shards=tuple(shards)) for shards in made),
        tokenizer=TokenizerInfo(digest=f"sha256:{'0' * 64}", vocab_size=300),
        shuffle="none",
        unigram_entropy=1.0,
        recipe={},
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return DataSet(folder, manifest)


@pytest.fixture
def new_data_set(tmp_path: Path) -> Callable[..., DataSet]:
    """Makes a data set in this test's folder."""
    made: list[DataSet] = []

    def make(chunks: Sequence[Sequence[int]], has_loss_mask: bool = False) -> DataSet:
        made.append(write_data_set(tmp_path / f"data{len(made)}", chunks, has_loss_mask))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Three chunks of 40, 33 and 27 rows in six shards, row groups of 8, with a loss mask."""
    return write_data_set(tmp_path_factory.mktemp("stream") / "data", [[19, 21], [33], [5, 1, 21]], has_loss_mask=True)


@pytest.fixture(scope="session")
def rows_named() -> Callable[[Sequence[RowRange]], np.ndarray]:
    """The ids that ranges of rows must have."""
    return expected_ids
