from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from llm360.errors import IntegrityError, StorageUnavailableError
from llm360.storage import StorageOptions
from llm360.storage.file import FileStorage
from llm360_trainer.checkpoint.tensorfile import (
    LENGTH_BYTES,
    build_header,
    cut_parts,
    header_length,
    parse_header,
    tensor_bytes,
    upload_tensors,
)

TENSORS = {
    "matrix": torch.arange(35, dtype=torch.float32).reshape(7, 5) / 3,
    "vector": torch.tensor([1.0, -2.0, 3.5]),
    "scalar": torch.tensor(4.0),
    "empty": torch.empty(0, 3),
}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    # Parts smaller than a tensor, so that they begin and end inside of tensors and of the header.
    return FileStorage(tmp_path, StorageOptions(part_bytes=29, parallel=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_safetensors_library_reads_what_is_written(storage: FileStorage, dtype: torch.dtype) -> None:
    upload_tensors(storage, "file", TENSORS, dtype)
    found = load_file(storage.root / "file")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor.to(dtype))
    with safe_open(storage.root / "file", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_digests_are_those_of_the_bytes(storage: FileStorage) -> None:
    sent = upload_tensors(storage, "file", TENSORS, torch.bfloat16)
    data = storage.get("file")
    assert sent.bytes == len(data)
    assert sent.sha256 == "sha256:" + hashlib.sha256(data).hexdigest()
    for name, tensor in TENSORS.items():
        expected = hashlib.sha256(tensor.bfloat16().view(torch.int16).numpy().astype("<i2").tobytes())
        assert sent.tensors[name] == "sha256:" + expected.hexdigest()


def test_equal_tensors_give_equal_bytes(storage: FileStorage) -> None:
    first = upload_tensors(storage, "first", TENSORS, torch.float32)
    second = upload_tensors(storage, "second", {n: t.clone() for n, t in TENSORS.items()}, torch.float32)
    assert first == second
    assert storage.get("first") == storage.get("second")


def test_a_tensor_that_is_not_contiguous_is_written_row_by_row(storage: FileStorage) -> None:
    upload_tensors(storage, "file", {"t": TENSORS["matrix"].t()}, torch.float32)
    assert torch.equal(load_file(storage.root / "file")["t"], TENSORS["matrix"].t())


def test_extents_name_the_bytes_of_each_tensor(storage: FileStorage) -> None:
    upload_tensors(storage, "file", TENSORS, torch.float32)
    data = storage.get("file")
    length = header_length(data)
    extents = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], "file")
    for name, tensor in TENSORS.items():
        extent = extents[name]
        assert (extent.dtype, extent.shape) == ("F32", tuple(tensor.shape))
        assert data[extent.start : extent.stop] == bytes(tensor_bytes(tensor))


def test_tensors_begin_aligned() -> None:
    for length in range(20):
        assert len(build_header({"n" * length: (torch.float32, (1,))})) % 8 == 0


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a": {}}', b'{"a": {"dtype": "F32", "shape": 1}}', b"\xff"])
def test_what_is_no_header_is_refused_by_name(text: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"state/head\.safetensors has no safetensors header"):
        parse_header(text, "state/head.safetensors")


@given(st.lists(st.binary(max_size=20)), st.integers(1, 12))
def test_parts_are_the_pieces_bytes(pieces: list[bytes], part_bytes: int) -> None:
    parts = list(cut_parts(map(memoryview, pieces), part_bytes))
    assert b"".join(parts) == b"".join(pieces)
    assert all(len(part) == part_bytes for part in parts[:-1])
    assert all(0 < len(part) <= part_bytes for part in parts[-1:])


def test_a_broken_upload_leaves_nothing(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StorageUnavailableError("gone")

    writer = storage.open_parts("file", 1)
    writer.abort()
    monkeypatch.setattr(type(writer), "write", fail)
    with pytest.raises(StorageUnavailableError):
        upload_tensors(storage, "file", TENSORS, torch.float32)
    assert not list(storage.root.iterdir())
