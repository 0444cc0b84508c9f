from __future__ import annotations

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


def test_place_that_cannot_be_written_is_named(eventful, tmp_path):
    with pytest.raises(StorageError, match=r"missing/page\.html: No such file or directory; give another --out"):
        write_report(eventful.storage, extent="none", out=tmp_path / "missing" / "page.html")


def test_no_release_no_report(storage):
    with pytest.raises(InputError, match="there is no release"):
        write_report(storage)

    assert not Path(storage.uri.removeprefix("file://")).exists()
