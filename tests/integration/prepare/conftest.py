"""Text files and the command line, as a user has them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm360.storage import open_storage

SECONDS = 240


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two sources of several kinds and files, and a tokenizer trained on them."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = [
        f"document {number} " + f"tells of {number * 7919 % 1000} things " * (number % 30) for number in range(900)
    ]
    (folder / "a.txt").write_text("\n".join(documents[:300]))
    for part in range(2):
        lines = [json.dumps({"text": text}) + "\n" for text in documents[300 + 300 * part : 600 + 300 * part]]
        (folder / f"b{part}.jsonl").write_text("".join(lines))
    command = ["tokenizer", "train", "--source", f"x={folder}", "--vocab-size", "400"]
    llm360(*command, "--out", f"{folder}/tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def prepare_command(corpus):
    """The words of `llm360 data prepare` into a place."""

    def words(out, *more):
        return [
            *("data", "prepare", "--source", f"a={corpus}/a.txt:1", "--source", f"b={corpus}/b*.jsonl:2"),
            *("--tokenizer", str(corpus), "--sequence-length", "32", "--chunks", "3", "--seed", "9"),
            *("--out", str(out), *more),
        ]

    return words


def llm360(*words, code=0):
    """Run a command to its end; returns what it wrote to standard output and error."""
    done = subprocess.run(
        [sys.executable, "-m", "llm360.cli.main", *words], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def command():
    return llm360


@pytest.fixture(scope="session")
def contents():
    """Every object of a store, by key."""

    def read(uri, options=None):
        storage = open_storage(str(uri) if isinstance(uri, Path) else uri, options)
        return {info.key: storage.get(info.key) for info in storage.list()}

    return read
