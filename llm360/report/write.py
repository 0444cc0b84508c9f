"""Writing the report: verify, render, store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.verify import Extent, verify
from llm360.report.facts import read_facts, read_stage_data
from llm360.report.images import write_images
from llm360.report.page import read_run, render_report, report_figures
from llm360.report.text import address_of
from llm360.report.verification import VerificationView, verification_view
from llm360.storage import Storage
from llm360.storage.local import write_file

REPORT_KEY = "report/index.html"
"""Where a report lies in its release. It is a view that no ledger entry names: writing it again replaces it."""


class WrittenReport(NamedTuple):
    """A report that was written.

    Attributes:
        place: A path, or an address.
        history: What the ledger said when it was written.
        verification: What the page says of it; None where nothing was verified.
    """

    place: str
    history: History
    verification: VerificationView | None


def write_report(
    storage: Storage, *, extent: Extent | None = "latest", out: Path | None = None, compare: Sequence[str] = ()
) -> WrittenReport:
    """Write a release's report.

    Args:
        storage: The release.
        extent: Whose checkpoint files to verify for the page; None verifies nothing, and the page says so.
        out: The file to write, its folder made if missing; into the release (`REPORT_KEY`) where not given.
        compare: Models whose published scores stand behind the run's.

    Raises:
        InputError: there is no release.
        IntegrityError: its ledger, configuration or metrics are not whole, so there is nothing true to show.
        StorageError: the page cannot be written.
    """
    history = open_release(storage).history()
    view = verification_view(verify(storage, bytes=extent), extent) if extent else None
    data = render_report(storage, history, datetime.now(UTC), view, compare).encode()
    if out is None:
        storage.put(REPORT_KEY, data)
        return WrittenReport(f"{address_of(storage.uri).rstrip('/')}/{REPORT_KEY}", history, view)
    write_file(out, data)
    return WrittenReport(str(out), history, view)


def write_figures(storage: Storage, folder: Path, compare: Sequence[str] = ()) -> list[Path]:
    """Write every figure of a release's report as SVG and PNG.

    Args:
        storage: The release.
        folder: Made if missing.
        compare: Models whose published scores stand behind the run's.

    Raises:
        InputError: there is no release.
        IntegrityError: what is to be shown is not whole.
        StorageError: the release cannot be read, or the folder not be written.
    """
    history = open_release(storage).history()
    manifests = {stage.stage: read_stage_data(storage, stage) for stage in history.stages}
    run = read_run(storage, history, manifests)
    name = read_facts(storage, history, datetime.now(UTC)).name
    return write_images(report_figures(storage, history, name, run, compare).all, folder)
