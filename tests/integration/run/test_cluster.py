"""`--address`: a Ray cluster that is already there is used, and is still there afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

START_SECONDS = 120.0


@pytest.fixture
def ray_cluster(free_ports: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray of one node with token authentication, as `ray start` makes it; its address."""
    port, client_port = free_ports(2)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
    command += [f"--port={port}", f"--ray-client-server-port={client_port}"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    log = tmp_path / "ray.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ})
    end = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, f"Ray did not start in {START_SECONDS} s:\n{log.read_text()}"
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    children = psutil.Process(process.pid).children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            child.kill()
    process.kill()
    process.wait(30)
    psutil.wait_procs(children, timeout=30)


def test_a_run_on_a_cluster_has_the_bits_of_a_local_one(
    undisturbed: Any,
    prepared_store: Path,
    spec_file: Path,
    train: Any,
    ray_cluster: str,
    read_history: Any,
    bits_of: Any,
) -> None:
    assert train(spec_file, "--store", prepared_store, "--address", ray_cluster).end() == 0
    assert bits_of(read_history(prepared_store)) == bits_of(undisturbed.history)


def test_no_cluster_at_the_address(prepared_store: Path, spec_file: Path, train: Any) -> None:
    run = train(spec_file, "--store", prepared_store, "--address", "127.0.0.1:1")
    assert run.end() == 2
    assert run.last_line()["reason"] == "RayUnreachable"


def test_a_cluster_without_gpus_is_waited_for_and_the_second_signal_is_obeyed_at_once(
    prepared_store: Path, spec_file: Path, train: Any, ray_cluster: str
) -> None:
    """Nodes may join later; meanwhile the log says what the run waits for."""
    cuda = ("device=cuda", "gpus=1", "replicas=2")
    overrides = [part for field in cuda for part in ("--set", f"cluster.workers.{field}")]
    run = train(spec_file, "--store", prepared_store, "--address", ray_cluster, *overrides)
    run.wait_for_text("s for 2 workers with 1 GPU and 1 CPU each; the cluster has 0 GPUs (0 free), 2 CPUs", 150)
    while run.process.poll() is None:  # the first alone would end it, too, in some seconds; two at once count as one
        run.process.send_signal(signal.SIGTERM)
        time.sleep(1)
    assert run.end() == 128 + signal.SIGTERM
    assert run.last_line()["reason"] == "Interrupted"
    assert "SIGTERM again, stopped at once; run it again to go on" in run.last_line()["message"]
