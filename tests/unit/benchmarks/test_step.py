"""The step's benchmark at its small size on a CPU, as CI and a bare machine run it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = ROOT / "tests" / "benchmarks"
# What a bare GPU machine has not: importing one of these fails.
BARE = """
import runpy, sys
for name in ("ray", "boto3", "pydantic", "llm360"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-c", BARE, str(BENCHMARKS / "step.py"), "--device", "cpu", "--threads", "1", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "trainer"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def step():
    """The script as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("step")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def breakdown_module(step):
    return sys.modules["step_breakdown"]


def test_a_bare_machine_measures_a_preset(tmp_path):
    path = tmp_path / "result.json"
    done = bench(
        "--preset",
        "crystalcoder-7b",
        "--batch",
        "2",
        "--documents",
        "--steps",
        "2",
        "--warmup",
        "1",
        "--sweep",
        "--json",
        str(path),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    ours = result["ours"]
    assert len(ours["all_seconds"]) == 2
    assert ours["tokens_per_second"] == pytest.approx(2 * 64 / ours["seconds"])
    assert ours["mfu"] is None
    assert ours["attention"] == "sdpa"
    assert "no MFU" in done.stdout
    assert ours["losses"][-1] < ours["losses"][0]
    assert ours["memory_bytes"] > 2**20
    parts = ours["breakdown"]
    assert list(parts) == ["attention", "linear layers", "norm and rotary", "loss", "optimizer", "sharding", "gaps"]
    assert all(seconds > 0 for part, seconds in parts.items() if part != "gaps")
    # Two micro batches, three forms of recomputation, weights kept or not; the fastest was measured again.
    assert len(result["tried"]) == 12
    assert ours["setting"] == min(result["tried"], key=lambda found: found["seconds"])["setting"]


@pytest.mark.slow
def test_the_peer_runs_beside_on_a_resolved_specification(tmp_path):
    document = subprocess.run(
        [str(Path(sys.executable).with_name("llm360")), "spec", "resolve", "amber-tiny", "-o", "json"],
        capture_output=True,
        check=True,
    )
    spec, path = tmp_path / "amber.json", tmp_path / "result.json"
    spec.write_bytes(document.stdout)
    done = bench("--preset", str(spec), "--steps", "1", "--warmup", "1", "--peer", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text())["peer"]["seconds"] > 0
    assert "LlamaForCausalLM" in done.stdout


def test_a_preset_that_is_not_there_is_one_sentence(step, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "--preset", "nowhere.json", "--device", "cpu"])
    assert step.main() == 2
    assert "step.py: error: --preset nowhere.json: " in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--precision", "fp8-rowwise"), ("--attention", "flash")])
def test_what_the_device_has_not_is_said(step, monkeypatch, capsys, flags):
    monkeypatch.setattr(sys, "argv", ["step.py", "--preset", "amber-7b", "--device", "cpu", *flags])
    assert step.main() == 1
    assert f"{flags[0][2:]} {flags[1]}: it needs a CUDA device, found cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["aten::mm", "aten::linear"], "linear layers"),
        (["nvjet_hsh_128x256", "aten::mm", "MmBackward0"], "linear layers"),
        (["aten::mm", "_WeightedCrossEntropy"], "loss"),
        (["aten::bmm", "aten::scaled_dot_product_attention"], "attention"),
        (["aten::mul_", "Optimizer.step#AdamW.step", "llm360::update"], "optimizer"),
        (["aten::copy_", "FSDP::all_gather"], "sharding"),
        (["triton_poi_fused_add_mul_silu_0"], "norm and rotary"),
    ],
)
def test_operations_are_sorted_by_what_they_are_for(breakdown_module, names, part):
    assert breakdown_module.part_of(names) == part


def test_overlapping_kernels_are_busy_once(breakdown_module):
    assert breakdown_module.busy_seconds([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.6)]) == pytest.approx(4.0)
