"""Which documents are held out follows from their text, a share and a seed, and from nothing else."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.errors import InputError
from llm360_trainer.prepare.held_out import HeldOut, parse_held_out, rule_of

from .conftest import text


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


def test_forms_of_the_option():
    assert parse_held_out("0.001:7") == HeldOut(Fraction(1, 1000), 7)
    assert parse_held_out("1/4") == HeldOut(Fraction(1, 4), 0)
    assert rule_of({}) is None


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
    assert manifest.sources[0].documents == len(kept)
    rows = [
        [place.get(shard.key) for chunk in found.chunks for shard in chunk.shards]
        for place, found in ((storage, manifest), (alone, expected))
    ]
    assert rows[0] == rows[1]
