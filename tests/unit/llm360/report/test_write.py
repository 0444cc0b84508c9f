from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llm360.errors import InputError, StorageError
from llm360.release.verify import verify
from llm360.report.write import REPORT_KEY, write_report


def test_report_goes_into_the_release_and_replaces_the_one_before(eventful):
    eventful.storage.put(REPORT_KEY, b"older")
    written = write_report(eventful.storage)

    page = Path(written.place).read_text()
    assert written.place.endswith("amber-tiny/report/index.html")
    assert "Verified: every link that was checked holds." in page
    assert verify(eventful.storage).ok, "a report changes nothing that the ledger names"


def test_report_goes_where_it_is_asked_to(eventful, tmp_path):
    out = tmp_path / "page.html"

    written = write_report(eventful.storage, extent=None, out=out)

    assert (written.place, written.verification) == (str(out), None)
    assert "Not verified for this report" in out.read_text()
    assert not eventful.storage.exists(REPORT_KEY)


def test_folder_of_the_page_is_made(eventful, tmp_path):
    write_report(eventful.storage, extent=None, out=tmp_path / "new" / "page.html")

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_full_disk_leaves_the_page_that_was_there(eventful, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "page.html").write_text("older")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"cannot write .*/page\.html: the disk of .* is full") as error:
        write_report(eventful.storage, extent=None, out=tmp_path / "page.html")

    assert error.value.reason == "DiskFull"
    assert [path.read_text() for path in tmp_path.iterdir() if path.is_file()] == ["older"]


def test_place_that_cannot_be_written_is_named(eventful, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/page\.html: .*/file is a file, not a folder"):
        write_report(eventful.storage, extent=None, out=tmp_path / "file" / "page.html")


def test_no_release_no_report(storage):
    with pytest.raises(InputError, match="there is no release"):
        write_report(storage)

    assert not Path(storage.uri.removeprefix("file://")).exists()
