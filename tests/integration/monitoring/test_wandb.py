"""The program of docs/how-to/monitoring.md that hands a run to Weights & Biases, with their library, offline."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import release

from llm360.monitoring.tables import records
from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.storage import open_storage

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[3]
WANDB = "wandb==0.31.0"
OFFLINE = ("dns error", "error sending request", "Connection refused", "Failed to fetch", "operation timed out")
"""What uv says where it has no network."""

pytestmark = pytest.mark.slow


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An environment of its own with wandb, which nothing else here needs."""
    uv = shutil.which("uv") or str(ROOT / ".venv-uv/bin/uv")
    if not Path(uv).exists():
        pytest.skip("needs uv to install wandb")
    program = tmp_path / "env/bin/python"
    certificates = {"UV_SYSTEM_CERTS": "true"} if Path("/etc/ssl/certs/ca-certificates.crt").exists() else {}
    for command in (
        ["venv", "--python", sys.executable, tmp_path / "env"],
        ["pip", "install", "--python", program, WANDB],
    ):
        made = subprocess.run(
            [uv, *command], env=certificates | os.environ, capture_output=True, text=True, timeout=300
        )
        if any(words in made.stderr for words in OFFLINE):
            pytest.skip(f"needs the package index for {WANDB}: {made.stderr[-300:]}")
        assert made.returncode == 0, made.stderr
    return program


def test_every_step_is_in_the_offline_run(python: Path, tmp_path: Path) -> None:
    guide = (ROOT / "docs/how-to/monitoring.md").read_text()
    (program,) = re.findall(r"```python\n(import .*?wandb.*?)```", guide, re.DOTALL)
    (tmp_path / "to_wandb.py").write_text(program)
    storage = open_storage(str(tmp_path / "amber-tiny"))
    release.eventful_release(storage)
    command = [sys.executable, "-m", "llm360.cli.main", "metrics", storage.uri, "--format", "jsonl"]
    lines = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    own = {f"WANDB_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    made = subprocess.run(
        [python, "to_wandb.py"], cwd=tmp_path, env=os.environ | own, input=lines, capture_output=True, timeout=300
    )
    assert made.returncode == 0, made.stderr.decode()

    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    read = subprocess.run([python, HERE / "wandb_history.py", file], capture_output=True, text=True, check=True)
    logged = [json.loads(line) for line in read.stdout.splitlines()]
    table = run_table(storage, open_release(storage).history())
    assert len(logged) == table.num_rows == 400
    for said, record in zip(logged, records(table), strict=True):
        assert (said["_step"], said["step"]) == (record.step, record.step)
        assert float(said["loss"]) == pytest.approx(record.loss, nan_ok=True)
        assert float(said["grad_norm"]) == pytest.approx(record.grad_norm, nan_ok=True)
        assert {name: said[f"loss/{name}"] for name in record.source_loss} == pytest.approx(record.source_loss)
