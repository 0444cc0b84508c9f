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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Train = Callable[..., Any]
LLM360 = [sys.executable, "-m", "llm360.cli.main"]

# The preset itself, made short: 20 steps a stage at most.
SHORT = {
    "model.vocabSize": 512,
    "training.batchSize": 8,
    "parallelism.microBatch": 8,
    "data.stages[0].chunks": 1,
    "data.stages[0].steps": 20,
    "data.stages[1].chunks": 1,
    "data.stages[1].steps": 20,
    "data.stages[1].batchSize": 7,
    "data.stages[2].chunks": 1,
    "data.stages[2].steps": 18,
    # Code is the larger part of the text; one stage is enough to prepare it for.
    "data.stages[0].mix.code": "null",
    "data.stages[2].mix.code": "null",
    "checkpoints.resumeEvery": 8,
    "recovery.backoffSeconds": 0,
    "recovery.maxAttempts": 20,
    "cluster.workers.replicas": 1,  # every start costs a rank's imports; more ranks are tested beside
}
CRYSTAL_TINY = ("crystal-tiny", *(part for field, value in SHORT.items() for part in ("--set", f"{field}={value}")))


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLM360, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_crystal_tiny_killed_in_each_stage_leaves_the_same_bits(
    tmp_path: Path, train: Train, read_history: Any, bits_of: Any, losses_of: Any
) -> None:
    calm, store = tmp_path / "calm", tmp_path / "release"
    undisturbed = train(*CRYSTAL_TINY, "--store", calm)
    assert undisturbed.end() == 0, undisturbed.log.read_text()[-4000:]
    shutil.copytree(calm / "data", store / "data")

    run = train(*CRYSTAL_TINY, "--store", store)
    run.wait_for_step(11)
    run.workers()[0].kill()
    run.wait_for_step(29, attempt=2)
    run.kill()
    run = train(*CRYSTAL_TINY, "--store", store)
    run.wait_for_step(47, attempt=3)
    run.workers()[-1].kill()
    assert run.end() == 0, run.log.read_text()[-4000:]

    history, expected = read_history(store), read_history(calm)
    assert history.attempt == 4
    assert bits_of(history) == bits_of(expected)
    assert losses_of(store) == losses_of(calm)
    assert [(stage.name, stage.step, stage.num_steps, stage.batch_rows) for stage in history.stages] == [
        ("stage1", 0, 20, 8),
        ("stage2", 20, 20, 7),
        ("stage3", 40, 18, 8),
    ]
    labels = {label: known.step for known in history.branch for label in known.body.labels}
    assert labels == {
        "stage1-0001": 15,
        "stage1-0002": 20,
        "stage2-0001": 35,
        "stage2-0002": 40,
        "stage3-0001": 50,
        "stage3-0002": 58,
    }
    across = next(known.body for known in history.branch if known.step == 24)
    assert [(span.stage, span.first_step, span.last_step) for span in across.data] == [(1, 0, 3)]

    verified = command("verify", store, "--data", "--bytes", "all")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    listed = json.loads(command("ls", store, "--stage", "stage2", "-o", "json").stdout)
    published = [item for item in listed["checkpoints"] if item["published"]]
    assert [(item["labels"], item["stageStep"]) for item in published] == [(["stage2-0001"], 15), (["stage2-0002"], 20)]
