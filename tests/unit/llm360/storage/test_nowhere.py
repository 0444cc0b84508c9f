"""What is written nowhere is gone, and has the digest that it would have elsewhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from llm360.canonical import sha256_digest
from llm360.errors import ObjectNotFoundError, StoreUnusableError
from llm360.storage import NowhereStorage


def test_every_write_is_taken_and_nothing_is_kept(tmp_path: Path) -> None:
    storage = pickle.loads(pickle.dumps(NowhereStorage())).at("a")
    data = bytes(3 * 1024 * 1024)
    (tmp_path / "file").write_bytes(data)
    storage.put("key", data)
    assert storage.upload("key", tmp_path / "file") == sha256_digest(data)
    storage.delete("key")
    assert not storage.exists("key")
    assert list(storage.list()) == list(storage.list_unfinished()) == []
    for read in (storage.get, lambda key: storage.get_range(key, 0, 1)):
        with pytest.raises(ObjectNotFoundError):
            read("key")


def test_nobody_wins_a_conditional_create() -> None:
    with pytest.raises(StoreUnusableError):
        NowhereStorage().create("key", b"")
