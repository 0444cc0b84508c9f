"""`llm360 metrics` as a user types it: what it refuses, and with which sentence."""

import pytest

from llm360.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say either --format"),
        (("--format", "csv", "--to", "tensorboard", "logs"), "one of the two"),
        (("--to", "excel", "logs"), "--to excel is not known; allowed is: tensorboard"),
        (("--format", "csv", "--from-step", "0"), "a run's first step is 1"),
        (("--format", "csv", "--from-step", "7", "--to-step", "6"), "steps 7 to 6 are none"),
        (("--to", "tensorboard", __file__), "is a file; give a folder"),
        (("--format", "csv"), "there is no release"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, arguments, said, capsys):
    code = run(["metrics", str(tmp_path), *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert said in captured.err
