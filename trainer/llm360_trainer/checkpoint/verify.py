"""Checks a checkpoint's files against its manifest, before anything is loaded from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from typing import Literal

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
    refuse_faulty(prefix, files, inspect_files(storage, prefix, files))


def inspect_files(storage: Storage, prefix: str, files: Sequence[FileRecord]) -> list[Finding]:
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


def _inspect(storage: Storage, prefix: str, file: FileRecord) -> Finding:
    sha256 = hashlib.sha256()
    try:
        for chunk in storage.iter_bytes(f"{prefix}/{file.key}"):
            sha256.update(chunk)
    except ObjectNotFoundError:
        return Finding.MISSING
    except IntegrityError:  # the object shrank while it was read
        return Finding.DIFFERENT
    return Finding.FINE if DIGEST_PREFIX + sha256.hexdigest() == file.sha256 else Finding.DIFFERENT
