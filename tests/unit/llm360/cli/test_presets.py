"""Listing and showing presets."""

import json

import pytest

from llm360.cli import main
from llm360.spec import preset_names, preset_text


@pytest.fixture
def llm360(capsys):
    """Runs a command line: exit code, standard output, standard error."""

    def run(*argv):
        code = main.run(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list_names_and_describes_each(llm360):
    code, out, _ = llm360("presets", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(preset_names())
    entries = json.loads(llm360("presets", "list", "-o", "json")[1])
    assert all(entry["description"] and entry["description"] in out for entry in entries)


def test_show_prints_the_file_with_its_sources_and_what_follows(llm360):
    out = llm360("presets", "show", "crystalcoder-7b")[1]
    assert out.startswith(preset_text("crystalcoder-7b"))
    assert "#   parameters    6,575,278,720" in out
    assert "#   stage2        214,387 steps of 2,112 sequences, 927,304,384,512 tokens, 143 checkpoints" in out
    assert "follow from the data" in llm360("presets", "show", "amber-tiny")[1]


def test_show_as_json(llm360):
    shown = json.loads(llm360("presets", "show", "amber-7b", "-o", "json")[1])
    assert shown["parameters"] == 6_738_415_616
    assert shown["description"].startswith("Amber 7B as LLM360 trained it")
    assert "release" not in shown["spec"]
    assert (shown["total_steps"], shown["total_tokens"], shown["checkpoints"]) == (274_320, 1_258_448_486_400, 360)
    assert shown["spec"]["training"]["batchSize"] == 2240
    assert "recovery" not in shown["spec"]
    assert shown["sources"]["training.optimizer.epsilon"] == "main: torch's default"
    assert any(line.startswith("  main ") for line in shown["legend"])
    assert json.loads(llm360("presets", "show", "amber-tiny", "-o", "json")[1])["total_steps"] is None


def test_show_at_a_step(llm360):
    shown = json.loads(llm360("presets", "show", "crystalcoder-7b", "--at", "86", "--stage", "2", "-o", "json")[1])
    assert shown == {
        "preset": "crystalcoder-7b",
        "stage": "stage2",
        "step": 86,
        "run_step": 79_807,
        "learning_rate": 0.0087825,
        "batch": 2112,
        "chunk": None,
        "tokens": 345_195_282_432,
        "checkpoint": False,
    }
    text = llm360("presets", "show", "amber-7b", "--at", "762")[1]
    assert "checkpoint     yes" in text
    assert "chunk          1" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--at", "274321"), "--at 274321: amber-7b has the steps 0 to 274,320; give one of them"),
        (("--at", "0", "--stage", "two"), "--stage two: amber-7b has no such stage; its stages are 1 (stage1)"),
        (("--stage", "1"), "--stage says which steps --at counts and has no meaning alone; add --at STEP"),
    ],
)
def test_steps_that_are_not_there(llm360, words, sentence):
    code, out, err = llm360("presets", "show", "amber-7b", *words)
    assert (code, out) == (2, "")
    assert sentence in err


def test_diff_names_what_differs_alone(llm360):
    out = llm360("presets", "diff", "amber-7b", "pythia-6.9b")[1]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert rows["parameters"] == ["6,738,415,616", "6,857,302,016"]
    assert rows["model.norm.kind"] == ["rmsnorm", "layernorm"]
    assert rows["training.schedule.minLearningRate"] == ["-", "1.2e-05"]
    assert "model.hiddenSize" not in rows
    both = json.loads(llm360("presets", "diff", "amber-7b", "pythia-6.9b", "-o", "json")[1])
    assert both["training.batchSize"] == {"amber-7b": 2240, "pythia-6.9b": 1024}
    assert json.loads(llm360("presets", "diff", "pythia-1b", "pythia-1b-deduped", "-o", "json")[1]) == {}


def test_mistyped_name(llm360):
    for words in (("show", "amber7b"), ("diff", "amber-7b", "amber7b")):
        code, out, err = llm360("presets", *words)
        assert (code, out) == (2, "")
        assert "there is no preset 'amber7b' (did you mean 'amber-7b'?)" in err
