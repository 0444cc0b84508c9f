"""Cutting a source's ids, end to end, into rows, and knowing which documents each row was cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm360.data.rows import SPAN_TYPE, Ids, Span


@dataclass(frozen=True)
class Spans:
    """The pieces of documents in consecutive rows.

    Args:
        row_ends: `[rows + 1]`: row i has the spans `row_ends[i]` to `row_ends[i + 1]`.
        document: `[spans]`, index of the document in its source.
        offset: `[spans]`, tokens of the document before the span.
        start: `[spans]`, position in the row.
        length: `[spans]`, tokens.
    """

    row_ends: NDArray[np.int64]
    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    def of_row(self, row: int) -> list[Span]:
        """The pieces of one row."""
        part = slice(self.row_ends[row], self.row_ends[row + 1])
        columns = (self.document[part], self.offset[part], self.start[part], self.length[part])
        return [Span(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Span]]) -> Spans:
        """The pieces of consecutive rows from those of each."""
        ends = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
        columns = np.array([span for row in rows for span in row], np.int64).reshape(-1, len(Span._fields)).T
        return cls(ends, *columns)

    def to_arrow(self) -> pa.ListArray[Any]:
        """As the column `documents` of a shard."""
        fields = [SPAN_TYPE.field(number) for number in range(SPAN_TYPE.num_fields)]
        values = (self.document, self.offset, self.start, self.length)
        arrays = [pa.array(value, type=field.type) for value, field in zip(values, fields, strict=True)]
        items = pa.StructArray.from_arrays(arrays, fields=fields)
        kind = pa.list_(pa.field("item", SPAN_TYPE, nullable=False))
        return cast(
            "pa.ListArray[Any]", pa.ListArray.from_arrays(pa.array(self.row_ends, pa.int32()), items, type=kind)
        )


@dataclass(frozen=True)
class RowForm:
    """How a source's ids, end to end, become rows.

    Args:
        row_tokens: Ids in a row.
        stride: Ids from one row's first to the next row's. `row_tokens` cuts rows that share nothing (Amber, K2); one
            less has a row's last id, which is only a label, begin the next row (CrystalCoder), so that no id goes
            without a prediction.
    """

    row_tokens: int
    stride: int

    def rows_in(self, tokens: int) -> int:
        """Rows that so many ids fill."""
        return max(0, (tokens - self.row_tokens) // self.stride + 1)

    def reach(self, first_row: int, rows: int) -> tuple[int, int]:
        """Positions of the first id of these rows and of the one after their last."""
        return first_row * self.stride, (first_row + rows - 1) * self.stride + self.row_tokens

    def cut(self, ids: Ids) -> Ids:
        """The rows[rows, row_tokens] that ids[tokens] hold, the first one beginning with the first id; a view."""
        return np.lib.stride_tricks.sliding_window_view(ids, self.row_tokens)[:: self.stride]


def cut_rows(
    document_starts: NDArray[np.int64], first_document: int, first_row: int, rows: int, form: RowForm
) -> Spans:
    """Which documents the rows hold.

    Rows and documents cut the same line of ids: row r from r × stride on, a document where it starts.

    Args:
        document_starts: Position of each document's first id in the source's ids, ascending, each its own; from the
            document that covers the first row's first id, or an earlier one, to at least the last one in the rows.
        first_document: Index in its source of the first of these documents.
        first_row: The first row, counted from the source's first.
        rows: How many.
        form: Length and stride of rows.
    """
    begin = np.arange(first_row, first_row + rows, dtype=np.int64) * form.stride
    end = begin + form.row_tokens
    first = np.searchsorted(document_starts, begin, side="right") - 1
    row_ends = np.concatenate(([0], np.cumsum(np.searchsorted(document_starts, end) - first)))
    row = np.repeat(np.arange(rows), np.diff(row_ends))
    which = np.arange(row_ends[-1]) - row_ends[row] + first[row]
    starts = np.maximum(document_starts[which], begin[row])
    stops = np.minimum(np.append(document_starts[1:], np.iinfo(np.int64).max)[which], end[row])
    return Spans(
        row_ends=row_ends,
        document=first_document + which,
        offset=starts - document_starts[which],
        start=starts - begin[row],
        length=stops - starts,
    )


def whole_row_spans(documents: NDArray[np.int64], row_tokens: int) -> Spans:
    """Rows of which each is one document, documents[rows], whole."""
    rows = len(documents)
    zeros = np.zeros(rows, np.int64)
    return Spans(np.arange(rows + 1), documents, zeros, zeros, np.full(rows, row_tokens))
