"""The loss on a chunk's rows, and how long ago the chunk was trained on."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from llm360.release.create import open_release
from llm360_trainer.analyze.analysis import Measured
from llm360_trainer.analyze.forgetting import Forgetting
from llm360_trainer.analyze.pieces import chunk_samples


@pytest.fixture
def pieces(release):
    return chunk_samples(release.storage, open_release(release.storage).history(), "all", count=20, seed=42)


def test_losses_are_the_mean_over_each_rows_labels(release, open_subject, pieces):
    subject = open_subject(open_release(release.storage).history().branch[-1])
    table = Forgetting().measure(subject, pieces[0], {})
    ids = torch.tensor(pieces[0].read.ids.astype("int64"))
    losses = cross_entropy(subject.decoder(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    assert table["loss"].to_numpy() == pytest.approx(losses.mean(dim=1).numpy(), rel=1e-5)
    assert table["row"].to_pylist() == pieces[0].rows.tolist()


def test_labels_that_the_mask_leaves_out_do_not_count(release, open_subject, pieces, monkeypatch):
    subject = open_subject(open_release(release.storage).history().branch[1])
    rows = pieces[0].read
    mask = torch.randint(0, 2, (20, 64), generator=torch.Generator().manual_seed(1)).numpy().astype("uint8")
    mask[3] = 0
    monkeypatch.setattr(type(rows), "loss_mask", property(lambda _: mask), raising=False)
    table = Forgetting().measure(subject, pieces[0], {})
    ids = torch.tensor(rows.ids.astype("int64"))
    losses = cross_entropy(subject.decoder(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    assert table["row"].to_pylist() == [row for at, row in enumerate(pieces[0].rows.tolist()) if at != 3]
    assert table["loss"][0].as_py() == pytest.approx(float(losses[0][torch.tensor(mask[0]) == 1].mean()), rel=1e-5)


def test_time_counts_from_the_end_of_the_chunk(release, open_subject, pieces):
    branch = open_release(release.storage).history().branch
    since = {}
    for checkpoint in branch:
        for piece in pieces:
            table = Forgetting().measure(open_subject(checkpoint), piece, {})
            whole, *_ = Forgetting().cells(Measured(checkpoint, piece, {}, table))
            since[whole.label, whole.piece] = (whole.values["tokens_since"], whole.values["loss"])
    chunk = 6 * 8 * 64
    assert since["init", "chunk_001"][0] == -2 * chunk
    assert since["ckpt_001", "chunk_001"][0] == 0
    assert since["ckpt_002", "chunk_000"][0] == 2 * chunk
    assert since["ckpt_001", "chunk_001"][1] < since["ckpt_000", "chunk_001"][1] < since["init", "chunk_001"][1]
