"""Cutting a source's ids, end to end, into rows, and knowing which documents each row was cut from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm360.data.rows import SPAN_TYPE


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


def cut_rows(
    document_starts: NDArray[np.int64], first_document: int, first_row: int, rows: int, row_tokens: int
) -> Spans:
    """Which documents the rows hold.

    Rows and documents cut the same line of ids: row r at r × row_tokens, a document where it starts. A span lies
    between neighbouring cuts.

    Args:
        document_starts: Position of each document's first id in the source's ids, ascending, each its own; from the
            document that covers the first row's first id, or an earlier one, to at least the last one in the rows.
        first_document: Index in its source of the first of these documents.
        first_row: The first row, counted from the source's first.
        rows: How many.
        row_tokens: Ids in a row.
    """
    begin, end = first_row * row_tokens, (first_row + rows) * row_tokens
    row_starts = np.arange(begin, end, row_tokens)
    inside = document_starts[(document_starts >= begin) & (document_starts < end)]
    cuts = np.union1d(row_starts, inside)
    which = np.searchsorted(document_starts, cuts, side="right") - 1
    return Spans(
        row_ends=np.append(np.searchsorted(cuts, row_starts), len(cuts)),
        document=first_document + which,
        offset=cuts - document_starts[which],
        start=(cuts - begin) % row_tokens,
        length=np.diff(np.append(cuts, end)),
    )


def whole_row_spans(documents: NDArray[np.int64], row_tokens: int) -> Spans:
    """Rows of which each is one document, documents[rows], whole."""
    rows = len(documents)
    zeros = np.zeros(rows, np.int64)
    return Spans(np.arange(rows + 1), documents, zeros, zeros, np.full(rows, row_tokens))
