"""The tasks' data sets in a store: Parquet files with digests, for clusters without internet.

    <mirror>/<data set>/<config>/manifest.json      what there is, written last
    <mirror>/<data set>/<config>/<split>.parquet    its rows, with the columns' types as `datasets` keeps them

`/` in a name is `--`. A data set that was asked for with further arguments has their digest behind its config.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Literal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from llm360.canonical import DIGEST_PREFIX, canonical_json, sha256_digest
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import first_problem
from llm360.release.fields import Count, Digest, Key, StrictModel
from llm360.release.layout import MANIFEST_NAME
from llm360.storage import Storage

DEFAULT_CONFIG = "default"

Splits = dict[str, datasets.Dataset]


class DataName(StrictModel):
    """What `datasets.load_dataset` is asked for."""

    path: str = Field(min_length=1, description="of the data set on the hub")
    config: str | None = Field(None, description="of its configurations; none: its only or default one")
    arguments: str | None = Field(None, description="further arguments, as JSON")

    @property
    def folder(self) -> str:
        """Where it lies in a mirror."""
        config = self.config or DEFAULT_CONFIG
        if self.arguments:
            config += "-" + sha256_digest(self.arguments.encode()).removeprefix(DIGEST_PREFIX)[:12]
        return f"{self.path.replace('/', '--')}/{config.replace('/', '--')}"

    def __str__(self) -> str:
        return self.path + (f" ({self.config})" if self.config else "")


class Split(StrictModel):
    """One part of a data set."""

    name: str = Field(description="train, validation, test, dev, …")
    key: Key = Field(description="of its file, inside the folder")
    rows: Count
    bytes: Count = Field(description="size of the file")
    sha256: Digest = Field(description="of the file")


class MirrorManifest(StrictModel):
    """What `manifest.json` of a mirrored data set holds."""

    format: Literal["llm360-eval-data/1"] = "llm360-eval-data/1"
    name: DataName
    splits: tuple[Split, ...]


def write_dataset(mirror: Storage, name: DataName, data: Mapping[str, datasets.Dataset]) -> MirrorManifest:
    """Put a data set into a mirror; its manifest, last, makes it complete.

    Raises:
        StorageError: the store fails.
    """
    place = mirror.at(name.folder)
    splits = []
    for split, rows in sorted(data.items()):
        buffer = io.BytesIO()
        table = rows.with_format("arrow")[:]
        pq.write_table(table.replace_schema_metadata(rows.data.schema.metadata), buffer, compression="zstd")
        content, key = buffer.getvalue(), f"{split}.parquet"
        place.put(key, content)
        splits.append(Split(name=split, key=key, rows=len(rows), bytes=len(content), sha256=sha256_digest(content)))
    manifest = MirrorManifest(name=name, splits=tuple(splits))
    place.put(MANIFEST_NAME, canonical_json(manifest.model_dump(mode="json")))
    return manifest


def has_dataset(mirror: Storage, name: DataName) -> bool:
    """Whether a mirror has a data set, complete."""
    return mirror.exists(f"{name.folder}/{MANIFEST_NAME}")


def read_dataset(mirror: Storage, name: DataName) -> Splits:
    """A data set's splits, every file checked against its digest.

    Raises:
        InputError: the mirror does not have it.
        IntegrityError: a file holds other bytes than the manifest says.
    """
    place = mirror.at(name.folder)
    try:
        manifest = MirrorManifest.model_validate(json.loads(place.get(MANIFEST_NAME)))
    except ObjectNotFoundError as error:
        raise InputError(
            f"the mirror {mirror.uri} has no data set {name}; fill it where there is internet, with:"
            f" llm360 eval mirror --tasks … --out {mirror.uri}",
            reason="EvaluationDataMissing",
        ) from error
    except (ValueError, ValidationError) as error:
        raise IntegrityError(
            f"{place.uri}/{MANIFEST_NAME} is no manifest of a mirror: {first_problem(error)}"
        ) from error
    return {split.name: _read_split(place, split) for split in manifest.splits}


def _read_split(place: Storage, split: Split) -> datasets.Dataset:
    try:
        content = place.get(split.key)
    except ObjectNotFoundError as error:
        raise IntegrityError(
            f"{place.uri}/{split.key} is missing, although its manifest names it; fill the mirror again"
        ) from error
    if sha256_digest(content) != split.sha256:
        raise IntegrityError(
            f"{place.uri}/{split.key} holds other bytes than those of {split.sha256}; remove the folder and fill the"
            " mirror again"
        )
    return datasets.Dataset(pq.read_table(pa.BufferReader(content)))
