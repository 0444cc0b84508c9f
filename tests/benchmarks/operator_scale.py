"""What many runs at once cost: the operator against a real API server, beside a plain client making the same objects.

etcd, the API server and KubeRay's definitions are the testbed's (`make cluster` builds them; it need not be up), on
loopback and for this benchmark alone; KubeRay, the Job controller and the drivers are played by a stub that answers at
once. The operator is its own process with exactly the chart's rights.

    all exist   from the first run's creation until the last run's RayJob, which is the last of its children
    plain       the same runs and children made by a client that knows them beforehand, at the same concurrency;
                without the status that the operator writes and without its events
    answered    the same of the plain client while the stub answers it, too, as KubeRay would anybody
    ratio       all exist / plain (goal: <= 2), and / answered
    written     requests of the operator per run until all train; the plain client makes 6
    operator    its CPU time per run until all train
    API server  its CPU time per run and etcd's, for the operator and the stub until all train / for the plain client
    decision    CPU time of `reconcile` with all that it calls, 99th percentile (goal: < 100 ms)
    CPU/round   CPU time of the whole process per round, from first to last: requests, JSON and kopf included
    requests    to the API server, per run and minute, while all runs train
    memory      resident, most over the process's life (goal: < 150 MB)
    slope       exponent of `all exist` from the smallest to the largest number of runs; 1 is proportional

`--soak` then makes runs and removes them for so many minutes and tells how the memory goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen

import aiohttp
from operator_world import (
    API_SERVER,
    CHILDREN,
    DELETE,
    ETCD,
    OPERATOR,
    PATHS,
    Client,
    Object,
    Server,
    Stub,
    api_server,
    cpu_seconds,
    free_port,
    install,
    running,
)
from prometheus_client.parser import text_string_to_metric_families

from llm360.canonical import sha256_digest
from llm360.spec import resolve
from llm360_operator import builders

EXAMPLES = """\
examples:
  python tests/benchmarks/operator_scale.py --runs 10
  python tests/benchmarks/operator_scale.py --runs 10,100,1000 --steady 120 --json result.json
  python tests/benchmarks/operator_scale.py --runs 100 --soak 30
"""
WAIT_SECONDS = 900.0
# A cluster's names lead nowhere here: the operator asks the stub for each driver's /status. The operator's image has no
# other client of Kubernetes, which kopf would load where it finds one.
OPERATOR_PROGRAM = """\
import os, sys
sys.modules["kubernetes"] = sys.modules["pykube"] = None
from llm360_operator import main, observe
observe.status_url = lambda namespace, run: f"{os.environ['BENCH_DRIVERS']}/{namespace}/{run}"
main.main()
"""


@dataclass(frozen=True)
class Result:
    """One number of runs; seconds, bytes and counts as the module says."""

    runs: int
    all_exist: float
    plain: float
    plain_answered: float
    requests_per_run: float
    operator_cpu: float
    server_cpu: float
    server_cpu_plain: float
    decision_p99: float
    cpu_per_round: float
    rounds: int
    requests_per_run_minute: float
    memory: int

    @property
    def ratio(self) -> float:
        return self.all_exist / self.plain

    @property
    def ratio_answered(self) -> float:
        return self.all_exist / self.plain_answered


def run_object(name: str) -> Object:
    return {
        "apiVersion": "llm360.ai/v1alpha1",
        "kind": "LLM360Run",
        "metadata": {"name": name, "namespace": "bench"},
        "spec": {"preset": "amber-tiny", "storage": {"uri": f"s3://bench/{name}"}},
    }


def all_objects(name: str) -> list[Object]:
    """A run and its children as the operator makes them."""
    run = run_object(name)
    owner = run | {"metadata": run["metadata"] | {"uid": "00000000-0000-4000-8000-000000000000"}}
    config = resolve(run | {"spec": run["spec"] | {"cluster": {"image": "trainer:1"}}})
    return [
        run,
        builders.network_policy(owner),
        builders.config_map(owner, f"{name}-config", config.canonical()),
        builders.preflight_job(owner, config, f"{name}-config", "operator:1"),
        builders.ray_cluster(owner, config, f"{name}-config", sha256_digest(config.canonical())),
        builders.ray_job(owner, 1, owner["metadata"]["uid"]),
    ]


async def time_plain(client: Client, names: list[str]) -> float:
    """Seconds in which a plain client makes all objects; a run's one after another, as their maker must."""
    made = [all_objects(name) for name in names]

    async def make(objects: list[Object]) -> None:
        for each in objects:
            await client.create(each)

    began = time.monotonic()
    await asyncio.gather(*map(make, made))
    return time.monotonic() - began


@contextlib.contextmanager
def operator(url: str, folder: Path, drivers: int, parallel: int) -> Iterator[tuple[Popen[bytes], str]]:
    """The operator's process and the address of its metrics."""
    cluster = {"server": url, "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": OPERATOR, "user": {"token": OPERATOR}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": OPERATOR}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    port = free_port()
    environment = os.environ | {
        "KUBECONFIG": str(folder / "kubeconfig"),
        "LLM360_OPERATOR_IMAGE": "operator:1",
        "LLM360_TRAINER_IMAGE": "trainer:1",
        "LLM360_PARALLEL": str(parallel),
        "LLM360_PORT": str(port),
        "BENCH_DRIVERS": f"http://127.0.0.1:{drivers}",
    }
    with (
        (folder / "operator.log").open("ab") as log,
        running([sys.executable, "-c", OPERATOR_PROGRAM], log, environment) as process,
    ):
        yield process, f"http://127.0.0.1:{port}/metrics"


@dataclass(frozen=True)
class Reading:
    """The operator's counters at one moment."""

    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]
    cpu: float
    time: float

    @classmethod
    async def take(cls, process: Popen[bytes], url: str) -> Reading:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return cls(samples, cpu_seconds(process), time.monotonic())

    def total(self, name: str, **labels: str) -> float:
        """Sum of a series over all labels but the given ones."""
        return sum(v for (n, found), v in self.samples.items() if n == name and labels.items() <= dict(found).items())

    def quantile(self, name: str, q: float) -> float:
        """A histogram's quantile, between a bucket's bounds as Prometheus does it."""
        buckets = sorted(
            (float(dict(labels)["le"]), value) for (n, labels), value in self.samples.items() if n == f"{name}_bucket"
        )
        wanted, low, below = q * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= wanted:
                share = (wanted - below) / (count - below) if count > below else 0.0
                return low if math.isinf(bound) else low + (bound - low) * share
            low, below = bound, count
        return low


def memory(process: Popen[bytes], field: str) -> int:
    """`VmHWM` (most ever) or `VmRSS` (now) of a process, in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


async def until(check: Callable[[], Awaitable[bool]], what: str, process: Popen[bytes], pause: float = 0.05) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await check():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come; the operator's exit code: {process.poll()}")
        await asyncio.sleep(pause)


async def answers(metrics: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(metrics) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def measure(
    client: Client, stub: Stub, server: Server, folder: Path, num_runs: int, args: argparse.Namespace
) -> Result:
    """One number of runs, in an empty namespace, with a fresh operator."""
    names = [f"run-{number:05d}" for number in range(num_runs)]
    idle = server.cpu
    plain = await time_plain(client, names)
    server_plain = server.cpu - idle
    await client.clear("bench")
    stub.jobs.clear()
    stub.is_playing = True
    plain_answered = await time_plain(client, names)
    await stub.settle(num_runs)
    await client.clear("bench")
    stub.jobs.clear()
    with operator(server.url, folder, stub.port, args.parallel) as (process, metrics):
        await until(lambda: answers(metrics), "the operator", process)

        async def exist() -> bool:
            return len(stub.jobs) == num_runs

        async def train() -> bool:
            return (await Reading.take(process, metrics)).total("llm360_operator_runs", phase="Training") == num_runs

        start, idle = await Reading.take(process, metrics), server.cpu
        began = time.monotonic()
        await asyncio.gather(*(client.create(run_object(name)) for name in names))
        await until(exist, "the last RayJob", process)
        all_exist = time.monotonic() - began
        await until(train, "the last run's training", process, 1.0)
        before, server_cpu = await Reading.take(process, metrics), server.cpu - idle
        await asyncio.sleep(args.steady)
        after = await Reading.take(process, metrics)
        name = "llm360_operator_api_requests_total"
        rounds = after.total("llm360_operator_reconcile_seconds_count")
        minutes = (after.time - before.time) / 60
        result = Result(
            runs=num_runs,
            all_exist=all_exist,
            plain=plain,
            plain_answered=plain_answered,
            requests_per_run=(before.total(name) - start.total(name)) / num_runs,
            operator_cpu=(before.cpu - start.cpu) / num_runs,
            server_cpu=server_cpu / num_runs,
            server_cpu_plain=server_plain / num_runs,
            decision_p99=after.quantile("llm360_operator_decision_seconds", 0.99),
            cpu_per_round=(after.cpu - start.cpu) / rounds,
            rounds=int(rounds),
            requests_per_run_minute=(after.total(name) - before.total(name)) / num_runs / minutes,
            memory=memory(process, "VmHWM"),
        )
    stub.is_playing = False
    await client.clear("bench")
    return result


async def soak(
    client: Client, stub: Stub, server: Server, folder: Path, args: argparse.Namespace
) -> list[tuple[float, int]]:
    """Make runs and remove them; the operator's resident memory by minutes."""
    stub.jobs.clear()
    stub.is_playing = True
    taken: list[tuple[float, int]] = []
    with operator(server.url, folder, stub.port, args.parallel) as (process, metrics):
        await until(lambda: answers(metrics), "the operator", process)
        began = time.monotonic()
        end = began + 60 * args.soak

        async def churn(place: int) -> None:
            number = 0
            while time.monotonic() < end:
                name, number = f"churn-{place:03d}-{number:05d}", number + 1
                await client.create(run_object(name))

                async def has_job(job: str = f"{name}-1") -> bool:
                    return job in stub.jobs

                await until(has_job, f"the RayJob of {name}", process, 0.5)
                children = {"RayJob": f"{name}-1", "Job": f"{name}-preflight", "ConfigMap": f"{name}-config"}
                for kind in ("LLM360Run", *CHILDREN):  # the garbage collector's part, last child first
                    path = PATHS[kind].format("namespaces/bench")
                    await client.request("DELETE", f"{path}/{children.get(kind, name)}", DELETE)
                stub.jobs.discard(f"{name}-1")

        async def watch() -> None:
            while time.monotonic() < end:
                taken.append(((time.monotonic() - began) / 60, memory(process, "VmRSS")))
                await asyncio.sleep(10)

        await asyncio.gather(watch(), *map(churn, range(args.churn)))
    return taken


def show(results: list[Result]) -> None:
    columns = {
        "runs": 6, "all exist": 10, "plain": 8, "answered": 9, "ratio": 12, "written": 8, "operator": 9,
        "API server": 15, "decision p99": 13, "CPU/round": 10, "requests/run/min": 17, "memory": 7,
    }  # fmt: skip
    print(" ".join(f"{name:>{width}}" for name, width in columns.items()))
    for each in results:
        server = f"{1000 * each.server_cpu:.1f}/{1000 * each.server_cpu_plain:.1f} ms"
        print(
            f"{each.runs:6,d} {each.all_exist:8.2f} s {each.plain:6.2f} s {each.plain_answered:7.2f} s"
            f" {each.ratio:5.2f}, {each.ratio_answered:4.2f}× "
            f"{each.requests_per_run:8.1f} {1000 * each.operator_cpu:6.1f} ms {server:>15} "
            f"{1000 * each.decision_p99:10.2f} ms {1000 * each.cpu_per_round:7.2f} ms "
            f"{each.requests_per_run_minute:17.1f} {each.memory / 1e6:4.0f} MB"
        )
    first, last = results[0], results[-1]
    if last.runs > first.runs:
        slope = math.log(last.all_exist / first.all_exist) / math.log(last.runs / first.runs)
        print(f"slope from {first.runs:,} to {last.runs:,} runs: {slope:.2f}")


def show_soak(taken: list[tuple[float, int]]) -> None:
    half = taken[len(taken) // 2 :]
    growth = statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 2 else 0.0
    print(
        f"soak: {taken[-1][0]:.0f} min; memory {taken[0][1] / 1e6:.0f} MB at first, in the second half at most"
        f" {max(found for _, found in half) / 1e6:.0f} MB and {growth * 60 / 1e6:+.1f} MB an hour"
    )


async def main_async(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="llm360-bench-") as name, api_server(Path(name)) as server:
        client = Client(server.url, args.parallel)
        try:
            await install(client)
            async with Stub(Client(server.url, 64)) as stub:
                await time_plain(client, [f"warm-{number}" for number in range(args.parallel)])
                await client.clear("bench")
                results = [await measure(client, stub, server, Path(name), number, args) for number in args.runs]
                show(results)
                taken = await soak(client, stub, server, Path(name), args) if args.soak else []
                if taken:
                    show_soak(taken)
        finally:
            await client.close()
    if args.json:
        args.json.write_text(json.dumps({"results": [asdict(each) for each in results], "soak": taken}, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=lambda text: [int(word) for word in text.split(",")], default=[10, 100, 1000])
    parser.add_argument("--steady", type=float, default=60.0, metavar="SECONDS", help="of the steady state (60)")
    parser.add_argument(
        "--parallel", type=int, default=32, help="rounds, and the plain client's requests, at a time (32)"
    )
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="of making and removing runs (0)")
    parser.add_argument("--churn", type=int, default=20, help="runs at a time in the soak (20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers must not outlive us
    args = parser.parse_args()
    if absent := [str(program) for program in (ETCD, API_SERVER) if not program.exists()]:
        parser.error(
            f"{' and '.join(absent)} must be there: make cluster builds them, and they stay after make cluster-down"
        )
    asyncio.run(main_async(args))


if __name__ == "__main__":
    main()
