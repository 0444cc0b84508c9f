"""Whatever happens, in whatever order: no forbidden action, no status against itself, and in the end the run is done.

The world refuses by itself a second cluster, a second driver, a second job of one number, a second evaluation of a
checkpoint at a time or of what is done, and any deletion but of a job, a preflight, a cluster, or a pod that is lost
with its node. What is checked here on top: the status after every
round, that a quiet world is left alone, and that a run which nothing disturbs any more comes to its end.
"""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm360.canonical import sha256_digest
from llm360_operator.seen import Trouble
from llm360_operator.verdict import CONDITIONS

TASKS = [{"name": "arc", "shots": 25}, {"name": "hella"}]
MOST = 3
"""Evaluations at a time, at most."""


def evaluation(*names, **changes):
    """A specification of evaluations."""
    return {"tasks": [task for task in TASKS if task["name"] in names], **changes}


def train(world, *steps, branch="0"):
    """The driver lists the checkpoints of some steps."""
    entries = [
        {"step": s, "labels": [], "modelDigest": "", "entry": sha256_digest(f"{s} {branch}".encode())} for s in steps
    ]
    world.train(max(steps), checkpoints=entries)


EVENTS = {
    "status lost": lambda world: world.step(is_status_lost=True),
    "deletions finish": lambda world: world.finish_deletions(),
    "time": lambda world: world.pass_time(10),
    "much time": lambda world: world.pass_time(700),
    "preflight passes": lambda world: world.end_preflight(),
    "preflight fails": lambda world: world.end_preflight("Failed", reason="BucketMissing", message="no bucket"),
    "pods ready": lambda world: world.make_ready(),
    "head lost": lambda world: world.lose_pods(head=True),
    "node lost": lambda world: world.lose_node(),
    "worker lost": lambda world: world.lose_pods(),
    "cluster vanishes": lambda world: world.vanish(),
    "admitted": lambda world: world.admit(),
    "preempted": lambda world: world.preempt(),
    "trains": lambda world: world.train(),
    "checkpoints": lambda world: train(world, 0, 10, 20),
    "rewound": lambda world: train(world, 0, 10),
    "made again": lambda world: train(world, 0, 10, 20, 30, branch="1"),
    "evaluations end": lambda world: world.end_evaluations(),
    "evaluations fail": lambda world: world.end_evaluations(state="Failed", reason="TaskMissing", message="no arc"),
    "evaluations lost": lambda world: world.lose_evaluations(),
    "an evaluation ends": lambda world: world.end_evaluations(10),
    "other tasks": lambda world: world.change(evaluation=evaluation("hella", maxRunning=MOST)),
    "more tasks": lambda world: world.change(evaluation=evaluation("arc", "hella", maxRunning=2)),
    "no tasks": lambda world: world.change(evaluation=evaluation()),
    "analyses": lambda world: world.change(evaluation=evaluation("arc", analyses=["memorization"])),
    "wrong tasks": lambda world: world.change(evaluation={"tasks": TASKS, "maxRunning": 0}),
    "bound reached": lambda world: setattr(world, "evaluation_slots", 0),
    "bound raised": lambda world: setattr(world, "evaluation_slots", 1),
    "driver silent": lambda world: setattr(world, "driver", None),
    "job done": lambda world: world.end_job(0),
    "job fails": lambda world: world.end_job(1),
    "bad input": lambda world: world.end_job(2, "DataMissing", "no data"),
    "suspend": lambda world: world.change(suspend=True),
    "resume": lambda world: world.change(suspend=False),
    "more attempts": lambda world: world.change(recovery={"maxAttempts": 50}),
    "other head": lambda world: world.change(cluster={**world.cluster_spec, "head": {"cpus": 3}}),
    "invalid": lambda world: world.change(cluster={**world.cluster_spec, "workers": {"replicas": 1000}}),
    "valid": lambda world: world.change(cluster=world.cluster_spec),
    "no node": lambda world: setattr(world, "troubles", (Trouble("Unschedulable", "pod x: no node"),)),
    "node": lambda world: setattr(world, "troubles", ()),
    "no KubeRay": lambda world: setattr(world, "is_kuberay_missing", True),
    "KubeRay": lambda world: setattr(world, "is_kuberay_missing", False),
}


def check_status(world):
    """The status says one thing, in the words of the table."""
    status, conditions = world.status, world.conditions
    phase, reason = world.said
    assert status["observedGeneration"] == world.run["metadata"]["generation"]
    ready, progressing, suspended, succeeded = CONDITIONS[phase]
    assert (conditions["Suspended"], conditions["Succeeded"]) == (suspended, succeeded)
    assert conditions["Ready"] in (ready, "False")
    assert conditions["Progressing"] == progressing or progressing == "True"
    assert conditions["Ready"] != "True" or phase in ("Preparing", "Training", "Succeeded")
    assert reason
    assert all(condition["message"] for condition in status["conditions"])
    assert status.get("failures", 0) <= world.jobs_failed, "a job's end was counted twice"
    if phase == "Suspended" and reason == "SuspendAsked":
        assert world.cluster is None
    if phase == "Training":
        assert world.cluster is not None


def check_evaluations(world):
    """What the status says of evaluations adds up."""
    evaluated = world.status.get("evaluation", {})
    if "due" in evaluated:
        assert evaluated["done"] + evaluated["waiting"] <= evaluated["due"]
        assert evaluated["failed"] <= evaluated["due"]
        stated = world.run["spec"]["evaluation"]
        is_asked = stated["tasks"] and stated.get("maxRunning") != 0  # which is wrong: all stays as it was
        assert "Evaluated" in world.conditions or not is_asked
    assert world.most_evaluations <= MOST


def bring_to_an_end(world):
    """From now on nothing disturbs; returns how many rounds it took until nothing was left to do."""
    world.change(suspend=False, cluster=world.cluster_spec, evaluation=evaluation("arc", "hella", maxRunning=2))
    world.evaluation_slots = None
    world.troubles, world.is_kuberay_missing = (), False
    for count in itertools.count():
        assert count < 90, f"does not come to an end: {world.said}"
        decision = world.step()
        check_status(world)
        check_evaluations(world)
        if decision.wait is None and world.status["phase"] in ("Succeeded", "Failed"):
            return
        assert decision.wait is not None or decision.actions, f"gives up at {world.said}"
        world.finish_deletions()
        world.end_evaluations()
        world.pass_time(700)
        world.end_preflight()
        world.admit()
        world.make_ready()
        world.end_job(0) if world.driver else world.train()


# What happens, and whether the operator has a round before the next thing does.
STORIES = st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.booleans()), max_size=30)


# A Job that is to tell of later checkpoints waits for its turn: the checkpoint that it is named after is done already.
ASKS = [
    ("KubeRay", True), ("bound reached", False), ("evaluations end", True), ("job done", True),
    ("deletions finish", True),
]  # fmt: skip


@example(has_queue=False, is_training=True, story=ASKS)
@settings(max_examples=600)
@given(has_queue=st.booleans(), is_training=st.booleans(), story=STORIES)
def test_any_sequence_of_events_ends_well_and_nothing_forbidden_happens(worlds, has_queue, is_training, story):
    world = worlds(has_queue=has_queue, evaluation=evaluation("arc", maxRunning=MOST))
    if is_training:
        world.settle()
        world.train()
    for name, is_round in story:
        EVENTS[name](world)
        if is_round:
            world.step()
            check_status(world)
            check_evaluations(world)
    bring_to_an_end(world)
    assert (world.cluster, world.preflight, world.live, world.evaluations) == (None, None, [], {})
    remembered = world.status.get("evaluation", {}).get("checkpoints", [])
    assert all(line.split()[3] == "0" for line in remembered), "something failed, and was not tried again"
    assert world.status["evaluation"]["done"] == world.status["evaluation"]["due"] == len(remembered)


@settings(max_examples=60)
@given(story=STORIES)
def test_a_world_in_which_nothing_happens_is_left_alone(worlds, story):
    world = worlds(evaluation=evaluation("arc", maxRunning=MOST))
    world.settle()
    for name, is_round in story:
        EVENTS[name](world)
        if is_round:
            world.step()
    world.finish_deletions()
    for _ in range(8):
        world.step()
        world.finish_deletions()
    for _ in range(3):
        before = world.status
        decision = world.step()
        world.finish_deletions()
        assert decision.actions + decision.evaluations == (), f"acts again and again: {world.said}"
        assert decision.wait is None or decision.wait >= 1, f"a hot loop: {world.said}"
        assert world.status == before
