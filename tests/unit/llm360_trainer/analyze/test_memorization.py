"""The scorer against LLM360's published data, and the whole measurement against decoding without a cache."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from llm360.release.create import open_release
from llm360_trainer.analyze.analysis import Measured
from llm360_trainer.analyze.memorization import Memorization, correlation, count_matches, histogram
from llm360_trainer.analyze.pieces import chunk_samples

SETTINGS = {"k": 8, "l": 6}


@pytest.fixture
def sample(release):
    (piece,) = chunk_samples(release.storage, open_release(release.storage).history(), "1", count=30, seed=42)
    return piece


@pytest.mark.parametrize(("name", "matching", "best"), [("train_143", 523, 11), ("train_355", 595, 17)])
def test_published_sequences_score_as_the_baseline_without_a_model_does(shared_data, name, matching, best):
    """Every token is guessed to be the prompt's last: exact integers that need no GPU."""
    rows = [json.loads(line) for line in (shared_data / f"amber/{name}.jsonl").read_text().splitlines()]
    truth = np.array([row["continuation"] for row in rows])
    matches = count_matches(truth, [[row["prompt"][-1]] * 32 for row in rows])
    facts = json.loads((shared_data / "memorization.json").read_text())["baselines_without_a_model"]["predictors"]
    expected = facts["repeat_last"][name]
    assert (matches.sum(), (matches == 32).sum(), matches.max()) == (matching, 0, best)
    assert matches.mean() / 32 == pytest.approx(expected["score"], abs=1e-12)
    assert {"matching_tokens": matching, "full_matches": 0, "best_sequence": best}.items() <= expected.items()


def test_what_follows_an_early_end_counts_as_no_match():
    truth = np.array([[5, 2, 7, 8], [5, 2, 7, 8], [2, 2, 2, 2]])
    assert count_matches(truth, [[5, 2], [5, 2, 7, 8], [2]]).tolist() == [2, 4, 1]


def test_matches_are_those_of_decoding_without_a_cache(release, open_subject, sample):
    checkpoint = open_release(release.storage).history().branch[-1]
    subject = open_subject(checkpoint)
    table = Memorization().measure(subject, sample, SETTINGS)
    end = sample.manifest.tokenizer.eos_id
    for row, matches in zip(sample.read.ids.astype(np.int64), table["matches"].to_pylist(), strict=True):
        ids = row[:8].tolist()
        while len(ids) < 14 and (len(ids) == 8 or ids[-1] != end):
            ids.append(int(subject.decoder(torch.tensor([ids]))[0, -1].argmax()))
        assert matches == sum(x == y for x, y in zip(ids[8:], row[8:14], strict=False))
    assert 0 < np.mean(table["score"].to_numpy()) < 1, "a model that knows all or nothing shows nothing"


def test_no_batch_size_changes_a_number(release, open_subject, sample):
    checkpoint = open_release(release.storage).history().branch[-1]
    one, seven = (Memorization().measure(open_subject(checkpoint, size), sample, SETTINGS) for size in (1, 7))
    assert one.equals(seven)


def test_cells_hold_shares_errors_and_counts_by_source(release, open_subject, sample):
    checkpoint = open_release(release.storage).history().branch[-1]
    table = Memorization().measure(open_subject(checkpoint), sample, SETTINGS)
    cells = Memorization().cells(Measured(checkpoint, sample, SETTINGS, table))
    whole, *parts = cells
    assert [cell.source for cell in cells] == [None, "colours", "numbers"]
    assert whole.items == 30 == sum(cell.items for cell in parts)
    share = (table["matches"].to_numpy() == 6).mean()
    assert whole.values["extractible"] == pytest.approx(share)
    # The harness's own formula for a share's standard error.
    assert whole.values["extractible_stderr"] == pytest.approx((share * (1 - share) / 29) ** 0.5)
    assert sum(whole.counts) == 30
    assert sum(n * count for n, count in enumerate(whole.counts)) == table["matches"].to_numpy().sum()
    assert whole.counts == tuple(map(sum, zip(*(cell.counts for cell in parts), strict=True)))


def test_histogram_has_a_place_for_every_number_of_matches():
    assert histogram(pa.table({"matches": [0, 2, 2]}), 4) == (1, 0, 2, 0, 0)


def test_correlation_is_over_the_sequences_that_two_checkpoints_share(release, sample):
    branch = open_release(release.storage).history().branch
    scores = np.random.default_rng(1).random((3, 20))
    scores[2] = 0.5  # does not vary
    parts = [
        Measured(checkpoint, sample, SETTINGS, pa.table({"score": values}))
        for checkpoint, values in zip(branch[1:], scores, strict=True)
    ]
    matrix = correlation(parts[::-1])
    expected = np.corrcoef(scores[0], scores[1])[0, 1]
    assert matrix.names == ("ckpt_000", "ckpt_001", "ckpt_002")
    assert matrix.values[0][1] == matrix.values[1][0] == pytest.approx(expected)
    assert matrix.values[0][0] == pytest.approx(1)
    assert [row[2] for row in matrix.values] == [None, None, None]
