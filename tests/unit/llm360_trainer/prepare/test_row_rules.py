"""How the originals made rows: dealt to chunks, sharing ends, with labels inside, taken oftener, turned around."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.data.rows import Span, read_rows
from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360_trainer.prepare.fim import FimRates
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.layout import plan_layout
from llm360_trainer.prepare.tokenize import train_tokenizer

DOCUMENTS = {"a": [f"document {number} of a, " * (number % 4) for number in range(90)], "b": ["b says it"] * 60}


@pytest.fixture(scope="module")
def code_tokenizer():
    return train_tokenizer([text for texts in DOCUMENTS.values() for text in texts] * 3, 300, sentinels=True)


@pytest.fixture
def sources(write_lines):
    """Makes the sources, with settings of each."""

    def make(**settings):
        paths = {name: write_lines(f"{name}.txt", texts) for name, texts in DOCUMENTS.items()}
        return tuple(SourceSpec(name, path, **settings.get(name, {})) for name, path in paths.items())

    return make


@pytest.fixture
def make(prepare_here, sources, code_tokenizer):
    def run(out="out", settings=None, **changes):
        given = {"sources": sources(**(settings or {})), "tokenizer": code_tokenizer, "sequence_length": 8, "chunks": 3}
        return prepare_here(out=out, **given | changes)

    return run


def rows_of(manifest, storage):
    """ids, source and first document's place of every row of every chunk."""
    chunks = [read_rows(storage, manifest, chunk, 0, rows) for chunk, rows in enumerate(manifest.chunk_rows)]
    return [list(zip(part.ids.tolist(), part.source.tolist(), strict=True)) for part in chunks]


def test_dealt_rows_keep_their_order_in_each_chunk(make):
    """Row j of a source goes to chunk j mod 3, source after source; what fills not all chunks is left out (Amber)."""
    plain = [row for chunk in rows_of(*make(shuffle="none", out="plain", chunks=1)) for row in chunk]
    manifest, storage = make(shuffle="deal")
    expected = []
    for chunk in range(3):
        of_source = [[row for row in plain if row[1] == source] for source in range(2)]
        expected.append([row for rows in of_source for row in rows[: len(rows) // 3 * 3][chunk::3]])
    assert rows_of(manifest, storage) == expected
    assert len(set(manifest.chunk_rows)) == 1
    assert (manifest.shuffle, manifest.seed) == ("deal", None)
    assert verify_data(storage).ok


def test_dealt_chunks_shuffled_inside_hold_the_same_rows(make):
    dealt = rows_of(*make(shuffle="deal", out="dealt"))
    one, storage = make(shuffle="chunk", seed=1)
    other = rows_of(*make(shuffle="chunk", seed=2, out="other"))
    for chunk, first, second in zip(dealt, rows_of(one, storage), other, strict=True):
        assert sorted(chunk) == sorted(first) == sorted(second)
        assert chunk != first != second
    assert one.seed == 1


@pytest.mark.parametrize("changes", [{"max_rows": 5}, {"settings": {name: {"weight": Fraction(1)} for name in "ab"}}])
def test_the_deal_takes_all_rows(make, changes):
    with pytest.raises(InputError, match="takes neither weights nor --max-rows"):
        make(shuffle="deal", **changes)


@given(
    rows=st.lists(st.integers(12, 90), min_size=1, max_size=4),
    times=st.lists(st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3), Fraction(6)]), min_size=4, max_size=4),
    seed=st.none() | st.integers(0, 9),
)
def test_dealt_places_are_all_places_and_a_row_comes_so_often(rows, times, seed):
    layout = plan_layout(
        names=list("abcd")[: len(rows)],
        available=rows,
        weights=[None] * len(rows),
        chunks=6,
        max_rows=None,
        row_bytes=18,
        seed=seed,
        prefix="rows",
        times=times[: len(rows)],
        is_dealt=True,
    )
    places = [layout.places(source, np.arange(there)) for source, there in enumerate(layout.available)]
    together = np.concatenate(places)
    assert np.array_equal(np.sort(together[together >= 0]), np.arange(layout.rows))
    in_chunk = layout.chunk_rows[0]
    for source, (count, often) in enumerate(zip(rows, times, strict=False)):
        period = int(6 / often)
        chunk = places[source].reshape(-1, count) // in_chunk
        for row in range(count // period * period):
            expected = [number for number in range(6) if number % period == row % period]
            assert [number for number in chunk[:, row].tolist() if number >= 0] == expected


def test_times_that_do_not_divide_the_chunks_are_refused(make):
    with pytest.raises(InputError, match="source a is taken 2 times and cannot be dealt to 3 chunks"):
        make(shuffle="deal", settings={"a": {"times": Fraction(2)}})


def test_rows_taken_several_times_or_in_part(make):
    once = make(shuffle="none", out="once")[0]
    manifest, storage = make(settings={"a": {"times": Fraction(3)}, "b": {"times": Fraction(1, 2)}})
    (a, b), (a_once, b_once) = manifest.sources, once.sources
    assert (a.rows, b.rows) == (3 * a_once.rows, b_once.rows // 2)
    rows = [row for chunk in rows_of(manifest, storage) for row in chunk if row[1] == 0]
    assert all(rows.count(row) >= 3 for row in rows)
    assert a.dropped_tokens == a_once.dropped_tokens
    assert b.dropped_tokens == b.tokens - b.rows * manifest.row_tokens


def test_overlapping_rows_predict_every_id(make):
    """A row's last id, only a label, is the next row's first input (CrystalCoder)."""
    manifest, storage = make(packing="overlapping", shuffle="none", chunks=1)
    (rows,) = rows_of(manifest, storage)
    ids = [row for row, source in rows if source == 0]
    assert all(before[-1] == after[0] for before, after in itertools.pairwise(ids))
    assert (manifest.row_tokens, manifest.sequence_length) == (9, 8)
    assert manifest.sources[0].dropped_tokens == manifest.sources[0].tokens - (8 * len(ids) + 1) < 8
    assert verify_data(storage).ok


def test_labels_inside_make_rows_of_n_ids(make):
    """2,048 ids give 2,047 predictions in K2; here 8 and 7."""
    manifest, storage = make(labels="inside")
    assert (manifest.row_tokens, manifest.predictions, manifest.sequence_length) == (8, 7, 8)
    assert verify_data(storage).ok
    with pytest.raises(InputError, match="a row of one id has no prediction"):
        make(labels="inside", sequence_length=1, out="one")


def test_fim_touches_only_its_source_and_pads_count_nowhere(make):
    settings = {"a": {"fim": FimRates(0.9, 0.5), "times": Fraction(2)}}
    plain, plain_storage = make(shuffle="none", out="plain", chunks=1)
    manifest, storage = make(settings=settings, shuffle="none", chunks=1)
    assert manifest.has_loss_mask
    assert verify_data(storage).ok
    rows = read_rows(storage, manifest, 0, 0, manifest.rows)
    before = read_rows(plain_storage, plain, 0, 0, plain.rows)
    b_rows = plain.sources[1].rows
    assert np.array_equal(rows.ids[-b_rows:], before.ids[-b_rows:])
    assert rows.loss_mask[-b_rows:].all()
    turned = rows.ids[:-b_rows]
    assert np.isin(turned, [1, 2, 3]).any(axis=1).mean() > 0.8
    assert np.array_equal(rows.loss_mask == 0, rows.ids[:, 1:] == 4), "padding and nothing else is masked"
    first, second = np.split(turned, 2)
    assert not np.array_equal(first, second), "each time is drawn anew"
    assert manifest.recipe["sources"][0]["fim"] == {"rate": 0.9, "spm_rate": 0.5}


def test_fim_without_sentinels_is_refused_before_any_work(make, tokenizer_bytes, tmp_path):
    with pytest.raises(InputError, match=r"needs sentinel tokens, but the tokenizer has no <\|fim_prefix\|>"):
        make(settings={"a": {"fim": FimRates(0.5, 0.5)}}, tokenizer=tokenizer_bytes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shuffle", ["global", "deal", "chunk"])
def test_cuts_of_the_work_never_show(make, shuffle):
    rules = {"settings": {"a": {"fim": FimRates(0.9, 0.5), "times": Fraction(3)}}, "packing": "overlapping"}
    one, one_storage = make(shuffle=shuffle, out="one", **rules)
    two, two_storage = make(shuffle=shuffle, out="two", block_chars=90, run_bytes=70, **rules)
    assert one == two
    assert rows_of(one, one_storage) == rows_of(two, two_storage)


def test_data_prepared_before_there_was_a_choice_is_the_same_data(make):
    manifest, _ = make()
    assert not {"labels", "packing"} & set(manifest.recipe)
    assert set(manifest.recipe["sources"][0]) == {"name", "files", "bytes", "digest", "weight"}
    assert make()[0] == manifest


def test_spans_of_rows_are_those_of_their_documents(make):
    manifest, storage = make(packing="overlapping", shuffle="none", chunks=1)
    documents = read_rows(storage, manifest, 0, 0, 3).documents
    assert documents[0][0] == Span(0, 0, 0, 1), "an empty document is its end alone"
