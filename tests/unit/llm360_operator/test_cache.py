"""What is known of a run: the last word counts, in whatever order words arrive; nothing that is read is left out."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360_operator.cache import FRESH_SECONDS, Cache, View, trim
from llm360_operator.names import Key
from llm360_operator.seen import read_cluster, read_evaluation, read_job, read_preflight

KEY = Key("research", "amber")


def made(kind="RayJob", name="amber-1", version=1, uid="u", **parts):
    """An object of the run as the API server gives it."""
    metadata = {"name": name, "namespace": "research", "uid": uid, "resourceVersion": str(version)}
    metadata |= {"labels": {"llm360.ai/run": "amber"}, "managedFields": [{"manager": "x"}], "generation": 1}
    metadata["creationTimestamp"] = "2026-11-22T12:00:00Z"
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **parts}


def run(version=1, **parts):
    return made("LLM360Run", "amber", version, **parts)


def known(cache, *objects):
    """The view of a run after a look that found some objects."""
    view = cache.begin(KEY)
    for each in objects:
        view.put(each["kind"], each)
    cache.finish(view)
    return view


@given(num_words=st.integers(1, 8), data=st.data())
def test_the_last_word_counts_in_whatever_order_and_however_often_words_arrive(num_words, data):
    words = [made(version=2 * n, status={"message": str(n)}) for n in range(1, num_words + 1)]
    heard = data.draw(st.permutations([*data.draw(st.lists(st.sampled_from(words), max_size=12)), words[-1]]))
    view = View(KEY)
    for word in heard:
        view.put("RayJob", word)
    found = view.get("RayJob", "amber-1")
    assert list(view.all("RayJob")) == [found]
    assert found["status"] == words[-1]["status"]
    assert found["metadata"]["resourceVersion"] == words[-1]["metadata"]["resourceVersion"]


def test_what_is_read_cannot_be_changed():
    view = known(Cache(), run())
    view.run["spec"] = "other"
    assert "spec" not in view.run


def test_only_what_changes_something_that_is_read_is_news():
    view = View(KEY)
    job = made(status={"jobStatus": "RUNNING", "rayJobInfo": {"startTime": "1"}})
    assert view.put("RayJob", job)
    assert not view.put("RayJob", job), "an echo"
    later = copy.deepcopy(job) | {"status": {"jobStatus": "RUNNING", "rayJobInfo": {"startTime": "2"}}}
    later["metadata"]["resourceVersion"] = "2"
    assert not view.put("RayJob", later)
    assert view.get("RayJob", "amber-1")["metadata"]["resourceVersion"] == "2"


def test_a_look_is_believed_for_a_few_minutes():
    now = [0.0]
    cache = Cache(lambda: now[0])
    assert cache.view(KEY) is None
    view = cache.begin(KEY)
    assert cache.view(KEY) is None, "the look is not over"
    cache.finish(view)
    now[0] = FRESH_SECONDS - 1
    assert cache.view(KEY) is view
    now[0] = FRESH_SECONDS
    assert cache.view(KEY) is None


def test_what_is_said_during_a_look_counts():
    cache = Cache()
    view = cache.begin(KEY)
    assert cache.take("RayJob", {"type": "MODIFIED", "object": made(version=9, status={"message": "new"})})
    view.put("RayJob", made(version=3, status={"message": "old"}))  # the answer was under way
    cache.finish(view)
    assert cache.view(KEY).get("RayJob", "amber-1")["status"]["message"] == "new"


@pytest.mark.parametrize("gone", [run(9), made(version=9)], ids=["run", "child"])
def test_where_something_is_gone_nothing_is_known_any_more_not_even_by_a_look_that_is_under_way(gone):
    cache = Cache()
    known(cache, run(), made())
    assert cache.take(gone["kind"], {"type": "DELETED", "object": gone})
    assert cache.view(KEY) is None
    overtaken = cache.begin(KEY)
    assert cache.take(gone["kind"], {"type": "DELETED", "object": gone})
    cache.finish(overtaken)
    assert cache.view(KEY) is None


@pytest.mark.parametrize(
    ("kind", "event"),
    [("ADDED", run(5, uid="another")), ("MODIFIED", run(5, uid="another")), ("DELETED", run(5))],
)
def test_of_another_run_of_the_same_name_nothing_is_known(kind, event):
    cache = Cache()
    known(cache, run(), made())
    assert cache.take("LLM360Run", {"type": kind, "object": event})
    view = cache.view(KEY)
    assert view is None or (kind == "ADDED" and list(view.all("RayJob")) == [])


@pytest.mark.parametrize(
    ("kind", "found", "is_known"),
    [
        ("ADDED", run(), True),
        (None, run(), False),
        ("ADDED", run(status={"phase": "Pending"}), False),
        ("MODIFIED", run(), False),
    ],
    ids=["made", "listed", "begun", "changed"],
)
def test_only_of_a_run_that_was_just_made_it_is_known_that_it_has_no_children(kind, found, is_known):
    cache = Cache()
    assert cache.take("LLM360Run", {"type": kind, "object": found})
    assert (cache.view(KEY) is not None) == is_known


def test_answers_to_our_own_writes_are_known_at_once_and_their_echo_is_no_news():
    cache = Cache()
    view = known(cache, run())
    cache.note(made(version=2))
    assert view.get("RayJob", "amber-1") is not None
    assert not cache.take("RayJob", {"type": "ADDED", "object": made(version=2)})
    cache.note(made(version=2) | {"metadata": made()["metadata"] | {"namespace": "elsewhere"}})
    assert len(list(view.all("RayJob"))) == 1


CONDITION = {
    "type": "Failed",
    "status": "True",
    "reason": "r",
    "message": "m",
    "lastTransitionTime": "2026-11-22T12:00:00Z",
}
DELETED = {"deletionTimestamp": "2026-11-22T12:00:00Z", "deletionGracePeriodSeconds": 0, "finalizers": ["x"]}


@pytest.mark.parametrize("deleted", [{}, DELETED], ids=["stays", "goes"])
def test_nothing_that_is_read_of_a_child_is_left_out(deleted):
    cluster = made(
        "RayCluster",
        spec={"suspend": True, "headGroupSpec": {}, "workerGroupSpecs": [{"replicas": 3, "template": {"spec": {}}}]},
        status={"readyWorkerReplicas": 2, "conditions": [CONDITION | {"type": "HeadPodReady"}], "head": {}},
    )
    cluster["metadata"]["annotations"] = {"llm360.ai/digest": "sha256:1"}
    status = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed", "rayJobInfo": {}}
    job = made(status=status | {"message": "exit code 3", "endTime": "2026-11-22T13:00:00Z"}, spec={"entrypoint": "x"})
    evaluation = made("Job", status={"conditions": [CONDITION], "ready": 1, "terminating": 1}, spec={"template": {}})
    evaluation["metadata"]["labels"]["llm360.ai/evaluation"] = "10"
    names = ("checkpoint", "tasks", "generation", "config")
    evaluation["metadata"]["annotations"] = {f"llm360.ai/{name}": "1" for name in names}
    for each in (cluster, job, evaluation):
        each["metadata"] |= deleted
    for kind, found, read in (
        ("RayCluster", cluster, read_cluster),
        ("RayJob", job, read_job),
        ("Job", evaluation, lambda job: read_evaluation(job, [])),
        ("Job", evaluation, lambda job: read_preflight(job, [])),
    ):
        kept = trim(kind, found)
        assert read(kept) == read(found)
        assert len(str(kept)) < len(str(found))
    assert trim("RayCluster", cluster)["spec"]["workerGroupSpecs"] == [{"replicas": 3}]
    assert trim("Job", evaluation)["status"] == evaluation["status"]
    config = made("ConfigMap", data={"run.json": "{}"})
    assert trim("ConfigMap", config)["data"] == {"run.json": "{}"}
