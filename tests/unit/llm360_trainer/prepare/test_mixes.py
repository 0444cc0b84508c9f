"""The mixes of Amber, CrystalCoder and K2 against their published numbers."""

import hashlib
import json
from fractions import Fraction

import pytest

from llm360.data.rows import read_rows
from llm360.errors import InputError
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.mixes import CHUNK_ORDERS, MIXES, STARCODER_LANGUAGES

# sha256 of the chunks by position, as a JSON list, of the order that k2-train's main.py (869fbb9) computes.
K2_ORDER_SHA256 = "4ea904a7397dbe396a5fa01351ab83788096e55acd03126971836c8593099905"
# sha256 of amber-data-prep's starcoder-lang.list (67d914f), its lines joined by newlines.
LANGUAGES_SHA256 = "a56197f24d8d632748e34d875ae399a0bcf4bf90eddb12f1e90f6941b580ca91"


def test_k2_read_its_chunks_in_its_order():
    order = list(CHUNK_ORDERS["k2"])
    assert sorted(order) == list(range(360))
    assert hashlib.sha256(json.dumps(order).encode()).hexdigest() == K2_ORDER_SHA256
    assert (order[16], order[30], order[160], order[185], order[-2:]) == (32, 16, 161, 187, [160, 186])


def test_starcoder_languages_are_those_of_the_list():
    assert len(STARCODER_LANGUAGES) == 92
    assert hashlib.sha256("\n".join(STARCODER_LANGUAGES).encode()).hexdigest() == LANGUAGES_SHA256


@pytest.mark.parametrize(("stage", "sources"), [(1, 7), (2, 8), (3, 11)])
def test_weights_of_crystalcoder_are_whole(stage, sources):
    """Cards name 345, 927 and 110 billion tokens; params.yaml gives the shares (crystalcoder-train at 03efa54)."""
    mix = MIXES[f"crystalcoder-stage{stage}"]
    assert len(mix.parts) == sources
    assert float(sum(part.weight for part in mix.parts.values())) == pytest.approx(1, abs=1e-15)
    assert (mix.packing, mix.labels, mix.sequence_length) == ("overlapping", "next_token", 2048)


def test_code_of_crystalcoder_is_turned_around_as_often_as_it_was():
    two, three = MIXES["crystalcoder-stage2"].parts, MIXES["crystalcoder-stage3"].parts
    assert not any(part.fim for part in MIXES["crystalcoder-stage1"].parts.values())
    assert {name: part.fim for name, part in two.items() if part.fim} == {"starcoder": (0.9, 0.5, False)}
    assert two["starcoder"].times == 2
    web = ("css", "javascript", "html", "python")
    assert {three[name].fim for name in web} == {(0.3, 0.5, False)}
    assert {three[name].times for name in web} == {Fraction(3)}
    # Shares of 119.93 billion tokens: steps 27,728 of 2,112 rows of 2,048.
    tokens = 27_728 * 2112 * 2048
    assert [round(float(three[name].weight * tokens) / 1e9, 3) for name in web] == [10.546, 22.033, 22.232, 41.101]


def test_k2_takes_sources_as_often_as_its_code_did():
    mix = MIXES["k2"]
    times = {name: part.times for name, part in mix.parts.items() if part.times != 1}
    three = ("dm-math", "pubmed-abstracts", "redpajama.book", "redpajama.stackexchange", "uspto")
    assert times == dict.fromkeys(three, 3) | {"redpajama.wikipedia": 6, "starcoder": Fraction(1, 2)}
    assert list(mix.parts) == sorted(mix.parts), "in the order of their names"
    assert (mix.labels, mix.shuffle, mix.chunks, mix.parts["starcoder"].fim) == (
        *("inside", "chunk", 360),
        (0.5, 0.5, True),
    )
    assert all(360 % times == 0 or times == Fraction(1, 2) for times in times.values())


def test_sources_are_those_of_the_mix_in_its_order():
    mix = MIXES["amber"]
    given = [SourceSpec(name, f"{name}/") for name in reversed(mix.parts)]
    sources = mix.sources(given)
    assert [source.name for source in sources] == list(mix.parts)
    assert sources[5].folders == STARCODER_LANGUAGES
    with pytest.raises(InputError, match="the recipe needs the sources arxiv, c4 too"):
        mix.sources([source for source in given if source.name not in ("arxiv", "c4")])
    with pytest.raises(InputError, match=r"has no source 'arxive' \(did you mean 'arxiv'\?\)"):
        mix.sources([*given, SourceSpec("arxive", "x")])
    with pytest.raises(InputError, match="states a weight, times, fim or chat, which the recipe sets"):
        mix.sources([*given[1:], SourceSpec(given[0].name, "x", Fraction(1))])


def test_only_the_folders_of_a_mix_are_read(tmp_path):
    for folder in ("b", "a", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("x\n")
    source = SourceSpec("code", str(tmp_path), folders=("b", "a"))
    assert [file.key for file in source.files()] == ["b/x.txt", "a/x.txt"]
    with pytest.raises(InputError, match="but of them c hold nothing"):
        SourceSpec("code", str(tmp_path), folders=("b", "a", "c")).files()


def test_amber_in_small(prepare_here, write_lines, tokenizer_bytes):
    """Blocks of the sources in their order in every chunk, each chunk with as many rows of each, as was published."""
    mix = MIXES["amber"]
    texts = {name: [f"{name} {number}" for number in range(20 + len(name))] for name in mix.parts}
    sources = tuple(SourceSpec(name, write_lines(f"{name}.txt", lines)) for name, lines in texts.items())
    manifest, storage = prepare_here(
        sources=sources, shuffle=mix.shuffle, labels=mix.labels, packing=mix.packing, chunks=4
    )
    blocks = [read_rows(storage, manifest, chunk, 0, rows).source for chunk, rows in enumerate(manifest.chunk_rows)]
    assert all(block.tolist() == blocks[0].tolist() == sorted(block.tolist()) for block in blocks)
    assert set(blocks[0].tolist()) == set(range(7))
