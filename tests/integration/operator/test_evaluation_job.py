"""What an evaluation's pod runs, run here as its Job says: what it leaves is what the operator reads."""

from __future__ import annotations

import re

import pytest
from synthetic.eval_data import fill_mirror
from synthetic.trained import trained_release

from llm360.cli import main
from llm360.release.create import open_release
from llm360.spec import resolve
from llm360.storage import open_storage
from llm360_operator import builders
from llm360_operator.evaluated import Memory
from llm360_operator.names import JOB_NAME_LABEL
from llm360_operator.seen import read_evaluation

UID = "8d4f0d7e-5a4e-4a55-9f0e-6a8f7e3b9c11"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return trained_release(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    fill_mirror(open_storage(str(folder)))
    return f"file://{folder}"


@pytest.fixture
def run_job(release, mirror, tmp_path, monkeypatch, capfd):
    """Runs the program of the Job that evaluates a checkpoint; its exit code, and what the operator reads."""
    branch = open_release(release.storage).history().branch
    log = tmp_path / "termination-log"

    def run(*labels, of=-1):
        checkpoint = branch[of]
        spec = {"preset": "amber-tiny", "storage": {"uri": release.storage.uri}, "evaluation": {"mirror": mirror}}
        made = {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run", "spec": spec}
        made["metadata"] = {"name": "amber", "namespace": "research", "uid": "u-1", "generation": 1}
        config = resolve(made)
        job = builders.evaluation_job(made, config, config.spec.evaluation, checkpoint.step, checkpoint.name, labels)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        stated = {each["name"]: each.get("value", UID) for each in container["env"]}
        for name, value in (stated | {"LLM360_TERMINATION_LOG": str(log)}).items():
            monkeypatch.setenv(name, value)
        log.unlink(missing_ok=True)
        program, *arguments = [expanded(word, stated) for word in container["command"]]
        assert program == "llm360"
        try:
            code = main.run(arguments)
        except SystemExit as error:  # of argparse
            code = error.code
        said = log.read_text() if log.exists() else capfd.readouterr().err[-2048:]  # FallbackToLogsOnError
        job["status"] = {"conditions": [{"type": "Failed" if code else "Complete", "status": "True"}]}
        pod = {"metadata": {"name": "x", "labels": {JOB_NAME_LABEL: job["metadata"]["name"]}}}
        pod["status"] = {"containerStatuses": [{"state": {"terminated": {"message": said}}}]}
        return code, read_evaluation(job, [pod])

    return run


def expanded(word, environment):
    """As Kubernetes does it."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda found: environment[found[1]] if found[1] else "$", word)


def test_its_tasks_are_in_the_ledger_and_its_scores_in_its_last_message_and_a_second_try_adds_nothing(release, run_job):
    labels = ("arc_easy:1", "hellaswag")
    code, evaluated = run_job(*labels)
    assert (code, evaluated.state) == (0, "Succeeded"), evaluated.message
    evals = open_release(release.storage).history().evals
    assert {body.task for body in evals} == {"arc_easy", "hellaswag"}
    assert all(f"-{UID}" in body.prefix for body in evals)
    memory = Memory(labels).knowing([{"step": evaluated.step, "entry": evaluated.digest}]).taking(evaluated)
    assert memory.records[0].done == set(labels)
    assert {("arc_easy", "acc"), ("hellaswag", "acc_norm")} <= memory.scores.keys()
    stored = {(body.task, score.metric): score.value for body in evals for score in body.scores}
    assert {key: score["value"] for key, score in memory.scores.items()} == stored
    assert run_job(*labels)[0] == 0
    assert len(open_release(release.storage).history().evals) == len(evals)


@pytest.mark.parametrize("label", ["arc_easy:1", "analysis/forgetting"])
def test_it_tells_of_the_checkpoints_after_its_own(release, run_job, label):
    """So that an operator that was away when they were published learns of them."""
    code, evaluated = run_job(label, of=0)
    assert (code, evaluated.state) == (0, "Succeeded"), evaluated.message
    branch = open_release(release.storage).history().branch
    memory = Memory((label,)).knowing([{"step": branch[0].step, "entry": branch[0].name}]).hearing(evaluated)
    assert [(record.step, record.digest) for record in memory.records] == [(c.step, c.name) for c in branch]


def test_what_cannot_be_done_is_told_and_not_tried_again(run_job):
    code, evaluated = run_job("arc_eazy")
    assert (code, evaluated.state) == (builders.BAD_INPUT, "Failed")
    assert "arc_easy" in evaluated.message, "the nearest name is told"
    code, evaluated = run_job("analysis/memorisation")
    assert code == builders.BAD_INPUT
    assert "memorization" in evaluated.message


@pytest.mark.parametrize("name", ["memorization", "perplexity"])
def test_an_analysis_of_the_checkpoint_is_in_the_ledger(release, run_job, name):
    code, evaluated = run_job(f"analysis/{name}")
    assert (code, evaluated.state) == (0, "Succeeded"), evaluated.message
    newest = open_release(release.storage).history().analyses[-1]
    assert (newest.name, newest.checkpoint) == (name, evaluated.digest)
