"""What `operator_scale.py` measures in: etcd and the API server as the testbed builds them, on loopback and for it
alone, with KubeRay's real definitions; and a stub that plays KubeRay, the Job controller and the drivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from testbed import build  # noqa: E402 - the testbed is a package of the tests

Object = dict[str, Any]

ETCD, API_SERVER = build.program("etcd", "server"), build.program("kubernetes", "kube-apiserver")
"""As the testbed builds them."""
ADMIN, OPERATOR = "admin", "operator"
START_SECONDS = 120.0
WORKERS = 2
"""Of amber-tiny."""
PATHS = {
    "LLM360Run": "apis/llm360.ai/v1alpha1/{}/llm360runs",
    "RayCluster": "apis/ray.io/v1/{}/rayclusters",
    "RayJob": "apis/ray.io/v1/{}/rayjobs",
    "Job": "apis/batch/v1/{}/jobs",
    "ConfigMap": "api/v1/{}/configmaps",
    "NetworkPolicy": "apis/networking.k8s.io/v1/{}/networkpolicies",
}
DELETE = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
"""A Job would else wait for a garbage collector, which is not here."""
CHILDREN = ("RayJob", "RayCluster", "Job", "NetworkPolicy", "ConfigMap")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """etcd and the API server: where it listens, and its processes."""

    url: str
    processes: tuple[subprocess.Popen[bytes], ...]

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return sum(map(cpu_seconds, self.processes))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Server]:
    """etcd and kube-apiserver with RBAC; the operator has exactly the rights that the chart gives it."""
    port, etcd, peer = free_port(), free_port(), free_port()
    key = folder / "service-account.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{ADMIN},{ADMIN},1,"system:masters"\n{OPERATOR},{OPERATOR},2\n')
    client, peers = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
    commands = {
        "etcd": [
            ETCD, "--name=bench", f"--data-dir={folder / 'etcd'}", "--log-level=warn",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=bench={peers}", "--unsafe-no-fsync",
        ],
        "kube-apiserver": [
            API_SERVER, "--bind-address=127.0.0.1", f"--secure-port={port}",
            f"--etcd-servers={client}", f"--cert-dir={folder / 'certificates'}", "--authorization-mode=RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://bench", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
        ],
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        processes = []
        for name, command in commands.items():
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            processes.append(stack.enter_context(running([str(part) for part in command], log)))
        yield Server(f"https://127.0.0.1:{port}", tuple(processes))


@contextlib.contextmanager
def running(command: list[str], log: Any, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A process for as long as the block lasts."""
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Client:
    """Plain requests to the API server as the administrator, at most so many at a time."""

    def __init__(self, url: str, parallel: int) -> None:
        self._url, self._slots = url, asyncio.Semaphore(parallel)
        connector = aiohttp.TCPConnector(ssl=False, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {ADMIN}"})

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Object:
        """One request; anything but success is an error."""
        data = None if body is None else json.dumps(body)
        async with (
            self._slots,
            self._session.request(method, f"{self._url}/{path}", data=data, headers={"Content-Type": kind}) as answer,
        ):
            found: Object = await answer.json(content_type=None) if answer.status < 300 else {}
            if answer.status >= 300 and answer.status != 404:
                raise RuntimeError(f"{method} {path}: {answer.status}: {(await answer.text())[:500]}")
            return found

    async def create(self, made: Object) -> Object:
        """Make an object in its namespace."""
        return await self.request(
            "POST", PATHS[made["kind"]].format(f"namespaces/{made['metadata']['namespace']}"), made
        )

    async def patch_status(self, kind: str, found: Object, status: Object) -> None:
        """Change an object's status; one that is gone is no error."""
        metadata = found["metadata"]
        path = PATHS[kind].format(f"namespaces/{metadata['namespace']}") + f"/{metadata['name']}/status"
        await self.request("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def clear(self, namespace: str) -> None:
        """Remove all runs and children of a namespace."""
        for kind in ("LLM360Run", *CHILDREN):
            await self.request("DELETE", PATHS[kind].format(f"namespaces/{namespace}"), DELETE)

    async def events(self, kind: str) -> AsyncIterator[Object]:
        """What happens to the objects of a kind everywhere, from the first one on, for ever."""
        path = PATHS[kind].format("").replace("//", "/")
        while True:
            timeout = aiohttp.ClientTimeout(total=None)
            url = f"{self._url}/{path}?watch=true"
            async with self._session.get(url, timeout=timeout) as answer:
                buffer = b""
                async for chunk in answer.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)


async def install(client: Client) -> None:
    """Wait for the API server; then definitions, the operator's rights and one namespace."""
    await answered_path(client, "api/v1/namespaces/kube-system")
    kuberay = build.module_folder("kuberay", "github.com/ray-project/kuberay/ray-operator") / "config" / "crd" / "bases"
    files = [kuberay / "ray.io_rayclusters.yaml", kuberay / "ray.io_rayjobs.yaml", ROOT / "manifests" / "crd.yaml"]
    for file in files:
        definition = yaml.safe_load(file.read_text())
        await client.request("POST", "apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
    rights = "apis/rbac.authorization.k8s.io/v1"
    for made in yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()):
        if made["kind"] == "ClusterRole":
            await client.request("POST", f"{rights}/clusterroles", made)
            name = made["metadata"]["name"]
            binding = {"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1"}
            binding |= {"metadata": {"name": name}, "subjects": [{"kind": "User", "name": OPERATOR}]}
            binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
            await client.request("POST", f"{rights}/clusterrolebindings", binding)
    await client.request("POST", "api/v1/namespaces", {"metadata": {"name": "bench"}})
    for kind in PATHS:
        await answered_path(client, PATHS[kind].format("namespaces/bench"))


async def answered_path(client: Client, path: str) -> None:
    """Wait until the API server knows a path; it takes a moment to start, and for each new kind."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(aiohttp.ClientError, RuntimeError):
            if (await client.request("GET", path)).get("kind"):
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the API server does not answer for {path}; see kube-apiserver.log")
        await asyncio.sleep(0.2)


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def answered(kind: str) -> Object:
    """The status that whoever is played gives to an object at once."""
    done = {"status": "True", "lastTransitionTime": now(), "lastProbeTime": now(), "reason": "Played", "message": ""}
    if kind == "Job":
        conditions = [{"type": each, **done} for each in ("SuccessCriteriaMet", "Complete")]
        return {"conditions": conditions, "startTime": now(), "completionTime": now(), "succeeded": 1}
    if kind == "RayCluster":
        head = {
            "type": "HeadPodReady",
            "status": "True",
            "lastTransitionTime": now(),
            "reason": "Played",
            "message": "",
        }
        return {"conditions": [head], "readyWorkerReplicas": WORKERS, "state": "ready"}
    return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


class Stub:
    """Answers every Job, RayCluster and RayJob at once, and serves each run's `/status`, a step further every second.

    Attributes:
        jobs: Names of the RayJobs that were seen to come.
        is_playing: Whether objects are answered; the plain client's are not.
    """

    def __init__(self, client: Client) -> None:
        self._client, self._began = client, time.monotonic()
        self.jobs: set[str] = set()
        self.is_playing = False
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered: set[str] = set()

    async def __aenter__(self) -> Stub:
        application = web.Application()
        application.router.add_get("/{namespace}/{run}", self._status)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self._watches = [asyncio.create_task(self._play(kind)) for kind in ("Job", "RayCluster", "RayJob")]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._watches, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._watches, *self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self._client.close()

    async def settle(self, num_jobs: int) -> None:
        """Wait until so many RayJobs were seen, and all that was seen is answered."""
        async with asyncio.timeout(START_SECONDS):
            while len(self.jobs) < num_jobs or self._tasks:
                await asyncio.sleep(0.05)

    async def _play(self, kind: str) -> None:
        async for event in self._client.events(kind):
            found = event["object"]
            uid = found["metadata"]["uid"]
            if event["type"] != "ADDED" or not self.is_playing or uid in self._answered:
                continue  # a watch that was cut off begins anew with all that is there
            self._answered.add(uid)
            if kind == "RayJob":
                self.jobs.add(found["metadata"]["name"])
            task = asyncio.create_task(self._client.patch_status(kind, found, answered(kind)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _status(self, request: web.Request) -> web.Response:
        step = int(time.monotonic() - self._began)
        facts = {"phase": "Training", "attempt": 1, "step": step, "totalSteps": 1_000_000, "tokens": step * 8192}
        facts |= {
            "loss": 3.0 + 1 / (step + 1),
            "tokensPerSecond": 8192.0,
            "checkpoints": [],
            "estimatedSecondsLeft": 1e6,
        }
        return web.json_response(facts | {"run": request.match_info["run"], "ledgerHead": "sha256:" + "0" * 64})
