import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm360_trainer.prepare.packing import RowForm, Spans, cut_rows, whole_row_spans


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    row_tokens=st.integers(2, 9),
    overlap=st.integers(0, 1),
    data=st.data(),
)
def test_spans_say_for_every_id_which_document_and_offset_it_is(lengths, row_tokens, overlap, data):
    document = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.concatenate([np.arange(length) for length in lengths])
    starts = np.cumsum(lengths) - lengths
    form = RowForm(row_tokens, row_tokens - overlap)
    rows = form.rows_in(len(document))
    assert form.reach(0, rows)[1] <= len(document) < form.reach(0, rows + 1)[1]
    first_row = data.draw(st.integers(0, rows))
    stop_row = data.draw(st.integers(first_row, rows))
    # Any document up to the one that covers the first row's first id may come first.
    covering = int(document[min(first_row * form.stride, len(document) - 1)])
    first_document = data.draw(st.integers(0, covering))
    spans = cut_rows(starts[first_document:], first_document, first_row, stop_row - first_row, form)
    assert len(spans.row_ends) == stop_row - first_row + 1
    for row in range(first_row, stop_row):
        begin, end = spans.row_ends[row - first_row : row - first_row + 2]
        position = 0
        for span in range(begin, end):
            assert spans.start[span] == position
            first = row * form.stride + position
            ids = slice(first, first + int(spans.length[span]))
            assert set(document[ids].tolist()) == {int(spans.document[span])}
            assert offset[ids].tolist() == list(range(spans.offset[span], spans.offset[span] + spans.length[span]))
            position += int(spans.length[span])
        assert position == row_tokens
    by_row = [spans.of_row(row) for row in range(stop_row - first_row)]
    assert Spans.of_rows(by_row).to_arrow().equals(spans.to_arrow())


@given(tokens=st.integers(0, 40), row_tokens=st.integers(2, 9))
def test_rows_share_nothing_or_their_ends(tokens, row_tokens):
    ids = np.arange(tokens)
    for stride in (row_tokens, row_tokens - 1):
        form = RowForm(row_tokens, stride)
        rows = form.rows_in(tokens)
        if rows:
            cut = form.cut(ids[slice(*form.reach(0, rows))])
            assert cut.shape == (rows, row_tokens)
            assert np.array_equal(cut[:, 0], stride * np.arange(rows))
    assert row_tokens > tokens or np.array_equal(cut[:-1, -1], cut[1:, 0])


def test_arrow_column_holds_the_spans():
    spans = cut_rows(np.array([0, 3, 10]), 0, 0, 3, RowForm(4, 4))
    assert spans.to_arrow().to_pylist() == [
        [
            {"document": 0, "offset": 0, "start": 0, "length": 3},
            {"document": 1, "offset": 0, "start": 3, "length": 1},
        ],
        [{"document": 1, "offset": 1, "start": 0, "length": 4}],
        [
            {"document": 1, "offset": 5, "start": 0, "length": 2},
            {"document": 2, "offset": 0, "start": 2, "length": 2},
        ],
    ]


def test_imported_rows_are_documents_of_their_own():
    assert whole_row_spans(np.array([4, 0]), 9).to_arrow().to_pylist() == [
        [{"document": 4, "offset": 0, "start": 0, "length": 9}],
        [{"document": 0, "offset": 0, "start": 0, "length": 9}],
    ]
