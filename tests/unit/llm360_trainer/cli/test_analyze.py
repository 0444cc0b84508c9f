"""`llm360 analyze` as it is typed."""

from __future__ import annotations

import json

import pytest

from llm360.cli.main import run
from llm360.release.create import open_release
from llm360_trainer.cli.analyze import number_text

SMALL = ("--sequences", "10", "-k", "8", "-l", "6")


@pytest.fixture
def analyze(trained_copy, capsys):
    """Runs the command on the copy; returns exit code, output and errors."""

    def call(*words):
        code = run(["analyze", *(word.replace("URI", trained_copy.uri) for word in words)])
        return code, *capsys.readouterr()

    return call


def test_memorization_of_chosen_checkpoints_and_chunks(analyze, trained_copy):
    code, output, errors = analyze(
        "memorization", "URI", "--checkpoints", "init,latest", "--chunks", "0,2", *SMALL, "-o", "json"
    )
    facts = json.loads(output)
    assert (code, facts["measured"]) == (0, 4)
    assert {(cell["label"], cell["piece"]) for cell in facts["cells"]} == {
        (label, chunk) for label in ("init", "ckpt_002") for chunk in ("chunk_000", "chunk_002")
    }
    assert facts["settings"] == {"dtype": "float32", "k": 8, "l": 6, "seed": 42, "sequences": 10}
    assert open_release(trained_copy.storage).history().head.name == facts["entry"]
    assert "memorization 4/4 · step 18 · chunk_002" in errors


def test_again_says_that_nothing_was_left(analyze):
    words = ("memorization", "URI", "--checkpoints", "latest", "--chunks", "1", *SMALL)
    first, again = analyze(*words), analyze(*words)
    assert "1 measurements, 1 of them measured now: analysis/memorization-" in first[1]
    assert "all of them measured before" in again[1]
    assert first[1].splitlines()[:2] == again[1].splitlines()[:2]
    assert first[1].split()[:6] == ["checkpoint", "step", "on", "items", "score", "extractible"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("memorisation", "URI"), "invalid choice: 'memorisation'"),
        (("memorization", "URI", "-k", "0"), "-k is 0; it must be at least 1 token"),
        (("memorization", "URI", "-k", "60"), "-k 60 and -l 32 are 92 tokens; the data's rows have 65"),
        (("memorization", "URI", "--sequences", "1"), "--sequences is 1; a sample has at least 2 rows"),
        (("memorization", "URI", "--chunks", "7"), "--chunks has '7'; there are stage1 (chunks 0 to 2)"),
        (("memorization", "URI", "--checkpoints", "ckpt_9"), "there is no checkpoint 'ckpt_9'; there are init"),
        (("memorization", "URI", "--batch-size", "0"), "--batch-size is 0; it must be at least 1"),
        (("memorization", "URI", "--device", "tpu9"), "--device tpu9 cannot be used here"),
        (("memorization", "URI/nothing"), "there is no release at"),
        (("memorization", "http://127.0.0.1:9/x"), "can only be read; results go into the release"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_writes_nothing(analyze, trained_copy, capsys, words, sentence):
    before = [info.key for info in trained_copy.storage.list()]
    try:
        code, _, errors = analyze(*words)
    except SystemExit as stop:
        code, errors = stop.code, capsys.readouterr().err
    assert code == 2
    assert sentence in errors
    assert [info.key for info in trained_copy.storage.list()] == before


def test_a_checkpoint_that_does_not_verify_is_refused_by_name(analyze, trained_copy):
    (path, *_) = trained_copy.storage.list("checkpoints/step_000000018/a001/model/model-00002")
    data = bytearray(trained_copy.storage.get(path.key))
    data[-1] ^= 1
    trained_copy.storage.put(path.key, bytes(data))
    code, _, errors = analyze("memorization", "URI", "--checkpoints", "latest", *SMALL)
    assert code == 1
    assert "checkpoint ckpt_002 (checkpoints/step_000000018/a001) does not verify" in errors


def test_perplexity_of_what_the_data_holds_out(analyze, trained_copy):
    sources = [word for name, path in trained_copy.texts.items() for word in ("--source", f"{name}={path}")]
    code, output, _ = analyze("perplexity", "URI", "--checkpoints", "init,latest", *sources, "-o", "json")
    facts = json.loads(output)
    assert (code, facts["settings"]["held_out"]) == (0, True)
    assert {(cell["piece"], cell.get("source")) for cell in facts["cells"]} == {
        ("held_out", source) for source in (None, "colours", "numbers")
    }


def test_forgetting_of_every_chunk(analyze):
    code, output, _ = analyze("forgetting", "URI", "--sequences", "5", "--batch-size", "3")
    assert code == 0
    assert "12 measurements, 12 of them measured now: analysis/forgetting-" in output


def test_numbers_are_short_and_counts_are_whole():
    assert [number_text(value) for value in (-40_960.0, 3.14159, 12_345.5, 0.0)] == [
        "-40,960",
        "3.142",
        "1.235e+04",
        "0",
    ]


def test_a_last_word_that_cannot_be_left_is_told_behind_the_results(analyze, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM360_TERMINATION_LOG", str(tmp_path))
    words = ("forgetting", "URI", "--checkpoints", "latest", "--chunks", "0", "--sequences", "5")
    code, output, errors = analyze(*words)
    assert (code, output.splitlines()[-1][:15]) == (2, "1 measurements,")
    assert f"llm360: error: cannot write {tmp_path}: " in errors
    code, _, errors = analyze(*words[:-1], "1")
    assert code == 2
    assert errors.startswith("llm360: error: --sequences is 1;")


def test_a_jobs_last_word_says_how_it_ended(analyze, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM360_TERMINATION_LOG", str(tmp_path / "log"))
    words = ("forgetting", "URI", "--checkpoints", "latest", "--chunks", "0", "--sequences", "5")
    assert analyze(*words)[0] == 0
    good = json.loads((tmp_path / "log").read_bytes())
    assert (good["reason"], good["scores"]) == ("Analysed", [])
    assert good["message"].startswith("1 new measurements: analysis/forgetting-")
    assert "later" not in good
    assert analyze(*words[:-1], "1")[0] == 2
    bad = json.loads((tmp_path / "log").read_bytes())
    assert (bad["reason"], bad["message"][:17]) == ("InvalidInput", "--sequences is 1;")
