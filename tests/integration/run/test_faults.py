"""Whatever is killed, and whenever: the same command again ends with the bits of an undisturbed run."""

from __future__ import annotations

import os
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


def verify(store: str | Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm360.cli.main", "verify", str(store), "--data", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


FAULTS = ("a worker is killed", "the driver is killed", "ctrl-C")
WINDOW = 15
"""Steps among which the one is chosen after which the first fault comes, and as many for each further fault."""
START_SECONDS = 6.0
"""The moments of a start lie within these; where one is over sooner, they lie in the first steps."""
AFTER_STEP_SECONDS = 1.5
"""Several steps: the moment after a step's line lies anywhere in those that follow, and in their checkpoints."""


def train_through_faults(start: Callable[[], Any], run: Any, moments: random.Random, read: Callable[[], Any]) -> None:
    """Each fault strikes once, in any order, in a start or among the steps; then the same command ends the run.

    Args:
        start: Starts the command.
        run: The first, started already.
        moments: Chooses when what happens.
        read: Reads the store's history.
    """
    for number, fault in enumerate(moments.sample(FAULTS, len(FAULTS))):
        step = moments.randint(1 + number * WINDOW, (number + 1) * WINDOW) if moments.random() < 0.6 else 0
        seconds = moments.uniform(0, AFTER_STEP_SECONDS if step else START_SECONDS)
        print(f"{fault} {seconds:.2f} s after {f'step {step}' if step else 'a start'}")
        if step:
            run.wait_for_step(step)
        else:
            run.wait_until_it_answers_signals()
        assert not run.is_over_within(seconds), run.log.read_text()[-4000:]
        if fault == "a worker is killed":
            moments.choice(run.wait_for_workers()).kill()
            continue
        if fault == "the driver is killed":
            run.kill(and_wait=moments.random() < 0.5)  # else what it started may still run beside the next
        else:
            run.press_ctrl_c()
            assert run.end() == 128 + signal.SIGINT
            assert run.last_line()["reason"] == "Interrupted"
            steps = [int(line["step"]) for line in run.lines() if line.get("event") == "step"]
            assert not steps or read().covers(1, steps[-1]), "an interrupted run commits its records"
            if "which is checkpointed" in run.last_line()["message"]:
                assert read().resume_point().step == steps[-1]
        run = start()
    assert run.end() == 0, run.log.read_text()[-4000:]


def test_on_a_folder_all_faults_leave_the_same_bits(
    undisturbed: Any,
    prepared_store: Path,
    spec_file: Path,
    train: Train,
    moments: random.Random,
    read_history: Any,
    bits_of: Any,
    losses_of: Any,
) -> None:
    def start() -> Any:
        return train(spec_file, "--store", prepared_store)

    train_through_faults(start, start(), moments, lambda: read_history(prepared_store))
    assert bits_of(read_history(prepared_store)) == bits_of(undisturbed.history)
    assert losses_of(prepared_store) == losses_of(undisturbed.store)
    verified = verify(prepared_store)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_complete_run_says_so_and_does_nothing(
    undisturbed: Any, tmp_path: Path, train: Train, read_history: Any
) -> None:
    spec = undisturbed.store.parent / "tiny.yaml"
    before = read_history(undisturbed.store).head
    command = [sys.executable, "-m", "llm360.cli.main", "run", str(spec), "--store", str(undisturbed.store)]
    result = subprocess.run([*command, "--set", "data.heldOut=null"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0
    assert "complete already" in result.stdout
    assert read_history(undisturbed.store).head == before


def test_on_s3_all_faults_and_the_store_away_leave_the_same_bits(
    undisturbed: Any,
    s3_server: Any,
    s3_bucket: Any,
    spec_file: Path,
    train: Train,
    moments: random.Random,
    read_history: Any,
    bits_of: Any,
    losses_of: Any,
) -> None:
    """First the store is away for some seconds: the run waits, says so and goes on."""
    store = f"{s3_bucket.uri}/release"

    def start() -> Any:
        data = f"data.uri={undisturbed.data}"
        return train(spec_file, "--store", store, "--set", data, environment=s3_bucket.environment)

    run = start()
    run.wait_for_step(moments.randint(1, 8))
    with s3_server.down():
        run.wait_for_text("the store is unavailable, waiting for it")
    run.wait_for_text("the store answers again")
    train_through_faults(start, run, moments, lambda: read_history(store, s3_bucket.options))
    assert bits_of(read_history(store, s3_bucket.options)) == bits_of(undisturbed.history)
    assert losses_of(store, s3_bucket.options) == losses_of(undisturbed.store)
    verified = verify(store)
    assert verified.returncode == 0, verified.stdout + verified.stderr


DIES_EARLY = """
import os, sys, time

class Dies:
    def find_spec(self, name, path=None, target=None):
        if name == "llm360_trainer.train.worker":
            time.sleep(3)
            os._exit(9)

sys.meta_path.insert(0, Dies())
"""
"""Ends every process that loads the ranks' code, as the kernel does where memory is short."""


def test_ranks_that_die_before_they_can_say_so_are_not_started_for_ever(
    prepared_store: Path, spec_file: Path, train: Train, read_history: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIES_EARLY)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    run = train(spec_file, "--store", prepared_store, "--set", "recovery.maxAttempts=2", environment=environment)
    assert run.end() == 4
    assert run.last_line()["reason"] == "AttemptsExhausted"
    assert run.last_line()["message"].startswith("2 attempts ended without a new checkpoint")
    assert read_history(prepared_store).attempt == 0, "no group lived to claim an attempt"


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
    history = read_history(prepared_store)
    assert history.attempt == 2
    last = max(int(line["step"]) for line in newer.lines() if line.get("event") == "step")
    assert history.resume_point().step == last, "its steps are checkpointed before it stops"
    assert f"after step {last}, which is checkpointed" in newer.last_line()["message"]
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
