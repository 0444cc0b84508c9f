"""The whole operator, with kopf, before an API server on which KubeRay is installed later, or not at all."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings

import pytest
from aiohttp import web

from llm360_operator import handlers
from llm360_operator.case import Settings
from llm360_operator.main import Options, operate

SECONDS = 30.0
GROUPS = {
    "apiextensions.k8s.io/v1": ["customresourcedefinitions"],
    "llm360.ai/v1alpha1": ["llm360runs"],
    "batch/v1": ["jobs"],
    "ray.io/v1": ["rayclusters", "rayjobs"],
}


class ApiServer:
    """Discovery, empty lists, and watches that say nothing; what is watched is noted."""

    def __init__(self):
        self.has_kuberay, self.watched = False, []
        self.over = asyncio.Event()

    def groups(self):
        return {group: names for group, names in GROUPS.items() if self.has_kuberay or group != "ray.io/v1"}

    async def answer(self, request):
        path = request.path.strip("/")
        if path == "api":
            return web.json_response({"versions": ["v1"]})
        if path == "api/v1":
            return web.json_response({"resources": [resource("namespaces"), resource("events")]})
        if path == "apis":
            found = [group(name) for name in self.groups()]
            return web.json_response({"groups": found})
        known = {f"apis/{name}": names for name, names in self.groups().items()}
        if path in known:
            return web.json_response({"resources": [resource(name) for name in known[path]]})
        if path.rpartition("/")[0] not in known and not path.startswith("api/v1/"):
            status = {"kind": "Status", "reason": "NotFound", "code": 404, "message": "404 page not found"}
            return web.json_response(status, status=404)
        if "watch" in request.query:
            return await self.watch(request, path.rpartition("/")[2])
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async def watch(self, request, name):
        self.watched.append(name)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await self.over.wait()
        return response


def resource(name):
    kind = {"namespaced": name not in ("namespaces", "customresourcedefinitions"), "verbs": ["list", "watch", "patch"]}
    return {"name": name, "singularName": name[:-1], "kind": name[:-1].title(), **kind}


def group(name):
    version = {"groupVersion": name, "version": name.rpartition("/")[2]}
    return {"name": name.partition("/")[0], "versions": [version], "preferredVersion": version}


@pytest.fixture
def operator(tmp_path, monkeypatch):
    """Runs a script beside the operator and its API server."""
    monkeypatch.setattr(handlers, "KUBERAY_SECONDS", 0.1)

    def run(script, *, has_kuberay):
        async def main():
            server = ApiServer()
            server.has_kuberay = has_kuberay
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", server.answer)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            write_kubeconfig(tmp_path / "kubeconfig", runner.addresses[0][1])
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
            operating = asyncio.create_task(operate(Options(Settings("operator:1", "trainer:1"), 4, 0)))
            try:
                await script(server, operating)
            finally:
                operating.cancel()
                await asyncio.gather(operating, return_exceptions=True)
                server.over.set()
                await runner.cleanup()

        asyncio.run(asyncio.wait_for(main(), SECONDS))
        with warnings.catch_warnings():
            # kopf leaves its sessions to the end of the process; here the process goes on.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    return run


def write_kubeconfig(path, port):
    config = {
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **config}))


async def until(check, operating):
    while not check():
        assert not operating.done(), operating.exception()
        await asyncio.sleep(0.05)


def test_kuberay_that_is_installed_later_is_watched_without_a_restart(operator):
    async def script(server, operating):
        await until(lambda: {"llm360runs", "jobs"} <= set(server.watched), operating)
        assert "rayclusters" not in server.watched
        server.has_kuberay = True  # and no event says so, as when the API server lists the kinds late
        await until(lambda: {"rayclusters", "rayjobs"} <= set(server.watched), operating)
        assert server.watched.count("llm360runs") == 2

    operator(script, has_kuberay=False)


def test_with_kuberay_from_the_start_nothing_begins_twice(operator):
    async def script(server, operating):
        await until(lambda: {"llm360runs", "jobs", "rayclusters", "rayjobs"} <= set(server.watched), operating)
        await asyncio.sleep(0.5)
        assert len(server.watched) == len(set(server.watched))

    operator(script, has_kuberay=True)
