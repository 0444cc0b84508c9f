"""Documents that no row may come from, by a rule over their text alone, and the copy of them beside the data.

A document is held out where the first 64 bits of sha256(seed, 0, its UTF-8 text) are below the share. Equal texts are
so on the same side, wherever they stand, and whoever knows share and seed (the manifest's recipe has them) can tell
for any text whether the data set may hold it, without reading a row.

The copy is Parquet: a column `source` (uint16, index into the manifest's sources) and a column `text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

import pyarrow as pa

from llm360.canonical import sha256_digest
from llm360.data.manifest import DataManifest, HeldOutFile
from llm360.data.parquet import open_parquet
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.storage import Storage

RECIPE_KEY = "held_out"

_FIELDS: list[pa.Field[Any]] = [
    pa.field("source", pa.uint16(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class HeldOut:
    """The rule.

    Args:
        share: Of the documents, above 0 and below 1.
        seed: Other seeds hold out other documents.
    """

    share: Fraction
    seed: int

    def takes(self, text: str) -> bool:
        """Whether a document of this text is held out."""
        digest = sha256(f"{self.seed}\0{text}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest's recipe."""
        return {"share": str(self.share), "seed": self.seed}


def rule_of(recipe: Mapping[str, Any]) -> HeldOut | None:
    """The rule by which a manifest's recipe held documents out; None where it held out none."""
    found = recipe.get(RECIPE_KEY)
    return None if found is None else HeldOut(Fraction(found["share"]), int(found["seed"]))


def read_held_out(storage: Storage, manifest: DataManifest) -> Iterator[tuple[str, str]]:
    """Name of the source and text of each document that is held out, in the order of the input.

    Args:
        storage: Rooted at the manifest's folder.
        manifest: One with a copy of these documents.

    Raises:
        IntegrityError: a file is missing or not the one that the manifest names.
        StorageError: it cannot be read.
    """
    for file in manifest.held_out or ():
        found = _read(storage, manifest, file)
        if isinstance(found, str):
            raise IntegrityError(f"{storage.uri}/{file.key} {found}; restore the data from a copy")
        yield from found


def check_held_out(storage: Storage, manifest: DataManifest) -> Iterator[str]:
    """What is wrong with the copy: a missing or changed file, or a document that the rule did not hold out."""
    rule = rule_of(manifest.recipe)
    for file in manifest.held_out or ():
        found = _read(storage, manifest, file)
        if isinstance(found, str):
            yield f"{file.key} {found}"
        elif rule is None:
            yield f"{file.key} is named, but the recipe holds no documents out"
        elif (strange := sum(not rule.takes(text) for _, text in found)) > 0:
            yield f"{file.key} has {strange} documents that share {rule.share} and seed {rule.seed} do not hold out"


def _read(storage: Storage, manifest: DataManifest, file: HeldOutFile) -> list[tuple[str, str]] | str:
    """The documents of a file, or what is wrong with it."""
    try:
        data = storage.get(file.key)
    except ObjectNotFoundError:
        return "is missing"
    if (digest := sha256_digest(data)) != file.sha256:
        return f"has {digest}, the manifest says {file.sha256}"
    try:
        table = open_parquet(data, file.documents).read()
    except (pa.ArrowException, ValueError) as error:
        return f"cannot be used as Parquet: {error}"
    if not table.schema.equals(SCHEMA):
        return "has other columns than source and text"
    sources = table["source"].to_numpy().tolist()
    if max(sources, default=0) >= len(manifest.sources):
        return f"names source {max(sources)}; the manifest has {len(manifest.sources)} sources"
    texts = map(str, table["text"].to_pylist())
    return [(manifest.sources[source].name, text) for source, text in zip(sources, texts, strict=True)]
