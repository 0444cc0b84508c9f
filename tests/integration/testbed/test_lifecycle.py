"""The testbed comes up from any state, refuses a second one, and goes without a trace."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from testbed import cluster, layout, network
from testbed.process import wait_until

TESTS = layout.CHECKOUT / "tests"


def command(*arguments: str, tests: Path = TESTS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "testbed", *arguments],
        cwd=tests,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "LLM360_TESTBED_CACHE": str(layout.CACHE)},
    )


def said(*arguments: str, tests: Path = TESTS, seconds: float = 300) -> tuple[int, str]:
    process = command(*arguments, tests=tests)
    try:
        printed, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return process.returncode, printed


def machine_state() -> dict[str, list[str]]:
    """What a testbed could leave on a machine, read without its help."""
    lines = {
        "mounts": [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()],
        "namespaces": [path.name for path in layout.NAMESPACES.glob("*")],
        "interfaces": [path.name for path in Path("/sys/class/net").iterdir()],
        "routes": subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines(),
        "rules": [
            re.sub(r"\[\d+:\d+\]", "", line)
            for line in subprocess.run(
                ["iptables-save"], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            if not line.startswith("#")
        ],
        "groups": [str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()],
        "loops": [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")],
        "programs": [name for pid in Path("/proc").glob("[0-9]*") if is_server(name := program(pid))],
    }
    return {kind: sorted(found) for kind, found in lines.items()}


def program(process: Path) -> str:
    """Name of a living process; one that has ended and waits for init to notice has none."""
    try:
        name, _, state = (process / "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return ""
    return "" if state.split()[0] == "Z" else name


def is_server(name: str) -> bool:
    return name.startswith(
        ("kube", "etcd", "server", "containerd", "docker-registr", "pause", "weed", "manager", "kwok")
    )


@pytest.fixture
def no_testbed(machine):
    """A machine without a testbed; one that a developer keeps up is left alone."""
    found = cluster.owner()
    if found and found.ready and cluster.is_whole():
        pytest.skip(f"{found} is up and in use; `make cluster-down` first")
    code, printed = said("down", "--force")
    assert code == 0, printed
    if layout.NAMESPACES.exists() and not any(layout.NAMESPACES.iterdir()):
        network.forget_namespaces()  # as on a machine that never had one


def test_it_survives_being_killed_refuses_a_second_and_leaves_nothing(no_testbed, tmp_path, capsys):
    before = machine_state()

    killed = command("up")
    wait_until(
        lambda: (layout.LOGS / "kube-apiserver.log").exists() or killed.poll() is not None, "the API server", 240
    )
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert cluster.leftovers()

    code, printed = said("up")
    assert code == 0, printed
    assert "interrupted" in printed
    with capsys.disabled():
        print(f"\n{printed}")

    assert said("up") == (0, f"testbed: already up: {cluster.owner()}\n")

    shutil.copytree(TESTS / "testbed", tmp_path / "tests" / "testbed")
    for arguments in (("up",), ("down",)):
        code, printed = said(*arguments, tests=tmp_path / "tests")
        assert code == 1
        assert f"the testbed of {layout.CHECKOUT}" in printed
        assert "make cluster-down" in printed
    assert cluster.is_whole()

    code, printed = said("down")
    assert code == 0, printed
    assert machine_state() == before
    assert cluster.leftovers() == []
    assert said("down") == (0, "testbed: nothing is up\n")
