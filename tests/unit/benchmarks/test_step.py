"""The step's benchmark at its small size on a CPU, as CI and a bare machine run it."""

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


@pytest.fixture
def step(benchmark_module):
    return benchmark_module("step")


@pytest.fixture
def setting(benchmark_module):
    return benchmark_module("step_setting")


@pytest.fixture
def breakdown_module(benchmark_module):
    return benchmark_module("step_breakdown")


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
    # Two micro batches, which both fit as they are; the fastest was measured again.
    assert [found["setting"]["micro_batch"] for found in result["tried"]] == [1, 2]
    assert ours["setting"] == min(result["tried"], key=lambda found: found["seconds"])["setting"]


def a_device(gib):
    """Measures settings of 10 rows on a device with so much memory."""
    kept_gib = {"none": 9, "selective": 6, "full": 0.5}  # of a row
    compute = {"none": 10, "selective": 11, "full": 13, "measured": 10}

    def try_out(setting):
        is_measured = setting.checkpointing == "measured"
        kept = setting.activation_gib if is_measured else setting.micro_batch * kept_gib[setting.checkpointing]
        used = 100 + 13 * (not setting.reshard) + kept
        tried.append((setting.micro_batch, setting.checkpointing, setting.reshard))
        if used > gib:
            return {"failed": "out of memory"}
        seconds = compute[setting.checkpointing] + setting.reshard + 5 / setting.micro_batch
        return {"seconds": seconds, "memory_bytes": used * 2**30}

    tried = []
    return tried, try_out


def test_a_sweep_tries_no_more_recomputation_than_is_needed(setting):
    base = setting.Setting(precision="fp8-rowwise")
    tried, try_out = a_device(140)
    best = setting.sweep(base, 10, 140 * 2**30, try_out)
    assert tried == [
        (1, "none", False),
        (2, "none", False),
        (5, "none", False),  # 158 GiB
        (5, "none", True),  # 145 GiB
        (5, "selective", False),  # 143 GiB
        (5, "selective", True),
        (5, "measured", True),
        (10, "selective", True),  # what was too large for 5 rows is not tried again
        (10, "full", False),
        (10, "measured", False),
    ]
    assert best == setting.Setting(10, "fp8-rowwise", checkpointing="measured", activation_gib=16.0)


def test_a_sweep_in_which_nothing_fits_reports_why(setting):
    tried, try_out = a_device(50)
    assert setting.sweep(setting.Setting(), 10, 50 * 2**30, try_out) == setting.Setting()
    assert len(tried) == 6


def test_a_sweep_that_is_late_goes_on_with_the_fastest_so_far(setting):
    tried, try_out = a_device(140)
    best = setting.sweep(setting.Setting(), 10, 140 * 2**30, try_out, lambda: len(tried) >= 2)
    assert tried == [(1, "none", False), (2, "none", False)]
    assert best == setting.Setting(2)


def test_an_earlier_result_gives_the_setting_and_flags_change_it(setting, tmp_path):
    path = tmp_path / "best.json"
    path.write_text(json.dumps({"ours": {"setting": {**vars(setting.Setting(5, compile=True))}}}))
    flags = dict.fromkeys(setting.Setting.__dataclass_fields__)
    found = setting.given_setting({**flags, "documents": True, "compile": False}, path)
    assert found == setting.Setting(5, compile=False, documents=True)


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"ours": {"failed": "out of memory"}}'])
def test_a_result_that_is_none_is_one_sentence(step, monkeypatch, capsys, tmp_path, text):
    path = tmp_path / "best.json"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["step.py", "--like", str(path), "--device", "cpu"])
    assert step.main() == 2
    assert f"step.py: error: --like {path}: " in capsys.readouterr().err


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
