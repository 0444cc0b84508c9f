"""Preparation through Ray Data in processes of its own: cores, kills and errors."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

DEADLINE = 240


@pytest.fixture(scope="module")
def expected(command, prepare_command, contents, tmp_path_factory):
    """What one core makes, by key."""
    folder = tmp_path_factory.mktemp("prepared")
    output, errors = command(*prepare_command(folder, "--cpus", "1"))
    assert "chunks      3 of" in output
    assert "writing 3/3" in errors
    return contents(folder)


def test_any_number_of_cores_gives_the_same_bytes(command, prepare_command, contents, expected, tmp_path):
    _, errors = command(*prepare_command(tmp_path, "--cpus", "3"))
    assert contents(tmp_path) == expected
    assert len(expected) == 5
    assert not [line for line in errors.splitlines() if "WARN" in line or "Traceback" in line]


def test_error_in_a_task_is_the_users_sentence(command, prepare_command, corpus, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n' * 20 + "{\n")
    words = prepare_command(tmp_path / "out")
    words[3] = f"a={tmp_path}/bad.jsonl:1"
    _, errors = command(*words, code=2)
    assert "bad.jsonl line 21: is not JSON" in errors
    assert "Traceback" not in errors
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


# Runs a command with blocks and runs so small that there is always something left to interrupt.
SMALL_CUTS = """
import sys
from llm360_trainer.prepare import pipeline
from llm360.cli.main import run
pipeline.prepare.__kwdefaults__.update(block_chars=2000, run_bytes=4000)
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("stage", ["parts", "runs", "shards"])
def test_killed_in_any_pass_the_same_command_goes_on(prepare_command, contents, expected, tmp_path, stage):
    """SIGKILL once a pass has left its first files; the second start reuses them and ends with the same bytes."""
    killed = tmp_path / "killed"
    process = start(prepare_command(killed))
    wait_for_files(killed, f"scratch/*/{stage}/*", process)
    kill(process)
    left = list(killed.glob(f"scratch/*/{stage}/*"))
    assert not (killed / "manifest.json").exists()
    ages = {path: path.stat().st_mtime_ns for path in left}
    again = start(prepare_command(killed))
    changed = watch_changes(ages, again)
    assert again.wait(timeout=DEADLINE) == 0
    assert changed == []
    assert contents(killed) == expected


def start(words, stderr=subprocess.DEVNULL):
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_CUTS, *words, "--cpus", "2"],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
    )


def kill(process):
    """The command and all that it started, Ray's processes among them."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def wait_for_files(folder, pattern, process):
    deadline = time.monotonic() + DEADLINE
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)


def watch_changes(ages, process):
    """Files that are written anew while the process runs; at its end it removes them all."""
    changed = set()
    while process.poll() is None:
        for path, age in ages.items():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime_ns != age:
                    changed.add(path.name)
        time.sleep(0.005)
    return sorted(changed)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line_and_the_same_command_goes_on(
    prepare_command, contents, expected, tmp_path, signal_number
):
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("wb") as stderr:
        process = start(prepare_command(out), stderr)
    wait_for_files(out, "scratch/*/parts/*", process)
    process.send_signal(signal_number)
    assert process.wait(timeout=60) == 128 + signal_number
    lines = log.read_text().splitlines()
    assert lines[-1] == "llm360: interrupted; the same command goes on where it stopped"
    expected_words = ("reading", "tokenizing", "sorting", "writing", "llm360")  # it may have gone on meanwhile
    assert all(line.startswith(expected_words) for line in lines), lines
    assert start(prepare_command(out)).wait(timeout=DEADLINE) == 0
    assert contents(out) == expected


@pytest.mark.parametrize(("address", "sentence"), [("127.0.0.1:1", "lets us in"), ("bad:addr", "write HOST:PORT")])
def test_no_cluster_at_the_address(command, prepare_command, tmp_path, address, sentence):
    _, errors = command(*prepare_command(tmp_path / "out", "--address", address), code=2)
    assert errors.count("\n") == 2
    assert sentence in errors.splitlines()[1]
