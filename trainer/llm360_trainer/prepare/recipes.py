"""Data sets that need nothing but this program: made on first use from text that every Python carries."""

from __future__ import annotations

import importlib
import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
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

# Folders of the standard library left out: tests, other people's packages, generated tables, the documentation (a
# source of its own), and modules that some systems or later Pythons lack.
LEFT_OUT = frozenset(
    {
        *("__pycache__", "dist-packages", "site-packages"),
        *("test", "tests", "idlelib", "turtledemo", "tkinter"),
        *("encodings", "pydoc_data", "distutils", "ensurepip", "lib2to3", "msilib"),
    }
)
# Shares of the rows: the documentation is small (about 490 rows of 257 ids in Python 3.11), so most text is code.
PYTHON_STDLIB_WEIGHTS = {"docs": Fraction("0.08"), "code": Fraction("0.92")}
# A chunk of a recipe's data is so many steps: 8 chunks train the small Amber in minutes.
STEPS_PER_CHUNK = 20

Texts = Callable[[], Iterable[str]]


def python_docs() -> Iterator[str]:
    """The documentation topics that `help()` shows, by name."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return (topics[name] for name in sorted(topics))


def python_code() -> Iterator[str]:
    """The standard library's source files, by path; those of `LEFT_OUT` folders are not among them."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            try:
                with tokenize.open(path) as file:  # honours the encoding that the file declares
                    yield file.read()
            except (SyntaxError, UnicodeDecodeError):
                continue  # samples of broken source, kept for tests


@dataclass(frozen=True)
class Recipe:
    """What a built-in data set is made of.

    Args:
        sources: Each source's documents, by name.
        weights: Relative shares of their rows.
    """

    sources: Mapping[str, Texts]
    weights: Mapping[str, Fraction]


RECIPES: Mapping[str, Recipe] = {
    "python-stdlib": Recipe({"docs": python_docs, "code": python_code}, PYTHON_STDLIB_WEIGHTS),
}


def prepare_recipe(
    name: str,
    storage: Storage,
    *,
    sequence_length: int,
    vocab_size: int,
    chunks: int,
    batch_size: int,
    seed: int,
    session: Callable[[], AbstractContextManager[Runner]] | None = None,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> DataManifest:
    """Make a built-in data set: write its texts, train its tokenizer, prepare its rows.

    Each chunk has the rows of `STEPS_PER_CHUNK` steps and a third of a batch more, as real data has a remainder;
    fewer where the text does not give as many.

    Args:
        name: One of `RECIPES`.
        storage: Rooted at the data set's folder.
        sequence_length: N; rows have N + 1 ids.
        vocab_size: Tokens of the tokenizer trained on the text.
        chunks: Parts of the data between checkpoints.
        batch_size: Rows of a training step.
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
    recipe = RECIPES[name]
    say(f"making the data of recipe {name} from this Python's own text")
    # In the store, not on this machine's disk: tasks may run on any machine of a cluster.
    texts_storage = storage.at(f"scratch/{name}")
    texts = {source: list(read()) for source, read in recipe.sources.items()}
    for source, documents in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        texts_storage.put(f"{source}.jsonl", lines.encode())
    say(f"training a tokenizer of {vocab_size} tokens")
    tokenizer = train_tokenizer((text for documents in texts.values() for text in documents), vocab_size)
    settings = PrepareSettings(
        sources=tuple(
            SourceSpec(source, f"{texts_storage.uri}/{source}.jsonl", recipe.weights[source], storage.options)
            for source in recipe.sources
        ),
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        chunks=chunks,
        seed=seed,
        eos=END_OF_TEXT,
        max_rows=chunks * (STEPS_PER_CHUNK * batch_size + batch_size // 3),
        recipe_name=name,
    )
    manifest = prepare(settings, storage, session=session, say=say, progress=progress)
    for source in recipe.sources:
        texts_storage.delete(f"{source}.jsonl")
    return manifest
