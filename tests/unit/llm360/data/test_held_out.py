"""Which documents are held out follows from their text, a share and a seed; their copy is what the manifest names."""

from __future__ import annotations

from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.canonical import sha256_digest
from llm360.data.held_out import SCHEMA, HeldOut, check_held_out, read_held_out, rule_of
from llm360.data.manifest import HeldOutFile, load_manifest
from llm360.data.verify import verify_data
from llm360.errors import IntegrityError

RULE = HeldOut(Fraction(1, 4), 7)
TAKEN = [text for text in map(str, range(99)) if RULE.takes(text)]
KEPT = next(text for text in map(str, range(99)) if not RULE.takes(text))
KEY = "held-out/00000.parquet"


def test_the_share_is_about_what_was_asked():
    rule = HeldOut(Fraction(1, 5), 3)
    taken = sum(rule.takes(f"document {number}") for number in range(5000))
    assert 900 < taken < 1100
    other = HeldOut(Fraction(1, 5), 4)
    assert any(rule.takes(f"{number}") != other.takes(f"{number}") for number in range(50))


@settings(max_examples=25)
@given(
    st.fractions(0, 1, max_denominator=10**6).filter(lambda share: 0 < share < 1), st.integers(0, 2**53 - 1), st.text()
)
def test_a_manifest_brings_the_rule_back(share, seed, document):
    rule = HeldOut(share, seed)
    again = rule_of({"held_out": rule.to_json()})
    assert again == rule
    assert again.takes(document) == rule.takes(document)
    assert rule_of({}) is None


@pytest.fixture
def copied(small_data):
    """Writes a copy of documents, and the manifest that names it."""

    def copy(rows, /, rule=RULE, schema=SCHEMA, **changes):
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema)]  # noqa: B905
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=schema), sink)
        data = sink.getvalue().to_pybytes()
        small_data.storage.put(KEY, data)
        file = HeldOutFile(key=KEY, documents=len(rows), bytes=len(data), sha256=sha256_digest(data))
        recipe = {} if rule is None else {"held_out": rule.to_json()}
        small_data.store(held_out=(file.model_copy(update=changes),), recipe=recipe)
        return load_manifest(small_data.storage)[0]

    return copy


def test_documents_come_back_with_the_names_of_their_sources(small_data, copied):
    manifest = copied([(0, TAKEN[0]), (1, TAKEN[1])])
    assert list(read_held_out(small_data.storage, manifest)) == [("even", TAKEN[0]), ("odd", TAKEN[1])]
    assert verify_data(small_data.storage).ok


def test_data_without_a_copy_has_the_manifest_that_it_always_had(small_data):
    assert b"held_out" not in small_data.manifest.to_bytes()
    assert list(read_held_out(small_data.storage, small_data.manifest)) == []


@pytest.mark.parametrize(
    ("documents", "how", "problem"),
    [
        ([(0, TAKEN[0])], {"sha256": f"sha256:{'0' * 64}"}, "has sha256:.*, the manifest says sha256:000"),
        ([(0, TAKEN[0])], {"documents": 2}, "it has 1 rows, expected 2"),
        ([(2, TAKEN[0])], {}, "names source 2; the manifest has 2 sources"),
        ([(TAKEN[0],)], {"schema": pa.schema([SCHEMA.field("text")])}, "has other columns"),
    ],
)
def test_a_copy_that_is_not_what_the_manifest_names_is_told_and_never_read(small_data, copied, documents, how, problem):
    manifest = copied(documents, **how)
    (told,) = check_held_out(small_data.storage, manifest)
    assert told.startswith(f"{KEY} ")
    with pytest.raises(IntegrityError, match=problem):
        list(read_held_out(small_data.storage, manifest))
    assert verify_data(small_data.storage).problems == (told,)


def test_a_missing_copy_is_told(small_data, copied):
    copied([(0, TAKEN[0])])
    small_data.storage.delete(KEY)
    assert verify_data(small_data.storage).problems == (f"{KEY} is missing",)


def test_documents_that_the_rule_lets_into_the_rows_are_told(small_data, copied):
    copied([(0, TAKEN[0]), (0, KEPT)])
    (told,) = verify_data(small_data.storage).problems
    assert told == f"{KEY} has 1 documents that share 1/4 and seed 7 do not hold out"
    copied([(0, TAKEN[0])], rule=None)
    (told,) = verify_data(small_data.storage).problems
    assert "the recipe holds no documents out" in told
