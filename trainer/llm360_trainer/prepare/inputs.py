"""Where documents come from: files of a source, cut into splits that are read side by side.

A document is a line or a whole `.txt` file, the `text` of a line of `.jsonl` (also `.gz`, `.zst`), the conversation of
such a line where a source is said to hold them, or the `text` of a Parquet row. Sources keep their order: files by
name, documents as they stand in them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Literal

from llm360.canonical import DIGEST_PREFIX, digest_of
from llm360.errors import InputError, ObjectNotFoundError
from llm360.storage import ObjectInfo, Storage, StorageOptions, open_storage
from llm360.storage.open import without_credentials
from llm360_trainer.prepare.documents import num_row_groups
from llm360_trainer.prepare.fim import FimRates

# Bytes of a file that one task reads. Small enough to keep all cores busy, large enough not to be felt.
SPLIT_BYTES = 64 * 2**20
# Most whole-file documents in one split.
SPLIT_FILES = 4096
# Files hashed at a time.
PARALLEL_FILES = 8

NO_OPTIONS = StorageOptions()

Kind = Literal["txt", "jsonl", "parquet", "chat"]
KINDS: dict[str, tuple[Kind, str]] = {
    ".txt": ("txt", ""),
    ".jsonl": ("jsonl", ""),
    ".jsonl.gz": ("jsonl", "gz"),
    ".jsonl.zst": ("jsonl", "zst"),
    ".parquet": ("parquet", ""),
}


@dataclass(frozen=True)
class SourceSpec:
    """A source as the user names it.

    Args:
        name: Stands in the manifest and in metrics.
        path: A file, a folder or a glob; local or an address that `open_storage` takes.
        weight: Relative share of the rows in the mix; None takes everything there is.
        options: How to reach the path's store.
        times: How often every row is there to be taken: a whole number, or a share below 1 of the rows once.
        fim: How often documents are turned around for fill-in-the-middle, drawn anew each time; None never.
        folders: Folders below the path that are read, in this order; empty reads all.
        chat: Whether its documents are conversations, of which only the assistant's words count.
    """

    name: str
    path: str
    weight: Fraction | None = None
    options: StorageOptions = NO_OPTIONS
    times: Fraction = Fraction(1)
    fim: FimRates | None = None
    folders: tuple[str, ...] = ()
    chat: bool = False

    def files(self) -> list[InputFile]:
        """The files that it names, in order.

        Raises:
            InputError: nothing is there, a file is of no known kind, or a folder that must be there is missing.
        """
        found = find_files(self.path, self.options)
        if self.chat:
            found = [self._of_conversations(file) for file in found]
        if not self.folders:
            return found
        by_folder: dict[str, list[InputFile]] = {folder: [] for folder in self.folders}
        for file in found:
            folder = file.key.split("/")[0]
            if folder in by_folder:
                by_folder[folder].append(file)
        missing = [folder for folder, files in by_folder.items() if not files]
        if missing:
            raise InputError(
                f"source '{self.name}' is read from {len(self.folders)} folders below"
                f" {without_credentials(self.path)}, but of them {', '.join(missing)} hold nothing; the path"
                " must be the folder that holds them all"
            )
        return [file for files in by_folder.values() for file in files]

    def _of_conversations(self, file: InputFile) -> InputFile:
        if file.kind != "jsonl":
            raise InputError(
                f"source '{self.name}' holds conversations (chat), but {file.label} is no .jsonl file; give them as"
                " lines of .jsonl, .jsonl.gz or .jsonl.zst"
            )
        return replace(file, kind="chat")


@dataclass(frozen=True)
class InputFile:
    """A file of a source: `key` in the store `store`.

    The store and not its address: the password of `https://name:password@host/path` is in the store alone.
    """

    store: Storage
    key: str
    bytes: int
    kind: Kind
    compression: str

    @property
    def label(self) -> str:
        """Its address, for messages."""
        return f"{self.store.uri}/{self.key}"


@dataclass(frozen=True)
class Piece:
    """A part of a file: bytes `[start, stop)`, for Parquet row groups `[start, stop)`."""

    file: InputFile
    start: int
    stop: int


@dataclass(frozen=True)
class Split:
    """What one task reads, in order. `index` counts the splits of all sources."""

    index: int
    source: int
    pieces: tuple[Piece, ...]


def parse_source(text: str) -> SourceSpec:
    """Read `NAME=PATH[:WEIGHT][:TIMESx]`.

    Raises:
        InputError: a part is missing, the weight is not above 0, or the times are neither whole nor below 1.
    """
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        shown = "=".join(map(without_credentials, text.split("=", 1)))
        raise InputError(f"source {shown!r} is not NAME=PATH[:WEIGHT][:TIMESx], for example wiki=data/wiki/*.jsonl:0.3")
    path, times = _split_number(path, "x")
    path, weight = _split_number(path, "")
    if weight is not None and weight <= 0:
        raise InputError(
            f"source '{name}' has weight {float(weight):g}; a weight must be above 0 (leave the source out instead)"
        )
    check_times(name, Fraction(1) if times is None else times)
    return SourceSpec(name, path, weight, times=Fraction(1) if times is None else times)


def _split_number(path: str, suffix: str) -> tuple[str, Fraction | None]:
    """What stands before `:NUMBER<suffix>` at a path's end, and the number; None where there is none."""
    head, _, tail = path.rpartition(":")
    if not head or not tail.endswith(suffix):
        return path, None
    try:
        return head, Fraction(tail.removesuffix(suffix))
    except (ValueError, ZeroDivisionError):
        return path, None


def check_times(name: str, times: Fraction) -> None:
    """Refuse rows taken a number of times that would not treat them alike.

    Raises:
        InputError: neither a whole number nor between 0 and 1.
    """
    if times <= 0 or (times > 1 and times.denominator != 1):
        raise InputError(
            f"source '{name}' is taken {float(times):g} times; take a whole number, or a share below 1 of its rows"
        )


def check_sources(sources: Sequence[SourceSpec]) -> None:
    """Refuse sources that cannot stand together.

    Raises:
        InputError: none are given, a name is used twice, only some have weights, or conversations are to be turned
            around.
    """
    if not sources:
        raise InputError("no source is given; name at least one as --source NAME=PATH[:WEIGHT]")
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sources are named '{name}'; give each its own name, or one glob for both")
    for source in sources:
        if source.chat and source.fim:
            raise InputError(
                f"source '{source.name}' has both chat and fim; fill-in-the-middle would tear its conversations apart,"
                " leave one away"
            )
    unweighted = [source.name for source in sources if source.weight is None]
    if unweighted and len(unweighted) < len(sources):
        raise InputError(f"sources {', '.join(unweighted)} have no weight but others do; give all a weight, or none")


def find_files(path: str, options: StorageOptions = NO_OPTIONS) -> list[InputFile]:
    """The files that a source's path names, by name.

    Args:
        path: A file; a folder, whose files of the known kinds are taken at any depth; or a glob (`*`, `?`, `[…]`,
            and `**` for folders at any depth).
        options: How to reach the path's store.

    Raises:
        InputError: nothing is there, or a named file is of no known kind.
    """
    if "://" not in path:
        path = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links stay as they were named
    folder, name = posixpath.split(path)
    store = open_storage(folder, options)
    with contextlib.suppress(ObjectNotFoundError):
        return [_input_file(store, store.stat(name))]
    fixed, pattern = path, ["**"]
    while any(mark in fixed for mark in "*?["):
        fixed = posixpath.dirname(fixed)
        pattern = path[len(fixed) :].strip("/").split("/")
    store = open_storage(fixed, options)
    everything = pattern == ["**"]
    found = [
        info
        for info in store.list()
        if info.size and _matches(info.key.split("/"), pattern) and (_kind(info.key) or not everything)
    ]
    if not found:
        shown = without_credentials(path)
        raise InputError(f"no input at {shown}: give a file, a folder or a glob of {', '.join(KINDS)} files")
    return [_input_file(store, info) for info in found]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key, split at `/`, fits a glob, split likewise."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or bool(parts and _matches(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _kind(key: str) -> tuple[Kind, str] | None:
    return next((kind for suffix, kind in KINDS.items() if key.lower().endswith(suffix)), None)


def _input_file(store: Storage, info: ObjectInfo) -> InputFile:
    kind = _kind(info.key)
    if kind is None:
        raise InputError(f"{store.uri}/{info.key} is of no known kind; allowed are {', '.join(KINDS)}")
    return InputFile(store, info.key, info.size, *kind)


def digest_files(files: Sequence[InputFile]) -> str:
    """One digest of the files' names, sizes and contents, read in parallel with bounded memory."""

    def digest(file: InputFile) -> list[object]:
        hasher = sha256()
        for data in file.store.iter_bytes(file.key):
            hasher.update(data)
        return [file.key, file.bytes, DIGEST_PREFIX + hasher.hexdigest()]

    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        return digest_of(list(pool.map(digest, files)))


def plan_splits(
    files_by_source: Sequence[Sequence[InputFile]], txt_document: str, split_bytes: int = SPLIT_BYTES
) -> list[Split]:
    """Cut all sources into splits, in order; where they are cut shows nowhere in the result.

    Args:
        files_by_source: Each source's files in order.
        txt_document: `line` or `file`: what a document of a `.txt` file is.
        split_bytes: About the size of a split.
    """
    splits: list[Split] = []
    for source, files in enumerate(files_by_source):
        groups = _group(_pieces(files, txt_document, split_bytes), split_bytes)
        splits += [Split(len(splits) + number, source, tuple(group)) for number, group in enumerate(groups)]
    return splits


def _pieces(files: Iterable[InputFile], txt_document: str, split_bytes: int) -> Iterator[tuple[Piece, int]]:
    """Pieces that are read from their beginning to their end, with their sizes in bytes."""
    for file in files:
        if file.kind == "parquet":
            groups = num_row_groups(file)
            yield from ((Piece(file, group, group + 1), file.bytes // groups) for group in range(groups))
        elif file.compression or (file.kind == "txt" and txt_document == "file"):
            yield Piece(file, 0, file.bytes), file.bytes
        else:
            for start in range(0, file.bytes, split_bytes):
                stop = min(start + split_bytes, file.bytes)
                yield Piece(file, start, stop), stop - start


def _group(pieces: Iterable[tuple[Piece, int]], split_bytes: int) -> Iterator[list[Piece]]:
    """Neighbours together until they fill a split."""
    group: list[Piece] = []
    filled = 0
    for piece, size in pieces:
        if group and (filled + size > split_bytes or len(group) >= SPLIT_FILES):
            yield group
            group, filled = [], 0
        group.append(piece)
        filled += size
    if group:
        yield group
