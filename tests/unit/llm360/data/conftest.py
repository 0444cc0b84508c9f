"""A small data set written by hand, so that the core's readers are tested without the trainer."""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llm360.canonical import sha256_digest
from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.data.rows import fixed_binary, shard_schema
from llm360.storage import Storage, open_storage

ROW_TOKENS = 5
VOCAB_SIZE = 257


@dataclass
class SmallData:
    """Ten rows in two chunks; the second chunk has two shards. Row r has the ids 10r … 10r+4."""

    storage: Storage
    manifest: DataManifest
    ids: np.ndarray
    mask: np.ndarray | None

    def store(self, **changes):
        """Write the manifest, with changes."""
        self.manifest = self.manifest.model_copy(update=changes)
        self.storage.put("manifest.json", self.manifest.to_bytes())

    def rewrite(self, chunk, shard, table):
        """Replace a shard's contents and make the manifest name the new bytes."""
        old = self.manifest.chunks[chunk].shards[shard]
        new = write(self.storage, old.key, table)
        self.name(chunk, shard, bytes=new.bytes, sha256=new.sha256)

    def name(self, chunk, shard, **changes):
        """Make the manifest name other bytes of a shard."""
        shards = list(self.manifest.chunks[chunk].shards)
        shards[shard] = shards[shard].model_copy(update=changes)
        chunks = list(self.manifest.chunks)
        chunks[chunk] = chunks[chunk].model_copy(update={"shards": tuple(shards)})
        self.store(chunks=tuple(chunks))

    def table(self, chunk, shard):
        """A shard as stored."""
        data = self.storage.get(self.manifest.chunks[chunk].shards[shard].key)
        return pq.read_table(pa.BufferReader(data))


def write(storage, key, table):
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=2, compression="zstd")
    storage.put(key, sink.getvalue())
    return Shard(key=key, rows=table.num_rows, bytes=len(sink.getvalue()), sha256=sha256_digest(sink.getvalue()))


def spans(row):
    """Odd rows are two pieces, even rows one."""
    if row % 2:
        return [
            {"document": row - 1, "offset": ROW_TOKENS, "start": 0, "length": 2},
            {"document": row, "offset": 0, "start": 2, "length": 3},
        ]
    return [{"document": row, "offset": 0, "start": 0, "length": ROW_TOKENS}]


def byte_tokenizer():
    """Byte-level, without merges."""
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


def make(folder, has_loss_mask):
    storage = open_storage(str(folder))
    ids = (10 * np.arange(10)[:, None] + np.arange(ROW_TOKENS)).astype(np.uint16)
    mask = np.eye(10, ROW_TOKENS - 1, dtype=np.uint8) if has_loss_mask else None
    schema = shard_schema(ROW_TOKENS, "uint16", has_loss_mask)

    def shard(key, start, stop):
        columns = {"ids": fixed_binary(ids[start:stop])}
        if mask is not None:
            columns["loss_mask"] = fixed_binary(mask[start:stop])
        columns["source"] = pa.array([row % 2 for row in range(start, stop)], pa.uint16())
        columns["documents"] = pa.array([spans(row) for row in range(start, stop)], schema.field("documents").type)
        return write(storage, key, pa.table(columns, schema=schema))

    chunks = (
        Chunk(rows=4, shards=(shard("a.parquet", 0, 4),)),
        Chunk(rows=6, shards=(shard("b.parquet", 4, 7), shard("c.parquet", 7, 10))),
    )
    tokenizer = byte_tokenizer()
    storage.put("tokenizer.json", tokenizer)
    manifest = DataManifest(
        row_tokens=ROW_TOKENS,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=has_loss_mask,
        sources=tuple(Source(name=name, documents=5, tokens=25, rows=5, dropped_tokens=0) for name in ("even", "odd")),
        chunks=chunks,
        tokenizer=TokenizerInfo(key="tokenizer.json", digest=sha256_digest(tokenizer), vocab_size=VOCAB_SIZE, eos_id=0),
        shuffle="none",
        seed=None,
        unigram_entropy=1.0,
        recipe={},
    )
    data = SmallData(storage, manifest, ids, mask)
    data.store()
    return data


@pytest.fixture
def small_data(tmp_path):
    return make(tmp_path / "data", has_loss_mask=False)


@pytest.fixture
def masked_data(tmp_path):
    return make(tmp_path / "masked", has_loss_mask=True)
