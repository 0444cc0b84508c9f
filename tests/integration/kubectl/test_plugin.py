"""`kubectl llm360 …` through real kubectl against a small API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llm360.cli.kube.completion import complete
from llm360.cli.kube.main import PLUGIN
from llm360.cli.main import run

ROOT = Path(__file__).parents[3]
TRAINING = {
    "phase": "Training",
    "observedGeneration": 1,
    "step": 41,
    "totalSteps": 100,
    "tokens": 3_370_000,
    "loss": 3.25,
    "tokensPerSecond": 1234.5,
    "checkpoints": 1,
    "latestCheckpoint": {"step": 40, "labels": ["ckpt_000"], "modelDigest": "sha256:0"},
    "attempt": 2,
    "submission": 1,
    "conditions": [
        {"type": "Ready", "status": "True", "reason": "Training", "message": "step 41 of 100"},
        {"type": "Progressing", "status": "True", "reason": "Training", "message": "step 41 of 100"},
    ],
}


def plugin(*words):
    return run(words, PLUGIN)


def test_status_of_a_run(cluster, capsys):
    cluster.put_run(status=TRAINING)
    assert plugin("status", "llm360run.llm360.ai/amber") == 0
    out = capsys.readouterr().out
    assert "run          amber (preset amber-tiny) in namespace research\n" in out
    assert "] 41%, step 41 of 100\n" in out
    assert "checkpoints  1, the last one ckpt_000 at step 40\n" in out


def test_watching_shows_changes_until_the_end(cluster, capsys):
    cluster.put_run(status=TRAINING)
    cluster.after = {3: [lambda found: found["status"].update(phase="Succeeded", step=100)]}
    assert plugin("status", "amber", "-w", "-o", "json", "--interval", "0.1") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["phase"], line["step"]) for line in lines] == [("Training", 41), ("Succeeded", 100)]


def test_watching_a_failed_run_exits_with_1(cluster, capsys):
    cluster.put_run(status=TRAINING | {"phase": "Failed"})
    assert plugin("status", "amber", "-w") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["amver"], "there is no run 'amver' in kubectl's present namespace (did you mean 'amber'?)"),
        (["amber", "-n", "elsewhere"], "there is no run 'amber' in namespace 'elsewhere'"),
        (["amber", "--context", "nowhere"], "context was not found for specified context: nowhere"),
    ],
)
def test_what_is_not_there_is_bad_input(cluster, capsys, words, said):
    cluster.put_run()
    assert plugin("status", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_cluster_without_the_definition(cluster, capsys):
    cluster.has_crd = False
    assert plugin("status", "amber") == 2
    assert "the cluster knows no LLM360Run; install the chart" in capsys.readouterr().err


def test_an_api_server_that_is_away(cluster, capsys):
    cluster.server.shutdown()
    cluster.server.server_close()
    assert plugin("status", "amber") == 1
    assert "the API server gave no answer" in capsys.readouterr().err


def test_suspend_and_resume_change_one_field(cluster, capsys):
    made = cluster.put_run(status=TRAINING)
    assert plugin("suspend", "amber") == 0
    assert made["spec"]["suspend"] is True
    assert plugin("suspend", "amber") == 0
    assert "is to hold already" in capsys.readouterr().out
    assert plugin("resume", "amber") == 0
    assert plugin("resume", "amber") == 0
    assert "is not suspended (phase Training)" in capsys.readouterr().out
    kinds = {(path.rsplit("/", 1)[-1], kind) for path, kind, _ in cluster.patches}
    assert kinds == {("amber", "application/merge-patch+json")}
    assert [patch for *_, patch in cluster.patches] == [{"spec": {"suspend": True}}, {"spec": {"suspend": False}}]


def test_logs_of_the_driver_come_from_the_newest_head(cluster, capfd):
    cluster.put_run(status=TRAINING)
    cluster.put_pod("amber-head-old", "ray-head", "old\n", created="2026-11-22T11:00:00Z", ray_io="head")
    cluster.put_pod("amber-head-new", "ray-head", "step=41/100 loss=3.25\n")
    cluster.put_pod("amber-worker-0", "ray-worker", "worker\n", **{"ray.io/node_type": "worker"})
    assert plugin("logs", "amber") == 0
    captured = capfd.readouterr()
    assert captured.out == "step=41/100 loss=3.25\n"
    assert captured.err == "run amber: driver: amber-head-new\n"


def test_logs_of_several_workers_carry_their_pods(cluster, capfd):
    cluster.put_run(status=TRAINING)
    for index in range(6):
        cluster.put_pod(f"amber-worker-{index}", "ray-worker", f"worker {index}\n", **{"ray.io/node_type": "worker"})
    assert plugin("logs", "amber", "--of", "workers", "--tail", "5") == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == [f"[pod/amber-worker-{index}/ray-worker] worker {index}" for index in range(6)]


def test_logs_that_went_with_their_pods(cluster, capsys):
    cluster.put_run(status=TRAINING | {"phase": "Succeeded"})
    assert plugin("logs", "amber") == 1
    assert "run 'amber' has no driver pod now (phase Succeeded)" in capsys.readouterr().err


def test_verify_says_whose_credentials_are_missing(cluster, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = {"uri": "s3://releases/amber", "endpoint": "http://127.0.0.1:9", "secretRef": {"name": "releases-s3"}}
    cluster.put_run(status=TRAINING, storage=storage)
    assert plugin("verify", "amber") == 2
    error = capsys.readouterr().err
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in error
    assert (
        "The run's own are in Secret 'releases-s3' of namespace 'research', which this command does not read" in error
    )


def test_report_and_verify_open_the_runs_store(cluster, capsys, tmp_path):
    cluster.put_run(storage={"uri": f"file://{tmp_path}/release"})
    for command in ("report", "verify"):
        assert plugin(command, "amber") == 2
        assert f"there is no release at file://{tmp_path}/release" in capsys.readouterr().err


def test_completion_offers_commands_options_and_the_namespaces_runs(cluster):
    for name in ("amber", "amber-two", "crystal"):
        cluster.put_run(name)
    assert complete(["s"]) == ["status", "suspend"]
    assert complete(["status", "am"]) == ["amber", "amber-two"]
    assert complete(["status", "-n", "elsewhere", ""]) == []
    assert complete(["logs", "amber", "--of", ""]) == ["driver", "workers", "preflight", "evaluation"]
    assert complete(["status", "--context", ""]) == ["here"]
    assert "--interval" in complete(["status", "--"])


def test_completion_is_silent_without_a_cluster(cluster):
    cluster.server.shutdown()
    cluster.server.server_close()
    assert complete(["status", ""]) == []


def test_kubectl_finds_plugin_and_completion(cluster, tmp_path):
    cluster.put_run(status=TRAINING)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("kubectl-llm360", "kubectl_complete-llm360"):
        module, _, function = scripts[name].partition(":")
        script = tmp_path / "bin" / name
        script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        script.chmod(0o755)
    shown = subprocess.run(["kubectl", "llm360", "status", "amber"], capture_output=True, text=True, timeout=60)
    assert "step 41 of 100" in shown.stdout, shown.stderr
    offered = subprocess.run(
        ["kubectl", "__complete", "llm360", "status", "a"], capture_output=True, text=True, timeout=60
    )
    assert offered.stdout == "amber\n:4\n", offered.stderr
