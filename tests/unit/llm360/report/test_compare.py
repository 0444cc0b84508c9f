from __future__ import annotations

import json

import pytest
from synthetic.measured import checkpoints_of, evaluate, measure
from synthetic.release import interrupted_release

from llm360.cli.main import run
from llm360.storage import open_storage


@pytest.fixture
def uris(eventful, tmp_path):
    """A complete run with scores and analyses, and one under way with one score."""
    measure(eventful)
    other = interrupted_release(open_storage(str(tmp_path / "other")))
    evaluate(other, checkpoints_of(other)[-1], "arc_challenge", 0.25)
    return [release.storage.uri.removeprefix("file://") for release in (eventful, other)]


def test_the_table_names_runs_steps_and_last_scores(uris, capsys):
    assert run(["compare", *uris]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["amber-tiny", "other"]
    assert ["steps", "400", "110"] in table
    score = next(line for line in table if line[0] == "arc_challenge")
    assert score[1:4] == ["acc_norm,", "25", "shots"]
    assert "0.3600" in score
    assert "0.2500" in score


def test_the_page_draws_both_over_tokens(uris, tmp_path, capsys):
    assert run(["compare", *uris, "--out", f"{tmp_path}/page.html", "--compare", "amber-7b"]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count('id="loss"') == 1
    assert "amber-7b, published, 25 shots" in page
    assert "other, 25 shots" in page
    assert "By source" in page


def test_runs_of_one_name_are_told_apart(uris, capsys):
    assert run(["compare", uris[0], uris[0], "-o", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [found["name"] for found in runs] == ["amber-tiny", "amber-tiny (2)"]
    assert len(runs[0]["scores"][0]["points"]) == 9


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{0}"], "one run alone cannot be compared"),
        (["{0}", "{0}/nothing"], "there is no release at"),
        (["{0}", "{1}", "--compare", "ambr-7b"], "did you mean 'amber-7b'?"),
        (["{0}", "{1}", "--out", "{0}"], "is a folder; give the name of the file to write"),
    ],
)
def test_bad_input_is_one_sentence(uris, capsys, words, sentence):
    assert run(["compare", *(word.format(*uris) for word in words)]) == 2
    assert sentence in capsys.readouterr().err
