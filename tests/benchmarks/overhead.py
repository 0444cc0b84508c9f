"""What evaluations on the other pool cost a training: a run into an S3 server (SeaweedFS, started here), one rank.

The training with its driver and all of Ray is bound to one core, evaluations and the server to another. Within one run
windows of three kinds alternate, back and forth:

    nothing    no evaluation
    copy       evaluations of a copy of the release in a folder: the same programs, memory and arithmetic on the other
               core, but neither requests to the run's store nor entries in the run's ledger
    store      evaluations of the release itself, as the operator's Jobs run them: `llm360 analyze forgetting` of the
               first checkpoint, each time on another sample, so that it is read, verified and measured anew

    copy / nothing     what sharing a machine costs: memory, caches, the power budget
    store / copy       what is left: the store's load and the driver's reading of the entries (goal: below 1.01)

Both as seconds of a step by the clock, and as processor seconds of a step (training, driver and Ray together), which
other load on the machine changes little. Each window's steps are those that began and ended in it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from conftest import start_server  # the server that the tests use too

from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.storage import Storage, open_storage

BUCKET = "benchmark"
ROUND = ("nothing", "copy", "store", "store", "copy", "nothing")
LLM360 = str(Path(sys.executable).parent / "llm360")
RUN = (
    "cluster.workers.replicas=1", "training.batchSize=8", "training.sequenceLength=128", "parallelism.microBatch=8",
    "data.chunks=64", "checkpoints.schedule.everyChunk=false", "training.schedule.kind=constant",
)  # fmt: skip
EXAMPLES = """\
examples:
  python tests/benchmarks/overhead.py
  python tests/benchmarks/overhead.py --rounds 5 --seconds 60 --json result.json
"""


@dataclass(frozen=True)
class Window:
    """What was done, from when to when (seconds since the epoch), the training's processor seconds, evaluations."""

    kind: str
    start: float
    stop: float
    cpu_start: float
    cpu_stop: float
    evaluations: int


@dataclass(frozen=True)
class Cost:
    """What a step of a window took."""

    kind: str
    steps: int
    seconds: float
    cpu_seconds: float


def main() -> None:
    args = parse_arguments()
    # What is started from here inherits it: the server and the evaluations.
    os.sched_setaffinity(0, {args.cores[1]})
    with tempfile.TemporaryDirectory(prefix="llm360-bench-") as folder:
        server = start_server(Path(folder))
        os.environ.update(server.environment, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
        try:
            server.client().create_bucket(Bucket=BUCKET)
            result = measure(Path(folder), args)
        finally:
            server.end()
    print(describe(result, args))
    if args.json:
        args.json.write_text(json.dumps([asdict(cost) for cost in result], indent=2) + "\n")


def measure(folder: Path, args: argparse.Namespace) -> list[Cost]:
    """Train, and look at what a step costs while evaluations go on and while they do not."""
    uri = f"s3://{BUCKET}/run"
    log = (folder / "run.log").open("w")
    fields = [word for field in RUN for word in ("--set", field)]
    command = ["taskset", "--cpu-list", str(args.cores[0]), LLM360, "run", "amber-tiny", "--store", uri, *fields]
    training = subprocess.Popen([*command, "--port", "0", "--log-interval", "0"], stdout=log, stderr=log)
    try:
        storage = open_storage(uri)
        wait_for_steps(training, folder / "run.log", args.warm_up)
        copied = str(copy_release(storage, folder / "copy"))
        samples = iter(range(10**6))
        kinds = [kind for _ in range(args.rounds) for kind in ROUND]
        windows = [watch(kind, training.pid, {"copy": copied, "store": uri}, samples, args.seconds) for kind in kinds]
    finally:
        training.send_signal(signal.SIGINT)  # it commits the steps' records, and ends Ray with itself
        training.wait(timeout=300)
        log.close()
    table = run_table(storage, open_release(storage).history())
    ends = [moment.timestamp() for moment in table["time"].to_pylist()]
    spent = table["step_seconds"].to_pylist()
    print(f"{len(ends)} steps, {pc.max(table['step']).as_py()} the last", file=sys.stderr)
    return [cost_of(window, list(zip(ends, spent, strict=True))) for window in windows]


def wait_for_steps(training: subprocess.Popen[bytes], log: Path, count: int) -> None:
    """Until the training has made so many steps."""
    deadline = time.monotonic() + 900
    while log.read_text().count(" step=") < count:
        if training.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the training did not get going:\n{log.read_text()[-2000:]}")
        time.sleep(1)


def copy_release(storage: Storage, folder: Path) -> Path:
    """The release as it is now, in a folder."""
    target = open_storage(str(folder))
    for info in storage.list():
        if "/scratch/" not in info.key:
            target.put(info.key, storage.get(info.key))
    return folder


def watch(kind: str, pid: int, releases: Mapping[str, str], samples: Iterator[int], seconds: float) -> Window:
    """A window: evaluations one after the other for at least so long, or none."""
    start, cpu_start, evaluations = time.time(), cpu_of(pid), 0
    if kind == "nothing":
        time.sleep(seconds)
    while time.time() < start + seconds:
        command = [LLM360, "analyze", "forgetting", releases[kind], "--checkpoints", "init", "--chunks", "0"]
        subprocess.run([*command, "--sequences", "96", "--seed", str(next(samples))], check=True, capture_output=True)
        evaluations += 1
    window = Window(kind, start, time.time(), cpu_start, cpu_of(pid), evaluations)
    took = window.stop - window.start
    at = datetime.fromtimestamp(start, UTC).strftime("%H:%M:%S")
    print(f"{at} {kind}: {took:.0f} s, {evaluations} evaluations", file=sys.stderr, flush=True)
    return window


def cpu_of(pid: int) -> float:
    """Processor seconds of a process and all that it started."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def cost_of(window: Window, steps: list[tuple[float, float]]) -> Cost:
    """Mean seconds of the steps that lie in a window whole, and its processor seconds by the steps that end in it."""
    inside = [spent for end, spent in steps if window.start < end - spent and end < window.stop]
    ended = sum(window.start < end < window.stop for end, _ in steps)
    return Cost(
        window.kind, len(inside), statistics.fmean(inside), (window.cpu_stop - window.cpu_start) / max(1, ended)
    )


def describe(costs: list[Cost], args: argparse.Namespace) -> str:
    """The two ratios, each the median over neighbouring windows."""
    lines = [f"{args.rounds} rounds of {len(ROUND)} windows of {args.seconds:g} s, cores {args.cores}"]
    for kind in dict.fromkeys(ROUND):
        of_kind = [cost for cost in costs if cost.kind == kind]
        lines.append(
            f"{kind:10} {sum(cost.steps for cost in of_kind):5} steps"
            f"   {statistics.median(cost.seconds for cost in of_kind):.4f} s"
            f"   {statistics.median(cost.cpu_seconds for cost in of_kind):.4f} processor s"
        )
    for one, other in (("copy", "nothing"), ("store", "copy"), ("store", "nothing")):
        lines.append(f"{f'{one} / {other}':16} {ratio(costs, one, other, 'seconds')} by the clock,")
        lines[-1] += f" {ratio(costs, one, other, 'cpu_seconds')} by processor seconds"
    return "\n".join(lines)


def ratio(costs: list[Cost], one: str, other: str, name: str) -> str:
    """Median, least and largest quotient of the n-th windows of two kinds."""
    values = [[getattr(cost, name) for cost in costs if cost.kind == kind] for kind in (one, other)]
    quotients = [above / below for above, below in zip(*values, strict=True)]
    return f"{statistics.median(quotients):.3f} ({min(quotients):.3f} … {max(quotients):.3f})"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="of six windows each (default: %(default)s)")
    add("--seconds", type=float, default=30, help="of a window, at least (default: %(default)s)")
    add("--warm-up", type=int, default=10, metavar="STEPS", help="steps before the first window (default: %(default)s)")
    add("--cores", type=int, nargs=2, default=(0, 1), help="of the training, of all else (default: 0 1)")
    add("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
