"""Data sets that need nothing but this program: made on first use from text that every Python carries."""

from __future__ import annotations

import importlib
import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

from llm360.data.manifest import DataManifest
from llm360.errors import InputError
from llm360.storage import Storage
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.pipeline import PrepareSettings, prepare
from llm360_trainer.prepare.progress import Progress, silent
from llm360_trainer.prepare.publish import Say
from llm360_trainer.prepare.runner import Runner
from llm360_trainer.prepare.tokenize import END_OF_TEXT, train_tokenizer

# Folders of the standard library that hold its tests, other people's packages or generated files.
LEFT_OUT = frozenset({"__pycache__", "dist-packages", "idlelib", "site-packages", "test", "tests", "turtledemo"})
# Shares of the rows: the documentation is small (about 490 rows of 257 ids in Python 3.11), so most text is code.
PYTHON_STDLIB_WEIGHTS = {"docs": Fraction("0.08"), "code": Fraction("0.92")}
PYTHON_STDLIB_VOCABULARY = 4096

Texts = Callable[[], Iterable[str]]


def python_docs() -> Iterator[str]:
    """The documentation topics that `help()` shows, by name."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return (topics[name] for name in sorted(topics))


def python_code() -> Iterator[str]:
    """The standard library's source files, by path."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            try:
                with tokenize.open(path) as file:  # honours the encoding that the file declares
                    yield file.read()
            except (SyntaxError, UnicodeDecodeError):
                continue  # samples of broken source, kept for tests


# name: its sources, the weights of their rows, and the size of the vocabulary trained on them.
RECIPES: dict[str, tuple[dict[str, Texts], dict[str, Fraction], int]] = {
    "python-stdlib": ({"docs": python_docs, "code": python_code}, PYTHON_STDLIB_WEIGHTS, PYTHON_STDLIB_VOCABULARY),
}


def prepare_recipe(
    name: str,
    storage: Storage,
    *,
    sequence_length: int,
    chunks: int,
    rows_per_chunk: int | None = None,
    seed: int = 0,
    session: Callable[[], AbstractContextManager[Runner]] | None = None,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> DataManifest:
    """Make a built-in data set: write its texts, train its tokenizer, prepare its rows.

    Args:
        name: One of `RECIPES`.
        storage: Rooted at the data set's folder.
        sequence_length: N; rows have N + 1 ids.
        chunks: Parts of the data between checkpoints.
        rows_per_chunk: Rows of each; None takes as many as the mix gives.
        seed: Of the shuffle.
        session: Opens the runner; a Ray on this machine, or the one already started, by default.
        say: Called with sentences for the user.
        progress: Called as parts of the work are done.

    Raises:
        InputError: there is no such recipe, it gives too few rows, or other data is there already.
        StorageError: the store fails.
    """
    if name not in RECIPES:
        raise InputError(f"there is no data recipe '{name}'; recipes are {', '.join(RECIPES)}")
    sources, weights, vocab_size = RECIPES[name]
    say(f"making the data of recipe {name} from this Python's own text")
    # In the store, not on this machine's disk: tasks may run on any machine of a cluster.
    texts_storage = storage.at(f"scratch/{name}")
    texts = {source: list(read()) for source, read in sources.items()}
    for source, documents in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        texts_storage.put(f"{source}.jsonl", lines.encode())
    say(f"training a tokenizer of {vocab_size} tokens")
    tokenizer = train_tokenizer((text for documents in texts.values() for text in documents), vocab_size)
    settings = PrepareSettings(
        sources=tuple(SourceSpec(source, f"{texts_storage.uri}/{source}.jsonl", weights[source]) for source in sources),
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        chunks=chunks,
        seed=seed,
        eos=END_OF_TEXT,
        rows_per_chunk=rows_per_chunk,
        recipe_name=name,
    )
    manifest = prepare(settings, storage, session=session, say=say, progress=progress)
    for source in sources:
        texts_storage.delete(f"{source}.jsonl")
    return manifest
