"""The benchmark of float8's loss runs, and its report follows from the losses that it writes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "precision.py"
SMALL = ("--hidden", "32", "--layers", "1", "--vocab", "300", "--batch", "2", "--sequence-length", "16")


def bench(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=300)


def test_float8_is_trained_beside_bf16(tmp_path):
    path = tmp_path / "precision.json"
    done = bench(*SMALL, "--steps", "3", "--precision", "fp8-rowwise", "--json", str(path))
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert list(found["losses"]) == ["bf16", "fp8-rowwise"]
    ours, base = found["losses"]["fp8-rowwise"], found["losses"]["bf16"]
    assert all(math.isfinite(loss) for loss in (*ours, *base))
    assert ours != base, "nothing was rounded"
    run = found["runs"]["fp8-rowwise"]
    assert run["final_loss"] == pytest.approx(sum(ours) / 3)
    assert run["final_gap"] == pytest.approx(sum(ours) / 3 - sum(base) / 3)
    assert "float8 emulated" in done.stdout
    starts = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert starts == ["bf16", "fp8-rowwise"]
