"""Reading rows of a prepared data set back: ids, mask, source and the documents that each row was cut from."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm360.canonical import DIGEST_PREFIX
from llm360.data.manifest import DataManifest, Shard
from llm360.errors import InputError, IntegrityError
from llm360.storage import Storage

# Ids in the dtype of a manifest.
Ids = NDArray[np.unsignedinteger[Any]]

# Rows of a Parquet row group: what one ranged read brings.
GROUP_ROWS = 1024

SPAN_TYPE = pa.struct(
    [
        pa.field("document", pa.uint64(), nullable=False),
        pa.field("offset", pa.uint64(), nullable=False),
        pa.field("start", pa.uint32(), nullable=False),
        pa.field("length", pa.uint32(), nullable=False),
    ]
)


class Span(NamedTuple):
    """A piece of a document in a row: `ids[start : start + length]`."""

    document: int  # its index in the row's source
    offset: int  # tokens of the document before this piece
    start: int  # position in the row
    length: int  # tokens


@dataclass(frozen=True)
class Rows:
    """Consecutive rows.

    Args:
        ids: `[rows, row_tokens]` in the manifest's dtype.
        loss_mask: `[rows, predictions]` uint8, 1 where the label counts; None where all do.
        source: `[rows]` uint16, indices into the manifest's sources.
        documents: For each row, its pieces of documents in order.
    """

    ids: Ids
    loss_mask: Ids | None
    source: Ids
    documents: list[list[Span]]


def shard_schema(row_tokens: int, dtype: str, has_loss_mask: bool) -> pa.Schema:
    """The columns of a shard.

    Args:
        row_tokens: Ids in a row.
        dtype: `uint16` or `uint32`; ids are stored little endian.
        has_loss_mask: Whether a column of `row_tokens - 1` bytes (0 or 1) a row stands beside them.
    """
    fields: list[pa.Field[Any]] = [pa.field("ids", pa.binary(row_tokens * np.dtype(dtype).itemsize), nullable=False)]
    if has_loss_mask:
        fields.append(pa.field("loss_mask", pa.binary(row_tokens - 1), nullable=False))
    fields.append(pa.field("source", pa.uint16(), nullable=False))
    fields.append(pa.field("documents", pa.list_(pa.field("item", SPAN_TYPE, nullable=False)), nullable=False))
    return pa.schema(fields)


def fixed_binary(values: Ids) -> pa.FixedSizeBinaryArray:
    """A `[rows, n]` array of little-endian integers as one binary value a row, without copying."""
    rows, width = values.shape[0], values.shape[1] * values.itemsize
    data = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    buffer = pa.py_buffer(data.reshape(-1).view(np.uint8).data)
    return cast("pa.FixedSizeBinaryArray", pa.Array.from_buffers(pa.binary(width), rows, [None, buffer]))


def from_fixed_binary(column: pa.ChunkedArray[Any] | pa.Array[Any], dtype: str) -> Ids:
    """The `[rows, n]` array that `fixed_binary` made a column of; a view where the column is one piece."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # no rows, or more than one piece can hold
        array = pa.concat_arrays(array.chunks)
    width = cast("pa.FixedSizeBinaryType", array.type).byte_width
    data = np.frombuffer(memoryview(array.buffers()[1] or b""), dtype=np.uint8)
    data = data[array.offset * width : (array.offset + len(array)) * width]
    kind = np.dtype(dtype).newbyteorder("<")
    return data.view(kind).reshape(len(array), width // kind.itemsize)


def rows_from_table(table: pa.Table, dtype: str) -> Rows:
    """Decode a table with a shard's columns."""
    mask = from_fixed_binary(table["loss_mask"], "uint8") if "loss_mask" in table.column_names else None
    documents = [[Span(**span) for span in spans or ()] for spans in table["documents"].to_pylist()]
    return Rows(from_fixed_binary(table["ids"], dtype), mask, table["source"].to_numpy(), documents)


def read_rows(storage: Storage, manifest: DataManifest, chunk: int, start: int, stop: int) -> Rows:
    """Read rows `[start, stop)` of a chunk: of shards that this process has checked, only their row groups are fetched.

    Args:
        storage: Rooted at the manifest's folder.
        manifest: Names the shards.
        chunk: The chunk's index.
        start: First row, counted from the chunk's first.
        stop: The row after the last.

    Raises:
        InputError: the chunk has no such rows.
        IntegrityError: a shard's bytes are not those that the manifest names, or not Parquet with its columns and rows.
        ObjectNotFoundError: a shard is missing.
    """
    num_chunks = len(manifest.chunks)
    if not 0 <= chunk < num_chunks:
        raise InputError(f"there is no chunk {chunk}; the data has chunks 0 to {num_chunks - 1}")
    if not 0 <= start < stop <= manifest.chunks[chunk].rows:
        raise InputError(
            f"chunk {chunk} has {manifest.chunks[chunk].rows} rows; rows {start} to {stop - 1} are not in it"
        )
    tables = []
    first = 0  # row of the chunk with which the shard begins
    for shard in manifest.chunks[chunk].shards:
        low, high = max(start, first), min(stop, first + shard.rows)
        if low < high:
            tables.append(_read_shard(storage, manifest, shard, low - first, high - first))
        first += shard.rows
    return rows_from_table(pa.concat_tables(tables).combine_chunks(), manifest.dtype)


_checked: set[tuple[str, str, str, int, float]] = set()
"""Shards whose bytes this process has hashed: address, key, digest, size and time; a changed one is hashed again."""


def check_shard(storage: Storage, shard: Shard) -> None:
    """Compare a shard's bytes with its digest in the manifest; once in a process, since it reads them all.

    Raises:
        IntegrityError: they are others.
        ObjectNotFoundError: it is missing.
    """
    info = storage.stat(shard.key)
    place = (storage.uri, shard.key, shard.sha256, info.size, info.modified)
    if place in _checked:
        return
    file_hash = hashlib.sha256()
    for part in storage.iter_bytes(shard.key):
        file_hash.update(part)
    found = DIGEST_PREFIX + file_hash.hexdigest()
    if found != shard.sha256:
        raise IntegrityError(
            f"{storage.uri}/{shard.key} has {found}, the manifest says {shard.sha256}; check the data with"
            " `llm360 data verify`"
        )
    _checked.add(place)


def _read_shard(storage: Storage, manifest: DataManifest, shard: Shard, start: int, stop: int) -> pa.Table:
    """Rows `[start, stop)` of a shard."""
    check_shard(storage, shard)
    try:
        with pq.ParquetFile(cast("IO[bytes]", StorageFile(storage, shard.key))) as file:
            expected = shard_schema(manifest.row_tokens, manifest.dtype, manifest.has_loss_mask)
            if not file.schema_arrow.equals(expected) or file.metadata.num_rows != shard.rows:
                raise IntegrityError(
                    f"{storage.uri}/{shard.key} does not have the columns and the {shard.rows} rows that the manifest"
                    " names; check the data with `llm360 data verify`"
                )
            groups, first, base = [], 0, None
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    groups.append(group)
                    base = first if base is None else base
                first += rows
            return file.read_row_groups(groups).slice(start - (base or 0), stop - start)
    except pa.ArrowInvalid as error:
        raise IntegrityError(
            f"{storage.uri}/{shard.key} is not a readable Parquet file ({error}); check the data with"
            " `llm360 data verify`"
        ) from error


class StorageFile(io.RawIOBase):
    """An object of a store as a seekable file, each read one ranged request; wrap it in `io.BufferedReader`."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._size = storage.stat(key).size
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte; returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The current position in bytes."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer from the current position; returns the bytes read, 0 at the end."""
        length = min(len(buffer), max(0, self._size - self._position))
        if length == 0:
            return 0
        data = self._storage.get_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
