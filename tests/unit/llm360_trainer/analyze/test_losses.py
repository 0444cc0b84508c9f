"""Each token's loss is that of its sequence alone, whatever shares its batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm360.release.create import open_release
from llm360_trainer.analyze.losses import sequence_losses, windows

LENGTHS = (5, 64, 1, 17, 2, 33, 8, 40, 9)


@pytest.fixture
def decoder(release, open_subject):
    return open_subject(open_release(release.storage).history().branch[-1]).decoder


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, 280, (length,), generator=generator).tolist() for length in LENGTHS]


def test_losses_are_the_cross_entropy_of_the_logits(decoder, sequences):
    for ids, losses in zip(sequences, sequence_losses(decoder, sequences, 4), strict=True):
        logits = decoder(torch.tensor([ids]))[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:], dtype=torch.int64), reduction="none")
        np.testing.assert_allclose(losses, expected.numpy(), rtol=1e-6, atol=2e-6)


def test_batches_of_one_equal_batches_of_seven(decoder, sequences):
    one, seven = (sequence_losses(decoder, sequences, size) for size in (1, 7))
    assert [len(losses) for losses in one] == [length - 1 for length in LENGTHS]
    for alone, together in zip(one, seven, strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-6, atol=2e-6)


@given(
    length=st.integers(1, 9),
    ids=st.lists(st.integers(0, 5), max_size=40),
    context=st.one_of(st.none(), st.just(9)),
)
def test_windows_predict_every_token_once(length, ids, context):
    cut = windows(ids, context, length)
    whole = ids if context is None else [context, *ids]
    assert [token for window in cut for token in window[1:]] == whole[1:]
    assert all(2 <= len(window) <= length + 1 for window in cut)
    assert all(after[0] == before[-1] for before, after in itertools.pairwise(cut))
