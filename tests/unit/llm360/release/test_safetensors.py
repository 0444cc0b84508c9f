"""Headers are read strictly; digests do not depend on how the bytes come."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError
from llm360.release.safetensors import TensorHasher, parse_header

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(5, dtype=np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "scalar": np.array(3, np.uint8),
}


@given(cuts=st.lists(st.integers(0, 600)))
def test_digests_for_any_chunks(cuts):
    data = save(TENSORS, metadata={"format": "pt"})
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    hasher = TensorHasher()
    for start, stop in pairwise(edges):
        hasher.update(data[start:stop])
    found = hasher.finish()
    assert {name: digest for name, (_, digest) in found.items()} == {
        name: sha256_digest(value.tobytes()) for name, value in TENSORS.items()
    }
    assert {name: part.shape for name, (part, _) in found.items()} == {n: v.shape for n, v in TENSORS.items()}


def test_truncated_and_longer_files():
    data = save(TENSORS)
    for stop, message in ((4, "inside its safetensors header"), (50, "inside its safetensors header"), (-1, "inside")):
        hasher = TensorHasher()
        hasher.update(data[:stop])
        with pytest.raises(IntegrityError, match=message):
            hasher.finish()
    hasher = TensorHasher()
    with pytest.raises(IntegrityError, match="1 or more bytes follow"):
        hasher.update(data + b"0")


def test_impossible_header_length():
    with pytest.raises(IntegrityError, match="at most 100,000,000"):
        TensorHasher().update(struct.pack("<Q", 2**40))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff", "malformed"),
        (b"[]", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"a": 1}', "malformed"),
        (b'{"a": {}}', "malformed"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        ({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, "unknown type 'F31'"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "has shape"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "cannot lie at"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "begins at byte 4; expected 0"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "cannot lie at"),
        ({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}, "has shape"),
    ],
)
def test_bad_headers(header, message):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(IntegrityError, match=message):
        parse_header(data)
