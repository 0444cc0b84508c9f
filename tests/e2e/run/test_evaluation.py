"""A run is evaluated while it trains and after it: on the pool's nodes, whatever is lost, each task once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from synthetic.eval_data import fill_mirror
from testbed import faults, kubectl, layout
from testbed.kubectl import Object

from llm360.release.create import open_release
from llm360.storage import Storage, open_storage

START_SECONDS, POD_SECONDS, DONE_SECONDS, EVALUATED_SECONDS = 600, 300, 900, 900
POOL = "llm360.ai/eval=true"
TASKS = [{"name": "arc_easy", "shots": 1}, {"name": "hellaswag", "shots": 0}]
ADDED = {"name": "truthfulqa_mc2", "shots": 0}
LABELS = ["arc_easy:1", "hellaswag:0", "truthfulqa_mc2:0"]
PERPLEXITY = "analysis/perplexity"


@pytest.fixture
def store(testbed: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Storage]:
    """Opens addresses of the testbed's store from this process."""
    for name, value in testbed.s3_environment.items():
        monkeypatch.setenv(name, value)
    return open_storage


@pytest.fixture
def mirror(bucket: str, store: Callable[[str], Storage]) -> str:
    """Where the tasks' data lie: the cluster reaches no hub."""
    uri = f"s3://{bucket}/eval-data"
    fill_mirror(store(uri))
    return uri


def pool() -> set[str]:
    """Names of the nodes that evaluations may run on."""
    return {node["metadata"]["name"] for node in kubectl.find("nodes", None, POOL)}


@pytest.fixture
def move_pool() -> Iterator[Callable[[set[str]], None]]:
    """Has evaluations run on other nodes; afterwards on those of before."""
    before = pool()
    assert before, f"no node is labelled {POOL}"

    def move(to: set[str]) -> None:
        for node in layout.NODES:
            label = POOL if node.name in to else f"{POOL.partition('=')[0]}-"
            kubectl.kubectl("label", "node", node.name, label, "--overwrite")

    yield move
    move(before)


def pods(run: Any) -> list[Object]:
    """The run's evaluation pods that run now."""
    found = kubectl.find("pods", run.namespace, f"llm360.ai/run={run.name},llm360.ai/evaluation")
    return [pod for pod in found if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]]


def evaluated(run: Any, labels: list[str]) -> bool:
    """Whether the status says that all checkpoints have all of these, and that no Job is left."""
    said = run.status.get("evaluation", {})
    is_done = said.get("tasks") == labels and said["due"] == said["done"] and not said["running"]
    return is_done and run.condition("Evaluated").get("status") == "True"


def results(uri: str, store: Callable[[str], Storage]) -> dict[str, list[str]]:
    """Of each published checkpoint the tasks that have an entry in the ledger, by its step."""
    history = open_release(store(uri)).history()
    assert history.complete is not None
    evals = [(body.checkpoint, f"{body.task}:{body.shots}") for body in history.evals]
    published = [checkpoint for checkpoint in history.branch if checkpoint.body.published]
    return {str(c.step): sorted(label for name, label in evals if name == c.name) for c in published}


@pytest.mark.takes(minutes=18)
def test_every_checkpoint_is_evaluated_while_the_run_trains_and_after_it(
    operator, testbed, watcher, make_run, mirror, move_pool, store, llm360, kubectl_llm360
):
    evaluation = {"tasks": TASKS, "mirror": mirror, "cpus": 0.2, "memory": "3Gi"}
    run = make_run("measured", data={"chunks": 3}, evaluation=evaluation)
    run.apply()
    run.wait(lambda: pods(run), "a pod that evaluates", START_SECONDS)
    (pod,) = pods(run)
    assert {pod["spec"]["nodeName"]} <= pool()
    with faults.pod(pod["metadata"]["name"], run.namespace):
        uid = pod["metadata"]["uid"]
        run.wait(lambda: any(each["metadata"]["uid"] != uid for each in pods(run)), "another pod", POD_SECONDS)
    assert {each["spec"]["nodeName"] for each in pods(run)} <= pool()

    run.wait_for_reason("Complete", DONE_SECONDS, "Succeeded")
    run.wait(lambda: not run.pods(), "the end of head and workers", POD_SECONDS)
    run.wait(lambda: evaluated(run, LABELS[:2]), "all evaluations", EVALUATED_SECONDS)
    found = results(run.uri, store)
    assert len(found) == run.status["checkpoints"] == 4
    assert set(map(tuple, found.values())) == {tuple(LABELS[:2])}, "each task once for each checkpoint"
    assert run.status["evaluations"] == 8
    assert run.status["attempt"] == 1, "the training was disturbed"

    lost, kept = layout.NODES
    move_pool({lost.name})
    added = {"tasks": [*TASKS, ADDED], "analyses": ["perplexity"]}
    run.patch({"evaluation": {**added, "tolerations": [{"key": layout.GPU, "operator": "Exists"}], "maxRunning": 2}})
    with faults.operator():
        run.wait(lambda: pods(run), "a pod that evaluates what was added", POD_SECONDS)
    assert {each["spec"]["nodeName"] for each in pods(run)} == {lost.name}
    move_pool({lost.name, kept.name})
    with faults.node_lost(lost):
        run.wait(lambda: evaluated(run, [*LABELS, PERPLEXITY]), "what was added, on the other node", EVALUATED_SECONDS)
    assert set(map(tuple, results(run.uri, store).values())) == {tuple(LABELS)}, "the added task alone"
    analysed = [body.checkpoint for body in open_release(store(run.uri)).history().analyses]
    assert len(analysed) == len(set(analysed)) == 4, "the documents held out, once by each checkpoint"
    assert run.status["phase"] == "Succeeded"
    # A Job goes once its result is stored, so the last of them is seen a little longer.
    run.wait(lambda: not kubectl.find("jobs", run.namespace, "llm360.ai/evaluation"), "the end of all Jobs", 60)
    llm360("verify", run.uri)

    (score,) = [
        each for each in run.status["evaluation"]["scores"] if (each["task"], each["metric"]) == ("arc_easy", "acc")
    ]
    assert score["step"] == run.status["totalSteps"]
    series = f'llm360_evaluation_score{{namespace="{run.namespace}",run="measured",task="arc_easy",metric="acc"}}'
    run.wait(lambda: watcher.newest(series) == score["value"], "the score in Prometheus", 60)
    assert "evaluated    4 of 4 checkpoints" in kubectl_llm360("status", run)
