"""A local Ray for the tests of streaming, and prepared data sets as the preparation writes them."""

from __future__ import annotations

import io
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from llm360.canonical import sha256_digest
from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.data.order import RowRange, StageOrder
from llm360.data.rows import fixed_binary, shard_schema
from llm360.storage import Storage, StorageOptions, open_storage

ROW_TOKENS = 64


@dataclass(frozen=True)
class DataSet:
    """Where prepared rows lie, and what they are."""

    uri: str
    options: StorageOptions
    manifest: DataManifest

    def order(self, batch_rows: int, remainder: str = "drop") -> StageOrder:
        return StageOrder(self.manifest.chunk_rows, batch_rows, remainder)

    def ids(self, ranges: Sequence[RowRange]) -> np.ndarray:
        """What ranges of rows must hold: [rows, ROW_TOKENS]."""
        return np.concatenate([ids_of(part.chunk, np.arange(part.start, part.stop)) for part in ranges])


def ids_of(chunk: int, rows: np.ndarray) -> np.ndarray:
    """Ids [rows, ROW_TOKENS] that say which row of which chunk they are."""
    generated = (rows[:, None] * 7919 + np.arange(ROW_TOKENS) * 104729 + chunk) % 30000
    generated[:, 0], generated[:, 1] = chunk, rows
    return generated.astype("<u2")


def put_shard(output: Storage, key: str, chunk: int, rows: np.ndarray) -> Shard:
    schema = shard_schema(ROW_TOKENS, "uint16", has_loss_mask=False)
    documents = pa.array([[]] * len(rows), schema.field("documents").type)
    columns = [fixed_binary(ids_of(chunk, rows)), pa.array(np.zeros(len(rows), np.uint16)), documents]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), file, compression="zstd", row_group_size=64, use_dictionary=False)
    data = file.getvalue()
    output.put(key, data)
    return Shard(key=key, rows=len(rows), bytes=len(data), sha256=sha256_digest(data))


def prepare(uri: str, options: StorageOptions, chunks: Sequence[Sequence[int]]) -> DataSet:
    """Write chunks of shards with the given numbers of rows."""
    output = open_storage(uri, options)
    made, total = [], sum(map(sum, chunks))
    for chunk, shards in enumerate(chunks):
        starts = np.cumsum([0, *shards])
        written = [
            put_shard(output, f"chunk{chunk}-{shard}.parquet", chunk, np.arange(starts[shard], starts[shard] + rows))
            for shard, rows in enumerate(shards)
        ]
        made.append(Chunk(rows=sum(shards), shards=tuple(written)))
    manifest = DataManifest(
        row_tokens=ROW_TOKENS,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=False,
        sources=(Source(name="a", documents=total, tokens=total * ROW_TOKENS, rows=total, dropped_tokens=0),),
        chunks=tuple(made),
        tokenizer=TokenizerInfo(digest=f"sha256:{'0' * 64}", vocab_size=30000),
        shuffle="none",
        unigram_entropy=1.0,
        recipe={},
    )
    output.put("manifest.json", manifest.to_bytes())
    return DataSet(uri, options, manifest)


@pytest.fixture
def new_data_set(tmp_path) -> Callable[..., DataSet]:
    """Makes a data set, in this test's folder unless told where."""

    def make(chunks: Sequence[Sequence[int]], uri: str | None = None, options: StorageOptions | None = None) -> DataSet:
        return prepare(uri or (tmp_path / "data").as_uri(), options or StorageOptions(), chunks)

    return make


@pytest.fixture(scope="session")
def data_set(tmp_path_factory) -> DataSet:
    """Three chunks of 400, 333 and 270 rows in six shards."""
    folder = tmp_path_factory.mktemp("stream") / "data"
    return prepare(folder.as_uri(), StorageOptions(), [[190, 210], [333], [50, 10, 210]])


@pytest.fixture(scope="module", autouse=True)
def ray_session(tmp_path_factory, s3_server) -> Iterator[None]:
    """Ray with two CPUs on this machine; its processes know the S3 server and keep shards in a folder of their own."""
    environment = {**s3_server.environment, "LLM360_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    # Ray and Ray Train take these for themselves; without them ctrl-C would not end the tests that follow.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, at its start
        for name, value in environment.items():
            patch.setenv(name, value)
        start_ray(attempts=3)
        try:
            yield
        finally:
            ray.shutdown()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def start_ray(attempts: int) -> None:
    """A busy machine may take longer for a raylet than the 30 s that Ray allows: try again."""
    for left in reversed(range(attempts)):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=200 * 1024 * 1024,
            )
        except Exception:
            ray.shutdown()
            if not left:
                raise
        else:
            return
