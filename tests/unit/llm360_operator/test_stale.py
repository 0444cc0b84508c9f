"""Rounds on what is known of a run while watch events come late, or never: nothing is made twice, and it heals.

A world of others acts on the API server's objects; of each act the operator is told at once, later, or not at all.
"""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic.operated import DONE, KEY, FakeApi, Operator

from llm360_operator.api import ApiError
from llm360_operator.cache import FRESH_SECONDS

HEAD = [{"type": "HeadPodReady", "status": "True"}]
FAILED = [{"type": "Failed", "status": "True", "lastTransitionTime": "2026-11-22T12:00:00Z"}]


class StrictApi(FakeApi):
    """An API that says so when a second driver is started, or a number is used again that the status knows."""

    def __init__(self, *objects):
        self.jobs_made = []
        super().__init__(*objects)

    @property
    def live(self):
        return [name for (kind, _, name), job in self.objects.items() if kind == "RayJob" and not job.get("status")]

    async def create(self, manifest):
        made = await super().create(manifest)
        if manifest["kind"] == "RayJob" and made is not None:
            name = manifest["metadata"]["name"]
            assert self.live == [name], "a second driver"
            assert int(name.rpartition("-")[2]) > self.status.get("submission", 0), "a number is used again"
            self.jobs_made.append(name)
        return made


def say(kind, name, **status):
    """Somebody writes a child's status, if the child is there and has none that is final."""

    def act(operator):
        found = operator.api.objects.get((kind, "research", name or next(iter(operator.api.live), "")))
        if found is not None and not (kind in ("Job", "RayJob") and found.get("status")):
            found["status"] = status

    return act


def vanish(operator):
    operator.api.objects.pop(("RayCluster", *KEY), None)


def change(**spec):
    def act(operator):
        run = operator.api.objects["LLM360Run", *KEY]
        run["spec"] |= spec
        run["metadata"]["generation"] += 1
        operator.api.changed("LLM360Run", *KEY)

    return act


def lose_status(operator):
    """The operator died before it wrote the status of its first round."""
    run = operator.api.objects["LLM360Run", *KEY]
    if not operator.api.jobs_made and run.pop("status", None):
        operator.api.changed("LLM360Run", *KEY)
        operator.restart()


EVENTS = {
    "preflight passes": say("Job", "amber-preflight", conditions=DONE),
    "preflight fails": say("Job", "amber-preflight", conditions=FAILED),
    "pods ready": say("RayCluster", "amber", readyWorkerReplicas=2, conditions=HEAD),
    "head lost": say("RayCluster", "amber", readyWorkerReplicas=2, conditions=[]),
    "cluster vanishes": vanish,
    "job fails": say("RayJob", None, jobDeploymentStatus="Failed", message="exit code 1"),
    "suspend": change(suspend=True),
    "resume": change(suspend=False),
    "other head": change(cluster={"head": {"cpus": 3}}),
    "restart": lambda operator: operator.restart(),
    "status lost": lose_status,
    "time": lambda operator: setattr(operator, "now", operator.now + FRESH_SECONDS),
}

HAPPENS = st.tuples(st.sampled_from(sorted(EVENTS)), st.sampled_from(["told", "late", "lost"]), st.booleans())


def take_round(operator):
    """One round as the queue has it: one that fails is taken again."""
    for _ in range(3):
        with contextlib.suppress(ApiError):
            return operator.round()
    raise AssertionError("a round fails again and again")


@settings(max_examples=150)
@given(is_just_made=st.booleans(), story=st.lists(HAPPENS, max_size=25))
def test_nothing_is_made_twice_and_what_was_missed_heals(make_run, is_just_made, story):
    operator = Operator(make_run(recovery={"maxAttempts": 50}))
    operator.api = StrictApi(operator.api.objects["LLM360Run", *KEY])
    operator.restart()
    operator.is_deaf = True
    if is_just_made:
        operator.cache.take("LLM360Run", {"type": "ADDED", "object": operator.api.changed("LLM360Run", *KEY)})
    for name, hearing, is_round in story:
        EVENTS[name](operator)
        if hearing != "late":
            operator.watch(is_lost=hearing == "lost")
        if is_round:
            take_round(operator)
    change(suspend=False, cluster={})(operator)
    for _ in range(40):  # from now on nothing is ever told
        operator.now += FRESH_SECONDS
        _, wait = take_round(operator)
        if wait is None:
            break
        EVENTS["preflight passes"](operator)
        EVENTS["pods ready"](operator)
        if operator.api.status["phase"] in ("Starting", "Training") and operator.api.live:
            say("RayJob", None, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete")(operator)
    assert operator.api.status["phase"] == "Succeeded"
    left = {kind for kind, _, _ in operator.api.objects}
    assert left <= {"LLM360Run", "ConfigMap", "NetworkPolicy", "RayJob"}
