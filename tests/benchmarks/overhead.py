"""What evaluating a run's checkpoints costs its training, apart from the processor that both would share.

A training (all its processes, Ray's included) has the first core; evaluations and the stores have the second. Three
kinds of windows take turns while the run trains, and every step that falls wholly into one counts:

    store     `llm360 eval` on the run's own release: it reads checkpoints beside the training that writes them, and
              appends its results to the ledger that the training appends to
    copy      the same evaluations on a copy of the release in a store of its own: the same work on the same core, and
              nothing shared with the training but the machine (memory, caches, clock)
    nothing   no evaluation

    seconds   of a step, without what a checkpoint held it up: mean over the window
    overhead  store / copy - 1: what the coupling through store and ledger costs; median of the rounds (goal: < 1%)
    sharing   copy / nothing - 1: what this machine's sharing costs, which a pool of other nodes has not
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from conftest import S3Server, start_server
from step_work import positive
from synthetic import eval_data

from llm360.errors import LLM360Error
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.metrics import run_table
from llm360.storage import Storage, open_storage

BUCKET, RUN = "benchmark", "s3://benchmark/run"
TRAINING_CORE, OTHER_CORE = 0, 1
START_SECONDS, EVALUATION_SECONDS, END_SECONDS = 300.0, 300.0, 120.0
TASKS = "arc_easy:1,hellaswag:0,truthfulqa_mc2:0"
EXAMPLES = """\
examples:
  python tests/benchmarks/overhead.py
  python tests/benchmarks/overhead.py --rounds 40 --steps 3000 --json result.json
"""


@dataclass(frozen=True)
class Window:
    """Of one kind of `store`, `copy` and `nothing`, in one round; seconds since 1970."""

    kind: str
    round: int
    begin: float
    end: float


def main() -> None:
    """Measure and print."""
    args = parse_arguments()
    if not {TRAINING_CORE, OTHER_CORE} <= os.sched_getaffinity(0):
        sys.exit(f"cores {TRAINING_CORE} and {OTHER_CORE} are needed, one for each side")
    os.sched_setaffinity(0, {OTHER_CORE})  # and with this process all that it starts, but for the training
    with tempfile.TemporaryDirectory(prefix="llm360-bench-") as name:
        folder = Path(name)
        eval_data.fill_mirror(open_storage(f"{folder}/mirror"))
        with server(folder / "own") as own, server(folder / "other") as other:
            with training(own, args, folder / "run.log") as process:
                wait_for_checkpoint(own, process, folder / "run.log")
                copy(own, other)
                windows = take_windows(own, other, process, folder, args.rounds)
            history, table = read(own)
        result = summary(args, history, windows, table)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=20, help="of the three kinds of windows; default 20")
    parser.add_argument(
        "--hidden", type=positive, default=320, help="hidden size of the model that trains; default 320"
    )
    parser.add_argument("--steps", type=positive, default=1600, help="of the training; default 1600")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


@contextlib.contextmanager
def server(folder: Path) -> Iterator[S3Server]:
    """A store."""
    folder.mkdir()
    started = start_server(folder)
    try:
        started.client().create_bucket(Bucket=BUCKET)
        yield started
    finally:
        started.end()


@contextlib.contextmanager
def storage(of: S3Server) -> Iterator[Storage]:
    """The run's release in a store, whose credentials this process has for so long."""
    with unittest.mock.patch.dict(os.environ, of.environment):
        yield open_storage(RUN)


@contextlib.contextmanager
def training(own: S3Server, args: argparse.Namespace, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that trains into its store, on its core, for longer than all windows take."""
    settings = {
        "model.hiddenSize": args.hidden,
        "model.intermediateSize": args.hidden * 8 // 3 // 8 * 8,
        # Many short steps, and a checkpoint every minute or so.
        "training.batchSize": 4,
        "parallelism.microBatch": 4,
        "data.chunks": args.steps // 20,  # the recipe makes rows for 20 steps a chunk
        "checkpoints.schedule.everyChunk": "false",
        "checkpoints.schedule.everySteps": 150,
        "cluster.workers.replicas": 1,
    }
    sets = [part for field, value in settings.items() for part in ("--set", f"{field}={value}")]
    command = llm360("run", "amber-tiny", "--store", RUN, "--port", "0", "--log-format", "json", *sets)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(TRAINING_CORE), *command],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | own.environment,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # the records of its last steps are committed
        process.wait(timeout=END_SECONDS)


def llm360(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llm360.cli.main", *arguments]


def wait_for_checkpoint(own: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(LLM360Error), storage(own) as release:  # there is none yet
            if open_release(release).history().branch:
                return
        time.sleep(1.0)
    sys.exit(f"the training did not begin:\n{log.read_text()[-4000:]}")


def copy(own: S3Server, other: S3Server) -> None:
    """Copy every object of the release."""
    with storage(own) as source:
        objects = {entry.key: source.get(entry.key) for entry in source.list()}
    with storage(other) as target:
        for key, data in objects.items():
            target.put(key, data)


def take_windows(
    own: S3Server, other: S3Server, process: subprocess.Popen[bytes], folder: Path, rounds: int
) -> list[Window]:
    """The windows of all rounds, or of as many as the training was long enough for."""
    windows: list[Window] = []
    for number in range(rounds):
        kinds = ["store", "copy"] if number % 2 else ["copy", "store"]
        for kind in [*kinds, "nothing"]:
            begin = time.time()
            if kind == "nothing":
                time.sleep(windows[-1].end - windows[-1].begin)
            else:
                evaluate(own if kind == "store" else other, folder, seed=number)
            if process.poll() is not None:
                return [window for window in windows if window.round < number]
            windows.append(Window(kind, number, begin, time.time()))
        print(f"round {number + 1} of {rounds} after {windows[-1].end - windows[0].begin:.0f} s", file=sys.stderr)
    return windows


def evaluate(of: S3Server, folder: Path, seed: int) -> None:
    """Score the first checkpoint anew: results of another seed are other results."""
    command = llm360("eval", RUN, "--checkpoint", "0", "--tasks", TASKS, "--mirror", f"{folder}/mirror")
    with (folder / "eval.log").open("wb") as log:
        subprocess.run(
            [*command, "--seed", str(seed)],
            check=True,
            stdout=log,
            stderr=log,
            env=os.environ | of.environment,
            timeout=EVALUATION_SECONDS,
        )


def read(own: S3Server) -> tuple[History, Any]:
    """The run's history, and its steps' records."""
    with storage(own) as release:
        history = open_release(release).history()
        return history, run_table(release, history)


def summary(args: argparse.Namespace, history: History, windows: list[Window], table: Any) -> dict[str, Any]:
    """The numbers, and on what they were taken."""
    steps = [
        (record["time"].timestamp(), record["step_seconds"], record["checkpoint_stall_seconds"])
        for record in table.to_pylist()
    ]
    rounds: dict[int, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for window in windows:
        taken = [
            seconds - stalled for end, seconds, stalled in steps if window.begin <= end - seconds and end <= window.end
        ]
        if not taken:
            sys.exit(f"no step fell into a window of {window.end - window.begin:.0f} s; give a smaller --hidden")
        rounds.setdefault(window.round, {})[window.kind] = statistics.mean(taken)
        counts[window.kind] = counts.get(window.kind, 0) + len(taken)
    if not rounds:
        sys.exit("the training ended in the first round; give more --steps")
    overheads = [each["store"] / each["copy"] - 1 for each in rounds.values()]
    shared = [each["copy"] / each["nothing"] - 1 for each in rounds.values()]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "hidden": args.hidden,
        "evaluations": len(history.evals),
        "steps": counts,
        "rounds": list(rounds.values()),
        "overheads": sorted(overheads),
        "overhead": statistics.median(overheads),
        "sharing": statistics.median(shared),
    }


def show(result: dict[str, Any]) -> None:
    print(f"{result['machine']}; hidden size {result['hidden']}; {result['evaluations']} results in the run's ledger")
    print("  ".join(f"{name:>9}" for name in ["round", "store", "copy", "nothing", "overhead"]))
    for number, each in enumerate(result["rounds"], start=1):
        seconds = "  ".join(f"{each[kind]:7.4f} s" for kind in ("store", "copy", "nothing"))
        print(f"{number:>9}  {seconds}  {each['store'] / each['copy'] - 1:>9.2%}")
    print(f"steps: {', '.join(f'{count} beside {kind}' for kind, count in result['steps'].items())}")
    low, *_, high = result["overheads"] if len(result["overheads"]) > 1 else result["overheads"] * 2
    print(f"overhead {result['overhead']:.2%} ({low:.2%} to {high:.2%}); sharing {result['sharing']:.2%}")


if __name__ == "__main__":
    main()
