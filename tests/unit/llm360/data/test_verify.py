import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.data.rows import fixed_binary
from llm360.data.verify import first_row_not_covered, verify_data
from llm360.errors import InputError
from llm360.storage import open_storage


def test_untouched_data_is_fine_and_progress_counts_its_shards(small_data):
    seen = []
    found = verify_data(small_data.storage, lambda done, total: seen.append((done, total)))
    assert found.ok
    assert found.problems == ()
    assert found.bytes == sum(shard.bytes for chunk in found.manifest.chunks for shard in chunk.shards)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_masked_data_is_fine(masked_data):
    assert verify_data(masked_data.storage).ok


def test_no_data_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        verify_data(open_storage(str(tmp_path)))


def test_every_fault_of_several_shards_is_named(small_data):
    data = bytearray(small_data.storage.get("a.parquet"))
    data[len(data) // 2] ^= 1
    small_data.storage.put("a.parquet", bytes(data))
    small_data.storage.put("b.parquet", small_data.storage.get("b.parquet")[:-1])
    small_data.storage.delete("c.parquet")
    problems = verify_data(small_data.storage).problems
    assert len(problems) == 3
    assert problems[0].startswith("a.parquet: has sha256:")
    assert problems[1].startswith("b.parquet: has ")
    assert "bytes, the manifest says" in problems[1]
    assert problems[2] == "c.parquet is missing"


def test_changed_and_missing_tokenizer_are_named(small_data):
    small_data.storage.put("tokenizer.json", b"{}")
    assert verify_data(small_data.storage).problems[0].startswith("tokenizer.json has sha256:")
    small_data.storage.delete("tokenizer.json")
    assert verify_data(small_data.storage).problems == ("tokenizer.json is missing",)


def with_column(table, name, values):
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_id_beyond_the_vocabulary_is_named_with_its_place(small_data):
    ids = small_data.ids[:4].copy()
    ids[2, 3] = 300
    table = small_data.table(0, 0)
    small_data.rewrite(0, 0, table.set_column(0, table.schema.field("ids"), fixed_binary(ids)))
    (problem,) = verify_data(small_data.storage).problems
    assert problem.startswith("a.parquet: row 2 has id 300 at position 3")


def test_unknown_source_is_named(small_data):
    small_data.rewrite(0, 0, with_column(small_data.table(0, 0), "source", [0, 1, 2, 0]))
    (problem,) = verify_data(small_data.storage).problems
    assert "row 2 names source 2" in problem


def test_rows_of_the_wrong_source_are_counted(small_data):
    small_data.rewrite(0, 0, with_column(small_data.table(0, 0), "source", [0, 0, 0, 0]))
    problems = verify_data(small_data.storage).problems
    assert problems == (
        "source 'even': the manifest says 5 rows, the shards hold 7",
        "source 'odd': the manifest says 5 rows, the shards hold 3",
    )


def test_gap_between_documents_is_named(small_data):
    documents = small_data.table(0, 0)["documents"].to_pylist()
    documents[1][1]["start"] = 3
    small_data.rewrite(0, 0, with_column(small_data.table(0, 0), "documents", documents))
    (problem,) = verify_data(small_data.storage).problems
    assert "row 1: its documents do not cover its 5 ids" in problem


def test_mask_of_other_values_is_named(masked_data):
    mask = masked_data.mask[:4].copy()
    mask[3, 0] = 7
    table = masked_data.table(0, 0)
    masked_data.rewrite(0, 0, table.set_column(1, table.schema.field("loss_mask"), fixed_binary(mask)))
    (problem,) = verify_data(masked_data.storage).problems
    assert "row 3 has a loss mask with 7" in problem


def test_other_columns_and_other_row_counts_are_named(small_data):
    small_data.rewrite(0, 0, small_data.table(0, 0).drop_columns(["source"]))
    small_data.rewrite(1, 0, small_data.table(1, 0).slice(1))
    problems = verify_data(small_data.storage).problems
    assert "a.parquet: has columns ids" in problems[0]
    assert problems[1] == "b.parquet: cannot be used as Parquet: it has 2 rows, expected 3"


def test_shard_that_unfolds_to_more_than_its_size_allows_is_not_read(small_data, monkeypatch):
    monkeypatch.setattr("llm360.data.parquet.LEAST_LIMIT", 100)
    monkeypatch.setattr("llm360.data.parquet.LARGEST_RATIO", 0)
    problems = verify_data(small_data.storage).problems
    assert len(problems) == 3
    assert all("more than the 100 allowed" in problem for problem in problems)


ROW = 6


def covered(spans):
    position = 0
    for start, length in spans:
        if start != position or length == 0:
            return False
        position += length
    return position == ROW


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, ROW), st.integers(0, ROW)), max_size=4)
        | st.sampled_from([[(0, ROW)], [(0, 2), (2, 4)], [(0, 1), (1, 2), (3, 3)]]),
        min_size=1,
        max_size=4,
    )
)
def test_coverage_agrees_with_the_obvious_check(rows):
    column = pa.chunked_array(
        [[[{"start": start, "length": length} for start, length in row] for row in rows]],
        pa.list_(pa.struct({"start": pa.uint32(), "length": pa.uint32()})),
    )
    wrong = [not covered(row) for row in rows]
    found = first_row_not_covered(column, ROW)
    if not any(wrong):
        assert found is None
    else:
        assert wrong[found]
        assert np.all([not wrong[row] for row in range(found)]) or any(not row for row in rows)
