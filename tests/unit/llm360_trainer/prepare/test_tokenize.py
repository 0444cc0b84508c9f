import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models

from llm360.errors import InputError
from llm360_trainer.prepare.tokenize import (
    encode_documents,
    end_of_document,
    ids_dtype,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)


def word_tokenizer(*special):
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


@given(st.lists(st.text(max_size=30), max_size=8))
def test_ids_are_each_documents_own_then_its_end(tokenizer_bytes, texts):
    tokenizer = load_tokenizer(tokenizer_bytes)
    lengths, ids = encode_documents(tokenizer, 0, "uint16", texts)
    assert (lengths.dtype, ids.dtype) == (np.uint32, np.uint16)
    position = 0
    for text, length in zip(texts, lengths.tolist(), strict=True):
        document = ids[position : position + length].tolist()
        assert document[-1] == 0
        assert tokenizer.decode(document[:-1], skip_special_tokens=False) == text
        position += length
    assert position == len(ids)


def test_special_tokens_in_text_are_spelled_out(tokenizer_bytes):
    tokenizer = load_tokenizer(tokenizer_bytes)
    _, ids = encode_documents(tokenizer, 0, "uint16", ["a<|endoftext|>b"])
    assert ids.tolist().count(0) == 1
    assert tokenizer.decode(ids.tolist()[:-1]) == "a<|endoftext|>b"


def test_truncation_padding_and_added_tokens_of_the_file_are_ignored(tokenizer_bytes):
    tokenizer = Tokenizer.from_str(tokenizer_bytes.decode())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    lengths, _ = encode_documents(load_tokenizer(tokenizer.to_str().encode()), 0, "uint16", ["word " * 20, "x"])
    assert lengths[0] > 20
    assert lengths[1] == 2


def test_tokenizer_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"not a `tokenizer\.json`"):
        load_tokenizer(b"{}")
    with pytest.raises(InputError, match=r"not a `tokenizer\.json`"):
        load_tokenizer(b"\xff")


def test_end_of_document_is_guessed_or_named():
    assert end_of_document(word_tokenizer("<|endoftext|>"), None) == 1
    assert end_of_document(word_tokenizer("<|endoftext|>", "</s>"), None) == 2
    assert end_of_document(word_tokenizer("<stop>"), "<stop>") == 1
    assert end_of_document(word_tokenizer("<stop>"), "1") == 1


def test_missing_end_of_document_says_how_to_name_it():
    with pytest.raises(InputError, match="--eos TOKEN"):
        end_of_document(word_tokenizer(), None)
    with pytest.raises(InputError, match="ids are 0 to 0"):
        end_of_document(word_tokenizer(), "</s>")
    with pytest.raises(InputError, match="ids are 0 to 0"):
        end_of_document(word_tokenizer(), "1")


@pytest.mark.parametrize(("size", "dtype"), [(1, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_where_they_fit(size, dtype):
    assert ids_dtype(size) == dtype


def test_vocabulary_size_counts_gaps():
    assert vocabulary_size(Tokenizer(models.WordLevel({"a": 0, "b": 9}, unk_token="a"))) == 10


def test_trained_tokenizer_has_the_size_asked_for_and_ends_documents_with_id_0(tokenizer_bytes):
    tokenizer = load_tokenizer(tokenizer_bytes)
    assert vocabulary_size(tokenizer) == tokenizer.get_vocab_size() == 300
    assert end_of_document(tokenizer, None) == 0


@pytest.mark.parametrize(("size", "message"), [(256, "too small"), (5000, "give only")])
def test_impossible_vocabulary_is_refused(size, message):
    with pytest.raises(InputError, match=message):
        train_tokenizer(["some text"], size)


TRAIN = """
import sys, hashlib
from llm360_trainer.prepare.tokenize import train_tokenizer
texts = [" ".join(f"w{i * k % 997}x{k}" for k in range(40)) for i in range(300)]
sys.stdout.write(hashlib.sha256(train_tokenizer(texts, 900)).hexdigest())
"""


@pytest.mark.slow
def test_training_gives_the_same_bytes_whatever_threads_and_hash_seeds():
    def train(seed, threads):
        environment = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout

    assert len({train("0", "1"), train("1", "4"), train("2", "2")}) == 1


def test_wikitext_gives_the_tokens_that_amber_saw(shared_data):
    lines = (shared_data / "text/wikitext.txt").read_bytes().decode().split("\n")[:-1]
    case = next(
        item
        for item in json.loads((shared_data / "oracles.json").read_text())["cases"]
        if item["id"] == "tokenize-wikitext"
    )["expect"]
    for name in ("crystalcoder", "llama-32000"):
        tokenizer = load_tokenizer((shared_data / f"tokenizers/{name}/tokenizer.json").read_bytes())
        lengths, ids = encode_documents(tokenizer, 2, "uint16", lines)
        counts = lengths.astype(int) - 1  # without the end of the document
        assert len(lines) == case["lines"]
        assert counts.sum() == case["tokens"]
        assert np.minimum(counts, 512).sum() == case["tokens_truncated_to_512"]
        assert (counts.min(), counts.max()) == (case["shortest"], case["longest"])
        ends = np.cumsum(lengths)
        decoded = [
            tokenizer.decode(ids[end - length : end - 1].tolist(), skip_special_tokens=False)
            for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
        ]
        assert decoded == lines
    pythia = load_tokenizer((shared_data / "tokenizers/pythia/20B_tokenizer.json").read_bytes())
    lengths, _ = encode_documents(pythia, end_of_document(pythia, None), "uint16", lines)
    assert lengths.sum() - len(lines) == case["pythia_tokens"]


def test_whole_documents_of_amber_encode_to_the_published_ids(shared_data):
    tokenizer = load_tokenizer((shared_data / "tokenizers/crystalcoder/tokenizer.json").read_bytes())
    whole = []
    for line in (shared_data / "amber/good_sample.jsonl").read_text().splitlines():
        ids = np.array(json.loads(line)["token_ids"])
        whole += [piece.tolist() for piece in np.split(ids, np.flatnonzero(ids == 2) + 1)[1:-1]]
    assert len(whole) == 25
    texts = [tokenizer.decode(ids[:-1], skip_special_tokens=False) for ids in whole]
    _, ids = encode_documents(tokenizer, 2, "uint16", texts)
    assert ids.tolist() == [item for document in whole for item in document]
