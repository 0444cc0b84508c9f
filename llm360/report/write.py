"""Writing the report: verify, render, store."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from llm360.errors import StorageError
from llm360.release.create import open_release
from llm360.release.verify import Extent, verify
from llm360.report.page import render_report
from llm360.report.text import address_of
from llm360.report.verification import verification_view
from llm360.storage import Storage

REPORT_KEY = "report/index.html"
"""Where a report lies in its release. It is a view that no ledger entry names: writing it again replaces it."""


def write_report(storage: Storage, *, extent: Extent | None = "latest", out: Path | None = None) -> str:
    """Write a release's report.

    Args:
        storage: The release.
        extent: Whose checkpoint files to verify for the page; None verifies nothing, and the page says so.
        out: The file to write; into the release (`REPORT_KEY`) where not given.

    Returns:
        Where the page lies: a path, or an address.

    Raises:
        InputError: there is no release.
        IntegrityError: its ledger, configuration or metrics are not whole, so there is nothing true to show.
        StorageError: the page cannot be written.
    """
    history = open_release(storage).history()
    view = verification_view(verify(storage, bytes=extent), extent) if extent else None
    data = render_report(storage, history, datetime.now(UTC), view).encode()
    if out is None:
        storage.put(REPORT_KEY, data)
        return f"{address_of(storage.uri).rstrip('/')}/{REPORT_KEY}"
    try:
        out.write_bytes(data)
    except OSError as error:
        raise StorageError(f"the report cannot be written to {out}: {error.strerror}; give another --out") from error
    return str(out)
