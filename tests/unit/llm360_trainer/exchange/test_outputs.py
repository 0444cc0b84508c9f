"""Places are refused before the work; what fails in it leaves nothing, and is one sentence."""

from __future__ import annotations

import errno
import os
import tempfile
from collections import namedtuple

import pytest

from llm360.errors import InputError, StorageError, StoreUnusableError
from llm360.storage.file import FileStorage
from llm360_trainer.exchange.outputs import (
    appearing_folder,
    check_new_file,
    check_new_folder,
    check_space,
    open_writable,
    open_writable_release,
)


@pytest.fixture
def read_only(monkeypatch):
    """A file system that takes no new files; to root no folder is read-only by its rights."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


@pytest.mark.parametrize("check", [check_new_file, check_new_folder])
def test_a_file_in_the_way_and_a_read_only_place_are_told(check, tmp_path, request):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusableError, match=r"file is a file, not a folder; remove it or choose another folder$"):
        check(tmp_path / "file/a/b")
    check(tmp_path / "a/b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is made yet"
    request.getfixturevalue("read_only")
    with pytest.raises(StoreUnusableError, match=r"a/b: read-only file system; give this user") as caught:
        check(tmp_path / "a/b")
    assert caught.value.exit_code == 2


def test_a_file_is_no_folder_and_one_that_is_there_needs_no_room(tmp_path, request):
    with pytest.raises(StoreUnusableError, match="is a folder, not a file"):
        check_new_file(tmp_path)
    (tmp_path / "there").touch()
    request.getfixturevalue("read_only")
    check_new_file(tmp_path / "there")


def test_a_folder_that_holds_something_is_refused(tmp_path):
    check_new_folder(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(InputError, match="exists already; give a folder that does not, or an empty one"):
            check_new_folder(path)


def test_a_disk_that_is_too_small_is_told(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(3 * 2**20, 2**20, 2 * 2**20))
    check_space(tmp_path / "a/b", 2 * 2**20)
    with pytest.raises(
        StoreUnusableError, match=r"weights take 3.0 MiB, and the disk of \S+ has 2.0 MiB free; free some"
    ):
        check_space(tmp_path / "a/b", 3 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, 0))
    check_space(tmp_path / "a/b", 3 * 2**20)


def test_a_new_folder_appears_at_the_end(tmp_path):
    with appearing_folder(tmp_path / "a/out") as unfinished:
        (unfinished / "file").touch()
        assert not (tmp_path / "a/out").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a/out/file").is_file()


def test_an_empty_folder_stays_itself(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    inode = (tmp_path / "out").stat().st_ino
    with appearing_folder(tmp_path / "link") as unfinished:
        (unfinished / "one").touch()
    monkeypatch.chdir(tmp_path / "out")
    (tmp_path / "out/one").unlink()
    check_new_folder(type(tmp_path)("."))
    with appearing_folder(type(tmp_path)(".")) as unfinished:
        (unfinished / "two").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]
    assert (tmp_path / "out").stat().st_ino == inode


def test_what_a_killed_process_left_in_an_empty_folder_is_nothing(tmp_path):
    (tmp_path / ".llm360-tmp-left/deep").mkdir(parents=True)
    (tmp_path / ".llm360-tmp-file").touch()
    check_new_folder(tmp_path)
    with appearing_folder(tmp_path) as unfinished:
        (unfinished / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / ".llm360-tmp-left").mkdir()
    with pytest.raises(InputError, match="exists already"):
        check_new_folder(tmp_path)


@pytest.mark.parametrize("is_there", [False, True])
def test_an_error_leaves_nothing(is_there, tmp_path):
    out = tmp_path / "a/b/out"
    if is_there:
        out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def fill(error):
        with appearing_folder(out) as unfinished:
            (unfinished / "file").touch()
            raise error

    with pytest.raises(StoreUnusableError, match=r"out: the disk of \S+ is full") as caught:
        fill(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert caught.value.reason == "DiskFull"
    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    assert sorted(tmp_path.rglob("*")) == before


def test_a_release_that_can_only_be_read_is_refused(tmp_path, monkeypatch):
    sentence = "can only be read; results go into the release, so give a copy that is writable"
    with pytest.raises(StoreUnusableError, match=sentence):
        open_writable_release("http://127.0.0.1:9/x")
    (tmp_path / "ledger").mkdir()
    assert open_writable_release(str(tmp_path)).uri == tmp_path.as_uri()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreUnusableError, match=sentence):
        open_writable_release(str(tmp_path))
    assert open_writable_release(str(tmp_path / "nothing")).uri.endswith("/nothing"), "what is not there is told later"


def test_a_store_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    assert open_writable(str(tmp_path / "new")).uri == (tmp_path / "new").as_uri()
    assert not (tmp_path / "new").exists()
    with pytest.raises(StoreUnusableError, match=r"^--out https://host/x can only be read; give a folder or s3:"):
        open_writable("https://host/x")
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusableError, match="is a file, not a folder"):
        open_writable(str(tmp_path / "file/x"))

    def refuse(*_):
        raise StorageError("the store forbids it")

    monkeypatch.setattr(FileStorage, "put", refuse)
    with pytest.raises(StorageError, match="the store forbids it"):
        open_writable(str(tmp_path / "new"))
