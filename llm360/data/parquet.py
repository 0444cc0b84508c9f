"""Opening Parquet bytes that someone else wrote: how much they unfold to is asked before they are unfolded.

A few kilobytes of Parquet can say a billion rows. Digests do not help where whoever wrote the bytes also wrote the
digest, so the rows are compared with what the ledger or the manifest says, and the size with that of the bytes.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

LEAST_LIMIT = 2**30
"""Bytes that a file of any size may unfold to."""

LARGEST_RATIO = 1000
"""And so many times its size: ids, masks and records that repeat are packed a hundredfold, not more."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def open_parquet(data: bytes, rows: int) -> pq.ParquetFile:
    """A Parquet file of so many rows, of which only the footer has been read.

    Raises:
        ValueError: it has other rows, or its columns would take far more memory than data of its size does.
        pa.ArrowException: it is no Parquet file.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    if file.metadata.num_rows != rows:
        raise ValueError(f"it has {file.metadata.num_rows} rows, expected {rows}")
    size, limit = unfolded_bytes(file), max(LEAST_LIMIT, LARGEST_RATIO * len(data))
    if size > limit:
        raise ValueError(f"its {len(data)} bytes would unfold to {size}, more than the {limit} allowed")
    return file


def unfolded_bytes(file: pq.ParquetFile) -> int:
    """Bytes in memory by what the footer says: the values at their width, or the pages where these are larger."""
    total = 0
    for group in range(file.metadata.num_row_groups):
        columns = file.metadata.row_group(group)
        for index in range(columns.num_columns):
            column, kind = columns.column(index), file.schema.column(index)
            # Of text the width is not told; its pages are what is known.
            width = kind.length or _WIDTHS.get(kind.physical_type, 1)
            total += max(column.num_values * width, column.total_uncompressed_size)
    return total
