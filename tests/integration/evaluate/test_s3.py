"""Evaluations of a release in a bucket, by processes of their own that reach no hub; one is killed and begun again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from synthetic.eval_data import fill_mirror
from synthetic.trained import trained_release

from llm360.release.create import open_release
from llm360.release.verify import verify
from llm360.storage import open_storage

DEADLINE = 300
TASKS = "arc_easy:2,hellaswag:1"


@pytest.fixture
def uri(s3_bucket, tmp_path) -> str:
    """A trained release and a mirror in one bucket."""
    local = trained_release(tmp_path).storage
    remote = open_storage(f"{s3_bucket.uri}/run")
    for info in local.list():
        remote.put(info.key, local.get(info.key))
    fill_mirror(open_storage(f"{s3_bucket.uri}/eval-data"))
    return s3_bucket.uri


def command(uri: str) -> list[str]:
    words = ["eval", f"{uri}/run", "--checkpoint", "all", "--tasks", TASKS, "--mirror", f"{uri}/eval-data"]
    return [sys.executable, "-m", "llm360.cli.main", *words, "--uid", "job-1"]


def test_killed_and_begun_again_it_computes_what_is_missing(uri):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command(uri), stdout=subprocess.PIPE, text=True, env=environment)
    try:
        for _ in range(3):
            assert first.stdout.readline(), "a result as soon as it is there"
    finally:
        first.kill()
        first.wait(DEADLINE)
        first.stdout.close()
    ledger = open_release(open_storage(f"{uri}/run"))
    before = len(ledger.history().evals)
    assert 3 <= before < 8
    second = subprocess.run(
        [*command(uri), "-o", "json"], capture_output=True, text=True, env=environment, timeout=DEADLINE
    )
    assert second.returncode == 0, second.stderr
    results = json.loads(second.stdout)["results"]
    assert [result["was_there"] for result in results] == [True] * before + [False] * (8 - before)
    evals = ledger.history().evals
    assert len({(entry.checkpoint, entry.task) for entry in evals}) == len(evals) == 8
    assert verify(open_storage(f"{uri}/run"), bytes="all").ok
