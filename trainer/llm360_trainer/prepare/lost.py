"""A data set of which files are lost: its manifest is there, and they are made again, the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llm360.data.manifest import MANIFEST_KEY, DataManifest, HeldOutFile, Shard
from llm360.errors import InputError, IntegrityError
from llm360.report.text import counted
from llm360.storage import Storage
from llm360_trainer.prepare.publish import MADE_WITH, differences, find_existing


def find_whole(output: Storage, recipe: dict[str, Any]) -> DataManifest | None:
    """The data set in a folder, if there is one, made by this recipe, of which no file is lost.

    Raises:
        InputError: see `find_existing`.
    """
    existing = find_existing(output, recipe)
    return None if existing is None or find_lost(output, existing) else existing


def find_lost(output: Storage, manifest: DataManifest) -> list[str]:
    """Keys of the data set's files that are missing or of another size; listed, their bytes are not read."""
    sizes = {file.key: file.bytes for file in files_of(manifest)}
    folders = sorted({key.rpartition("/")[0].split("/")[0] for key in sizes})
    there = {info.key: info.size for folder in folders for info in output.list(folder and f"{folder}/")}
    return [key for key, size in sizes.items() if there.get(key) != size]


def files_of(manifest: DataManifest) -> list[Shard | HeldOutFile]:
    """Every file whose size and digest the manifest names."""
    return [*(shard for chunk in manifest.chunks for shard in chunk.shards), *(manifest.held_out or ())]


def describe_lost(output: Storage, manifest: DataManifest, lost: list[str]) -> str:
    """The beginning of a sentence about files that are not there."""
    all_files = counted(len(files_of(manifest)), "file")
    return (
        f"{output.uri} has lost {len(lost)} of the {all_files} that its {MANIFEST_KEY} names (missing,"
        f" or of another size), {lost[0]} first"
    )


def check_repairable(output: Storage, manifest: DataManifest, recipe: dict[str, Any], lost: list[str]) -> None:
    """See that files that are lost would get their bytes again.

    Raises:
        InputError: other versions of libraries may give other bytes.
    """
    different = "; ".join(sorted(differences(manifest.recipe.get(MADE_WITH), recipe[MADE_WITH])))
    if different:
        raise InputError(
            f"{describe_lost(output, manifest, lost)}; libraries here may give other bytes ({different}): use"
            f" those versions, restore the files from a copy, or remove {MANIFEST_KEY} and prepare anew",
            reason="DataIncomplete",
        )


def check_repaired(
    output: Storage, manifest: DataManifest, lost: list[str], made: Iterable[Shard | HeldOutFile]
) -> None:
    """See that files that were made again are those of the manifest; others are removed.

    Raises:
        IntegrityError: they are not.
    """
    by_key, was_lost = {file.key: file for file in made}, set(lost)
    wrong = [file.key for file in files_of(manifest) if file.key in was_lost and by_key.get(file.key) != file]
    for key in wrong:
        output.delete(key)
    if wrong:
        raise IntegrityError(
            f"{counted(len(wrong), 'file')} made again, {wrong[0]} first, would not have the bytes that the manifest at"
            f" {output.uri} names; restore them from a copy, or remove {MANIFEST_KEY} and prepare anew"
        )
