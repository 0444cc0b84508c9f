"""Writers in processes of their own, killed at random moments, on a folder and on a real S3 server."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm360.release.entries import TrainingDraft
from llm360.release.ledger import Ledger
from llm360.release.verify import verify

APPENDER = str(Path(__file__).with_name("appender.py"))
DEADLINE = 60.0


class Appender:
    """A running appender and the entries that it says were acknowledged."""

    def __init__(self, home: str, mode: str, name: str) -> None:
        self.acknowledged: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, APPENDER, home, mode, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.acknowledged += (line.strip() for line in self.process.stdout if line.endswith("\n"))

    def wait(self) -> int:
        code = self.process.wait(DEADLINE)
        self.reader.join(DEADLINE)
        return code

    def close(self) -> str:
        """Kill it if it still runs; returns what it wrote to standard error."""
        self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return errors


@pytest.fixture
def start(home: str) -> Iterator[Callable[[str, str], Appender]]:
    started: list[Appender] = []

    def start(mode: str, name: str) -> Appender:
        started.append(Appender(home, mode, name))
        return started[-1]

    yield start
    for appender in started:
        if appender.process.poll() is None:
            appender.close()


def wait_for(appender: Appender, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, appender.close()
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged(storage, start):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    appenders = [start("analyse", f"w{i}") for i in range(3)]
    ledger = Ledger(storage)
    for i, appender in enumerate(appenders):
        wanted = len(ledger.entries()) + 5
        wait_for(appender, lambda wanted=wanted: len(ledger.entries()) >= wanted)
        appenders[chance.randrange(i + 1)].process.kill()
        time.sleep(chance.random() * 0.05)
    for appender in appenders:
        appender.close()
    report = verify(storage)
    assert report.checks[1].status == "ok", (seed, report.first_fault)
    names = [entry.name for entry in Ledger(storage).entries()]
    acknowledged = [name for appender in appenders for name in appender.acknowledged]
    assert len(names) == len(set(names)), seed
    assert set(acknowledged) <= set(names), seed
    labels = [entry.body.name for entry in Ledger(storage).entries()[1:]]
    assert len(labels) == len(set(labels)), seed


@pytest.mark.slow
def test_newer_driver_goes_on_and_the_older_stops_with_exit_3(storage, start):
    older = start("train", "older")
    ledger = Ledger(storage)
    wait_for(older, lambda: len(ledger.entries()) > 4)
    newer = start("train", "newer")
    assert older.wait() == 3
    wait_for(newer, lambda: ledger.history().skips[-1].reason == "newer")
    assert "attempt 2 has claimed the run" in older.close()
    newer.close()
    newest = 0
    for entry in ledger.entries():
        if isinstance(entry.body, TrainingDraft):
            assert entry.body.attempt >= newest
            newest = entry.body.attempt
    assert newest == 2
    assert verify(storage).checks[3].status == "ok"
