"""Requests that take effect although their answer never comes, and stores that do not answer at all."""

import os
import queue
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm360.errors import LLM360Error, ObjectExistsError, StorageError, StorageUnavailableError
from llm360.storage import (
    StorageOptions,
    StoreUnusableError,
    open_storage,
    probe_conditional_create,
    wait_until_available,
)
from llm360.storage.base import MIB

QUICK = {"connect_timeout": 1.0, "read_timeout": 1.0, "max_attempts": 2}


@pytest.mark.parametrize("kind", ["drop", "stall"])
def test_create_whose_answer_is_lost(flaky_storage, fault, kind):
    """The repeated request finds the key taken: by its own bytes, as the caller can read."""
    met = fault(kind)
    with pytest.raises(ObjectExistsError):
        flaky_storage.create("ledger/0", b"mine")
    assert met.met == 1
    assert flaky_storage.get("ledger/0") == b"mine"


@pytest.mark.parametrize("kind", ["refuse", "reset"])
def test_create_that_never_arrived_is_repeated(flaky_storage, fault, kind):
    met = fault(kind, times=2)
    flaky_storage.create("ledger/0", b"mine")
    assert met.met == 2
    assert flaky_storage.get("ledger/0") == b"mine"


@pytest.mark.parametrize("kind", ["drop", "stall"])
def test_create_whose_every_answer_is_lost(flaky_storage, fault, kind):
    """Nothing is known, so nothing is claimed: the store is unavailable, and trying again later tells."""
    fault(kind, times=3)
    with pytest.raises(StorageUnavailableError):
        flaky_storage.create("ledger/0", b"mine")
    with pytest.raises(ObjectExistsError):
        flaky_storage.create("ledger/0", b"mine")
    assert flaky_storage.get("ledger/0") == b"mine"


def test_rival_wins_while_an_answer_is_lost(flaky_storage, s3_bucket, fault):
    """The first request dies on the way, a rival writes, the repeated request must not claim success."""
    fault("reset")
    open_storage(s3_bucket.uri, s3_bucket.options).create("ledger/0", b"rival")
    with pytest.raises(ObjectExistsError):
        flaky_storage.create("ledger/0", b"mine")
    assert flaky_storage.get("ledger/0") == b"rival"


@pytest.mark.parametrize("kind", ["drop", "stall", "refuse", "reset"])
def test_put_is_repeated(flaky_storage, fault, kind):
    met = fault(kind)
    flaky_storage.put("key", b"bytes")
    assert met.met == 1
    assert flaky_storage.get("key") == b"bytes"


@pytest.mark.parametrize("kind", ["drop", "refuse", "cut"])
def test_get_is_repeated(flaky_storage, fault, kind):
    data = os.urandom(100_000)
    flaky_storage.put("key", data)
    met = fault(kind, match=b"GET ")
    assert flaky_storage.get("key") == data
    assert met.met == 1


@pytest.mark.parametrize("match", [b"partNumber=2", b"?uploads", b"POST"], ids=["part", "begin", "end"])
@pytest.mark.parametrize("kind", ["drop", "refuse"])
def test_upload_survives(flaky_storage, fault, tmp_path, kind, match):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(17 * MIB))
    # Both the begin and the end are a POST; the second of them is the end.
    met = fault(kind, match=match, times=2 if match == b"POST" else 1)
    digest = flaky_storage.upload("key", source)
    assert met.met == met.times
    flaky_storage.download("key", tmp_path / "target", digest)


def test_failed_upload_leaves_nothing(flaky_storage, s3_server, s3_bucket, fault, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(17 * MIB))
    fault("refuse", match=b"partNumber=2", times=3)
    with pytest.raises(StorageUnavailableError):
        flaky_storage.upload("key", source)
    assert list(flaky_storage.list()) == []
    client = s3_server.client()
    assert client.list_multipart_uploads(Bucket=s3_bucket.name).get("Uploads", []) == []
    client.close()


def test_unreachable_endpoint_is_named_and_timed(s3_bucket):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        storage = open_storage(s3_bucket.uri, StorageOptions(endpoint=endpoint, **QUICK))
        for call in (lambda: storage.get("key"), lambda: storage.put("key", b""), lambda: list(storage.list())):
            with pytest.raises(StorageUnavailableError, match=rf"no answer from {endpoint} .* in \d+\.\d s"):
                call()


def test_hanging_server_is_waited_for(s3_server, s3_bucket):
    """A server that stops and comes back: who waits says so and goes on by himself."""
    storage = open_storage(s3_bucket.uri, StorageOptions(endpoint=s3_server.endpoint, **QUICK))
    storage.put("key", b"before")
    said: queue.Queue[str] = queue.Queue()
    with ThreadPoolExecutor(1) as pool:
        with s3_server.paused():
            found = pool.submit(wait_until_available, lambda: storage.get("key"), say=said.put, give_up_after=60.0)
            assert "the store is unavailable, waiting for it" in said.get(timeout=30)
        assert found.result(timeout=60) == b"before"
    assert "the store answers again" in said.get(timeout=1)


def test_store_without_conditions_is_refused_by_name(careless_storage, careless_objects):
    careless_storage.create("key", b"1")
    careless_storage.create("key", b"2")  # it accepts both, which is why it must be found out
    with pytest.raises(
        StoreUnusableError, match=r"s3://careless/runs at http://.* does not honour conditional"
    ) as error:
        probe_conditional_create(careless_storage, "probe")
    assert error.value.exit_code == 2
    assert error.value.reason == "ConditionalCreateUnsupported"
    assert list(careless_objects) == ["/careless/runs/key"]


def everything(storage):
    return [
        lambda: storage.get("key"),
        lambda: storage.get_range("key", 0, 1),
        lambda: storage.put("key", b""),
        lambda: storage.create("key", b""),
        lambda: storage.stat("key"),
        lambda: storage.exists("key"),
        lambda: storage.delete("key"),
        lambda: list(storage.list()),
    ]


def refusals(storage) -> list[LLM360Error]:
    found = []
    for call in everything(storage):
        with pytest.raises(StorageError) as error:
            call()
        found.append(error.value)
    return found


def test_missing_bucket(s3_bucket):
    for error in refusals(open_storage("s3://no-such-bucket/run", s3_bucket.options)):
        assert error.reason == "BucketMissing"
        assert error.exit_code == 2
        assert "there is no bucket 'no-such-bucket' at http://127.0.0.1" in error.message
        assert "\n" not in error.message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(s3_bucket, monkeypatch, name):
    monkeypatch.setenv(name, "wrong")
    for error in refusals(open_storage(s3_bucket.uri, s3_bucket.options)):
        assert error.reason == "CredentialsRefused"
        assert error.exit_code == 2
        assert "refuses the credentials for bucket" in error.message


def test_no_credentials(s3_bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for error in refusals(open_storage(s3_bucket.uri, s3_bucket.options)):
        assert error.reason == "CredentialsRefused"
        assert "set AWS_ACCESS_KEY_ID" in error.message


def test_endpoint_comes_from_the_environment(s3_bucket):
    storage = open_storage(s3_bucket.uri)
    storage.put("key", b"1")
    assert storage.get("key") == b"1"
