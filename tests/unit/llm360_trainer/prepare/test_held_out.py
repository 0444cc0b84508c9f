"""Documents that are held out become no rows, and a copy of exactly these lies beside the data."""

from __future__ import annotations

from fractions import Fraction

import pytest

from llm360.data.held_out import HeldOut, read_held_out
from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.prepare.held_out import copy_held_out, parse_held_out, write_scratch

from .conftest import text


def test_forms_of_the_option():
    assert parse_held_out("0.001:7") == HeldOut(Fraction(1, 1000), 7)
    assert parse_held_out("1/4") == HeldOut(Fraction(1, 4), 0)


@pytest.mark.parametrize("given", ["0", "1", "1.5", "x", "0.1:x", "0.1:-1", "", "1/0"])
def test_other_forms_are_refused(given):
    with pytest.raises(InputError, match=r"--held-out is .*; give SHARE\[:SEED\]"):
        parse_held_out(given)


def test_held_out_documents_become_no_rows_and_the_recipe_says_so(prepare_here, write_lines):
    documents = [f"{text(number)} {number}" for number in range(300)]
    rule = HeldOut(Fraction(1, 4), 9)
    kept = [document for document in documents if not rule.takes(document)]
    assert 150 < len(kept) < 290
    manifest, storage = prepare_here(f"a={write_lines('all.txt', documents)}", held_out=rule)
    expected, alone = prepare_here(f"a={write_lines('kept.txt', kept)}", out="kept")
    assert manifest.recipe["held_out"] == {"share": "1/4", "seed": 9}
    assert "held_out" not in expected.recipe
    assert expected.held_out is None
    assert manifest.sources[0].documents == len(kept)
    rows = [
        [place.get(shard.key) for chunk in found.chunks for shard in chunk.shards]
        for place, found in ((storage, manifest), (alone, expected))
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("block_chars", [1, 100, 2**20])
def test_the_copy_is_of_exactly_the_documents_left_out_however_they_are_cut(prepare_here, write_lines, block_chars):
    a, b = ([f"{text(number)} {name}{number}" for number in range(90)] for name in "ab")
    rule = HeldOut(Fraction(1, 5), 2)
    sources = [f"a={write_lines('a.txt', a)}", f"b={write_lines('b.txt', b)}"]
    manifest, storage = prepare_here(*sources, held_out=rule, block_chars=block_chars)
    expected = [(name, line) for name, lines in (("a", a), ("b", b)) for line in lines if rule.takes(line)]
    assert len(expected) > 20
    assert list(read_held_out(storage, manifest)) == expected
    assert verify_data(storage).ok
    whole, _ = prepare_here(*sources, held_out=rule, out="whole")
    assert manifest == whole


def test_a_large_copy_is_several_files(tmp_path):
    scratch = open_storage(str(tmp_path))
    blocks = [["one", "three"], [], ["a document longer than a file", "four"]]
    for number, texts in enumerate(blocks):
        write_scratch(scratch, f"held_out/{number}", texts)
    copy = copy_held_out(
        scratch, [["held_out/0", "held_out/1"], ["held_out/2"]], scratch.at("data"), "held-out", file_chars=8
    )
    assert [file.documents for file in copy.files] == [2, 1, 1]
    assert [file.key for file in copy.files] == [f"held-out/0000{number}.parquet" for number in range(3)]
    assert len(copy.hashes) == 4
