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

from llm360.data.held_out import HeldOut
from llm360.data.manifest import MANIFEST_KEY, DataManifest
from llm360.errors import InputError, ObjectNotFoundError, nearest
from llm360.storage import Storage
from llm360_trainer.prepare.fim import FimRates
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.pipeline import prepare
from llm360_trainer.prepare.progress import Progress, silent
from llm360_trainer.prepare.publish import Say
from llm360_trainer.prepare.runner import Runner
from llm360_trainer.prepare.settings import PrepareSettings
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
# Times that a recipe's texts are written where other processes that make the same remove them.
TRIES = 3

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
        code: The sources whose documents fill-in-the-middle turns around, where it is asked for.
    """

    sources: Mapping[str, Texts]
    weights: Mapping[str, Fraction]
    code: frozenset[str] = frozenset()


RECIPES: Mapping[str, Recipe] = {
    "python-stdlib": Recipe({"docs": python_docs, "code": python_code}, PYTHON_STDLIB_WEIGHTS, frozenset({"code"})),
}


@dataclass(frozen=True)
class RecipeSettings:
    """What a recipe is to make.

    Args:
        name: One of `RECIPES`.
        sequence_length: N; rows have N + 1 ids.
        vocab_size: Tokens of the tokenizer trained on the text.
        chunks: Parts of the data between checkpoints.
        batch_size: Rows of a training step.
        seed: Of the shuffle.
        mix: Relative shares of the sources, those not named left out; None takes the recipe's.
        fim: How often documents of code are turned around; None never.
        sentinels: Whether the tokenizer trained knows the sentinels of fill-in-the-middle.
        tokenizer: A tokenizer.json to use; None trains one.
        eos: Token that ends each document; None takes a usual one that the tokenizer has.
        held_out: Which documents become no rows; None: all do.
    """

    name: str
    sequence_length: int
    vocab_size: int
    chunks: int
    batch_size: int
    seed: int
    mix: Mapping[str, float] | None = None
    fim: FimRates | None = None
    sentinels: bool = False
    tokenizer: bytes | None = None
    eos: str | None = END_OF_TEXT
    held_out: HeldOut | None = None


def check_recipe(name: str, mix: Mapping[str, float] | None) -> Recipe:
    """The recipe of a name.

    Raises:
        InputError: there is no such recipe, or it has not all sources of the mix.
    """
    if name not in RECIPES:
        raise InputError(
            f"there is no data recipe '{name}'{nearest(name, list(RECIPES))}; recipes are {', '.join(RECIPES)}."
            " Other data is prepared with `llm360 data prepare` and named by data.uri",
            reason="RecipeMissing",
        )
    recipe = RECIPES[name]
    unknown = [source for source in mix or () if source not in recipe.sources]
    if unknown:
        raise InputError(
            f"the mix names the source '{unknown[0]}'{nearest(unknown[0], list(recipe.sources))}, but recipe {name} has"
            f" {', '.join(recipe.sources)}",
            reason="RecipeMissing",
        )
    return recipe


def recipe_tokenizer(name: str, vocab_size: int, *, sentinels: bool = False, say: Say = lambda _: None) -> bytes:
    """The tokenizer trained on all texts of a recipe; always the same bytes.

    Args:
        name: One of `RECIPES`.
        vocab_size: Its tokens.
        sentinels: Whether it knows the sentinels of fill-in-the-middle.
        say: Called with sentences for the user.

    Returns:
        The contents of `tokenizer.json`.

    Raises:
        InputError: there is no such recipe, or its texts do not give so many tokens.
    """
    say(f"training a tokenizer of {vocab_size} tokens")
    texts = (text for read in check_recipe(name, None).sources.values() for text in read())
    return train_tokenizer(texts, vocab_size, sentinels=sentinels)


def prepare_recipe(
    settings: RecipeSettings,
    storage: Storage,
    *,
    session: Callable[[], AbstractContextManager[Runner]] | None = None,
    say: Say = lambda _: None,
    progress: Progress = silent,
) -> DataManifest:
    """Make a built-in data set: write its texts, train its tokenizer, prepare its rows.

    Each chunk has the rows of `STEPS_PER_CHUNK` steps and a third of a batch more, as real data has a remainder;
    fewer where the text does not give as many.

    Args:
        settings: What to make.
        storage: Rooted at the data set's folder.
        session: Opens the runner; a Ray on this machine, or the one already started, by default.
        say: Called with sentences for the user.
        progress: Called as parts of the work are done.

    Raises:
        InputError: there is no such recipe, it gives too few rows, or other data is there already.
        StorageError: the store fails.
    """
    recipe = check_recipe(settings.name, settings.mix)
    say(f"making the data of recipe {settings.name} from this Python's own text")
    # In the store, not on this machine's disk: tasks may run on any machine of a cluster.
    texts_storage = storage.at(f"scratch/{settings.name}")
    texts = {source: list(read()) for source, read in recipe.sources.items()}
    tokenizer = settings.tokenizer
    if tokenizer is None:
        tokenizer = recipe_tokenizer(settings.name, settings.vocab_size, sentinels=settings.sentinels, say=say)
    weights = {name: Fraction(str(share)) for name, share in (settings.mix or recipe.weights).items()}
    sources = [
        SourceSpec(
            source,
            f"{texts_storage.uri}/{source}.jsonl",
            weights[source],
            storage.options,
            fim=settings.fim if source in recipe.code else None,
        )
        for source in recipe.sources
        if source in weights
    ]
    files = {
        f"{source.name}.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts[source.name]).encode()
        for source in sources
    }
    prepare_settings = PrepareSettings(
        sources=tuple(sources),
        tokenizer=tokenizer,
        sequence_length=settings.sequence_length,
        chunks=settings.chunks,
        seed=settings.seed,
        eos=settings.eos,
        max_rows=settings.chunks * (STEPS_PER_CHUNK * settings.batch_size + settings.batch_size // 3),
        recipe_name=settings.name,
        held_out=settings.held_out,
    )
    manifest = _prepare_from(
        files,
        texts_storage,
        lambda: prepare(prepare_settings, storage, session=session, say=say, progress=progress),
        storage,
    )
    for key in files:
        texts_storage.delete(key)
    return manifest


def _prepare_from(
    files: Mapping[str, bytes], place: Storage, work: Callable[[], DataManifest], output: Storage
) -> DataManifest:
    """What `work` makes of files that other processes which make the same write there too, and remove when done."""
    for left in reversed(range(TRIES)):
        for key, data in files.items():
            place.put(key, data)
        try:
            return work()
        except (InputError, ObjectNotFoundError):
            # Another may have finished and removed them before they were read; the next try finds that one's data.
            if left == 0 or not output.exists(MANIFEST_KEY):
                raise
    raise AssertionError("unreachable")
