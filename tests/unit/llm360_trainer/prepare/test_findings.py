"""Counts of personal data's patterns and of exact duplicates."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import IntegrityError, LLM360Error
from llm360.storage import open_storage
from llm360_trainer.prepare.findings import PATTERNS, collect_findings, count_personal, hash_texts, write_findings

LETTER = """Dear Ms Doe, write to jane.doe@example.org or to
<support+tickets@mail.example.co.uk>, or call +1 (555) 010-9999 before 2024-05-01.
Our server is 192.0.2.17; 300.1.2.3 is none. The card 4111 1111 1111 1111 is a test number. Version 1.2.3, 3 @ 4 m.
"""


def counts(*texts):
    return dict(zip(PATTERNS, count_personal(texts), strict=True))


def test_patterns_are_counted_in_prose():
    assert counts(LETTER) == {"email": 2, "phone": 1, "ip_address": 1, "credit_card": 1}
    assert counts(LETTER, "", LETTER) == {"email": 4, "phone": 2, "ip_address": 2, "credit_card": 2}
    assert counts("def f(x): return x @ y", "@", "") == dict.fromkeys(PATTERNS, 0)


@pytest.mark.parametrize("before", ["", " ", "x" * 70 + " ", "\n"])
@pytest.mark.parametrize("after", ["", " ", " " + "y" * 300, "\n"])
def test_addresses_are_found_wherever_they_stand(before, after):
    address = "jane.doe@example.org"
    assert counts(f"{before}{address}{after}")["email"] == 1
    assert counts(f"{before}{address}, {address}{after}")["email"] == 2
    assert counts(f"{before}{address}{' far ' * 200}{address}{after}")["email"] == 2


@pytest.mark.parametrize("text", ["=" * 300_000 + "@", "a/" * 200_000 + "@x.y", "@a." * 50_000, "1" * 300_000])
def test_no_text_takes_for_ever(text):
    started = time.monotonic()
    count_personal([text])
    assert time.monotonic() - started < 20


@given(
    sources=st.lists(
        st.lists(st.lists(st.sampled_from([LETTER, "a", "b", "c", ""]) | st.text(max_size=3), max_size=6), min_size=1),
        min_size=1,
        max_size=3,
    ),
    round_documents=st.sampled_from([1, 3, 1000]),
)
def test_duplicates_are_counted_inside_sources_and_over_all(tmp_path_factory, sources, round_documents):
    scratch = open_storage(str(tmp_path_factory.mktemp("scratch")))
    keys = []
    for number, blocks in enumerate(sources):
        keys.append([f"findings/{number}-{block}" for block in range(len(blocks))])
        for key, texts in zip(keys[-1], blocks, strict=True):
            write_findings(scratch, key, texts)
    found = collect_findings(scratch, keys, round_documents=round_documents)
    flat = [[text for block in blocks for text in block] for blocks in sources]
    everything = [text for texts in flat for text in texts]
    assert found.duplicates == tuple(len(texts) - len(set(texts)) for texts in flat)
    assert found.all_duplicates == len(everything) - len(set(everything))
    assert found.personal == tuple(counts(*texts) for texts in flat)


def test_texts_are_told_apart_by_their_sha256():
    # The first 8 bytes of sha256("a"), little endian.
    assert hash_texts(["a", "a", "b"]).tolist()[:2] == [int.from_bytes(bytes.fromhex("ca978112ca1bbdca"), "little")] * 2


def test_a_document_that_is_to_be_absent_is_told(tmp_path):
    scratch = open_storage(str(tmp_path))
    write_findings(scratch, "findings/0", ["a", "b"])
    assert collect_findings(scratch, [["findings/0"]], absent=hash_texts(["c", "d"])).duplicates == (0,)
    with pytest.raises(IntegrityError, match="1 documents that are held out stand among those of the rows"):
        collect_findings(scratch, [["findings/0"]], absent=hash_texts(["c", "b"]), round_documents=1)


def test_foreign_file_is_named(tmp_path):
    scratch = open_storage(str(tmp_path))
    scratch.put("findings/0", b"x" * 5000)
    with pytest.raises(LLM360Error, match="is no part of a preparation"):
        collect_findings(scratch, [["findings/0"]])


def test_the_manifest_keeps_what_was_found(prepare_here, write_lines):
    a = write_lines("a.txt", ["same words", "jane.doe@example.org wrote", "same words", "more words here"] * 3)
    b = write_lines("b.txt", ["same words", "only here, at 192.0.2.1", "something else", "and more of it"])
    manifest, storage = prepare_here(f"a={a}", f"b={b}")
    assert [source.duplicates for source in manifest.sources] == [9, 0]
    assert manifest.duplicates == 10
    assert [source.personal["email"] for source in manifest.sources] == [3, 0]
    assert manifest.sources[1].personal == {"email": 0, "phone": 0, "ip_address": 1, "credit_card": 0}
    assert "datafog" in manifest.recipe["made_with"]
    assert not list(storage.list("scratch/"))
