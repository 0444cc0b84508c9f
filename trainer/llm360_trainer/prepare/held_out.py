"""Keeping documents out of the rows: which, as the command line says it, and their copy beside the data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm360.canonical import sha256_digest
from llm360.data.held_out import SCHEMA, HeldOut
from llm360.data.manifest import HeldOutFile
from llm360.data.rows import GROUP_ROWS
from llm360.errors import InputError
from llm360.storage import Storage
from llm360_trainer.prepare.findings import hash_texts

# Characters of text in a file: a reader holds one file in memory.
FILE_CHARS = 64 * 2**20
# Scratch files read at a time.
PARALLEL_FILES = 16


def parse_held_out(text: str) -> HeldOut:
    """Read `SHARE[:SEED]`.

    Raises:
        InputError: the share is not between 0 and 1, or the seed is no whole number.
    """
    share, _, seed = text.partition(":")
    try:
        rule = HeldOut(Fraction(share), int(seed or "0"))
    except (ValueError, ZeroDivisionError):
        rule = None
    if rule is None or not 0 < rule.share < 1 or not 0 <= rule.seed < 2**53:
        raise InputError(f"--held-out is {text!r}; give SHARE[:SEED], a share between 0 and 1, for example 0.001:7")
    return rule


class Copy(NamedTuple):
    """The copy of the documents that are held out.

    Attributes:
        files: As the manifest names them.
        hashes: 64 bits of each text's sha256.
    """

    files: tuple[HeldOutFile, ...]
    hashes: NDArray[np.uint64]


def write_scratch(scratch: Storage, key: str, texts: Sequence[str]) -> None:
    """Store what is held out of a block's documents, none perhaps."""
    scratch.put(key, json.dumps(texts).encode())


def copy_held_out(
    scratch: Storage, keys: Sequence[Sequence[str]], output: Storage, prefix: str, *, file_chars: int = FILE_CHARS
) -> Copy:
    """Collect what the blocks of all sources hold out into files beside the data.

    Args:
        scratch: Where `write_scratch` left it.
        keys: Of each source, in the order of its documents.
        output: Rooted at the data set's folder.
        prefix: Of the files' keys.
        file_chars: About how many characters of text a file holds.
    """
    files: list[HeldOutFile] = []
    hashes: list[NDArray[np.uint64]] = []
    for part in _parts(_documents(scratch, keys), file_chars):
        data = _encode(part)
        key = f"{prefix}/{len(files):05d}.parquet"
        output.put(key, data)
        files.append(HeldOutFile(key=key, documents=len(part), bytes=len(data), sha256=sha256_digest(data)))
        hashes.append(hash_texts([text for _, text in part]))
    return Copy(tuple(files), np.concatenate([np.empty(0, np.uint64), *hashes]))


def _documents(scratch: Storage, keys: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        for source, found in enumerate(keys):
            for start in range(0, len(found), PARALLEL_FILES):
                for data in pool.map(scratch.get, found[start : start + PARALLEL_FILES]):
                    yield from ((source, text) for text in json.loads(data))


def _parts(documents: Iterator[tuple[int, str]], file_chars: int) -> Iterator[list[tuple[int, str]]]:
    part: list[tuple[int, str]] = []
    chars = 0
    for source, text in documents:
        if part and chars + len(text) > file_chars:
            yield part
            part, chars = [], 0
        part.append((source, text))
        chars += len(text)
    if part:
        yield part


def _encode(documents: Sequence[tuple[int, str]]) -> bytes:
    sources, texts = zip(*documents, strict=True)
    table = pa.table([pa.array(sources, pa.uint16()), pa.array(texts, pa.string())], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
    return sink.getvalue().to_pybytes()
