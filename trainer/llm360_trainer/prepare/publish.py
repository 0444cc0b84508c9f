"""The end of a preparation or an import: shards become a manifest, which exists once and says how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm360.data.manifest import (
    MANIFEST_KEY,
    TOKENIZER_KEY,
    Chunk,
    DataManifest,
    Shard,
    load_manifest,
)
from llm360.errors import InputError, ObjectExistsError, ObjectNotFoundError
from llm360.storage import Storage
from llm360_trainer.prepare.layout import Layout

Say = Callable[[str], None]

# Members of a recipe that tell how it went, not what was asked for: they make no data "other data".
MADE_WITH = "made_with"
SKIPPED_LINES = "skipped_lines"


def library_versions() -> dict[str, str]:
    """The libraries whose versions may show in the bytes."""
    return {name: version(name) for name in ("llm360", "datafog", "numpy", "pyarrow", "tokenizers")}


def find_existing(output: Storage, recipe: dict[str, Any]) -> DataManifest | None:
    """The data set in a folder, if there is one and it was made by this recipe.

    Raises:
        InputError: it was made by another; names every difference.
    """
    try:
        manifest, _ = load_manifest(output)
    except InputError as error:
        if error.reason == "DataMissing":
            return None
        raise
    different = sorted(differences(_comparable(manifest.recipe), _comparable(recipe)))
    if different:
        raise InputError(
            f"{output.uri} holds data that was prepared otherwise: {'; '.join(different)};"
            " give another --out, or the arguments with which it was made",
            reason="DataDiffers",
        )
    return manifest


def describe_whole(output: Storage, manifest: DataManifest) -> str:
    """What is said where nothing is left to do."""
    return f"the data is already there: {manifest.rows:,} rows in {len(manifest.chunks)} chunks at {output.uri}"


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in (MADE_WITH, SKIPPED_LINES)}


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """What differs between two recipes, as `name: it was …, now …`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            label = before.get("name", number) if isinstance(before, dict) else number
            yield from differences(before, after, f"{path}[{label}]")
    elif old != new:
        yield f"{path} was {_brief(old)}, now is {_brief(new)}"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(item.get('name', item)) if isinstance(item, dict) else str(item) for item in value)}]"
    return "not set" if value is None else str(value)


def chunks_of(layout: Layout, shards: Mapping[int, Shard]) -> Iterator[Chunk]:
    """The manifest's chunks from the shards, by number."""
    for chunk, plans in groupby(enumerate(layout.shards), key=lambda numbered: numbered[1].chunk):
        yield Chunk(rows=layout.chunk_rows[chunk], shards=tuple(shards[number] for number, _ in plans))


def entropy(counts: NDArray[np.int64]) -> float:
    """Entropy in nats of the distribution that counts[n] give: the loss of the best model that sees no context."""
    total = int(counts.sum())
    return math.fsum(-count / total * math.log(count / total) for count in counts.tolist() if count)


def publish(output: Storage, manifest: DataManifest, tokenizer: bytes | None) -> None:
    """Write the tokenizer and then the manifest, which only the first of several writers does.

    Raises:
        InputError: meanwhile another preparation with other settings has finished here.
    """
    put_tokenizer(output, tokenizer)
    try:
        output.create(MANIFEST_KEY, manifest.to_bytes())
    except ObjectExistsError:
        # Ours, its answer lost on the way, or that of another process that made the same.
        find_existing(output, manifest.recipe)


def put_tokenizer(output: Storage, tokenizer: bytes | None) -> None:
    """Write the tokenizer beside the rows, unless it is there."""
    if tokenizer is not None and _stored(output, TOKENIZER_KEY) != tokenizer:
        output.put(TOKENIZER_KEY, tokenizer)


def _stored(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except ObjectNotFoundError:
        return None
