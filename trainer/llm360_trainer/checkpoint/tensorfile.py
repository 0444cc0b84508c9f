"""The safetensors format, written as a stream and read by byte range.

A file is eight bytes (the header's length, little endian), the header (JSON: name -> dtype, shape, offsets), and the
tensors' bytes one after another. Written here by hand, not with `safetensors.torch.save_file`, for two reasons: each
tensor's bytes go from its memory into both digests and the upload in one pass, with no copy of the file on disk or
in memory; and nothing but names, shapes and bits decides the file's bytes, so equal weights give equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import IntegrityError
from llm360.storage import Storage, transfer

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

LENGTH_BYTES = 8
_ALIGNMENT = 8
_CHUNK_BYTES = 1024 * 1024  # hashed twice and copied while it is in the processor's cache


class Extent(NamedTuple):
    """Where a tensor lies in a file: its safetensors dtype, shape, and byte range from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def build_header(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    """The bytes before the first tensor; tensors follow in the mapping's order.

    `format: pt` is what `transformers` asks for before it opens a file; it is the only metadata, because anything
    else that varied would change the file's digest.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def header_length(first_bytes: bytes) -> int:
    """The length of the header's JSON, from a file's first eight bytes."""
    return int.from_bytes(first_bytes[:LENGTH_BYTES], "little")


def parse_header(text: bytes, key: str) -> dict[str, Extent]:
    """The extents of a file's tensors, from the JSON that follows its first eight bytes.

    Raises:
        IntegrityError: the text is not the header of a safetensors file.
    """
    base = LENGTH_BYTES + len(text)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return {
            name: Extent(item["dtype"], tuple(item["shape"]), *(base + offset for offset in item["data_offsets"]))
            for name, item in header.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{key} has no safetensors header ({error}); use another checkpoint") from error


class UploadedFile(NamedTuple):
    """What an upload sent: bytes and sha256 digest of the file, and the digest of each tensor's bytes."""

    bytes: int
    sha256: str
    tensors: dict[str, str]


def upload_tensors(storage: Storage, key: str, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> UploadedFile:
    """Write CPU tensors, each cast to `dtype`, as one safetensors object, in the mapping's order.

    Nothing is spooled: the parts of the upload are cut from the tensors' memory, hashed and sent while the next
    are cut, so that besides the tensors only one cast tensor and a few parts are in memory.

    Raises:
        StorageUnavailableError: no answer from the store; nothing is visible there, and the call can be repeated.
        StorageError: the store refuses the bytes (no room, no permission).
    """
    header = build_header({name: (dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    size = len(header) + sum(tensor.numel() for tensor in tensors.values()) * dtype.itemsize
    writer = storage.open_parts(key, size)
    file_sha256 = hashlib.sha256()
    digests: dict[str, str] = {}

    def pieces() -> Iterator[memoryview]:
        yield memoryview(header)
        for name, tensor in tensors.items():
            sha256 = hashlib.sha256()
            view = tensor_bytes(tensor.to(dtype))
            for start in range(0, len(view), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                sha256.update(chunk)
                yield chunk
            digests[name] = DIGEST_PREFIX + sha256.hexdigest()

    def sends() -> Iterator[Callable[[], None]]:
        for index, part in enumerate(cut_parts(pieces(), writer.part_bytes)):
            file_sha256.update(part)
            yield partial(writer.write, index, part)

    try:
        for _ in transfer.in_order(sends(), storage.options.parallel):
            pass
        digest = DIGEST_PREFIX + file_sha256.hexdigest()
        writer.commit(digest)
    except BaseException:
        writer.abort()
        raise
    return UploadedFile(size, digest, digests)


def cut_parts(pieces: Iterable[memoryview], part_bytes: int) -> Iterator[bytes]:
    """The pieces' bytes, one after another, in parts of `part_bytes`; the last may be shorter."""
    pending: list[memoryview] = []
    room = part_bytes
    for piece in pieces:
        rest = piece
        while rest:
            pending.append(rest[:room])
            rest = rest[room:]
            room -= len(pending[-1])
            if room == 0:
                yield b"".join(pending)
                pending, room = [], part_bytes
    if pending:
        yield b"".join(pending)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A contiguous CPU tensor's memory (little endian on every machine that torch runs on), without a copy."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
