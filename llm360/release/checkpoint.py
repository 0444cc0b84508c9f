"""A checkpoint's manifest: every file and tensor with its digest.

A checkpoint is a folder `checkpoints/step_…/aNNN/` with `manifest.json` (canonical JSON) beside the files it
lists. The ledger's checkpoint entry names the manifest's digest, so the chain binds every byte.

`model_digest` and `state_digest` say what the tensors hold and nothing else. They depend neither on how many
ranks wrote the files nor on the attempt nor on time: two trainings that made the same bits have the same two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from llm360.canonical import canonical_json, digest_of, sha256_digest
from llm360.errors import IntegrityError
from llm360.release.fields import AttemptNumber, Count, Digest, Key, StrictModel
from llm360.release.layout import MANIFEST_NAME, checkpoint_prefix
from llm360.storage.base import Storage

MODEL_FOLDER = "model"
STATE_FOLDER = "state"
TENSORS_SUFFIX = ".safetensors"

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element, by safetensors' name of the type."""


class FileRecord(StrictModel):
    """One file of a checkpoint."""

    key: Key = Field(description="relative to the checkpoint's folder: model/… or state/…")
    bytes: Count = Field(description="its size")
    sha256: Digest = Field(description="of all its bytes")


class TensorRecord(StrictModel):
    """One tensor inside a safetensors file."""

    name: str = Field(min_length=1, max_length=500, description="as the safetensors header spells it")
    file: Key = Field(description="key of the file that holds it, relative to the checkpoint's folder")
    dtype: str = Field(max_length=16, description="safetensors' name of the type: F32, BF16, …")
    shape: tuple[Count, ...] = Field(description="of the full tensor, not of a shard")
    sha256: Digest = Field(description="of the full tensor's bytes, little endian, row by row")


def tensors_digest(records: Iterable[TensorRecord]) -> str:
    """The digest of what the tensors hold: sha256 of canonical JSON {name: {dtype, shape, sha256}}.

    Raises:
        IntegrityError: two records have the same name.
    """
    contents: dict[str, dict[str, object]] = {}
    for record in records:
        if record.name in contents:
            raise IntegrityError(f"tensor '{record.name}' is listed twice; a checkpoint holds each name once")
        contents[record.name] = {"dtype": record.dtype, "shape": list(record.shape), "sha256": record.sha256}
    return digest_of(contents)


class CheckpointManifest(StrictModel):
    """What `manifest.json` of a checkpoint holds."""

    format: Literal["llm360-checkpoint/1"] = "llm360-checkpoint/1"
    step: Count = Field(description="finished optimizer steps")
    tokens: Count = Field(description="predictions behind it, over the whole run")
    attempt: AttemptNumber = Field(description="the attempt that wrote it")
    world_size: Annotated[int, Field(ge=1)] = Field(description="ranks that wrote it; the digests do not depend on it")
    config_digest: Digest = Field(description="of the run's configuration")
    files: tuple[FileRecord, ...] = Field(description="every file but this one, sorted by key")
    model: tuple[TensorRecord, ...] = Field(description="tensors below model/")
    state: tuple[TensorRecord, ...] = Field(description="tensors below state/: master weights and moments")
    model_digest: Digest = Field(description="of `model`, see tensors_digest")
    state_digest: Digest = Field(description="of `state`, see tensors_digest")

    @property
    def prefix(self) -> str:
        """The checkpoint's folder in the release."""
        return checkpoint_prefix(self.step, self.attempt)

    @property
    def total_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(file.bytes for file in self.files)

    def encode(self) -> bytes:
        """The bytes of `manifest.json`: canonical JSON; their sha256 is the manifest's digest."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def decode(cls, data: bytes, where: str) -> CheckpointManifest:
        """Read `manifest.json` and check that it is consistent in itself.

        Args:
            data: The stored bytes, whose digest the caller has already compared with the ledger's.
            where: The key, for messages.

        Raises:
            IntegrityError: not canonical JSON of this form, a file listed twice, a tensor in a file that is
                not listed or no safetensors file, or a digest that is not that of the records.
        """
        try:
            manifest = cls.model_validate(json.loads(data))
            # Not every JSON value has a canonical form: 2**60, NaN and half a surrogate pair have none.
            canonical = manifest.encode()
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{where} is not a checkpoint manifest: {first_problem(error)}") from error
        if canonical != data:
            raise IntegrityError(f"{where} is not canonical JSON; write it with CheckpointManifest.encode()")
        manifest.check(where)
        return manifest

    def check(self, where: str) -> None:
        """Check that files, tensors and the two digests agree.

        Raises:
            IntegrityError: names the record that does not fit.
        """
        keys = [file.key for file in self.files]
        if sorted(set(keys)) != keys:
            raise IntegrityError(f"{where}: its files are not sorted by key, each once: {keys}")
        for folder, records, claimed in (
            (MODEL_FOLDER, self.model, self.model_digest),
            (STATE_FOLDER, self.state, self.state_digest),
        ):
            for record in records:
                if record.file not in keys or not record.file.startswith(folder + "/"):
                    raise IntegrityError(
                        f"{where}: tensor '{record.name}' is said to lie in '{record.file}',"
                        f" which is not a listed file below {folder}/"
                    )
                # Verification looks for tensors in such files alone; elsewhere nobody would.
                if not record.file.endswith(TENSORS_SUFFIX):
                    raise IntegrityError(
                        f"{where}: tensor '{record.name}' is said to lie in '{record.file}',"
                        f" which is not a {TENSORS_SUFFIX} file"
                    )
            found = tensors_digest(records)
            if found != claimed:
                raise IntegrityError(f"{where}: {folder}_digest is {claimed}, but the tensors listed give {found}")

    def part(self, folder: str) -> tuple[FileRecord, ...]:
        """The files below `model` or `state`."""
        return tuple(file for file in self.files if file.key.startswith(folder + "/"))


def load_checkpoint_manifest(storage: Storage, prefix: str, digest: str) -> CheckpointManifest:
    """Read a checkpoint's manifest and check it against the digest that the ledger names.

    Args:
        storage: Rooted at the release.
        prefix: The checkpoint's folder.
        digest: From the checkpoint's entry.

    Raises:
        IntegrityError: its bytes have another digest, or it is not consistent.
        ObjectNotFoundError: it is not there.
    """
    key = f"{prefix}/{MANIFEST_NAME}"
    data = storage.get(key)
    found = sha256_digest(data)
    if found != digest:
        raise IntegrityError(f"{key} has digest {found}, but the ledger names {digest}")
    manifest = CheckpointManifest.decode(data, key)
    if manifest.prefix != prefix:
        raise IntegrityError(f"{key} describes {manifest.prefix}; a manifest lies in the folder it describes")
    return manifest


def first_problem(error: Exception) -> str:
    """The first fault of a failed validation as one short phrase."""
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in problem["loc"])
        return f"{path or 'the whole'}: {problem['msg']}, found {str(problem['input'])[:80]!r}"
    return str(error)[:200]
