"""The step's benchmark at its small size on a CPU, as CI and a bare machine run it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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
        "--prefetch",
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
    # On a CPU nothing runs beside anything: the parts are the profiled step.
    assert sum(parts.values()) == pytest.approx(ours["breakdown_seconds"])
    assert "one step under the profiler took" in done.stdout
    # Two micro batches, which both fit as they are; the fastest was measured again.
    assert [found["setting"]["micro_batch"] for found in result["tried"]] == [2, 1]
    assert ours["setting"] == min(result["tried"], key=lambda found: found["seconds"])["setting"]


def a_device(gib):
    """Measures settings of 10 rows on a device with so much memory."""
    kept_gib = {"none": 9, "selective": 6, "full": 0.5}  # of a row
    compute = {"none": 10, "selective": 11, "full": 13}

    def try_out(setting):
        is_measured = setting.checkpointing == "measured"
        kept = setting.activation_gib if is_measured else setting.micro_batch * kept_gib[setting.checkpointing]
        # While a block is made again not all of the others' results are there any more.
        used = max(112, 100 + 13 * (not setting.reshard) + kept)
        tried.append((setting.micro_batch, setting.checkpointing, setting.reshard))
        if used > gib:
            return {"failed": "out of memory"}
        work = 13 - kept / setting.micro_batch / 3 if is_measured else compute[setting.checkpointing]
        return {"seconds": work + setting.reshard / 4 + 20 / setting.micro_batch, "memory_bytes": used * 2**30}

    tried = []
    return tried, try_out


def test_a_sweep_fills_the_memory_from_the_largest_micro_batch_on(setting):
    base = setting.Setting(precision="fp8-rowwise")
    tried, try_out = a_device(141)

    def least(one):
        return 2**30 * (100 + one.micro_batch * {"none": 9, "selective": 4}.get(one.checkpointing, 0))

    best = setting.sweep(base, 10, 141 * 2**30, try_out, least_memory=least)
    assert tried == [
        # Without recomputation neither 10 nor 5 rows can fit: 190 and 145 GiB.
        (10, "selective", False),  # 173 GiB
        (10, "selective", True),
        (10, "full", False),
        (10, "measured", False),  # in 17 GiB
        (10, "measured", False),  # in 22 GiB, since 11 were left
        (10, "full", True),
        (10, "measured", True),  # in 23 GiB
        (10, "measured", True),  # in 35 GiB, since 18 were left
        (5, "selective", False),  # 143 GiB
        (5, "selective", True),
        (5, "full", False),
        (5, "measured", False),
        (5, "measured", False),
        (5, "full", True),
        (5, "measured", True),
        (5, "measured", True),
        (2, "none", False),
        (1, "none", False),
    ]
    assert best == setting.Setting(10, "fp8-rowwise", checkpointing="measured", activation_gib=35.0, reshard=True)


def test_a_sweep_in_which_nothing_fits_reports_why(setting):
    tried, try_out = a_device(50)
    assert setting.sweep(setting.Setting(), 1, 50 * 2**30, try_out) == setting.Setting()
    assert len(tried) == 6


def test_a_sweep_that_is_late_goes_on_with_the_fastest_so_far(setting):
    tried, try_out = a_device(140)
    best = setting.sweep(setting.Setting(), 2, 140 * 2**30, try_out, lambda: len(tried) >= 1)
    assert tried == [(2, "none", False)]
    assert best == setting.Setting(2)


def test_what_needs_more_than_there_is_is_not_tried(step, benchmark_module, setting):
    """The bound holds against memory that was measured: Amber 7B, 10 rows, on an H200."""
    work = benchmark_module("step_work").load_work("amber-7b", small=False)
    eager = setting.Setting(10, reshard=True)
    assert 130 * 10**9 < step.least_memory(work, eager) < 150 * 10**9
    full = setting.Setting(10, checkpointing="full", reshard=True)
    assert 12 * 6_738_415_616 < step.least_memory(work, full) < 90 * 10**9
    assert step.least_memory(work, full) < step.least_memory(work, setting.Setting(5, checkpointing="full"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (NotImplementedError("no rule for flex_attention\nhint"), "NotImplementedError: no rule for flex_attention"),
    ],
)
def test_a_setting_that_fails_does_not_end_a_sweep(step, setting, monkeypatch, error, said):
    def measure(*_arguments):
        raise error

    monkeypatch.setattr(step, "measure", measure)
    mesh = SimpleNamespace(device_type="cpu")
    assert step.attempt(setting.Setting(), None, mesh, 1, 1) == {"setting": vars(setting.Setting()), "failed": said}


def test_without_cuda_it_says_so(step, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["step.py", "--device", "cuda"])
    assert step.main() == 2
    assert "step.py: error: --device cuda: torch finds no CUDA device" in capsys.readouterr().err


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
