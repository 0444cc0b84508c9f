"""Starts the operator: `python -m llm360_operator.main`. Settings come from the environment, as the chart sets them.

LLM360_OPERATOR_IMAGE   image of preflight pods: this very one
LLM360_TRAINER_IMAGE    image of head and workers where a run names none
LLM360_PARALLEL         rounds at a time (32)
LLM360_PORT             port of /healthz and /metrics (8080)
LLM360_MAX_EVALUATIONS  most evaluation pods of all runs at a time; empty: no bound
LLM360_NAMESPACES       namespaces to watch, separated by commas; empty: all
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import ssl
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from llm360.errors import InputError, LLM360Error
from llm360_operator import handlers
from llm360_operator.announcing import Announcer
from llm360_operator.api import Api, ApiError, Connection
from llm360_operator.cache import Cache
from llm360_operator.case import Settings
from llm360_operator.controller import Controller
from llm360_operator.metrics import Metrics
from llm360_operator.observe import Observer
from llm360_operator.queueing import Queue

MAX_TICK_AGE_SECONDS = 30.0
"""Older, and the loop hangs: /healthz says so and Kubernetes starts the operator again."""


@dataclass(frozen=True)
class Options:
    """The environment's settings."""

    settings: Settings
    parallel: int
    port: int


def read_options(environment: Mapping[str, str]) -> Options:
    """Read the settings.

    Raises:
        InputError: one is missing, or no number; names it.
    """
    images = {}
    for name in ("LLM360_OPERATOR_IMAGE", "LLM360_TRAINER_IMAGE"):
        images[name] = environment.get(name, "")
        if not images[name]:
            raise InputError(f"{name} is not set; give it the image's address, best with its digest")
    numbers = {}
    for name, default in (("LLM360_PARALLEL", "32"), ("LLM360_PORT", "8080"), ("LLM360_MAX_EVALUATIONS", "")):
        text = environment.get(name, default)
        if text == default == "":
            continue
        if not text.isdigit() or int(text) == 0:
            raise InputError(f"{name} is '{text}'; it must be a whole number above 0")
        numbers[name] = int(text)
    namespaces = tuple(filter(None, environment.get("LLM360_NAMESPACES", "").split(",")))
    settings = Settings(
        images["LLM360_OPERATOR_IMAGE"],
        images["LLM360_TRAINER_IMAGE"],
        numbers.get("LLM360_MAX_EVALUATIONS"),
        namespaces,
    )
    return Options(settings, numbers["LLM360_PARALLEL"], numbers["LLM360_PORT"])


def log_in(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """How to reach the API server: as the pod's service account, else as the kubeconfig says.

    Raises:
        InputError: there is neither.
    """
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise InputError("there is neither a service account nor a kubeconfig; run in a pod, or set KUBECONFIG")
    return info


def connection(info: kopf.ConnectionInfo) -> Connection:
    """The same for our own requests."""
    if info.insecure:
        return Connection(info.server, info.token, verify=False)
    context = ssl.create_default_context(
        cafile=str(info.ca_path) if info.ca_path else None,
        cadata=base64.b64decode(info.ca_data).decode() if info.ca_data else None,
    )
    if info.certificate_data and info.private_key_data:
        with tempfile.TemporaryDirectory(prefix="llm360-operator-") as folder:
            files = [Path(folder) / name for name in ("certificate", "key")]
            for path, data in zip(files, (info.certificate_data, info.private_key_data), strict=True):
                path.touch(mode=0o600)
                path.write_bytes(base64.b64decode(data))
            context.load_cert_chain(*map(str, files))
    elif info.certificate_path:
        context.load_cert_chain(str(info.certificate_path), str(info.private_key_path))
    return Connection(info.server, info.token, context)


def pages(queue: Queue, metrics: Metrics) -> web.Application:
    """`/healthz` and `/metrics`, read-only."""

    async def health(_: web.Request) -> web.Response:
        is_well = queue.age < MAX_TICK_AGE_SECONDS
        return web.Response(text=f"last turn {queue.age:.1f} s ago\n", status=200 if is_well else 503)

    async def show_metrics(_: web.Request) -> web.Response:
        metrics.queue_length.set(queue.num_waiting)
        metrics.tick_age.set(queue.age)
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/healthz", health)
    application.router.add_get("/metrics", show_metrics)
    return application


async def operate(options: Options) -> None:
    """Run the operator until it is stopped; ends as soon as one of its parts does."""
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = handlers.NoDifferences()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return log_in(settings)

    kopf.on.login(registry=registry)(login)
    metrics = Metrics()
    api = Api(lambda: connection(log_in(settings)), metrics.count_request)
    cache = Cache()
    announcer = Announcer(api.create)
    controller = Controller(api, cache, Observer(api, cache), announcer, options.settings, metrics)
    queue = Queue(controller.round, parallel=options.parallel, note_error=metrics.count_error)
    controller.wake = queue.add
    handlers.register(registry, cache, queue.add)

    async def kopf_runs() -> None:
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not options.settings.namespaces,
            namespaces=options.settings.namespaces,
        )

    async def has_kuberay() -> bool:
        try:
            return await api.knows("RayCluster") and await api.knows("RayJob")
        except ApiError:
            return False

    runner = web.AppRunner(pages(queue, metrics), access_log=None)
    await runner.setup()
    announcing = asyncio.create_task(announcer.run(), name="announcer")
    try:
        await web.TCPSite(runner, port=options.port).start()
        working = [
            asyncio.create_task(queue.run(), name="queue"),
            asyncio.create_task(handlers.watch(kopf_runs, has_kuberay), name="watch"),
        ]
        done, _ = await asyncio.wait([*working, announcing], return_when=asyncio.FIRST_COMPLETED)
        for part in working:
            part.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await announcer.finish()
        for part in done:
            part.result()
    finally:
        announcing.cancel()
        await runner.cleanup()
        await api.close()


def main() -> None:
    """Entry point of the image."""
    kopf.configure(verbose=False)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line per event would drown what matters
    try:
        asyncio.run(operate(read_options(os.environ)))
    except LLM360Error as error:
        print(f"llm360-operator: error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
