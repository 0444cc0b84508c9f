"""Reading a published release from a web server, be it careful or careless with ranges."""

import base64
import hashlib
import os
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm360.errors import IntegrityError, ObjectNotFoundError, StorageError, StorageUnavailableError
from llm360.storage import StorageOptions, StoreUnusableError, UnfinishedWrite, open_storage
from llm360.storage.http import ForbiddenError, authorization_of

OPTIONS = StorageOptions(connect_timeout=1.0, read_timeout=5.0, max_attempts=3, part_bytes=1_000)
DATA = os.urandom(10_500)
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch):
    monkeypatch.setattr("llm360.storage.retry.FIRST_PAUSE", 0.001)


@pytest.fixture
def store(web):
    web.add("a/data", DATA)
    web.add("empty", b"")
    return open_storage(web.uri, OPTIONS)


def test_get(store):
    assert store.get("a/data") == DATA
    assert store.get("empty") == b""


@pytest.mark.parametrize(
    ("start", "length"), [(0, 10), (5_000, 100), (10_400, 500), (10_500, 10), (20_000, 1), (7, 0), (0, 20_000)]
)
def test_get_range_is_a_slice(store, start, length):
    assert store.get_range("a/data", start, length) == DATA[start : start + length]


def test_get_range_of_nothing(store):
    assert store.get_range("empty", 0, 10) == b""


def test_stat(store):
    assert store.stat("a/data") == ("a/data", 10_500, 1795348800.0)
    assert store.stat("empty").size == 0
    assert store.exists("a/data")
    assert not store.exists("a/other")


@pytest.mark.parametrize("chunk_bytes", [1_000, 10_500, 50_000])
def test_iter_bytes(store, chunk_bytes):
    chunks = list(store.iter_bytes("a/data", chunk_bytes))
    assert b"".join(chunks) == DATA
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_bytes}
    assert list(store.iter_bytes("empty")) == []


def test_download(store, tmp_path):
    store.download("a/data", tmp_path / "checked", DIGEST)
    store.download("a/data", tmp_path / "unchecked")
    assert (tmp_path / "checked").read_bytes() == (tmp_path / "unchecked").read_bytes() == DATA


def test_download_refuses_other_bytes(store, web, tmp_path):
    web.add("a/data", DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="is not what was recorded"):
        store.download("a/data", tmp_path / "target", DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_whole_object_is_read_once_where_ranges_are_ignored(store, web, tmp_path):
    store.download("a/data", tmp_path / "target", DIGEST)
    reads = [request for request in web.requests if request.startswith("GET")]
    assert len(reads) == (12 if web.server.RequestHandlerClass.ranges else 2)


@pytest.mark.parametrize("fault", ["503", "500", "429", "cut"])
def test_faults_are_tried_again(store, web, fault):
    web.faults.extend([fault, fault])
    assert store.get("a/data") == DATA
    web.faults.extend([fault])
    assert store.get_range("a/data", 5_000, 2_000) == DATA[5_000:7_000]
    web.faults.extend(["", fault])
    assert b"".join(store.iter_bytes("a/data", 1_000)) == DATA


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_lasting_faults_are_unavailability(store, web, fault):
    web.faults.extend([fault] * 3)
    with pytest.raises(StorageUnavailableError, match="a/data"):
        store.get("a/data")
    web.faults.extend([fault] * 9)
    with pytest.raises(StorageUnavailableError, match="a/data"):
        list(store.iter_bytes("a/data"))


@pytest.mark.parametrize("status", ["401", "403"])
def test_refused(store, web, status):
    web.faults.append(status)
    with pytest.raises(StoreUnusableError, match=rf"may not be read \({status}") as error:
        store.get("a/data")
    assert error.value.reason == "NotReadable"
    assert isinstance(error.value, ForbiddenError) == (status == "403")


def test_other_status_is_told(store, web):
    web.faults.append("418")
    with pytest.raises(StorageError, match="the server answers 418"):
        store.get("a/data")


def test_wrong_range_is_not_taken_for_the_right_one(ranged_web):
    ranged_web.add("a/data", DATA)
    ranged_web.faults.append("shift")
    with pytest.raises(StorageError, match="asked for bytes from 5, got 'bytes 0-0/1'"):
        open_storage(ranged_web.uri, OPTIONS).get_range("a/data", 5, 5)


def test_missing(store):
    for call in (
        store.get,
        store.stat,
        lambda key: store.get_range(key, 0, 1),
        lambda key: list(store.iter_bytes(key)),
    ):
        with pytest.raises(ObjectNotFoundError, match="/release/a/other does not exist"):
            call("a/other")


def test_it_is_read_only(store, tmp_path):
    (tmp_path / "source").write_bytes(b"1")
    for call in (
        lambda: store.put("key", b"1"),
        lambda: store.create("key", b"1"),
        lambda: store.delete("key"),
        lambda: store.list("ledger/"),
        store.list_unfinished,
        lambda: store.delete_unfinished(UnfinishedWrite("key", 0, 0.0, "")),
        lambda: store.upload("key", tmp_path / "source"),
    ):
        with pytest.raises(StoreUnusableError, match=r"is read-only: .* through http") as error:
            call()
        assert error.value.reason == "ReadOnly"
        assert error.value.exit_code == 2


def test_at_and_pickle(store):
    deeper = pickle.loads(pickle.dumps(store.at("a")))
    assert deeper.get("data") == DATA
    assert deeper.uri == store.uri + "/a"


def test_names_are_quoted(web):
    web.add("with%20space/%23%3F", b"1")
    assert open_storage(web.uri, OPTIONS).get("with space/#?") == b"1"


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StorageUnavailableError, match=f"no answer about {uri}/key in"):
            open_storage(uri, OPTIONS).get("key")


@pytest.fixture
def guarded(ranged_web):
    """A server that asks for a name and password, and its address with them."""
    ranged_web.add("a/data", DATA)
    ranged_web.authorization.append("Basic " + base64.b64encode("m@e:p/ß:".encode()).decode())
    return ranged_web, ranged_web.uri.replace("://", "://m%40e:p%2F%C3%9F:@")


def test_name_and_password_are_sent_and_not_shown(guarded):
    web, uri = guarded
    store = pickle.loads(pickle.dumps(open_storage(uri, OPTIONS)))
    assert store.get("a/data") == store.at("a").get("data") == b"".join(store.iter_bytes("a/data", 1_000)) == DATA
    assert (store.uri, store.at("a").uri) == (web.uri, f"{web.uri}/a")
    web.faults.extend(["503"] * 3 + ["418"])
    for call in (store.get, store.get, store.at("a").get, lambda key: store.put(key, b"")):
        with pytest.raises(StorageError) as error:
            call("b")
        assert web.uri in error.value.message
        assert "p%2F" not in error.value.message


def test_wrong_or_missing_password_is_told(guarded):
    web, _ = guarded
    with pytest.raises(StoreUnusableError, match=r"\(401.*; write the address with a name and password"):
        open_storage(web.uri, OPTIONS).get("a/data")
    with pytest.raises(StoreUnusableError, match=r"\(401.*; correct the name and password") as error:
        open_storage(web.uri.replace("://", "://me:wrong@"), OPTIONS).get("a/data")
    assert "wrong" not in error.value.message


def test_address_without_password_has_no_authorization():
    assert authorization_of("https://host/a@b") == {}
    assert authorization_of("https://token@host") == {"Authorization": "Basic dG9rZW46"}


@pytest.fixture
def short_silence(monkeypatch):
    """Silence is noticed within moments, and a person's patience as long as ever."""
    monkeypatch.setattr("llm360.storage.http.LONGEST_SILENCE", 0.05)
    monkeypatch.setattr("llm360.storage.http.SAID_AFTER", 0.04)


@pytest.mark.usefixtures("short_silence")
def test_a_silent_server_is_given_up_soon(silent, monkeypatch):
    monkeypatch.setattr("llm360.storage.http.PATIENCE", 0.12)
    started = time.monotonic()
    with pytest.raises(StorageUnavailableError, match=f"no answer about {silent}/x/key in .* Read timed out"):
        open_storage(f"{silent}/x", StorageOptions(max_attempts=1_000)).get("key")
    assert time.monotonic() - started < 30, "1,000 attempts take hours"


@pytest.mark.usefixtures("short_silence")
def test_a_silent_server_is_told_of_before_each_further_attempt(silent, monkeypatch, caplog):
    monkeypatch.setattr("llm360.storage.retry.TELL_EVERY", 0)
    with pytest.raises(StorageUnavailableError):
        open_storage(f"{silent}/x", StorageOptions(max_attempts=3)).get("key")
    said = [message for message in caplog.messages if f"no answer about {silent}/x/key in" in message]
    assert len(said) == 2
    assert all("trying again for up to" in message for message in said)


@pytest.mark.usefixtures("short_silence")
def test_many_readers_of_a_silent_server_tell_of_it_once(silent, monkeypatch, caplog):
    monkeypatch.setattr("llm360.storage.retry.TELL_EVERY", 600)

    def read(number):
        with pytest.raises(StorageUnavailableError):
            open_storage(f"{silent}/x", StorageOptions(max_attempts=3)).get(f"key-{number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read, range(8)))
    assert len([message for message in caplog.messages if "no answer" in message]) == 1


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get("a/data"),
        lambda store: store.get_range("a/data", 0, 20_000),
        lambda store: b"".join(store.iter_bytes("a/data", 50_000)),
    ],
    ids=["get", "get_range", "iter_bytes"],
)
def test_a_slow_transfer_that_breaks_off_is_no_silence(web, read, monkeypatch, caplog):
    web.add("a/data", DATA)
    web.faults.extend(["slow", "slow"])
    monkeypatch.setattr("llm360.storage.http.PATIENCE", 0.1)  # half the time that a slow server's bytes flow
    monkeypatch.setattr("llm360.storage.http.SAID_AFTER", 0.1)
    assert read(open_storage(web.uri, StorageOptions(max_attempts=3))) == DATA
    assert not [message for message in caplog.messages if "no answer" in message]


def test_where_an_answer_breaks_off_nobody_says_that_there_was_none(store, web):
    web.faults.extend(["cut"] * 3)
    with pytest.raises(
        StorageUnavailableError, match=f"the answer about {web.uri}/a/data breaks off: .*IncompleteRead"
    ):
        store.get("a/data")
