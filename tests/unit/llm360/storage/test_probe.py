"""Whether a store can carry a ledger: each kind of answer to the two writes."""

import errno

import pytest

from llm360.errors import ObjectExistsError, StorageUnavailableError
from llm360.storage import StoreUnusableError, open_storage, probe_conditional_create
from llm360.storage.file import FileStorage
from llm360.storage.probe import probe_write


@pytest.fixture
def store(tmp_path):
    return open_storage(str(tmp_path / "store"))


def test_a_good_store_is_left_as_it_was(store):
    probe_conditional_create(store, "ledger/probe")
    assert not store.root.exists()
    store.root.mkdir()
    probe_conditional_create(open_storage(store.uri), "ledger/probe")
    probe_write(open_storage(store.uri), "probe")
    assert list(store.root.iterdir()) == [], "an empty folder of the user's stays"


def test_a_full_store_is_left_as_it_was(store, monkeypatch):
    def be_full(*_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("llm360.storage.local.write_all", be_full)
    for probe in (probe_conditional_create, probe_write):
        with pytest.raises(StoreUnusableError, match="is full"):
            probe(store, "ledger/probe")
    assert not store.root.exists()


def test_a_careless_store_is_refused_by_name(store, monkeypatch):
    monkeypatch.setattr(FileStorage, "create", FileStorage.put)
    with pytest.raises(StoreUnusableError, match="/store does not honour conditional writes") as error:
        probe_conditional_create(store, "ledger/probe")
    assert error.value.reason == "ConditionalCreateUnsupported"
    assert list(store.list()) == []


def test_a_lost_answer_is_no_refusal(store, monkeypatch):
    """The first write took effect, its answer was lost, the client's repetition was refused."""
    create = FileStorage.create

    def lose_answer(self, key, data):
        create(self, key, data)
        raise ObjectExistsError("taken")

    monkeypatch.setattr(FileStorage, "create", lose_answer)
    probe_conditional_create(store, "ledger/probe")


def test_silence_is_no_verdict(store, monkeypatch):
    def be_silent(*_):
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr(FileStorage, "create", be_silent)
    with pytest.raises(StorageUnavailableError):
        probe_conditional_create(store, "ledger/probe")


def test_a_bucket_that_a_write_would_make_is_missed_before_it(store, monkeypatch):
    """SeaweedFS makes a bucket at its first write; a read says that there is none."""

    def miss(*_):
        raise StoreUnusableError("there is no bucket", reason="BucketMissing")

    monkeypatch.setattr(FileStorage, "get", miss)
    monkeypatch.setattr(FileStorage, "create", lambda *_: pytest.fail("written before it was read"))
    with pytest.raises(StoreUnusableError) as error:
        probe_conditional_create(store, "ledger/probe")
    assert error.value.reason == "BucketMissing"


def test_a_store_that_forbids_deleting_is_taken(store, monkeypatch):
    def forbid(*_):
        raise StoreUnusableError("locked", reason="NotWritable")

    monkeypatch.setattr(FileStorage, "delete", forbid)
    probe_conditional_create(store, "ledger/probe")
