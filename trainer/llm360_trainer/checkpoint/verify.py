"""Checks a checkpoint's files against its manifest, before anything is loaded from them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Literal, NamedTuple

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import CheckpointManifest, FileRecord
from llm360.storage import Storage
from llm360_trainer.checkpoint.layout import MODEL_FOLDER, STATE_FOLDER


class Finding(IntEnum):
    """How a file compares with its record; a number, the worse the larger, so that ranks can share it."""

    FINE = 0
    UNREAD = 1
    """The store did not answer: nothing is known."""
    DIFFERENT = 2
    MISSING = 3


class Inspection(NamedTuple):
    """What reading a whole file has shown."""

    finding: Finding
    checksums: tuple[int, ...]
    """CRC32 of each block of `BLOCK_BYTES` (the last one shorter), where the file is fine."""


BLOCK_BYTES = 256 * 1024
"""Small, since whoever reads some rows of a tensor reads the blocks around them. A CRC32 costs a third of sha256."""
_TEXTS = {Finding.MISSING: "is missing", Finding.DIFFERENT: "holds other bytes than those of {}"}
_THREADS = 4  # files at a time; hashing leaves the interpreter free, and reading waits for the network


def verify_checkpoint_files(
    storage: Storage, prefix: str, manifest: CheckpointManifest, which: Literal["state", "model", "all"] = "state"
) -> None:
    """Read files of a checkpoint from end to end and compare size and sha256 with the manifest.

    Args:
        storage: Rooted at the release.
        prefix: The checkpoint's folder.
        manifest: Its digest is already checked against the ledger's entry.
        which: Resuming reads the state alone.

    Raises:
        IntegrityError: names every file that is missing or holds other bytes.
        StorageUnavailableError: the store does not answer, so nothing can be said.
    """
    folders = (STATE_FOLDER, MODEL_FOLDER) if which == "all" else (which,)
    files = [file for folder in folders for file in manifest.part(folder)]
    refuse_faulty(prefix, files, [inspection.finding for inspection in inspect_files(storage, prefix, files)])


def num_blocks(file: FileRecord) -> int:
    """How many checksums its inspection has."""
    return -(-file.bytes // BLOCK_BYTES)


def inspect_files(storage: Storage, prefix: str, files: Sequence[FileRecord]) -> list[Inspection]:
    """Read the files from end to end, several at a time, and say of each how it compares with its record."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify-checkpoint") as pool:
        return list(pool.map(lambda file: _inspect(storage, prefix, file), files))


def refuse_faulty(prefix: str, files: Sequence[FileRecord], findings: Sequence[Finding]) -> None:
    """Raise IntegrityError naming all files that are not as recorded, if there are any."""
    faults = [
        f"{file.key} {_TEXTS[finding].format(file.sha256)}"
        for file, finding in zip(files, findings, strict=True)
        if finding in _TEXTS
    ]
    if faults:
        raise IntegrityError(
            f"checkpoint {prefix} cannot be used: {'; '.join(faults)}; nothing of it was loaded,"
            " resume from an older checkpoint or restore the files from a copy"
        )


def _inspect(storage: Storage, prefix: str, file: FileRecord) -> Inspection:
    sha256 = hashlib.sha256()
    checksums = []
    try:
        for block in storage.iter_bytes(f"{prefix}/{file.key}", BLOCK_BYTES):
            sha256.update(block)
            checksums.append(zlib.crc32(block))
    except ObjectNotFoundError:
        return Inspection(Finding.MISSING, ())
    except IntegrityError:  # the object shrank while it was read
        return Inspection(Finding.DIFFERENT, ())
    if DIGEST_PREFIX + sha256.hexdigest() != file.sha256 or len(checksums) != num_blocks(file):
        return Inspection(Finding.DIFFERENT, ())
    return Inspection(Finding.FINE, tuple(checksums))
