"""Our requests as an API server would meet them, and its answers as we take them."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from synthetic.operated import merged

from llm360_operator.api import Api, ApiError, Connection, KindMissingError, merge_patch
from llm360_operator.observe import fetch_status

RUN = {
    "apiVersion": "llm360.ai/v1alpha1",
    "kind": "LLM360Run",
    "metadata": {"name": "amber", "namespace": "a", "resourceVersion": "7"},
}


@contextlib.asynccontextmanager
async def served(answer):
    """A server on this machine that answers by a function of the request."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def talk(script, *answers, tokens=("t1", "t2")):
    """Runs a script against an API that gives the answers in turn; returns its result and the requests."""
    requests, counted, left, given = [], [], list(answers), list(tokens)

    async def answer(request):
        body = await request.json() if request.can_read_body else None
        requests.append((request.method, request.path_qs, request.headers.get("Authorization"), body))
        status, content = left.pop(0)
        if isinstance(content, str):
            return web.Response(text=content, status=status)
        return web.json_response(content, status=status)

    async def main():
        async with served(answer) as url:
            api = Api(lambda: Connection(url, given.pop(0), verify=True), lambda *what: counted.append(what))
            try:
                return await script(api)
            finally:
                await api.close()

    return asyncio.run(asyncio.wait_for(main(), 20)), requests, counted


def refusal(code, reason, **details):
    return code, {"kind": "Status", "reason": reason, "message": f"it is {reason}", "details": details}


def test_objects_are_asked_for_by_name():
    found, requests, counted = talk(lambda api: api.get("RayCluster", "a", "amber"), (200, {"kind": "RayCluster"}))
    assert found == {"kind": "RayCluster"}
    assert requests == [("GET", "/apis/ray.io/v1/namespaces/a/rayclusters/amber", "Bearer t1", None)]
    assert counted == [("get", "RayCluster", 200)]


def test_a_missing_object_is_none_and_a_missing_kind_is_an_error():
    assert talk(lambda api: api.get("Job", "a", "x"), refusal(404, "NotFound", name="x"))[0] is None
    with pytest.raises(KindMissingError):
        talk(lambda api: api.get("RayCluster", "a", "x"), (404, "404 page not found\n"))


def test_lists_are_of_labels():
    found, requests, _ = talk(lambda api: api.list("RayJob", "a", "llm360.ai/run=amber"), (200, {"items": [{}, {}]}))
    assert len(found) == 2
    assert requests[0][1] == "/apis/ray.io/v1/namespaces/a/rayjobs?labelSelector=llm360.ai/run%3Damber"


def test_what_exists_is_not_made_again():
    manifest = {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "a"}}
    assert talk(lambda api: api.create(manifest), (201, manifest))[0] == manifest
    assert talk(lambda api: api.create(manifest), refusal(409, "AlreadyExists", name="x"))[0] is None
    with pytest.raises(ApiError, match="Forbidden \\(403\\): it is Forbidden"):
        talk(lambda api: api.create(manifest), refusal(403, "Forbidden", name="x"))


def test_deletion_is_from_below_and_what_is_gone_is_gone():
    _, requests, _ = talk(lambda api: api.delete("RayCluster", "a", "x"), (200, {}))
    assert requests[0][3] == {"propagationPolicy": "Foreground"}
    talk(lambda api: api.delete("RayCluster", "a", "x"), refusal(404, "NotFound", name="x"))
    _, requests, _ = talk(lambda api: api.delete("Pod", "a", "x", is_forced=True), (200, {}))
    assert requests[0][3] == {"gracePeriodSeconds": 0}


def test_a_status_is_written_to_the_run_that_was_read():
    _, requests, _ = talk(lambda api: api.patch_status(RUN, {"step": 3, "loss": None}), (200, {}))
    (method, path, _, body) = requests[0]
    assert (method, path) == ("PATCH", "/apis/llm360.ai/v1alpha1/namespaces/a/llm360runs/amber/status")
    assert body == {"metadata": {"resourceVersion": "7"}, "status": {"step": 3, "loss": None}}
    with pytest.raises(ApiError):
        talk(lambda api: api.patch_status(RUN, {"step": 3}), refusal(409, "Conflict", name="amber"))


VALUES = st.recursive(
    st.integers(0, 3) | st.lists(st.dictionaries(st.sampled_from("ab"), st.integers(0, 1)), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@given(old=OBJECTS, new=OBJECTS)
def test_a_patch_makes_of_one_object_the_other_whatever_is_gone_in_it(old, new):
    assert merged(old, merge_patch(old, new)) == new
    assert merge_patch(new, new) == {}


def test_a_token_that_has_run_out_is_read_again():
    _, requests, counted = talk(lambda api: api.get("Job", "a", "x"), refusal(401, "Unauthorized"), (200, {}))
    assert [request[2] for request in requests] == ["Bearer t1", "Bearer t2"]
    assert counted == [("get", "Job", 200)]


def test_no_answer_is_an_error_of_ours():
    async def main():
        api = Api(lambda: Connection("http://127.0.0.1:9", None, verify=True), lambda *_: None)
        try:
            await api.get("Job", "a", "x")
        finally:
            await api.close()

    with pytest.raises(ApiError, match="gave no answer"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "text", "found"),
    [(200, '{"step": 3}', {"step": 3}), (200, "[1]", None), (200, "no json", None), (404, "{}", None), (500, "", None)],
)
def test_a_drivers_status_is_taken_where_it_makes_sense(status, text, found):
    async def answer(_):
        return web.Response(text=text, status=status)

    async def main():
        async with served(answer) as url:
            return await fetch_status(f"{url}/status")

    assert asyncio.run(main()) == found


def test_a_driver_that_is_not_there_says_nothing():
    assert asyncio.run(fetch_status("http://127.0.0.1:9/status")) is None


def test_a_status_that_comes_in_pieces_is_read_whole():
    async def answer(request):
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"checkpoints": [', b"1", b"]}"):
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    async def main():
        async with served(answer) as url:
            return await fetch_status(f"{url}/status")

    assert asyncio.run(main()) == {"checkpoints": [1]}


def test_a_driver_cannot_send_the_operator_elsewhere():
    asked = []

    async def answer(request):
        asked.append(request.path)
        if request.path == "/status":
            raise web.HTTPFound("/latest/meta-data")
        return web.json_response({"phase": "Training"})

    async def main():
        async with served(answer) as url:
            return await fetch_status(f"{url}/status")

    assert asyncio.run(main()) is None
    assert asked == ["/status"]


def test_a_kind_is_known_once_it_is_listed():
    async def script(api):
        return [await api.knows("RayCluster") for _ in range(3)]

    missing = 404, "404 page not found"
    other = 200, {"resources": [{"name": "rayjobs"}]}
    there = 200, {"resources": [{"name": "rayjobs"}, {"name": "rayclusters"}]}
    found, requests, counted = talk(script, missing, other, there)
    assert found == [False, False, True]
    assert requests[0][:2] == ("GET", "/apis/ray.io/v1")
    assert counted[-1] == ("discover", "RayCluster", 200)
