from __future__ import annotations

import pytest
from synthetic.release import eventful_release

from llm360.cli.main import run
from llm360.storage import open_storage


def test_missing_release_is_one_sentence_and_exit_2_and_leaves_nothing(tmp_path, capsys):
    assert run(["report", str(tmp_path / "none")]) == 2

    captured = capsys.readouterr()
    assert "there is no release at" in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_folder_is_refused(tmp_path, capsys):
    assert run(["report", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert "is a folder; give the name of the file to write" in capsys.readouterr().err


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["report", "--help"])

    assert ended.value.code == 0
    assert "examples:\n  llm360 report runs/amber-tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", ["report x --out", "report x --figures", "compare x y --out", "compare x y --figures"]
)
def test_an_address_is_no_place_for_pages_and_figures(words, capsys):
    with pytest.raises(SystemExit) as end:
        run([*words.split(), "s3://bucket/page.html"])
    assert end.value.code == 2
    assert "'s3://bucket/page.html' is an address; give a path on this machine" in capsys.readouterr().err


def test_pages_and_figures_go_where_they_are_asked_to(tmp_path, capsys):
    uri, out, figures = str(tmp_path / "tiny"), tmp_path / "new" / "page.html", tmp_path / "figures"
    eventful_release(open_storage(uri))
    assert run(["compare", uri, uri, "--out", str(out), "--figures", str(figures)]) == 0
    assert "<html" in out.read_text(encoding="utf-8")
    assert (figures / "loss.svg").is_file()
    assert run(["compare", uri, uri, "--figures", str(out)]) == 2
    assert f"--figures {out} is a file; give a folder" in capsys.readouterr().err
