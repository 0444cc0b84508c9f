"""What every store that can be written promises: the same tests on a folder and on a real S3 server."""

import hashlib
import os
import pickle
import time

import pytest

from llm360.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError
from llm360.storage import StorageOptions, StoreUnusableError, open_storage, probe_conditional_create
from llm360.storage.base import MIB


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_get_returns_what_put_wrote(storage):
    storage.put("a/b.json", b"one")
    assert storage.get("a/b.json") == b"one"


def test_put_replaces(storage):
    storage.put("key", b"a longer value")
    storage.put("key", b"short")
    assert storage.get("key") == b"short"


def test_empty_object(storage):
    storage.put("empty", b"")
    assert storage.get("empty") == b""
    assert storage.stat("empty").size == 0
    assert list(storage.iter_bytes("empty")) == []
    assert storage.get_range("empty", 0, 10) == b""


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 3, b"012"), (4, 3, b"456"), (8, 5, b"89"), (10, 1, b""), (25, 5, b""), (3, 0, b"")],
)
def test_get_range_is_a_slice(storage, start, length, expected):
    storage.put("digits", b"0123456789")
    assert storage.get_range("digits", start, length) == expected


@pytest.mark.parametrize(
    "read",
    [
        lambda storage: storage.get("a/missing"),
        lambda storage: storage.get_range("a/missing", 0, 4),
        lambda storage: storage.stat("a/missing"),
        lambda storage: list(storage.iter_bytes("a/missing")),
        lambda storage: storage.get("a"),  # a prefix of other keys is no object
        lambda storage: storage.get("a/b/c"),  # below an object there is none
    ],
    ids=["get", "get_range", "stat", "iter_bytes", "prefix", "below"],
)
def test_missing_key_is_not_found(storage, read):
    storage.put("a/b", b"1")
    with pytest.raises(ObjectNotFoundError, match="a"):
        read(storage)


def test_exists(storage):
    storage.put("here/it/is", b"1")
    assert storage.exists("here/it/is")
    assert not storage.exists("here/it")
    assert not storage.exists("here/it/is/not")


def test_create_takes_a_free_key_once(storage):
    storage.create("ledger/00000000.json", b"first")
    with pytest.raises(ObjectExistsError, match=r"ledger/00000000\.json exists already"):
        storage.create("ledger/00000000.json", b"second")
    assert storage.get("ledger/00000000.json") == b"first"


def test_create_is_refused_after_put(storage):
    storage.put("key", b"first")
    with pytest.raises(ObjectExistsError):
        storage.create("key", b"second")


def test_create_after_delete(storage):
    storage.create("key", b"first")
    storage.delete("key")
    storage.create("key", b"second")
    assert storage.get("key") == b"second"


def test_delete_is_idempotent(storage):
    storage.put("a/b/c", b"1")
    storage.delete("a/b/c")
    storage.delete("a/b/c")
    storage.delete("never/was")
    assert list(storage.list()) == []


def test_list_sorts_by_key_whatever_the_folders(storage):
    keys = ["a-b", "a/b", "a/c/d", "a0", "a.txt", "b", "ä/ü", "step_000000010/x", "step_000000002/x"]
    for key in keys:
        storage.put(key, key.encode())
    found = list(storage.list())
    assert [info.key for info in found] == sorted(keys)
    assert [info.size for info in found] == [len(key.encode()) for key in sorted(keys)]
    assert all(abs(info.modified - time.time()) < 120 for info in found)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["ab/c", "ab/d/e", "abc"]),
        ("ab", ["ab/c", "ab/d/e", "abc"]),
        ("ab/", ["ab/c", "ab/d/e"]),
        ("ab/d", ["ab/d/e"]),
        ("ab/c", ["ab/c"]),
        ("x", []),
        ("x/y/", []),
        ("abc/", []),
    ],
)
def test_list_takes_any_prefix(storage, prefix, expected):
    for key in ("ab/c", "ab/d/e", "abc"):
        storage.put(key, b"")
    assert [info.key for info in storage.list(prefix)] == expected


@pytest.mark.slow
def test_list_of_more_than_a_page(storage):
    keys = [f"many/{number:05d}" for number in range(1_100)]  # S3 answers 1,000 at a time
    for key in keys:
        storage.put(key, b"")
    assert [info.key for info in storage.list("many/")] == keys


def test_at_roots_deeper(storage):
    deeper = storage.at("runs/one")
    deeper.put("config.json", b"{}")
    assert storage.get("runs/one/config.json") == b"{}"
    assert deeper.uri == storage.uri + "/runs/one"
    assert [info.key for info in deeper.list()] == ["config.json"]
    assert [info.key for info in storage.at("runs").list("one")] == ["one/config.json"]
    assert storage.at("runs").at("one").get("config.json") == b"{}"
    assert storage.at("") is storage


def test_uri_opens_the_same_store(storage):
    deeper = storage.at("with space/ä%20")
    deeper.put("key", b"1")
    assert open_storage(deeper.uri, storage.options).get("key") == b"1"


def test_pickled_store_works(storage):
    storage.put("key", b"1")
    assert pickle.loads(pickle.dumps(storage)).get("key") == b"1"


@pytest.mark.parametrize("key", ["", "/abs", "a//b", "a/../b", "./a", "a/", "a\nb"])
def test_keys_that_no_store_holds(storage, key):
    for call in (storage.get, storage.stat, storage.delete, lambda key: storage.put(key, b"")):
        with pytest.raises(StoreUnusableError, match="cannot be stored") as error:
            call(key)
        assert error.value.reason == "InvalidKey"


@pytest.mark.parametrize("key", ["with space", "per%20cent", "plus+and&", "ünïcode", "quote'\"", "#hash?query"])
def test_unusual_keys(storage, key):
    storage.put(key, key.encode())
    assert storage.get(key) == key.encode()
    assert [info.key for info in storage.list()] == [key]


SIZES = [0, 1, 5 * MIB - 1, 8 * MIB, 8 * MIB + 1, 21 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_upload_and_download(storage, tmp_path, size):
    data = os.urandom(size)
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(data)
    digest = storage.upload("big/file", source)
    assert digest == digest_of(data)
    assert storage.stat("big/file").size == size
    storage.download("big/file", target, digest)
    assert target.read_bytes() == data
    storage.download("big/file", target)
    assert target.read_bytes() == data
    assert list(target.parent.iterdir()) == [target]
    assert [info.key for info in storage.list()] == ["big/file"]


def test_upload_replaces(storage, tmp_path):
    source = tmp_path / "source"
    for data in (os.urandom(9 * MIB), b"small"):
        source.write_bytes(data)
        storage.upload("key", source)
        assert storage.get("key") == data


def test_upload_of_a_missing_file(storage, tmp_path):
    with pytest.raises(Exception, match=r"cannot read .*: No such file") as error:
        storage.upload("key", tmp_path / "missing")
    assert error.value.exit_code == 2
    assert not storage.exists("key")


def test_iter_bytes_in_chunks(storage):
    data = os.urandom(3_000_001)
    storage.put("key", data)
    chunks = list(storage.iter_bytes("key", 1_000_000))
    assert [len(chunk) for chunk in chunks] == [1_000_000, 1_000_000, 1_000_000, 1]
    assert b"".join(chunks) == data


def test_iter_bytes_may_be_left_early(storage):
    storage.put("key", os.urandom(3_000_001))
    chunks = storage.iter_bytes("key", 100_000)
    assert len(next(chunks)) == 100_000
    chunks.close()


def test_download_refuses_other_bytes(storage, tmp_path):
    storage.put("key", b"tampered")
    target = tmp_path / "folder" / "target"
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(IntegrityError, match=r"key is not what was recorded: 8 bytes of sha256:.*, expected sha256:"):
        storage.download("key", target, digest_of(b"original"))
    assert target.read_bytes() == b"old"
    assert list(target.parent.iterdir()) == [target]


def test_download_of_a_missing_key(storage, tmp_path):
    with pytest.raises(ObjectNotFoundError):
        storage.download("key", tmp_path / "target", digest_of(b""))
    with pytest.raises(ObjectNotFoundError):
        storage.download("key", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_probe_accepts_a_store_with_conditions_and_leaves_nothing(storage):
    probe_conditional_create(storage, "probe")
    assert list(storage.list()) == []


def test_small_parts(storage, tmp_path):
    """Options reach the transfer: parts smaller than the default, several at a time."""
    data = os.urandom(17 * MIB)
    (tmp_path / "source").write_bytes(data)
    options = StorageOptions(endpoint=storage.options.endpoint, part_bytes=5 * MIB, parallel=3)
    small = open_storage(storage.uri, options)
    digest = small.upload("key", tmp_path / "source")
    small.download("key", tmp_path / "target", digest)
    assert (tmp_path / "target").read_bytes() == data


def test_unfinished_writes_are_found_and_removed(storage):
    """A process dies in the middle of an upload: nobody sees the object, `gc` finds its remains."""
    storage.put("run/whole", b"1")
    for name in ("run/one", "run/two"):
        storage.open_parts(name, 20 * MIB).write(0, bytes(8 * MIB))
    run = storage.at("run")
    assert [info.key for info in run.list()] == ["whole"]
    found = list(run.list_unfinished())
    assert len(found) == 2
    assert all(abs(write.modified - time.time()) < 120 for write in found)
    run.delete_unfinished(found[0])
    run.delete_unfinished(found[0])
    assert list(run.list_unfinished()) == [found[1]]
    storage.delete_unfinished(next(storage.list_unfinished()))
    assert list(run.list_unfinished()) == []
    assert run.get("whole") == b"1"
