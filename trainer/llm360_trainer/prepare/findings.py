"""What preparation counts in documents without changing them: patterns of personal data, and exact duplicates.

The patterns are those of the library datafog (Apache-2.0), whose telemetry is off unless its user asks for it. They
find what looks like an e-mail address, a telephone number, an IP address or the number of a payment card: too much in
code, where any four small numbers between dots are an address, and too little in prose, where names are not looked for.
A duplicate is a document whose text an earlier one has, byte for byte; texts are told apart by 64 bits of their sha256.

Each block of documents leaves a scratch file `header with counts, index (uint32), hashes in order (uint64)`; the index
tells where hashes of each first byte begin, so that duplicates among more documents than fit into memory are counted
in several rounds.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from datafog import RegexAnnotator
from numpy.typing import NDArray

from llm360.errors import IntegrityError, LLM360Error
from llm360.storage import Storage

PATTERNS = {"email": "EMAIL", "phone": "PHONE", "ip_address": "IP_ADDRESS", "credit_card": "CREDIT_CARD"}
"""Our names of the patterns, and the library's."""

HEADER = struct.Struct(f"<8s{len(PATTERNS)}Q")
MAGIC = b"llm360f1"
FIRST_BYTES = 256
# Hashes in memory at a time: 128 MiB of them.
ROUND_DOCUMENTS = 2**24
# Files read at a time.
PARALLEL_FILES = 16

# Characters that an address reaches before and behind its @ (RFC 5321, section 4.5.3.1), and one more on each side.
_BEFORE_AT, _AFTER_AT = 65, 256
_DIGIT = re.compile(r"\d")


def count_personal(texts: Iterable[str]) -> tuple[int, ...]:
    """How often each of `PATTERNS` is found in texts, in their order."""
    counts = dict.fromkeys(PATTERNS, 0)
    patterns = _patterns()
    for text in texts:
        counts["email"] += sum(_count(patterns["email"], part) for part in _around_ats(text))
        if _DIGIT.search(text):
            for name in ("phone", "ip_address", "credit_card"):
                counts[name] += _count(patterns[name], text)
    return tuple(counts.values())


@dataclass(frozen=True)
class Findings:
    """What was found in all documents.

    Args:
        personal: For each source, how often each of `PATTERNS` was found.
        duplicates: For each source, documents that repeat another one of it.
        all_duplicates: Documents that repeat another one of any source.
    """

    personal: tuple[dict[str, int], ...]
    duplicates: tuple[int, ...]
    all_duplicates: int


def write_findings(scratch: Storage, key: str, texts: Sequence[str]) -> None:
    """Count in a block of documents, and store what was found; the file exists whole or not at all."""
    hashes = np.sort(hash_texts(texts))
    bounds = np.arange(FIRST_BYTES, dtype=np.uint64) << np.uint64(56)
    index = np.append(np.searchsorted(hashes, bounds), len(hashes)).astype("<u4")
    header = HEADER.pack(MAGIC, *count_personal(texts))
    scratch.put(key, b"".join((header, index.tobytes(), hashes.astype("<u8").tobytes())))


def collect_findings(
    scratch: Storage,
    keys: Sequence[Sequence[str]],
    *,
    absent: NDArray[np.uint64] | None = None,
    round_documents: int = ROUND_DOCUMENTS,
) -> Findings:
    """Add up what the blocks of all sources hold.

    Args:
        scratch: Where the files are.
        keys: Of each source.
        absent: Hashes of the documents that are held out.
        round_documents: About how many hashes are in memory at a time.

    Raises:
        IntegrityError: a document that is held out is there.
    """
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:

        def read(source: Sequence[str]) -> list[_File]:
            return list(pool.map(lambda key: _File.read(scratch, key), source))

        files = [read(source) for source in keys]
        documents = sum(file.documents for source in files for file in source)
        rounds = min(FIRST_BYTES, max(1, -(-documents // round_documents)))
        bounds = [FIRST_BYTES * number // rounds for number in range(rounds + 1)]
        duplicates, all_duplicates = [0] * len(files), 0
        for low, high in pairwise(bounds):
            distinct = []
            for source, found in enumerate(files):
                parts = list(pool.map(lambda file: file.hashes(scratch, low, high), found))  # noqa: B023
                hashes = np.concatenate([np.empty(0, np.uint64), *parts])
                distinct.append(np.unique(hashes))
                duplicates[source] += len(hashes) - len(distinct[-1])
            together = np.concatenate(distinct)
            if absent is not None and len(both := np.intersect1d(together, absent)):
                raise IntegrityError(
                    f"{len(both)} documents that are held out stand among those of the rows too; nothing was published."
                    " The texts changed while they were read, or this is a fault of llm360: prepare again"
                )
            all_duplicates += len(together) - len(np.unique(together))
    # A source without text has no files; its counts are 0.
    none = (0,) * len(PATTERNS)
    personal = [
        dict(zip(PATTERNS, map(sum, zip(none, *(file.personal for file in source), strict=True)), strict=True))
        for source in files
    ]
    return Findings(tuple(personal), tuple(duplicates), all_duplicates + sum(duplicates))


class _File(NamedTuple):
    """A block's scratch file, but for its hashes."""

    key: str
    personal: tuple[int, ...]
    starts: NDArray[np.uint32]

    @classmethod
    def read(cls, scratch: Storage, key: str) -> _File:
        size = HEADER.size + 4 * (FIRST_BYTES + 1)
        data = scratch.get_range(key, 0, size)
        magic, *personal = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise LLM360Error(f"{scratch.uri}/{key} is no part of a preparation; remove {scratch.uri} and start again")
        return cls(key, tuple(personal), np.frombuffer(data, "<u4", offset=HEADER.size))

    @property
    def documents(self) -> int:
        return int(self.starts[-1])

    def hashes(self, scratch: Storage, low: int, high: int) -> NDArray[np.uint64]:
        """Those whose first byte is from `low` to below `high`."""
        start, stop = int(self.starts[low]), int(self.starts[high])
        if start == stop:
            return np.empty(0, np.uint64)
        base = HEADER.size + 4 * (FIRST_BYTES + 1)
        return np.frombuffer(scratch.get_range(self.key, base + 8 * start, 8 * (stop - start)), "<u8")


def hash_texts(texts: Sequence[str]) -> NDArray[np.uint64]:
    """64 bits of each text's sha256."""
    digests = b"".join(sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    found = RegexAnnotator().patterns
    return {name: found[label] for name, label in PATTERNS.items()}


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


def _around_ats(text: str) -> Iterator[str]:
    """The parts of a text in which an address may stand.

    The pattern looks at every character before it sees whether an @ follows; over a megabyte of base64 it would do so
    for hours.
    """
    at = text.find("@")
    while at >= 0:
        start, stop = max(0, at - _BEFORE_AT), at + _AFTER_AT
        following = text.find("@", at + 1)
        while 0 <= following <= stop + _BEFORE_AT:
            stop = following + _AFTER_AT
            following = text.find("@", following + 1)
        yield text[start:stop]
        at = following
