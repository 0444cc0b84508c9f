"""Texts, a tokenizer and a preparation that runs in this process."""

import contextlib

import pytest

from llm360.storage import open_storage
from llm360_trainer.prepare.inputs import parse_source
from llm360_trainer.prepare.pipeline import prepare
from llm360_trainer.prepare.runner import InProcess
from llm360_trainer.prepare.settings import PrepareSettings
from llm360_trainer.prepare.tokenize import train_tokenizer

WORDS = "the quick brown fox jumps over a lazy dog while naïve Zoë reads 日本語 and 🦊 runs\taway".split(" ")  # noqa: SIM905


def text(number):
    """The document of a number: a few words, some with odd characters, some empty."""
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(number % 13))


@pytest.fixture(scope="session")
def tokenizer_bytes():
    return train_tokenizer([text(number) for number in range(200)], 300)


@pytest.fixture
def in_process():
    return lambda: contextlib.nullcontext(InProcess())


@pytest.fixture
def write_lines(tmp_path):
    """Writes documents as lines of a `.txt` file; returns its path."""

    def write(name, documents):
        path = tmp_path / name
        path.write_text("".join(f"{document}\n" for document in documents), newline="")
        return str(path)

    return write


@pytest.fixture
def prepare_here(tokenizer_bytes, in_process, tmp_path):
    """Prepares in this process: sources as on the command line, everything else by name."""

    def run(*sources, out="out", chunks=2, sequence_length=7, seed=3, **others):
        names = PrepareSettings.__dataclass_fields__
        settings = {name: others.pop(name) for name in list(others) if name in names}
        given = PrepareSettings(
            **{
                "sources": tuple(map(parse_source, sources)),
                "tokenizer": tokenizer_bytes,
                "sequence_length": sequence_length,
                "chunks": chunks,
                "seed": seed,
            }
            | settings
        )
        storage = open_storage(str(tmp_path / out))
        return prepare(given, storage, session=others.pop("session", in_process), **others), storage

    return run
