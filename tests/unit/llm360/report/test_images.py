from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from synthetic.measured import measure

from llm360.errors import StorageError
from llm360.release.analyses import merged_results
from llm360.release.create import open_release
from llm360.report.analyses import analysis_figures
from llm360.report.images import write_images
from llm360.report.write import write_figures


@pytest.fixture
def measured(eventful):
    measure(eventful)
    return eventful


def test_every_figure_is_written_as_svg_and_png(measured, tmp_path):
    paths = write_figures(measured.storage, tmp_path / "figures", ("amber-7b",))
    keys = {path.stem for path in paths}
    assert {"loss", "source-loss", "eval-arc_challenge-acc_norm", "memory", "memory-pairs", "memory-spread"} <= keys
    assert sorted(tmp_path.glob("figures/*")) == sorted(paths)
    assert len(paths) == 2 * len(keys)
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG" if path.suffix == ".png" else b"<?xml")
    svg = (tmp_path / "figures/eval-arc_challenge-acc_norm.svg").read_text()
    assert "arc_challenge: acc_norm" in svg
    assert "amber-7b, published, 25 shots" in svg


def test_the_same_figures_give_the_same_files(measured, tmp_path):
    found, _ = merged_results(measured.storage, open_release(measured.storage).history())
    figures = analysis_figures(found)[:1]
    once, again = (write_images(figures, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    assert not re.search(rb"\d{4}-\d\d-\d\dT", (tmp_path / "one/memory.svg").read_bytes()), "it carries a date"


def test_folder_that_cannot_be_written_is_named(measured, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/x/.*\.svg: .*/file is a file, not a folder"):
        write_figures(measured.storage, Path(tmp_path / "file/x"))


def test_full_disk_leaves_no_half_figure(measured, tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"cannot write .*\.svg: the disk of .* is full"):
        write_figures(measured.storage, tmp_path / "figures")
    assert list((tmp_path / "figures").iterdir()) == []
