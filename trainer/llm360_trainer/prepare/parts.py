"""The first scratch files: ids and lengths of a block of documents, and a source's ids as one line made of them.

A part is `header, lengths (uint32), ids`, little endian, so that any range of its ids is one ranged read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm360.data.held_out import HeldOut
from llm360.data.rows import Ids
from llm360.errors import LLM360Error
from llm360.storage import Storage
from llm360_trainer.prepare.conversations import Document, text_of

HEADER = struct.Struct("<8s?7xQQ")
MAGIC = b"llm360p1"
# Headers read at a time when a preparation goes on.
PARALLEL_HEADERS = 16


class PartId(NamedTuple):
    """A block's place: which split, and which block of it."""

    split: int
    block: int

    @property
    def key(self) -> str:
        """Where the part lies in the scratch folder."""
        return f"parts/{self.split:06d}-{self.block:06d}"

    @property
    def findings_key(self) -> str:
        """Where what was found in its documents lies."""
        return self.key.replace("parts/", "findings/", 1)

    @property
    def held_out_key(self) -> str:
        """Where the documents lie that are held out of it."""
        return self.key.replace("parts/", "held_out/", 1)


class PartInfo(NamedTuple):
    """What a part holds."""

    last: bool  # no further block in its split
    documents: int
    tokens: int


def write_part(scratch: Storage, part: PartId, last: bool, lengths: NDArray[np.uint32], ids: Ids) -> PartInfo:
    """Store a part; it exists whole or not at all."""
    header = HEADER.pack(MAGIC, last, len(lengths), len(ids))
    little = ids.astype(ids.dtype.newbyteorder("<"), copy=False)
    scratch.put(part.key, b"".join((header, lengths.astype("<u4", copy=False).tobytes(), little.tobytes())))
    return PartInfo(last, len(lengths), len(ids))


def find_parts(scratch: Storage) -> dict[PartId, PartInfo]:
    """The parts that an earlier, interrupted preparation left, from their headers."""

    def read(key: str) -> tuple[PartId, PartInfo]:
        split, block = key.removeprefix("parts/").split("-")
        magic, last, documents, tokens = HEADER.unpack(scratch.get_range(key, 0, HEADER.size))
        if magic != MAGIC:
            raise LLM360Error(f"{scratch.uri}/{key} is no part of a preparation; remove {scratch.uri} and start again")
        return PartId(int(split), int(block)), PartInfo(last, documents, tokens)

    with ThreadPoolExecutor(PARALLEL_HEADERS) as pool:
        return dict(pool.map(read, [info.key for info in scratch.list("parts/")]))


class PartTable:
    """The parts that are there, and the splits of which some are still missing.

    Args:
        splits: How many there are.
        parts: Those that are there already.
    """

    def __init__(self, splits: int, parts: Mapping[PartId, PartInfo]) -> None:
        self.parts: dict[PartId, PartInfo] = {}
        self.unfinished = dict.fromkeys(range(splits))  # in order
        self._missing: dict[int, int] = {}  # blocks of a split; below 0 while its last one is not known
        for part, info in parts.items():
            self.add(part, info)

    def add(self, part: PartId, info: PartInfo) -> None:
        """Enter a part; its split is finished once its last block and all before it are there."""
        if part in self.parts:
            return
        self.parts[part] = info
        missing = self._missing.get(part.split, 0) - 1 + (part.block + 1 if info.last else 0)
        self._missing[part.split] = missing
        if missing == 0:
            self.unfinished.pop(part.split)


@dataclass(frozen=True)
class TokenLine:
    """All ids of a source end to end, read from its parts.

    Args:
        keys: The parts in order.
        first_document: `[parts + 1]`, documents before each part, and all of them.
        first_token: `[parts + 1]`, ids before each part, and all of them.
        dtype: Of the ids.
    """

    keys: tuple[str, ...]
    first_document: NDArray[np.int64]
    first_token: NDArray[np.int64]
    dtype: str

    @classmethod
    def of(cls, parts: Iterable[tuple[PartId, PartInfo]], dtype: str) -> TokenLine:
        """The line of these parts, put into their order."""
        ordered = sorted(parts)
        counts = np.array([(info.documents, info.tokens) for _, info in ordered], dtype=np.int64).reshape(-1, 2)
        firsts = np.concatenate((np.zeros((1, 2), np.int64), counts.cumsum(axis=0)))
        return cls(tuple(part.key for part, _ in ordered), firsts[:, 0], firsts[:, 1], dtype)

    @property
    def documents(self) -> int:
        """Documents of the source."""
        return int(self.first_document[-1])

    @property
    def tokens(self) -> int:
        """Ids of the source."""
        return int(self.first_token[-1])

    def read(self, scratch: Storage, start: int, stop: int) -> tuple[Ids, NDArray[np.int64], int]:
        """The ids `[start, stop)`, not empty.

        Returns:
            ids; document_starts, the positions in the whole line at which documents begin, of all parts that hold
            any of these ids; and the index in the source of the first of these documents.
        """
        first, last = self._part_of(start), self._part_of(stop - 1)
        ids, starts = [], []
        for part in range(first, last + 1):
            begin, documents = (
                int(self.first_token[part]),
                int(self.first_document[part + 1] - self.first_document[part]),
            )
            low, high = max(start, begin), min(stop, int(self.first_token[part + 1]))
            if low >= high:
                continue  # a part without documents
            lengths = np.frombuffer(scratch.get_range(self.keys[part], HEADER.size, 4 * documents), "<u4")
            starts.append(begin + np.cumsum(lengths, dtype=np.int64) - lengths)
            size = np.dtype(self.dtype).itemsize
            base = HEADER.size + 4 * documents
            data = scratch.get_range(self.keys[part], base + (low - begin) * size, (high - low) * size)
            ids.append(np.frombuffer(data, np.dtype(self.dtype).newbyteorder("<")))
        return np.concatenate(ids), np.concatenate(starts), int(self.first_document[first])

    def _part_of(self, position: int) -> int:
        """The part that holds the id at a position: the last that begins there or before."""
        return int(np.searchsorted(self.first_token, position, side="right")) - 1


class Block(NamedTuple):
    """Documents of a split that are tokenized together, and the texts of those among them that are held out."""

    part: PartId
    last: bool
    documents: list[Document]
    held_out: list[str]


def blocks_of(
    split: int, documents: Iterable[Document], block_chars: int, rule: HeldOut | None = None
) -> Iterator[Block]:
    """Cut a split's documents into blocks of about `block_chars`; at least one, which may be empty.

    Args:
        split: Its number.
        documents: Of the split.
        block_chars: Characters after which a block ends; those of documents held out do not count.
        rule: Which documents are held out.
    """
    number = chars = 0
    block, held_out = list[Document](), list[str]()
    for document in documents:
        text = text_of(document)
        if rule is not None and rule.takes(text):
            held_out.append(text)
            continue
        if chars >= block_chars:
            yield Block(PartId(split, number), False, block, held_out)
            number, chars, block, held_out = number + 1, 0, [], []
        block.append(document)
        chars += len(text) + 1
    yield Block(PartId(split, number), True, block, held_out)
