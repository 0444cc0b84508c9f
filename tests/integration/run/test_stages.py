"""Three stages in one ledger, killed in each: the same bits as undisturbed, and verified across."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Train = Callable[..., Any]
LLM360 = [sys.executable, "-m", "llm360.cli.main"]

# As CrystalCoder's: text first, then code turned around from empty moments, then other text with the moments kept.
STAGES = [
    {"name": "text", "mix": {"docs": 1.0}},
    {
        "name": "code",
        "mix": {"code": 1.0},
        "batchSize": 6,
        "optimizerState": "reset",
        "fim": {"rate": 0.9, "spmRate": 0.5},
        "schedule": {"kind": "linear", "peakLearningRate": 1e-3, "endLearningRate": 1e-4, "warmupSteps": 3},
    },
    {"name": "last", "mix": {"docs": 1.0}, "batchSize": 5, "steps": 18},
]
SPEC = {
    "apiVersion": "llm360.ai/v1alpha1",
    "kind": "LLM360Run",
    "metadata": {"name": "staged"},
    "spec": {
        "preset": "amber-tiny",
        "model": {"vocabSize": 512, "hiddenSize": 256, "intermediateSize": 512, "numLayers": 6, "numHeads": 4},
        "training": {"sequenceLength": 64, "batchSize": 7, "schedule": {"warmupSteps": 5}},
        "parallelism": {"microBatch": 4},
        "data": {"chunks": 1, "stages": STAGES},
        "checkpoints": {"resumeEvery": 8, "schedule": {"everySteps": 10}},
        "recovery": {"backoffSeconds": 0, "maxAttempts": 20},
        "cluster": {"workers": {"replicas": 1}},  # every start costs a rank's imports; more ranks are tested beside
    },
}


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLM360, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_stages_killed_in_each_leave_the_same_bits(
    tmp_path: Path, train: Train, read_history: Any, bits_of: Any, losses_of: Any
) -> None:
    spec = tmp_path / "staged.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    calm, store = tmp_path / "calm", tmp_path / "release"
    undisturbed = train(spec, "--store", calm)
    assert undisturbed.end() == 0, undisturbed.log.read_text()[-4000:]
    shutil.copytree(calm / "data", store / "data")

    run = train(spec, "--store", store)
    run.wait_for_step(11)
    run.workers()[0].kill()
    run.wait_for_step(29, attempt=2)
    run.kill()
    run = train(spec, "--store", store)
    run.wait_for_step(47, attempt=3)
    run.workers()[-1].kill()
    assert run.end() == 0, run.log.read_text()[-4000:]

    history, expected = read_history(store), read_history(calm)
    assert history.attempt == 4
    assert bits_of(history) == bits_of(expected)
    assert losses_of(store) == losses_of(calm)
    assert [(stage.name, stage.step, stage.num_steps, stage.batch_rows) for stage in history.stages] == [
        ("text", 0, 20, 7),
        ("code", 20, 20, 6),
        ("last", 40, 18, 5),
    ]
    labels = {label: known.step for known in history.branch for label in known.body.labels}
    assert labels == {
        "init": 0,
        "text-0001": 10,
        "text-0002": 20,
        "code-0001": 30,
        "code-0002": 40,
        "last-0001": 50,
        "last-0002": 58,
    }
    across = next(known.body for known in history.branch if known.step == 24)
    assert [(span.stage, span.first_step, span.last_step) for span in across.data] == [(1, 0, 3)]

    verified = command("verify", store, "--data", "--bytes", "all")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    listed = json.loads(command("ls", store, "--stage", "code", "-o", "json").stdout)
    published = [item for item in listed["checkpoints"] if item["published"]]
    assert [(item["labels"], item["stageStep"]) for item in published] == [(["code-0001"], 10), (["code-0002"], 20)]
