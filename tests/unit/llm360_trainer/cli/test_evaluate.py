"""`llm360 eval` from the command to the ledger: what is missing is computed, bad input is one sentence."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from synthetic.eval_data import fill_mirror

from llm360.cli import main
from llm360.release.create import open_release
from llm360.release.verify import verify
from llm360.storage import open_storage
from llm360_trainer.cli.evaluate import OF_EVALUATION, TERMINATION_LOG, configure
from llm360_trainer.evaluate.tasks import HARNESS


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("mirror")
    fill_mirror(open_storage(str(folder)))
    return str(folder)


@pytest.fixture
def evaluate(trained_copy, mirror, capsys):
    """Runs the command on a copy of a trained release; returns exit code, JSON results, and standard error."""

    def run(*words: str, uri: str = trained_copy.uri):
        code = main.run(("eval", uri, "--mirror", mirror, "-o", "json", *words))
        printed = capsys.readouterr()
        return code, json.loads(printed.out)["results"] if printed.out else None, printed.err

    return run


def evals(release):
    return open_release(release.storage).history().evals


def files_of(release, entry) -> dict[str, bytes]:
    return {name: release.storage.get(f"{entry.prefix}/{name}") for name in entry.digests}


def test_results_are_bound_by_the_ledger(evaluate, trained_copy):
    code, results, _ = evaluate(
        "--checkpoint", "ckpt_001", "--tasks", "arc_easy:2,hellaswag", "--samples", "--uid", "job-1"
    )
    assert code == 0
    assert [(result["task"], result["was_there"]) for result in results] == [("arc_easy", False), ("hellaswag", False)]
    arc, swag = evals(trained_copy)
    assert (arc.task, arc.shots, arc.harness, arc.limit, arc.seed) == ("arc_easy", 2, HARNESS, None, None)
    assert arc.prefix == f"evals/step_{arc.step:09d}/{arc.checkpoint.removeprefix('sha256:')}/arc_easy-job-1"
    assert swag.shots is None
    assert [score.metric for score in arc.scores] == ["acc", "acc_norm"]
    assert all(0 <= score.value <= 1 and score.stderr > 0 for score in arc.scores)
    files = files_of(trained_copy, arc)
    assert files.keys() == {"results.json", "samples_arc_easy.jsonl", "execution.json"}
    told = json.loads(files["results.json"])
    assert told["n-shot"] == {"arc_easy": 2}
    assert told["n-samples"]["arc_easy"] == {"original": 9, "effective": 9}
    assert told["results"]["arc_easy"]["acc,none"] == arc.scores[0].value
    assert told["llm360"]["checkpoint"]["entry"] == arc.checkpoint
    assert told["llm360"]["seeds"] == {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert set(told["llm360"]["data"]["allenai/ai2_arc (ARC-Easy)"]) == {"train", "validation", "test"}
    assert told["versions"] == {"arc_easy": 1.0}
    assert b"/site-packages/" not in files["results.json"], "nothing of the machine is told"
    samples = [json.loads(line) for line in files["samples_arc_easy.jsonl"].splitlines()]
    assert sum(sample["acc"] for sample in samples) / 9 == pytest.approx(arc.scores[0].value)
    assert verify(trained_copy.storage, bytes="all").ok


def test_the_same_again_computes_nothing_and_a_new_task_itself_alone(evaluate, trained_copy):
    evaluate("--checkpoint", "all", "--tasks", "arc_easy:2")
    assert len(evals(trained_copy)) == 4
    code, results, _ = evaluate("--checkpoint", "all", "--tasks", "arc_easy:2,hellaswag")
    assert code == 0
    assert [result["was_there"] for result in results] == [True, False] * 4
    assert len(evals(trained_copy)) == 8
    evaluate("--checkpoint", "init", "--tasks", "arc_easy:2", "--limit", "3")
    evaluate("--checkpoint", "init", "--tasks", "arc_easy:2", "--seed", "7")
    kinds = {(entry.limit, entry.seed) for entry in evals(trained_copy) if entry.step == 0 and entry.task == "arc_easy"}
    assert kinds == {(None, None), (3, None), (None, 7)}, "another limit or seed is another evaluation"


def test_the_same_checkpoint_twice_gives_the_same_bytes(evaluate, trained_copy, trained, tmp_path):
    words = ("--checkpoint", "latest", "--tasks", "arc_challenge:3,mmlu_stem:2", "--samples", "--batch-size", "3")
    evaluate(*words)
    first = [files_of(trained_copy, entry) for entry in evals(trained_copy)]
    import shutil

    shutil.copytree(trained.uri, tmp_path / "again")
    evaluate(*words, uri=str(tmp_path / "again"))
    storage = open_storage(str(tmp_path / "again"))
    second = open_release(storage).history().evals
    assert len(first) == len(second) == 2
    for files, entry in zip(first, second, strict=True):
        assert files.keys() == entry.digests.keys()
        for name in files.keys() - {"execution.json"}:
            assert files[name] == storage.get(f"{entry.prefix}/{name}"), name


def test_a_group_has_its_own_numbers(evaluate, trained_copy):
    evaluate("--checkpoint", "latest", "--tasks", "mmlu_stem:2")
    (entry,) = evals(trained_copy)
    assert [score.metric for score in entry.scores] == ["acc"]
    told = json.loads(files_of(trained_copy, entry)["results.json"])
    counts = {name: told["n-samples"][name]["effective"] for name in told["n-samples"]}
    assert len(counts) == 19
    weighted = sum(told["results"][name]["acc,none"] * count for name, count in counts.items()) / sum(counts.values())
    assert entry.scores[0].value == pytest.approx(weighted)


def test_a_job_leaves_its_scores_in_the_termination_message(evaluate, trained_copy, tmp_path, monkeypatch):
    monkeypatch.setenv(TERMINATION_LOG, str(tmp_path / "log"))
    checkpoint = open_release(trained_copy.storage).history().branch[-1].name
    evaluate("--checkpoint", checkpoint, "--tasks", "arc_easy", "--uid", "job-2")
    answer = json.loads((tmp_path / "log").read_text())
    assert answer["reason"] == "Evaluated"
    assert [(score["task"], score["metric"]) for score in answer["scores"]] == [
        ("arc_easy", "acc"),
        ("arc_easy", "acc_norm"),
    ]
    assert answer["scores"][0]["value"] == evals(trained_copy)[0].scores[0].value
    evaluate("--checkpoint", checkpoint, "--tasks", "arc_eazy")
    answer = json.loads((tmp_path / "log").read_text())
    assert answer["reason"] == "UnknownTask"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--tasks", "arc_eazy"), "has no task 'arc_eazy' (did you mean 'arc_easy'?)"),
        (("--tasks", "arc_easy:many"), "'arc_easy:many' has 'many' shots; allowed are 0 to 100"),
        (("--tasks", "arc_easy,arc_easy:5"), "names 'arc_easy' twice"),
        (("--tasks", ","), "--tasks names no task"),
        (("--tasks", "arc easy"), "'arc easy' is no name of a task"),
        (("--tasks", "truthfulqa_mc2:5"), "asks for 5 shots, but the harness holds truthfulqa_mc2 at 0"),
        (("--tasks", "humaneval"), "task 'humaneval' runs code that the model writes; add --allow-code-execution"),
        (("--tasks", "piqa"), "has no data set baber/piqa; fill it where there is internet, with: llm360 eval mirror"),
        (("--tasks", "arc_easy", "--checkpoint", "ckpt_900"), "there is no checkpoint 'ckpt_900'; there are init"),
        (("--tasks", "arc_easy", "--limit", "0"), "--limit is 0; it must be at least 1"),
        (("--tasks", "arc_easy", "--batch-size", "no"), "--batch-size 'no': a number from 1 to 65,536, or auto"),
        (("--tasks", "arc_easy", "--device", "cuda:99"), "--device cuda:99: this machine has"),
        (("--tasks", "arc_easy", "--uid", "../x"), "--uid '../x': letters, digits and '-'"),
        (("--tasks", "arc_easy", "--out", "x"), "--out belongs to 'llm360 eval mirror'"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_sentence_and_leaves_nothing(evaluate, trained_copy, words, sentence):
    before = sorted(info.key for info in trained_copy.storage.list())
    code, results, told = evaluate("--checkpoint", "latest", *words)
    assert (code, results) == (2, None)
    assert sentence in told
    assert len(told.strip().splitlines()) == 1
    assert sorted(info.key for info in trained_copy.storage.list()) == before


def test_a_release_that_can_only_be_read_is_refused_before_anything_is_asked_of_it(evaluate):
    code, results, told = evaluate("--checkpoint", "latest", "--tasks", "arc_easy", uri="http://127.0.0.1:9/run")
    assert (code, results) == (2, None)
    assert told == (
        "llm360: error: http://127.0.0.1:9/run can only be read; results go into the release, so give a copy that is"
        " writable\n"
    )


def test_a_last_word_that_cannot_be_left_is_told(evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv(TERMINATION_LOG, str(tmp_path))
    code, results, told = evaluate("--checkpoint", "init", "--tasks", "arc_easy", "--limit", "2")
    assert (code, len(results)) == (2, 1)
    assert f"llm360: error: cannot write {tmp_path}: " in told
    code, _, told = evaluate("--checkpoint", "init", "--tasks", "arc_eazy")
    assert code == 2
    assert "has no task 'arc_eazy'" in told


def test_a_checkpoint_that_does_not_verify_is_named_and_the_others_go_on(evaluate, trained_copy):
    path = next(Path(trained_copy.uri).glob("checkpoints/step_000000000/*/model/model-00002*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, results, told = evaluate("--checkpoint", "all", "--tasks", "arc_easy")
    assert code == 1
    assert "checkpoint init (checkpoints/step_000000000/a001) does not verify" in told
    assert [bool(result["error"]) for result in results] == [True, False, False, False]
    assert [entry.step for entry in evals(trained_copy)] == [6, 12, 18]


def test_results_of_another_version_of_the_harness_are_kept_apart(evaluate, trained_copy, monkeypatch):
    evaluate("--checkpoint", "latest", "--tasks", "arc_easy")
    monkeypatch.setattr("llm360_trainer.evaluate.run.HARNESS", "lm-eval 9.9")
    evaluate("--checkpoint", "latest", "--tasks", "arc_easy")
    assert [entry.harness for entry in evals(trained_copy)] == [HARNESS, "lm-eval 9.9"]
    assert len({entry.prefix for entry in evals(trained_copy)}) == 2


def test_files_of_an_earlier_try_of_the_job_are_left_alone(evaluate, trained_copy):
    (checkpoint,) = open_release(trained_copy.storage).history().branch[-1:]
    prefix = f"evals/step_{checkpoint.step:09d}/{checkpoint.name.removeprefix('sha256:')}/arc_easy-job-3"
    trained_copy.storage.put(f"{prefix}/results.json", b"of a pod that died before its entry")
    evaluate("--checkpoint", "latest", "--tasks", "arc_easy", "--uid", "job-3")
    (entry,) = evals(trained_copy)
    assert entry.prefix == f"{prefix}.2"
    assert trained_copy.storage.get(f"{prefix}/results.json") == b"of a pod that died before its entry"


def test_weights_that_do_not_fit_are_told(evaluate, trained_copy, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("llm360_trainer.exchange.opened.read_tensors", too_large)
    code, _, told = evaluate("--checkpoint", "latest", "--tasks", "arc_easy")
    assert code == 1
    assert "the weights of ckpt_002 do not fit into the memory of cpu" in told
    assert evals(trained_copy) == []


def test_what_is_loaded_is_bad_input_where_there_is_no_tokenizer(evaluate, trained_copy, monkeypatch):
    from llm360_trainer.exchange import opened

    small_file = opened.small_file
    monkeypatch.setattr(
        opened,
        "small_file",
        lambda root, manifest, name: None if "tokenizer" in name else small_file(root, manifest, name),
    )
    code, _, told = evaluate("--checkpoint", "latest", "--tasks", "arc_easy")
    assert code == 2
    assert "the release has no tokenizer beside its checkpoints, and tasks are text" in told


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--checkpoint", "latest"), ("--mirror", "s3://b/m"), ("--limit", "3"), ("--seed", "1"), ("--device", "cpu"),
        ("--dtype", "float32"), ("--uid", "job-1"), ("--batch-size", "4"), ("--samples", None),
    ],
)  # fmt: skip
def test_filling_a_mirror_refuses_what_it_has_no_use_for(option, value, tmp_path, capsys):
    words = [option] if value is None else [option, value]
    assert main.run(("eval", "mirror", "--tasks", "arc_easy", "--out", str(tmp_path / "mirror"), *words)) == 2
    assert capsys.readouterr().err == (
        f"llm360: error: {option} belongs to an evaluation; 'llm360 eval mirror' takes --tasks, --out and"
        " --allow-code-execution\n"
    )
    assert not (tmp_path / "mirror").exists()


def test_every_option_belongs_to_an_evaluation_or_a_mirror_or_both():
    parser = argparse.ArgumentParser()
    configure(parser)
    both = {"help", "uri", "tasks", "out", "allow_code_execution", "output"}
    options = {action.dest: action.default for action in parser._actions if action.dest not in both}
    assert options == OF_EVALUATION
