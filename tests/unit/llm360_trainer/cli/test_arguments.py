"""Options that the commands that train share."""

from __future__ import annotations

import argparse

import pytest

from llm360.cli.main import run
from llm360_trainer.cli.arguments import seconds


def test_times_are_seconds_from_0_on() -> None:
    assert [seconds(text) for text in ("0", "2.5", "1e3")] == [0, 2.5, 1000]


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-0.1", "soon", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no time; write seconds from 0 on"):
        seconds(text)


@pytest.mark.parametrize("command", [["run", "amber-tiny"], ["replay", "nowhere"]])
def test_a_log_interval_below_0_is_one_sentence(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run([*command, "--log-interval", "-1"])
    assert caught.value.code == 2
    assert "--log-interval: '-1' is no time" in capsys.readouterr().err
