"""Real runs of `llm360 run` in processes of their own: a model of seconds on the text that every Python carries."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.metrics import run_table
from llm360.storage import StorageOptions, open_storage

LLM360 = [sys.executable, "-m", "llm360.cli.main"]
DEADLINE = 400.0
POLL = 0.05
SEED_VARIABLE = "LLM360_TEST_SEED"

# 4 chunks of 20 steps; a step takes some tenths of a second on two cores, so that a kill lands where it is meant to.
SPEC = {
    "apiVersion": "llm360.ai/v1alpha1",
    "kind": "LLM360Run",
    "metadata": {"name": "tiny"},
    "spec": {
        "preset": "amber-tiny",
        "model": {"vocabSize": 512, "hiddenSize": 256, "intermediateSize": 512, "numLayers": 6, "numHeads": 4},
        "training": {"sequenceLength": 64, "batchSize": 7, "schedule": {"warmupSteps": 5}},
        "parallelism": {"microBatch": 4},
        "data": {"chunks": 4},
        "checkpoints": {"resumeEvery": 8},
        "recovery": {"backoffSeconds": 0, "maxAttempts": 20},
    },
}
# All documents become rows: how far the losses of other world sizes drift apart depends on the rows.
OPTIONS = ["--set", "data.heldOut=null", "--port", "0", "--log-format", "json", "--log-interval", "0"]


class RunTimeoutError(AssertionError):
    """Something did not happen in time; carries what the run printed."""


@dataclass
class TrainingProcess:
    """`llm360 run` as a child process whose lines are read from a file."""

    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*LLM360, "run", *self.arguments, *OPTIONS],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def lines(self) -> list[dict[str, object]]:
        """What it has printed, the lines that are JSON."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, what: str, is_there: Callable[[dict[str, object]], bool], seconds: float = DEADLINE) -> None:
        """Wait until a printed line fulfils the predicate."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            is_over = self.process.poll() is not None  # asked first: what it printed last counts too
            if any(is_there(line) for line in self.lines()):
                return
            if is_over:
                raise RunTimeoutError(f"the run ended before {what}:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(POLL)
        raise RunTimeoutError(f"not within {seconds} s: {what}\n{self.log.read_text(errors='replace')[-4000:]}")

    def wait_for_step(self, step: int, attempt: int = 1) -> None:
        def reached(line: dict[str, object]) -> bool:
            return line.get("event") == "step" and int(line["step"]) >= step and int(line["attempt"]) >= attempt  # type: ignore[call-overload]

        self.wait_for(f"step {step} of attempt {attempt}", reached)

    def wait_for_text(self, text: str, seconds: float = DEADLINE) -> None:
        self.wait_for(repr(text), lambda line: text in str(line.get("message", "")), seconds)

    def wait_until_it_answers_signals(self) -> None:
        """Wait until the command has loaded Ray; until then Python itself may still be starting."""
        maps, end = Path(f"/proc/{self.process.pid}/maps"), time.monotonic() + DEADLINE
        while "_raylet" not in maps.read_text():
            assert time.monotonic() < end, f"not started within {DEADLINE} s"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(POLL)

    def metrics(self) -> str:
        """The page that its driver serves to Prometheus."""
        said = "status and metrics on "
        self.wait_for_text(said)
        address = next(text.removeprefix(said) for line in self.lines() if said in (text := str(line.get("message"))))
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def workers(self) -> list[psutil.Process]:
        """The rank processes."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                if "RayTrainWorker" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def wait_for_workers(self, seconds: float = DEADLINE) -> list[psutil.Process]:
        """Wait until there are rank processes, and give them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if workers := self.workers():
                return workers
            time.sleep(POLL)
        raise RunTimeoutError(f"no workers within {seconds} s:\n{self.log.read_text(errors='replace')[-4000:]}")

    def is_over_within(self, seconds: float) -> bool:
        """Let it go on for so long; say whether it has ended meanwhile."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, seconds: float = DEADLINE) -> int:
        """Wait for the end and give the exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise RunTimeoutError(f"no end within {seconds} s:\n{self.log.read_text()[-4000:]}") from None

    def kill(self, *, and_wait: bool = True) -> None:
        """SIGKILL the driver, then wait until what it started is gone, but for Ray's agents, which write nothing."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(30)
        if and_wait:
            end = time.monotonic() + 60
            while alive := [child for child in children if may_write(child)]:
                assert time.monotonic() < end, f"outlived the driver: {alive}"
                time.sleep(POLL)

    def press_ctrl_c(self) -> None:
        """SIGINT to all that runs in the foreground, as a terminal sends it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def last_line(self) -> dict[str, str]:
        """The JSON that a bad end leaves as the last line on standard error."""
        return json.loads(self.log.read_text().splitlines()[-1])


@pytest.fixture
def moments() -> random.Random:
    """Chooses moments, other ones each time; a failure shows the seed, which the variable sets to have the same."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().getrandbits(32))
    print(f"{SEED_VARIABLE}={seed} chooses the same moments again")
    return random.Random(seed)


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """The small run's specification."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., TrainingProcess]]:
    """Starts runs; whatever is left of them at the end is killed."""
    started: list[TrainingProcess] = []

    def start(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> TrainingProcess:
        log = tmp_path / f"run-{len(started)}.log"
        process = TrainingProcess([str(a) for a in arguments], log, environment or {})
        started.append(process)
        return process

    yield start
    for run in started:
        if run.process.poll() is None:
            children = psutil.Process(run.process.pid).children(recursive=True)
            os.killpg(run.process.pid, signal.SIGKILL)
            for child in children:
                if child.is_running():
                    child.kill()
            run.process.wait(30)


@dataclass(frozen=True)
class Finished:
    """A release that no one disturbed, and its prepared data."""

    store: Path
    history: History
    metrics: str
    """The page that its driver served in the middle of it."""

    @property
    def data(self) -> str:
        return f"file://{self.store}/data/stage1"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The small run, trained once from its preparation to its end on 2 workers."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = folder / "tiny.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    store = folder / "release"
    run = TrainingProcess([str(spec), "--store", str(store)], folder / "log")
    run.wait_for_step(30)
    metrics = run.metrics()
    assert run.end() == 0, run.log.read_text()[-4000:]
    return Finished(store, history_of(str(store)), metrics)


@pytest.fixture
def prepared_store(undisturbed: Finished, tmp_path: Path) -> Path:
    """A store for a new run that finds its data prepared already."""
    store = tmp_path / "release"
    shutil.copytree(undisturbed.store / "data", store / "data")
    return store


def history_of(store: str | Path, options: StorageOptions | None = None) -> History:
    return open_release(open_storage(str(store), options)).history()


def may_write(process: psutil.Process) -> bool:
    """Whether a process still runs and is none of Ray's agents. One that starts takes its name a moment later."""
    try:
        return (
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE and not process.name().endswith("Agent")
        )
    except psutil.NoSuchProcess:
        return False


def bits(history: History) -> list[tuple[int, str, str]]:
    """Step, model and state digest of every published checkpoint: the bits of the whole run."""
    assert history.complete is not None, "the run is not complete"
    return [(c.step, c.body.digests.model, c.body.digests.state) for c in history.branch if c.body.published]


@pytest.fixture(scope="session")
def read_history() -> Callable[..., History]:
    """Reads what a release's ledger says: `read_history(store)`."""
    return history_of


@pytest.fixture(scope="session")
def bits_of() -> Callable[[History], list[tuple[int, str, str]]]:
    """The digests by which two complete runs are compared."""
    return bits


@pytest.fixture(scope="session")
def losses_of() -> Callable[..., dict[int, float]]:
    """Every step's loss, exactly as recorded: `losses_of(store)`."""

    def losses(store: str | Path, options: StorageOptions | None = None) -> dict[int, float]:
        storage = open_storage(str(store), options)
        table = run_table(storage, open_release(storage).history())
        return dict(zip(table["step"].to_pylist(), table["loss"].to_pylist(), strict=True))

    return losses
