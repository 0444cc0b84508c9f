"""The small steps by which a file appears whole or not at all."""

import errno
import os

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
