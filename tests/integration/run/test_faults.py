"""Whatever is killed, and whenever: the same command again ends with the bits of an undisturbed run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

Train = Callable[..., Any]
LAST_STEP = 80


def verify(store: str | Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm360.cli.main", "verify", str(store), "--data", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_worker_driver_and_ctrl_c_leave_the_same_bits(
    undisturbed: Any,
    prepared_store: Path,
    spec_file: Path,
    train: Train,
    read_history: Any,
    bits_of: Any,
    losses_of: Any,
) -> None:
    """One run on a folder: a worker is killed, then the driver, then ctrl-C, each at a random moment."""
    moments = random.Random(360)
    run = train(spec_file, "--store", prepared_store)
    run.wait_for_step(moments.randint(2, 20))
    moments.choice(run.workers()).kill()
    run.wait_for_step(moments.randint(24, 40), attempt=2)
    run.kill()

    run = train(spec_file, "--store", prepared_store)
    run.wait_for_step(moments.randint(45, 60), attempt=3)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT
    assert run.last_line()["reason"] == "Interrupted"
    committed = read_history(prepared_store)
    assert committed.covers(1, 45), "an interrupted run commits its records"

    assert train(spec_file, "--store", prepared_store).end() == 0
    history = read_history(prepared_store)
    assert history.attempt == 4
    assert bits_of(history) == bits_of(undisturbed.history)
    assert losses_of(prepared_store) == losses_of(undisturbed.store)
    verified = verify(prepared_store)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_complete_run_says_so_and_does_nothing(
    undisturbed: Any, tmp_path: Path, train: Train, read_history: Any
) -> None:
    spec = undisturbed.store.parent / "tiny.yaml"
    before = read_history(undisturbed.store).head
    result = subprocess.run(
        [sys.executable, "-m", "llm360.cli.main", "run", str(spec), "--store", str(undisturbed.store)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0
    assert "complete already" in result.stdout
    assert read_history(undisturbed.store).head == before


def test_on_s3_with_the_store_away_for_a_while(
    undisturbed: Any,
    s3_server: Any,
    s3_bucket: Any,
    spec_file: Path,
    train: Train,
    read_history: Any,
    bits_of: Any,
) -> None:
    """One run on S3: the driver is killed, the store hangs for some seconds, the run waits, says so and goes on."""
    store = f"{s3_bucket.uri}/release"
    arguments = [spec_file, "--store", store, "--set", f"data.uri={undisturbed.data}"]
    run = train(*arguments, environment=s3_bucket.environment)
    run.wait_for_step(random.Random(1).randint(10, 30))
    run.kill()

    run = train(*arguments, environment=s3_bucket.environment)
    run.wait_for_step(33, attempt=2)
    with s3_server.down():
        run.wait_for_text("the store is unavailable, waiting for it")
    run.wait_for_text("the store answers again")
    assert run.end() == 0
    history = read_history(store, s3_bucket.options)
    assert [digests[1:] for digests in bits_of(history)] == [digests[1:] for digests in bits_of(undisturbed.history)]
    verified = verify(store)
    assert verified.returncode == 0, verified.stdout + verified.stderr


# A model whose steps take long enough that a second driver can start while the first trains.
SLOW = (
    "model.hiddenSize=384", "model.intermediateSize=1024", "model.numLayers=8",
    "training.batchSize=2", "parallelism.microBatch=1",
)  # fmt: skip
"""Several hundred steps: the older run must still be at it when the newer, on a busy machine, has started."""


def test_the_newer_of_two_drivers_goes_on(
    prepared_store: Path, spec_file: Path, train: Train, read_history: Any
) -> None:
    arguments = [spec_file, "--store", prepared_store, *(part for field in SLOW for part in ("--set", field))]
    older = train(*arguments)
    older.wait_for_step(1)
    newer = train(*arguments)
    newer.wait_for_text("attempt 2 starts")
    assert older.end(seconds=15) == 3
    assert older.last_line()["reason"] == "Fenced"
    assert "attempt 2 has claimed the run" in older.last_line()["message"]
    newer.wait_for_step(1, attempt=2)
    newer.process.send_signal(signal.SIGINT)
    assert newer.end() == 128 + signal.SIGINT
    assert read_history(prepared_store).attempt == 2
    assert verify(prepared_store).returncode == 0


def test_a_spoiled_checkpoint_is_refused_and_another_world_size_goes_on(
    undisturbed: Any, prepared_store: Path, spec_file: Path, train: Train, read_history: Any, losses_of: Any
) -> None:
    """3 workers write; the newest checkpoint gets a flipped byte, the one before loses a file; 1 worker goes on."""
    # Without checkpoints for resuming alone: those that the rest of the run removed would be missing after the cut.
    arguments = [spec_file, "--store", prepared_store, "--set", "checkpoints.resumeEvery=null"]
    assert train(*arguments, "--set", "cluster.workers.replicas=3").end() == 0
    *_, older, newer = forget_after(prepared_store, read_history(prepared_store), step=60)
    flip_byte(next((prepared_store / newer.body.prefix / "state").glob("*.safetensors")))
    shutil.move(prepared_store / older.body.prefix / "state" / "head.safetensors", prepared_store / "moved")

    assert train(*arguments, "--set", "cluster.workers.replicas=1").end() == 0
    history = read_history(prepared_store)
    assert [fallback.refused for fallback in history.fallbacks] == [(newer.name,), (older.name,)]
    assert "head.safetensors is missing" in history.fallbacks[1].reason
    expected = losses_of(undisturbed.store)
    assert losses_of(prepared_store) == pytest.approx(expected, abs=1e-5)
    verified = verify(prepared_store)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def forget_after(store: Path, history: Any, step: int) -> list[Any]:
    """Cut the ledger behind the checkpoint of a step, as if the run had been killed there; give what remains."""
    last = next(entry for entry in history.branch if entry.step == step)
    for entry in history.entries[last.seq + 1 :]:
        (store / entry.key).unlink()
    return [c for c in history.resume_candidates() if c.step <= step]


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
