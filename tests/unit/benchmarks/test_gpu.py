"""The order of GPU measurements, what is left out and what is kept, without a GPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(benchmark_module):
    return benchmark_module("gpu")


@pytest.fixture
def one(gpu):
    """Makes a measurement that runs a line of Python."""

    def make(code, name="a", seconds=1, needs=None):
        return gpu.Measurement(name, ("-c", code), seconds, needs)

    return make


WRITE = "import pathlib; pathlib.Path('{out}/a.json').write_text('{{}}')"


def in_seconds(seconds):
    return time.monotonic() + seconds


def test_what_is_measured_is_not_measured_again(gpu, one, tmp_path):
    assert gpu.measure(one(WRITE), tmp_path, in_seconds(60)).startswith("done in ")
    assert gpu.measure(one("raise SystemExit(1)"), tmp_path, in_seconds(60)) == "is there"


def test_what_failed_is_measured_again(gpu, one, tmp_path):
    (tmp_path / "a.json").write_text('{"ours": {"failed": "out of memory"}}')
    later = one(WRITE, name="b", needs="a")
    assert gpu.measure(later, tmp_path, in_seconds(60)) == "left out: it needs the result of a"
    assert gpu.measure(one(WRITE), tmp_path, in_seconds(60)).startswith("done in ")


def test_what_the_time_does_not_suffice_for_is_left_out(gpu, one, tmp_path):
    assert gpu.measure(one(WRITE, seconds=90), tmp_path, in_seconds(60)).startswith("left out: it needs 90 s, ")
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_is_ended_when_the_time_is(gpu, one, tmp_path):
    said = gpu.measure(one("import threading; threading.Event().wait()"), tmp_path, in_seconds(2))
    assert said.startswith("failed: not done after 2 s")
    assert not (tmp_path / "a.json").exists()


def test_a_failure_says_the_last_line(gpu, one, tmp_path):
    said = gpu.measure(one("print('before'); raise SystemExit('it needs a CUDA device')"), tmp_path, in_seconds(60))
    assert said.startswith("failed after ")
    assert said.endswith("it needs a CUDA device")


def test_what_builds_on_a_missing_result_is_left_out(gpu, one, tmp_path):
    said = gpu.measure(one(WRITE, needs="best"), tmp_path, in_seconds(60))
    assert said == "left out: it needs the result of best"


def test_the_table_has_the_planners_memory(gpu, tmp_path):
    setting = {
        "micro_batch": 2,
        "precision": "bf16",
        "attention": "auto",
        "compile": True,
        "checkpointing": "none",
        "activation_gib": 0.0,
        "reshard": False,
        "documents": False,
    }
    ours = {"setting": setting, "seconds": 2.0, "tokens_per_second": 10_000.0, "mfu": 0.5, "memory_bytes": 2**37}
    work = {"layers": 32, "batch_rows": 10, "sequence_length": 2048}
    found = {"work": work, "ours": ours, "tried": [ours, {"setting": setting, "failed": "out of memory"}]}
    (tmp_path / "best.json").write_text(json.dumps(found))
    (tmp_path / "peer.json").write_text(json.dumps(found | {"tried": [], "peer": {"seconds": 3.0}}))
    half = ours | {"tokens_per_second": 5_000.0}
    (tmp_path / "documents.json").write_text(json.dumps(found | {"ours": half, "tried": []}))
    lines = list(gpu.table(tmp_path))
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| best", "| best tried", "| documents"]
    assert "| 10,000 | 50.0% | 1.000 | 128.0 GiB |" in lines[2]
    assert 115 < float(lines[2].split(" | ")[-1].removesuffix(" GiB |")) < 140
    assert "| 5,000 | 50.0% | 0.500 |" in lines[4]
    assert lines[-1].endswith("ours 1.50 × as fast")


def test_a_result_that_was_cut_off_is_none(gpu, one, tmp_path):
    (tmp_path / "a.json").write_text('{"ours": {"sec')
    assert len(list(gpu.table(tmp_path))) == 2, "the head alone"
    assert gpu.measure(one(WRITE), tmp_path, in_seconds(60)).startswith("done in ")


def test_without_a_gpu_it_says_so(gpu, tmp_path):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path / "out")],
        env={"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "gpu.py: error: torch finds no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()
