"""Held-out documents are in no row of the training data, and their perplexity is that of their tokens alone."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

from llm360.data.held_out import rule_of
from llm360.data.rows import read_rows
from llm360.data.show import load_tokenizer
from llm360.errors import InputError
from llm360.release.create import open_release
from llm360_trainer.analyze.analysis import Measured
from llm360_trainer.analyze.perplexity import Perplexity, perplexity_of


@pytest.fixture
def asked(release):
    """The command line's arguments for both sources."""

    def ask(*words):
        parser = argparse.ArgumentParser()
        Perplexity().configure(parser)
        sources = [f"--source={name}={path}" for name, path in release.texts.items()]
        return parser.parse_args([*sources, *words])

    return ask


@pytest.fixture
def documents(release, asked):
    (piece,) = Perplexity().pieces(release.storage, open_release(release.storage).history(), asked())
    return piece


def test_no_row_of_the_data_holds_a_word_of_what_is_held_out(release, documents):
    """Every line of the sources ends in a number of its own, so that a document is known by its end."""
    data = release.storage.at("data/stage1")
    tokenizer = load_tokenizer(data, release.manifest)
    rows = [read_rows(data, release.manifest, chunk, 0, n).ids for chunk, n in enumerate(release.manifest.chunk_rows)]
    trained = {
        text.strip()
        for row in np.concatenate(rows).tolist()
        for text in tokenizer.decode(row, skip_special_tokens=False).split("<|endoftext|>")[1:-1]
    }
    held = {tokenizer.decode(list(ids)).strip() for ids in documents.ids}
    lines = {line.strip() for path in release.texts.values() for line in path.read_text().splitlines()}
    assert len(held) > 20
    assert len(trained) > 200
    assert held <= lines
    assert trained <= lines
    assert held & trained == set()
    rule = rule_of(release.manifest.recipe)
    assert all(rule.takes(text) for text in held)
    assert not any(rule.takes(text) for text in trained)


def test_numbers_are_those_of_each_document_alone(release, open_subject, documents):
    checkpoint = open_release(release.storage).history().branch[-1]
    subject = open_subject(checkpoint, 7)
    table = Perplexity().measure(subject, documents, {"window": 16})
    for ids, nats, tokens in zip(documents.ids, table["nats"].to_pylist(), table["tokens"].to_pylist(), strict=True):
        whole, expected = [documents.context, *ids], 0.0
        for start in range(0, len(ids), 16):
            part = torch.tensor([whole[start : start + 17]])
            expected += float(cross_entropy(subject.decoder(part[:, :-1])[0], part[0, 1:], reduction="sum"))
        assert tokens == len(ids)
        assert nats == pytest.approx(expected, rel=1e-5)
    assert any(len(ids) > 32 for ids in documents.ids), "no document is longer than two windows"


def test_no_batch_size_changes_a_number(release, open_subject, documents):
    checkpoint = open_release(release.storage).history().branch[-1]
    one, seven = (
        Perplexity().cells(
            Measured(checkpoint, documents, {}, Perplexity().measure(subject, documents, {"window": 48}))
        )
        for subject in (open_subject(checkpoint, 1), open_subject(checkpoint, 7))
    )
    assert [cell.source for cell in one] == [None, "colours", "numbers"]
    for cell, other in zip(one, seven, strict=True):
        assert cell.values == pytest.approx(other.values, rel=1e-6)


def test_every_token_counts_alike_and_errors_are_those_of_documents():
    table = pa.table({"nats": [10.0, 1.0, 4.0], "tokens": [10, 1, 2], "bytes": [20, 2, 8]})
    values = perplexity_of(table)
    assert values["loss"] == pytest.approx(15 / 13)
    assert values["perplexity"] == pytest.approx(math.exp(15 / 13))
    assert values["bits_per_byte"] == pytest.approx(15 / math.log(2) / 30)
    residuals = [10 - 150 / 13, 1 - 15 / 13, 4 - 30 / 13]
    assert values["loss_stderr"] == pytest.approx(math.sqrt(sum(r * r for r in residuals) / 6) / (13 / 3))


def test_a_checkpoint_that_has_trained_predicts_better(release, open_subject, documents):
    history = open_release(release.storage).history()
    losses = [
        perplexity_of(Perplexity().measure(open_subject(checkpoint, 32), documents, {"window": None}))["loss"]
        for checkpoint in (history.branch[0], history.branch[-1])
    ]
    assert losses[1] < 0.6 * losses[0]
    assert losses[0] == pytest.approx(math.log(300), abs=0.5)  # untrained: about uniform over the vocabulary


def test_all_documents_are_another_set_that_is_kept_apart(release, asked):
    history = open_release(release.storage).history()
    (held,), (everything,) = (
        Perplexity().pieces(release.storage, history, asked(*words)) for words in ((), ("--all-documents",))
    )
    assert (held.name, everything.name) == ("held_out", "documents")
    assert len(everything.ids) > 5 * len(held.ids)
    assert Perplexity().settings(asked()) != Perplexity().settings(asked("--all-documents"))


def test_without_sources_the_copy_beside_the_data_is_measured(release, documents):
    """The copy is of the same documents that the rule finds in the files; empty lines have nothing to predict."""
    parser = argparse.ArgumentParser()
    Perplexity().configure(parser)
    (copied,) = Perplexity().pieces(release.storage, open_release(release.storage).history(), parser.parse_args([]))
    assert (copied.name, copied.digest, copied.sources) == (documents.name, documents.digest, documents.sources)
    with pytest.raises(InputError, match="--all-documents needs a --source"):
        Perplexity().settings(parser.parse_args(["--all-documents"]))


def test_data_without_a_copy_says_what_to_do(release, monkeypatch):
    monkeypatch.setattr("llm360_trainer.analyze.perplexity.read_held_out", lambda *_: iter(()))
    parser = argparse.ArgumentParser()
    Perplexity().configure(parser)
    with pytest.raises(InputError, match=r"no copy of documents .*--source, or give a larger share"):
        Perplexity().pieces(release.storage, open_release(release.storage).history(), parser.parse_args([]))


def test_the_choice_among_many_is_by_seed(release, asked):
    history = open_release(release.storage).history()
    (three,), (same,), (other,) = (
        Perplexity().pieces(release.storage, history, asked("--documents", "3", "--seed", seed))
        for seed in ("1", "1", "2")
    )
    assert three.sources == ("colours",) * 3 + ("numbers",) * 3
    assert three.digest == same.digest != other.digest


def test_data_without_a_rule_is_refused(release, asked, monkeypatch):
    monkeypatch.setattr("llm360_trainer.analyze.perplexity.rule_of", lambda _: None)
    with pytest.raises(InputError, match=r"'stage1' was prepared without --held-out.*--all-documents"):
        Perplexity().pieces(release.storage, open_release(release.storage).history(), asked())


def test_a_source_without_held_out_documents_is_refused(release, asked, tmp_path):
    rule = rule_of(release.manifest.recipe)
    (tmp_path / "few.txt").write_text(next(f"{n}\n" for n in range(99) if not rule.takes(str(n))))
    with pytest.raises(InputError, match="source 'few' has no document that seed 5 holds out; give it more text"):
        Perplexity().pieces(
            release.storage, open_release(release.storage).history(), asked(f"--source=few={tmp_path}/few.txt")
        )
