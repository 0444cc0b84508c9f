"""Checking a prepared data set: its manifest against every byte that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llm360.canonical import sha256_digest
from llm360.data.held_out import check_held_out
from llm360.data.manifest import DataManifest, Shard, load_manifest
from llm360.data.parquet import open_parquet
from llm360.data.rows import from_fixed_binary, shard_schema
from llm360.errors import ObjectNotFoundError
from llm360.storage import Storage

# Shards under way at a time: hashing and decompression release the interpreter's lock.
PARALLEL_SHARDS = 4


@dataclass(frozen=True)
class DataVerification:
    """What checking found.

    Args:
        manifest: As stored.
        digest: sha256 of the stored manifest.
        bytes: Bytes read.
        problems: A sentence for each thing that is wrong, in the order of the manifest; empty if all is well.
    """

    manifest: DataManifest
    digest: str
    bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the bytes are those that the manifest names."""
        return not self.problems


@dataclass(frozen=True)
class _ShardResult:
    bytes: int
    problems: tuple[str, ...]
    source_rows: Counter[int]


def verify_data(storage: Storage, progress: Callable[[int, int], None] | None = None) -> DataVerification:
    """Check a data set.

    1. The manifest can be read and its counts add up.
    2. The tokenizer beside it has the digest that it names.
    3. Every shard is there, with its size and sha256.
    4. Every shard is Parquet with the right columns and number of rows.
    5. Ids are below the vocabulary size; masks are 0 or 1; sources exist.
    6. The documents of each row cover it from its first id to its last.
    7. Each source has as many rows as the manifest says.
    8. The copy of the documents held out has the digests that the manifest names, and each document of it is one that
       the recipe's rule keeps out of the rows.

    Args:
        storage: Rooted at the manifest's folder.
        progress: Called with (shards checked, shards in all) after each.

    Raises:
        InputError: there is no manifest, or it is malformed.
        StorageError: the store gives no answer.
    """
    manifest, digest = load_manifest(storage)
    problems = list(_check_tokenizer(storage, manifest))
    shards = [shard for chunk in manifest.chunks for shard in chunk.shards]
    total_bytes, found = 0, Counter[int]()
    with ThreadPoolExecutor(PARALLEL_SHARDS) as pool:
        waiting = iter(shards)
        running: list[Future[_ShardResult]] = []

        def start(count: int) -> None:
            running.extend(pool.submit(_check_shard, storage, manifest, shard) for shard in islice(waiting, count))

        start(PARALLEL_SHARDS)
        for done in range(len(shards)):
            result = running.pop(0).result()
            start(1)  # in order, and never more in memory than run at a time
            total_bytes += result.bytes
            found += result.source_rows
            problems += result.problems
            if progress:
                progress(done + 1, len(shards))
    if not problems:
        problems = [
            f"source '{source.name}': the manifest says {source.rows} rows, the shards hold {found[index]}"
            for index, source in enumerate(manifest.sources)
            if source.rows != found[index]
        ]
    problems += check_held_out(storage, manifest)
    return DataVerification(manifest, digest, total_bytes, tuple(problems))


def _check_tokenizer(storage: Storage, manifest: DataManifest) -> Iterator[str]:
    if manifest.tokenizer.key is None:
        return
    try:
        digest = sha256_digest(storage.get(manifest.tokenizer.key))
    except ObjectNotFoundError:
        yield f"{manifest.tokenizer.key} is missing"
        return
    if digest != manifest.tokenizer.digest:
        yield f"{manifest.tokenizer.key} has {digest}, the manifest says {manifest.tokenizer.digest}"


def _check_shard(storage: Storage, manifest: DataManifest, shard: Shard) -> _ShardResult:
    """Checks 3 to 6 of one shard; later ones only where the earlier ones pass."""
    try:
        data = storage.get(shard.key)
    except ObjectNotFoundError:
        return _ShardResult(0, (f"{shard.key} is missing",), Counter())

    def failed(problem: str) -> _ShardResult:
        return _ShardResult(len(data), (f"{shard.key}: {problem}",), Counter())

    if len(data) != shard.bytes:
        return failed(f"has {len(data)} bytes, the manifest says {shard.bytes}")
    digest = sha256_digest(data)
    if digest != shard.sha256:
        return failed(f"has {digest}, the manifest says {shard.sha256}")
    try:
        table = open_parquet(data, shard.rows).read()
    except (pa.ArrowException, ValueError) as error:
        return failed(f"cannot be used as Parquet: {error}")
    expected = shard_schema(manifest.row_tokens, manifest.dtype, manifest.has_loss_mask)
    if not table.schema.equals(expected):
        return failed(f"has columns {_describe(table.schema)}, expected {_describe(expected)}")
    problems = tuple(f"{shard.key}: {problem}" for problem in check_table(table, manifest))
    sources, counts = np.unique(table["source"].to_numpy(), return_counts=True)
    by_source = Counter({int(source): int(count) for source, count in zip(sources, counts, strict=True)})
    return _ShardResult(len(data), problems, by_source)


def check_table(table: pa.Table, manifest: DataManifest) -> Iterator[str]:
    """What is wrong in the values of a table with a shard's columns (checks 5 and 6)."""
    ids = from_fixed_binary(table["ids"], manifest.dtype)
    bad = np.argwhere(ids >= manifest.tokenizer.vocab_size)
    if len(bad):
        row, position = bad[0]
        yield (
            f"row {row} has id {ids[row, position]} at position {position}; ids must be below the vocabulary size"
            f" {manifest.tokenizer.vocab_size}"
        )
    if manifest.has_loss_mask:
        mask = from_fixed_binary(table["loss_mask"], "uint8")
        if mask.max(initial=0) > 1:
            yield f"row {np.argwhere(mask > 1)[0][0]} has a loss mask with {mask.max()}; only 0 and 1 are allowed"
    source = table["source"].to_numpy()
    if source.max(initial=0) >= len(manifest.sources):
        yield (
            f"row {int(source.argmax())} names source {source.max()}; the manifest has {len(manifest.sources)} sources"
        )
    row = first_row_not_covered(table["documents"], manifest.row_tokens)
    if row is not None:
        yield f"row {row}: its documents do not cover its {manifest.row_tokens} ids without gaps"


def first_row_not_covered(documents: pa.ChunkedArray[Any], row_tokens: int) -> int | None:
    """The first row whose spans do not tile `[0, row_tokens)`, if any."""
    counts = pc.list_value_length(documents).to_numpy().astype(np.int64)
    if not counts.all():
        return int(np.argmin(counts))
    spans = pc.list_flatten(documents)
    start = pc.struct_field(spans, "start").to_numpy().astype(np.int64)
    length = pc.struct_field(spans, "length").to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    # Each span begins where the one before ended: at 0 for a row's first, and the last ends at the row's end.
    last = np.cumsum(counts) - 1
    expected = np.concatenate(([0], (start + length)[:-1]))
    expected[np.concatenate(([0], last[:-1] + 1)).astype(np.int64)] = 0
    wrong = (start != expected) | (length == 0)
    wrong[last] |= (start + length)[last] != row_tokens
    return int(row[np.argmax(wrong)]) if wrong.any() else None


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
