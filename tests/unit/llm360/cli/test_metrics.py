"""`llm360 metrics` as a user types it: what it gives, what it refuses, and with which sentence."""

import json

import pytest
from synthetic import release

from llm360.cli.main import run
from llm360.storage import open_storage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say either --format"),
        (("--format", "csv", "--to", "tensorboard", "logs"), "one of the two"),
        (("--to", "excel", "logs"), "--to excel is not known; allowed is: tensorboard"),
        (("--format", "csv", "--from-step", "0"), "a run's first step is 1"),
        (("--format", "csv", "--from-step", "7", "--to-step", "6"), "steps 7 to 6 are none"),
        (("--to", "tensorboard", __file__), "is a file; give a folder"),
        (("--to", "tensorboard", "s3://bucket/logs"), "'s3://bucket/logs' is an address; give a path on this machine"),
        (("--to", "tensorboard", ""), "it is empty; give a path on this machine"),
        (("--format", "csv"), "there is no release"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, arguments, said, capsys):
    code = run(["metrics", str(tmp_path), *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert said in captured.err


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """Address of a release of 400 steps, some of which were made twice."""
    uri = str(tmp_path_factory.mktemp("made") / "tiny")
    release.eventful_release(open_storage(uri))
    return uri


def printed(capfdbinary, *arguments):
    assert run(["metrics", *arguments]) == 0
    return capfdbinary.readouterr().out


def test_steps_are_given_once_and_only_those_asked_for(uri, capfdbinary):
    lines = printed(capfdbinary, uri, "--format", "jsonl", "--from-step", "98", "--to-step", "103").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(record["step"], record["attempt"]) for record in records] == [(step, 2) for step in range(98, 104)]
    every = printed(capfdbinary, uri, "--format", "csv", "--from-step", "98", "--to-step", "103", "--all-attempts")
    attempts = [int(line.split(b",")[1]) for line in every.splitlines()[1:]]
    assert attempts == [1] * 6 + [2] * 6


def test_openmetrics_has_all_attempts_and_the_name(uri, capfdbinary):
    text = printed(capfdbinary, uri, "--format", "openmetrics", "--to-step", "60").decode()
    steps = [line.split()[1] for line in text.splitlines() if line.startswith('llm360_train_step{run="tiny"}')]
    assert steps.count("55.0") == 2
    assert "61.0" not in steps
    named = printed(capfdbinary, uri, "--format", "openmetrics", "--name", "amber").decode()
    assert 'run="tiny"' not in named
    assert named.endswith("# EOF\n")


@pytest.mark.filterwarnings("ignore::ImportWarning")  # of what tensorboardX may upload with
def test_tensorboard_says_where_to_look(uri, tmp_path, capsys):
    assert run(["metrics", uri, "--to", "tensorboard", str(tmp_path / "logs"), "--from-step", "399"]) == 0
    assert f"2 records in {tmp_path / 'logs'}" in capsys.readouterr().out
