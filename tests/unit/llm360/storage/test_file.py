"""What a folder adds to the contract that all stores keep (tests/integration/storage/test_contract.py)."""

import errno
import os
import socket
import stat
import subprocess
import sys

import pytest

from llm360.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, StorageError
from llm360.storage import StorageOptions, StoreUnusableError, open_storage
from llm360.storage.base import NotAFileError
from llm360.storage.local import TEMPORARY_PREFIX


@pytest.fixture
def store(tmp_path):
    return open_storage(str(tmp_path / "store"), StorageOptions(part_bytes=1000))


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse(number):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_missing_folder_is_an_empty_store(store):
    assert list(store.list()) == []
    assert not store.exists("key")
    store.delete("key")
    assert not store.root.exists()


def test_list_ignores_unfinished_writes(store):
    store.put("a/key", b"1")
    (store.root / "a" / f"{TEMPORARY_PREFIX}0123456789abcdef").write_bytes(b"half")
    assert [info.key for info in store.list()] == ["a/key"]


def test_unfinished_names_are_no_keys(store):
    with pytest.raises(StoreUnusableError, match="unfinished writes"):
        store.get(f"a/{TEMPORARY_PREFIX}0")


def test_writes_leave_no_temporary_files(store, tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 5_500)
    store.put("put", b"1")
    store.create("created", b"1")
    with pytest.raises(ObjectExistsError):
        store.create("created", b"2")
    store.upload("uploaded", tmp_path / "source")
    assert files_below(store.root) == ["created", "put", "uploaded"]


def test_new_files_obey_the_umask(store):
    mask = os.umask(0o027)
    try:
        store.create("key", b"1")
    finally:
        os.umask(mask)
    assert (store.root / "key").stat().st_mode & 0o777 == 0o640


def test_delete_removes_empty_folders_but_no_root_that_was_there(store):
    store.root.mkdir()
    store.put("a/b/one", b"1")
    store.put("a/two", b"2")
    store.delete("a/b/one")
    assert sorted(path.name for path in store.root.rglob("*")) == ["a", "two"]
    store.delete("a/two")
    assert list(store.root.iterdir()) == []


def test_order_of_durability_in_create(store, monkeypatch):
    """Bytes, then name, then folder: in any other order a power failure could show a name without its bytes."""
    store.put("other", b"1")
    seen = []
    fsync, link = os.fsync, os.link
    kinds = {True: "folder", False: "bytes"}
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(kinds[stat.S_ISDIR(os.fstat(fd).st_mode)]) or fsync(fd))
    monkeypatch.setattr(os, "link", lambda *names: seen.append("name") or link(*names))
    store.create("key", b"1")
    assert seen == ["bytes", "name", "folder"]


@pytest.mark.parametrize("call", ["fsync", "link", "pwrite"])
def test_crash_in_create_leaves_the_key_free_or_whole(store, call):
    """The process dies at each point of a create; who comes next finds all of the bytes or none."""
    script = f"""
import os, sys
from llm360.storage import open_storage
real = os.{call}
def die(*args, **kwargs):
    real(*args, **kwargs)
    os._exit(9)
os.{call} = die
open_storage(sys.argv[1]).create("key", b"whole")
"""
    store.put("other", b"1")
    assert subprocess.run([sys.executable, "-c", script, str(store.root)], timeout=60).returncode == 9
    assert store.exists("key") == (call == "link")
    if call == "link":
        with pytest.raises(ObjectExistsError):
            store.create("key", b"whole")
    else:
        store.create("key", b"whole")
    assert store.get("key") == b"whole"
    assert [info.key for info in store.list()] == ["key", "other"]


@pytest.mark.parametrize("write", ["put", "create"])
def test_full_disk_is_told_with_its_free_space(store, monkeypatch, write):
    monkeypatch.setattr(os, "pwrite", refuse(errno.ENOSPC))
    with pytest.raises(StoreUnusableError, match=r"key: the disk of .* is full.* \(\d+\.\d MiB free\)") as error:
        getattr(store, write)("key", b"1")
    assert error.value.reason == "DiskFull"
    assert error.value.exit_code == 2
    assert isinstance(error.value, StorageError)
    assert files_below(store.root) == []


def test_full_disk_in_upload_and_download(store, tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(b"x" * 5_500)
    store.put("key", b"1")
    monkeypatch.setattr(os, "pwrite", refuse(errno.EDQUOT))
    with pytest.raises(StoreUnusableError, match="is full"):
        store.upload("uploaded", tmp_path / "source")
    with pytest.raises(StoreUnusableError, match="is full"):
        store.download("key", tmp_path / "target")
    assert files_below(tmp_path) == ["source", "store/key"]


def test_file_system_without_links_is_refused(store, monkeypatch):
    monkeypatch.setattr(os, "link", refuse(errno.EOPNOTSUPP))
    with pytest.raises(StoreUnusableError, match="no hard links") as error:
        store.create("key", b"1")
    assert error.value.reason == "ConditionalCreateUnsupported"
    assert files_below(store.root) == []


def test_read_only_folder(read_only_folder):
    store = open_storage(str(read_only_folder))
    assert store.get("key") == b"readable"
    for call in (
        lambda: store.put("new", b"1"),
        lambda: store.create("new", b"1"),
        lambda: store.create("deeper/new", b"1"),
        lambda: store.delete("key"),
    ):
        with pytest.raises(StoreUnusableError, match=r"cannot write .*: permission denied; give this user") as error:
            call()
        assert error.value.reason == "NotWritable"
    with pytest.raises(StoreUnusableError, match=r"cannot read .*secret") as error:
        store.get("secret")
    assert error.value.reason == "NotReadable"


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for store in (open_storage(str(tmp_path / "file")), open_storage(str(tmp_path / "file" / "run"))):
        for call in (lambda: store.put("key", b"1"), lambda: store.create("key", b"1")):  # noqa: B023
            with pytest.raises(StoreUnusableError, match="/file is a file, not a folder; remove it") as error:
                call()
            assert error.value.reason == "NotADirectory"
    store = open_storage(str(tmp_path / "file"))
    for call in (lambda: list(store.list()), lambda: store.get("key")):
        with pytest.raises(StoreUnusableError, match="/file is a file, not a folder"):
            call()


def test_key_that_is_a_folder(store):
    store.put("a/b", b"1")
    for call in (lambda: store.put("a", b"1"), lambda: store.create("a", b"1")):
        with pytest.raises(StoreUnusableError, match="/a is a folder, not a file"):
            call()
    assert files_below(store.root) == ["a/b"]


def test_key_below_an_object(store):
    store.put("a", b"1")
    with pytest.raises(StoreUnusableError, match="/a is a file, not a folder"):
        store.put("a/b", b"1")


def test_name_too_long(store):
    with pytest.raises(StoreUnusableError, match="too long"):
        store.put("x" * 300, b"1")


def test_file_that_grows_while_it_is_uploaded(store, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 5_500)
    pwrite = os.pwrite

    def grow(*args):
        with source.open("ab") as file:
            file.write(b"more")
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", grow)
    with pytest.raises(IntegrityError, match="changed while it was uploaded: 5500 bytes at first, then"):
        store.upload("key", source)
    assert files_below(store.root) == []


def test_file_that_shrinks_while_it_is_uploaded(store, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 500_000)
    pwrite = os.pwrite

    def shrink(*args):
        os.truncate(source, 2_000)
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", shrink)
    with pytest.raises(IntegrityError, match="changed while it was uploaded: 500000 bytes at first, then 2000"):
        store.upload("key", source)
    assert files_below(store.root) == []


def test_folder_that_vanishes_while_it_is_written(store, monkeypatch):
    """Another process deletes the last object of a folder between its making and the first file in it."""
    real = os.open
    vanished = []

    def vanish(path, flags, *args, **kwargs):
        if TEMPORARY_PREFIX in str(path) and not vanished:
            vanished.append(path)
            (store.root / "a").rmdir()
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", vanish)
    store.put("a/key", b"1")
    assert vanished
    assert store.get("a/key") == b"1"


def test_what_is_no_regular_file_is_no_object_and_not_waited_for(store):
    store.put("a/key", b"1")
    os.mkfifo(store.root / "a" / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(store.root / "a" / "socket"))
    for key in ("a/pipe", "a/socket"):
        for read in (
            store.get,
            store.stat,
            lambda key: store.get_range(key, 0, 1),
            lambda key: list(store.iter_bytes(key)),
        ):
            with pytest.raises(NotAFileError, match=rf"{key} is no regular file"):
                read(key)
        assert not store.exists(key)
        with pytest.raises(ObjectExistsError):
            store.create(key, b"1")
    assert [info.key for info in store.list()] == ["a/key"]


def test_a_folder_is_no_object(store):
    store.put("a/key", b"1")
    for read in (store.get, store.stat, lambda key: list(store.iter_bytes(key))):
        with pytest.raises(ObjectNotFoundError, match="a does not exist"):
            read("a")
