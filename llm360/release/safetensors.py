"""Safetensors files as bytes: the header, and the digest of every tensor in one pass. Needs no torch.

    u64 little endian: N │ N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}} │ tensors' bytes

Offsets count from the end of the header; tensors lie end to end and fill the file
(https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import IntegrityError
from llm360.release.checkpoint import DTYPE_BYTES

_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


@dataclass(frozen=True)
class TensorSlice:
    """Where a tensor lies, in bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(data: bytes | memoryview) -> list[TensorSlice]:
    """Read a header's JSON, without the length before it.

    Returns:
        The tensors in the order in which they lie.

    Raises:
        IntegrityError: malformed, or the tensors do not lie end to end from 0.
    """
    try:
        header = json.loads(bytes(data), object_pairs_hook=_unique)
        slices = [_slice(name, value) for name, value in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"the safetensors header is malformed: {error}") from error
    slices.sort(key=lambda part: (part.begin, part.end))
    position = 0
    for part in slices:
        if part.begin != position:
            raise IntegrityError(f"tensor '{part.name}' begins at byte {part.begin}; expected {position}, end to end")
        position = part.end
    return slices


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _slice(name: str, value: dict[str, object]) -> TensorSlice:
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(f"tensor '{name}' is of the unknown type {dtype!r}")
    sizes = [shape, offsets]
    if not all(isinstance(x, list) and all(type(n) is int and n >= 0 for n in x) for x in sizes):
        raise ValueError(f"tensor '{name}' has shape {shape!r} and offsets {offsets!r}")
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ValueError(f"tensor '{name}' of type {dtype} and shape {shape} cannot lie at {offsets}")
    return TensorSlice(name, dtype, tuple(shape), offsets[0], offsets[1])


class TensorHasher:
    """Digests of all tensors of a file whose bytes come in chunks of any size, in order."""

    def __init__(self) -> None:
        self.digests: dict[str, tuple[TensorSlice, str]] = {}
        self._header = bytearray()
        self._slices: list[TensorSlice] | None = None
        self._index = 0
        self._position = 0  # in bytes from the end of the header
        self._hasher = hashlib.sha256()

    def update(self, chunk: bytes | memoryview) -> None:
        """Take in the next bytes.

        Raises:
            IntegrityError: the header is malformed, or bytes follow the last tensor.
        """
        view = memoryview(chunk)
        if self._slices is None:
            view = self._take_header(view)
        while view:
            view = self._take_tensor(view)

    def finish(self) -> dict[str, tuple[TensorSlice, str]]:
        """The digest of every tensor, by name, after the last byte.

        Raises:
            IntegrityError: the file ends before its last tensor does.
        """
        if self._slices is None:
            raise IntegrityError("the file ends inside its safetensors header")
        self._close_finished()
        if self._index < len(self._slices):
            raise IntegrityError(f"the file ends inside tensor '{self._slices[self._index].name}'")
        return self.digests

    def _take_header(self, view: memoryview) -> memoryview:
        """Collect the header; returns what follows it."""
        wanted = _LENGTH_BYTES
        for _ in range(2):  # the length, then as much as it says
            missing = wanted - len(self._header)
            if missing > 0:
                self._header += view[:missing]
                view = view[missing:]
            if len(self._header) < wanted:
                return view
            length = struct.unpack_from("<Q", self._header)[0]
            if length > MAX_HEADER_BYTES:
                raise IntegrityError(f"the safetensors header is said to have {length} bytes; at most 100,000,000")
            wanted = _LENGTH_BYTES + length
        self._slices = parse_header(memoryview(self._header)[_LENGTH_BYTES:])
        return view

    def _take_tensor(self, view: memoryview) -> memoryview:
        """Hash what belongs to the present tensor; returns what follows it."""
        assert self._slices is not None
        self._close_finished()
        if self._index == len(self._slices):
            raise IntegrityError(f"{len(view)} or more bytes follow the last tensor")
        part = view[: self._slices[self._index].end - self._position]
        self._hasher.update(part)
        self._position += len(part)
        return view[len(part) :]

    def _close_finished(self) -> None:
        """Note the digests of tensors that end at the present position, empty ones among them."""
        assert self._slices is not None
        while self._index < len(self._slices) and self._slices[self._index].end == self._position:
            done = self._slices[self._index]
            self.digests[done.name] = (done, DIGEST_PREFIX + self._hasher.hexdigest())
            self._hasher = hashlib.sha256()
            self._index += 1
