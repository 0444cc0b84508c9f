from __future__ import annotations

import pytest

from llm360.cli.main import run


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
