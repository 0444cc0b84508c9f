"""Order, bounds and failures of parallel transfers, without any store."""

import threading
import time
from functools import partial

import pytest

from llm360.errors import IntegrityError
from llm360.storage import ObjectInfo, open_storage
from llm360.storage.file import FileStorage
from llm360.storage.transfer import in_order, read_ahead


def test_in_order_keeps_the_order_of_calls():
    def slow_first(number):
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    assert list(in_order((partial(slow_first, number) for number in range(20)), 4)) == list(range(20))


def test_in_order_begins_no_more_than_allowed():
    begun = []
    results = in_order((partial(begun.append, number) for number in range(20)), 3)
    next(results)
    assert len(begun) <= 3
    list(results)
    assert sorted(begun) == list(range(20))


def test_in_order_runs_side_by_side():
    barrier = threading.Barrier(3)
    results = list(in_order((partial(barrier.wait, 10) for _ in range(3)), 3))
    assert sorted(results) == [0, 1, 2]


def test_in_order_stops_at_a_failure():
    begun = []

    def call(number):
        begun.append(number)
        if number == 2:
            raise ValueError("broken")
        return number

    found = []
    with pytest.raises(ValueError, match="broken"):
        found.extend(in_order((partial(call, number) for number in range(100)), 2))
    assert max(begun) < 6


def test_in_order_of_nothing():
    assert list(in_order([], 4)) == []


def test_read_ahead_notices_an_object_that_became_shorter(tmp_path):
    storage = open_storage(str(tmp_path))
    storage.put("key", b"0123456789")
    with pytest.raises(IntegrityError, match="ends after 10 bytes although it had 12"):
        list(read_ahead(storage, "key", 12, 4))


def test_download_notices_a_replaced_object(tmp_path, monkeypatch):
    """Without a digest to compare with, size and time tell whether parts of two objects were mixed."""
    storage = open_storage(str(tmp_path / "store"))
    storage.put("key", b"0123456789")
    infos = iter([ObjectInfo("key", 10, 1.0), ObjectInfo("key", 10, 2.0)])
    monkeypatch.setattr(FileStorage, "stat", lambda *_: next(infos))
    with pytest.raises(IntegrityError, match="was replaced while it was read"):
        storage.download("key", tmp_path / "target")
    assert not (tmp_path / "target").exists()
