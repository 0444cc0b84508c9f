"""Samples are LLM360's choice, and hold the very rows that training read."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from llm360.data.rows import read_rows
from llm360.errors import InputError, IntegrityError
from llm360.release.create import open_release
from llm360_trainer.analyze.pieces import choose_rows, chunk_samples


def samples(release, chosen="all", **choice):
    history = open_release(release.storage).history()
    return chunk_samples(release.storage, history, chosen, **({"count": 1000, "seed": 42} | choice))


def test_the_choice_is_that_of_the_published_demo(shared_data):
    rows = choose_rows(1_706_976, 1000, 42)
    published = [
        int(row["chunk_row"])
        for row in csv.DictReader((shared_data / "amber/sample_rows.csv").read_text().splitlines())
    ]
    assert rows.tolist() == published


def test_the_choice_begins_as_published_without_the_shared_data():
    assert choose_rows(1_706_976, 4, 42).tolist() == [1622752, 621696, 703671, 803483]
    assert sorted(choose_rows(5, 1000, 42).tolist()) == [0, 1, 2, 3, 4]


def test_rows_come_in_the_order_of_the_choice(release):
    piece = samples(release, "2", count=23, seed=1)[0]
    whole = read_rows(piece.storage, piece.manifest, 2, 0, 50)
    assert np.array_equal(piece.read.ids, whole.ids[piece.rows])
    assert np.array_equal(piece.read.source, whole.source[piece.rows])
    assert piece.sources == [["colours", "numbers"][number] for number in whole.source[piece.rows]]


def test_rows_of_several_groups_are_found_again(release, monkeypatch):
    monkeypatch.setattr("llm360_trainer.analyze.pieces.GROUP_ROWS", 7)
    piece = samples(release, "0", count=31, seed=5)[0]
    whole = read_rows(piece.storage, piece.manifest, 0, 0, 50)
    assert np.array_equal(piece.read.ids, whole.ids[piece.rows])


def test_a_chunk_knows_what_is_trained_and_when(release):
    pieces = samples(release)
    assert [piece.name for piece in pieces] == ["chunk_000", "chunk_001", "chunk_002"]
    assert [piece.num_trained for piece in pieces] == [48] * 3  # batches of 8: two rows are dropped
    assert [piece.trained_tokens for piece in pieces] == [6 * 8 * 64, 12 * 8 * 64, 18 * 8 * 64]
    assert len({piece.digest for piece in pieces}) == 3
    assert samples(release)[0].digest == pieces[0].digest != samples(release, seed=43)[0].digest


@pytest.mark.parametrize("chosen", ["3", "-1", "x", "0,,1", "stage9:0"])
def test_chunks_that_there_are_not_are_refused(release, chosen):
    with pytest.raises(InputError, match=r"--chunks has .*stage1 \(chunks 0 to 2\)"):
        samples(release, chosen)


def test_other_data_than_the_ledger_names_is_refused(release):
    manifest = release.storage.get("data/stage1/manifest.json")
    release.storage.put("data/stage1/manifest.json", manifest + b" ")
    with pytest.raises(IntegrityError, match=r"manifest\.json has sha256:\w+, but the ledger names"):
        samples(release)
