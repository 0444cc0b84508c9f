"""What the operator takes from its environment, what it watches, and what it shows of itself."""

import asyncio
import subprocess
import sys

import kopf
import pytest
from aiohttp.test_utils import TestClient, TestServer

from llm360.errors import InputError
from llm360_operator import handlers
from llm360_operator.cache import Cache
from llm360_operator.main import connection, pages, read_options
from llm360_operator.metrics import Metrics
from llm360_operator.names import Key
from llm360_operator.queueing import Queue

# What would cost memory in every cluster and serves nothing there.
UNUSED = ("boto3", "matplotlib", "numpy", "pyarrow", "tokenizers", "torch")

ENVIRONMENT = {"LLM360_OPERATOR_IMAGE": "operator:1", "LLM360_TRAINER_IMAGE": "trainer:1"}


def test_options_have_defaults_but_for_the_images():
    options = read_options(ENVIRONMENT)
    assert (options.settings.operator_image, options.settings.trainer_image) == ("operator:1", "trainer:1")
    assert (options.parallel, options.port) == (32, 8080)
    assert (options.settings.max_evaluations, options.settings.namespaces) == (None, ())
    stated = read_options(ENVIRONMENT | {"LLM360_NAMESPACES": "a,b", "LLM360_MAX_EVALUATIONS": "8"}).settings
    assert (stated.max_evaluations, stated.namespaces) == (8, ("a", "b"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"LLM360_TRAINER_IMAGE": ""}, "LLM360_TRAINER_IMAGE is not set"),
        ({"LLM360_PORT": "x"}, "LLM360_PORT is 'x'; it must be a whole number"),
        ({"LLM360_PARALLEL": "0"}, "LLM360_PARALLEL is '0'"),
        ({"LLM360_MAX_EVALUATIONS": "many"}, "LLM360_MAX_EVALUATIONS is 'many'"),
    ],
)
def test_wrong_options_are_named(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        read_options(ENVIRONMENT | changes)


def test_certificates_are_checked_unless_a_kubeconfig_says_otherwise():
    assert connection(kopf.ConnectionInfo(server="https://x", token="t")).verify.check_hostname
    assert connection(kopf.ConnectionInfo(server="https://x", token="t", insecure=True)).verify is False


def test_health_is_the_age_of_the_last_turn():
    now = [0.0]

    async def work(_):
        return None

    async def main():
        queue = Queue(work, clock=lambda: now[0])
        async with TestClient(TestServer(pages(queue, Metrics()))) as client:
            codes = []
            for age in (0.0, 29.0, 31.0):
                now[0] = age
                codes.append((await client.get("/healthz")).status)
            metrics = await (await client.get("/metrics")).text()
            return codes, metrics

    codes, metrics = asyncio.run(main())
    assert codes == [200, 200, 503]
    assert "llm360_operator_tick_age_seconds 31.0" in metrics


def run(generation=2, **status):
    return {"metadata": {"namespace": "a", "name": "x", "generation": generation}, "status": status}


@pytest.mark.parametrize(
    ("kind", "made", "expected"),
    [
        (None, run(observedGeneration=2, phase="Training"), True),
        ("ADDED", run(), True),
        ("MODIFIED", run(observedGeneration=1, phase="Training"), True),
        ("MODIFIED", run(observedGeneration=2, phase="Training"), False),
        ("DELETED", run(observedGeneration=2, phase="Training"), True),
    ],
)
def test_the_echo_of_our_own_status_is_no_news(kind, made, expected):
    assert handlers.is_news({"type": kind, "object": made}) is expected


def test_events_ask_for_rounds_of_the_run_that_they_are_about():
    asked, registry = [], kopf.OperatorRegistry()
    handlers.register(registry, Cache(), asked.append)
    on_run, on_child = (handler.fn for handler in registry._watching._handlers[:2])
    asyncio.run(on_run(event={"type": None, "object": run()}))
    child = {"metadata": {"namespace": "a", "name": "x-3", "labels": {"llm360.ai/run": "x"}}}
    asyncio.run(on_child(event={"type": "MODIFIED", "object": child}))
    assert asked == [Key("a", "x")] * 2


def test_the_operator_loads_nothing_that_it_has_no_use_for():
    program = f"import sys, llm360_operator.main; print([name for name in {UNUSED} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
