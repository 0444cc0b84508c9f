"""The small steps by which a file appears whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm360.errors import StorageError
from llm360.storage import StoreUnusableError, local


def test_write_all_goes_on_after_a_short_write(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    with local.temporary_file(tmp_path) as (fd, path):
        local.write_all(fd, b"0123456789", 2)
        assert path.read_bytes() == b"\0\0" + b"0123456789"
    assert list(tmp_path.iterdir()) == []


def test_temporary_names_are_known_as_such(tmp_path):
    with local.temporary_file(tmp_path / "new" / "folder") as (_, path):
        assert local.is_temporary(path.name)
        assert path.parent == tmp_path / "new" / "folder"


def test_make_folders_syncs_the_parent_of_each(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(local, "sync_folder", synced.append)
    local.make_folders(tmp_path / "a" / "b")
    local.make_folders(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_sync_folder_where_folders_cannot_be_synced(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(os, "fsync", refuse)
    local.sync_folder(tmp_path)


def test_sync_folder_reports_a_broken_disk(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="input/output"):
        local.sync_folder(tmp_path)


@pytest.mark.parametrize(
    ("number", "doing", "reason"),
    [
        (errno.ENOSPC, "write", "DiskFull"),
        (errno.EDQUOT, "write", "DiskFull"),
        (errno.EROFS, "write", "NotWritable"),
        (errno.EACCES, "read", "NotReadable"),
        (errno.ENAMETOOLONG, "write", "InvalidKey"),
    ],
)
def test_explain(tmp_path, number, doing, reason):
    error = local.explain(OSError(number, os.strerror(number)), tmp_path / "missing" / "key", doing)
    assert isinstance(error, StoreUnusableError)
    assert error.reason == reason
    assert str(tmp_path / "missing" / "key") in error.message


def test_explain_the_unexpected(tmp_path):
    error = local.explain(OSError(errno.EIO, "Input/output error"), tmp_path, "read")
    assert type(error) is StorageError
    assert error.message == f"cannot read {tmp_path}: input/output error"


def test_write_file_replaces_what_was_there_and_follows_links(tmp_path):
    page, link = tmp_path / "new" / "page.html", tmp_path / "link.html"
    local.write_file(page, b"one")
    link.symlink_to(page)
    local.write_file(link, b"two")
    assert page.read_bytes() == b"two"
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link.html", "new", "page.html"]


def test_write_file_leaves_what_was_there_where_the_disk_is_full(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_bytes(b"one")
    real = os.pwrite

    def full(fd, data, offset):
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:1], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreUnusableError, match="free some space") as raised:
        local.write_file(page, b"two")
    assert raised.value.reason == "DiskFull"
    assert page.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [page]


def test_write_file_leaves_a_device_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    local.write_file(pipe, b"page")
    assert os.read(reader, 10) == b"page"
    assert pipe.is_fifo()
    os.close(reader)


def test_write_file_to_a_folder(tmp_path):
    with pytest.raises(StoreUnusableError, match="is a folder, not a file"):
        local.write_file(tmp_path, b"page")


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_write_file_keeps_the_rights_of_what_was_there(tmp_path, mode):
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    page.write_bytes(b"one")
    page.chmod(mode)
    link.symlink_to(page)
    local.write_file(link, b"two")
    assert page.read_bytes() == b"two"
    assert page.stat().st_mode & 0o777 == mode


def test_what_was_private_is_so_before_it_holds_anything(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_bytes(b"one")
    page.chmod(0o600)
    modes, real = [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, *rest: modes.append(os.fstat(fd).st_mode & 0o777) or real(fd, *rest))
    local.write_file(page, b"two")
    assert modes == [0o600]


@pytest.mark.parametrize("name", ["stdout", "fd/1", "link"])
def test_write_file_to_standard_output_leaves_the_file_behind_it_what_it_is(tmp_path, name):
    """As a shell redirects it: what is written before and after stands around the page."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    target = tmp_path / "link" if name == "link" else f"/dev/{name}"
    code = (
        "import pathlib, sys; from llm360.storage.local import write_file; print('before', flush=True)\n"
        "write_file(pathlib.Path(sys.argv[1]), b'page\\n'); print('after')"
    )
    out = tmp_path / "out"
    with out.open("wb") as stream:
        found = out.stat().st_ino
        subprocess.run([sys.executable, "-c", code, str(target)], stdout=stream, check=True)
    assert out.read_text() == "before\npage\nafter\n"
    assert out.stat().st_ino == found


def test_write_file_to_an_open_file_that_cannot_be_written(tmp_path):
    (tmp_path / "page").write_bytes(b"one")
    with (tmp_path / "page").open("rb") as stream, pytest.raises(StorageError, match="cannot write /dev/fd/"):
        local.write_file(Path(f"/dev/fd/{stream.fileno()}"), b"two")
