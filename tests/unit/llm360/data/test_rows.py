import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.canonical import sha256_digest
from llm360.data.rows import Span, StorageFile, fixed_binary, from_fixed_binary, read_rows
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError


@pytest.mark.parametrize(("chunk", "start", "stop"), [(0, 0, 4), (0, 1, 2), (1, 0, 6), (1, 2, 4), (1, 3, 6), (1, 5, 6)])
def test_any_range_of_a_chunk_is_read_across_row_groups_and_shards(small_data, chunk, start, stop):
    rows = read_rows(small_data.storage, small_data.manifest, chunk, start, stop)
    first = sum(small_data.manifest.chunk_rows[:chunk]) + start
    last = first + stop - start
    assert np.array_equal(rows.ids, small_data.ids[first:last])
    assert rows.ids.dtype == np.uint16
    assert rows.source.tolist() == [row % 2 for row in range(first, last)]
    assert rows.documents == [
        [Span(row - 1, 5, 0, 2), Span(row, 0, 2, 3)] if row % 2 else [Span(row, 0, 0, 5)] for row in range(first, last)
    ]
    assert rows.loss_mask is None


def test_loss_mask_is_read_where_there_is_one(masked_data):
    rows = read_rows(masked_data.storage, masked_data.manifest, 1, 0, 6)
    assert np.array_equal(rows.loss_mask, masked_data.mask[4:])


@pytest.mark.parametrize(("chunk", "start", "stop"), [(2, 0, 1), (-1, 0, 1), (0, 0, 5), (0, 2, 2), (0, -1, 1)])
def test_rows_that_do_not_exist_are_refused(small_data, chunk, start, stop):
    with pytest.raises(InputError):
        read_rows(small_data.storage, small_data.manifest, chunk, start, stop)


def test_missing_shard_is_named(small_data):
    small_data.storage.delete("a.parquet")
    with pytest.raises(ObjectNotFoundError, match=r"a\.parquet"):
        read_rows(small_data.storage, small_data.manifest, 0, 0, 1)


def test_shard_that_is_no_parquet_is_named(small_data):
    data = b"PAR1 but not really"
    small_data.storage.put("a.parquet", data)
    small_data.name(0, 0, bytes=len(data), sha256=sha256_digest(data))
    with pytest.raises(IntegrityError, match=r"a\.parquet is not a readable Parquet file"):
        read_rows(small_data.storage, small_data.manifest, 0, 0, 1)


def test_shard_of_other_bytes_is_refused_also_after_it_was_read(small_data):
    storage, manifest = small_data.storage, small_data.manifest
    read_rows(storage, manifest, 0, 0, 1)
    table = small_data.table(0, 0)
    ids = fixed_binary(small_data.ids[:4][::-1].copy())
    small_data.rewrite(0, 0, table.set_column(0, table.schema.field("ids"), ids))
    with pytest.raises(IntegrityError, match=r"a\.parquet has sha256:.*, the manifest says sha256:"):
        read_rows(storage, manifest, 0, 0, 1)
    read_rows(storage, small_data.manifest, 0, 0, 1)


def test_shard_is_hashed_once(small_data, monkeypatch):
    read, iter_bytes = [], small_data.storage.iter_bytes
    monkeypatch.setattr(small_data.storage, "iter_bytes", lambda key: read.append(key) or iter_bytes(key))
    for row in range(6):
        read_rows(small_data.storage, small_data.manifest, 1, row, row + 1)
    assert read == ["b.parquet", "c.parquet"]


def test_shard_of_other_rows_is_refused(small_data):
    small_data.rewrite(0, 0, small_data.table(1, 0))
    with pytest.raises(IntegrityError, match="4 rows that the manifest names"):
        read_rows(small_data.storage, small_data.manifest, 0, 0, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@given(rows=st.integers(0, 5), width=st.integers(1, 7), data=st.data())
def test_fixed_binary_keeps_values_through_slices_and_pieces(dtype, rows, width, data):
    largest = np.iinfo(dtype).max
    flat = data.draw(st.lists(st.integers(0, largest), min_size=rows * width, max_size=rows * width))
    values = np.array(flat, dtype).reshape(rows, width)
    column = fixed_binary(values)
    cut = data.draw(st.integers(0, rows))
    assert np.array_equal(from_fixed_binary(column[cut:], dtype), values[cut:])
    pieces = pa.chunked_array([column[:cut], column[cut:]], type=column.type)
    assert np.array_equal(from_fixed_binary(pieces, dtype), values)


def test_ids_are_little_endian_whatever_the_machine():
    column = fixed_binary(np.array([[0x0102]], dtype=">u2"))
    assert column[0].as_py() == b"\x02\x01"


def test_storage_file_reads_like_a_file(small_data):
    small_data.storage.put("text", b"one\ntwo\nthree")
    with io.BufferedReader(StorageFile(small_data.storage, "text"), 4) as file:
        assert file.readlines() == [b"one\n", b"two\n", b"three"]
        assert file.seek(-5, io.SEEK_END) == 8
        assert file.read() == b"three"
        assert file.read() == b""
