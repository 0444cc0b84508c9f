"""A run, and a small world in which it lives: what Kubernetes, KubeRay, Kueue and a driver would do, without any."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from llm360.canonical import sha256_digest
from llm360_operator.case import Create, Delete, Settings
from llm360_operator.names import (
    CHECKPOINT_ANNOTATION,
    CONFIG_ANNOTATION,
    DIGEST_ANNOTATION,
    EVALUATION_LABEL,
    GENERATION_ANNOTATION,
    TASKS_ANNOTATION,
)
from llm360_operator.reconcile import reconcile
from llm360_operator.seen import Cluster, Evaluation, Job, Preflight, Seen

SETTINGS = Settings("operator:1", "trainer:1")
START = datetime(2026, 11, 22, 12, tzinfo=UTC)


def run_object(**spec):
    """An LLM360Run as the API server gives it back."""
    return {
        "apiVersion": "llm360.ai/v1alpha1",
        "kind": "LLM360Run",
        "metadata": {"name": "amber", "namespace": "research", "uid": "u-1", "generation": 1, "resourceVersion": "1"},
        "spec": {"preset": "amber-tiny", "storage": {"uri": "s3://b/amber"}} | spec,
    }


def checkpoint(step, branch="0"):
    """A published checkpoint as a driver lists it."""
    entry = sha256_digest(f"{step} {branch}".encode())
    return {"step": step, "labels": [], "modelDigest": f"sha256:{step}", "entry": entry}


def driver_status(step=7, **changes):
    """What a driver of the run says."""
    return {
        "phase": "Training",
        "attempt": 1,
        "step": step,
        "totalSteps": 100,
        "tokens": step * 8192,
        "loss": 3.25,
        "tokensPerSecond": 1234.5,
        "checkpoints": [checkpoint(0)],
        "startTime": "2026-11-22T12:00:00Z",
        "estimatedSecondsLeft": 90.0,
        "ledgerHead": "sha256:1",
    } | changes


@dataclass
class World:
    """A run with its children. `step` is one round: reconcile, do what it says, write the status."""

    run: dict = field(default_factory=run_object)
    now: datetime = START
    configs: dict = field(default_factory=dict)
    preflight: Preflight | None = None
    cluster: Cluster | None = None
    jobs: dict = field(default_factory=dict)
    troubles: tuple = ()
    lost_pods: tuple = ()
    driver: dict | None = None
    foreign: tuple = ()
    is_kuberay_missing: bool = False
    evaluations: dict = field(default_factory=dict)
    evaluation_troubles: tuple = ()
    evaluation_slots: int | None = None
    has_queue: bool = False
    evaluated: dict = field(default_factory=dict)
    evaluated_steps: set = field(default_factory=set)
    most_evaluations: int = 0
    clusters_made: int = 0
    jobs_failed: int = 0
    decisions: list = field(default_factory=list)

    def seen(self):
        jobs = tuple(job for _, job in sorted(self.jobs.items()))
        return Seen(
            self.now, dict(self.configs), self.preflight, self.cluster, jobs, self.troubles, self.lost_pods,
            self.driver, self.foreign, self.is_kuberay_missing,
            tuple(self.evaluations.values()) if self.status.get("evaluation", {}).get("tasks") else (),
            self.evaluation_troubles, self.evaluation_slots,
        )  # fmt: skip

    def decide(self):
        run, seen = copy.deepcopy(self.run), self.seen()
        decision = reconcile(run, seen, SETTINGS)
        assert run == self.run, "reconcile changed what it was given"
        assert decision == reconcile(run, seen, SETTINGS), "reconcile is not a function"
        return decision

    def step(self, *, is_status_lost=False):
        """One round. With a lost status the operator died between its actions and the write."""
        decision = self.decide()
        self.decisions.append(decision)
        for action in (*decision.actions, *decision.evaluations):
            self.act(action)
        assert not [action for action in decision.actions if "-eval-" in str(action)], "training waits for it"
        if not is_status_lost:
            self.run["status"] = decision.status
        return decision

    def act(self, action):
        if isinstance(action, Delete):
            return self.delete(action)
        assert isinstance(action, Create)
        return self.create(action.manifest)

    def create(self, manifest):
        kind, metadata = manifest["kind"], manifest["metadata"]
        assert metadata["ownerReferences"][0]["uid"] == "u-1"
        annotations = metadata.get("annotations", {})
        if CONFIG_ANNOTATION in annotations:
            assert annotations[CONFIG_ANNOTATION] in self.configs, "pods of a configuration that is not stored"
        if kind == "ConfigMap":
            assert metadata["name"] not in self.configs
            self.configs[metadata["name"]] = manifest["data"]["run.json"].encode()
        elif kind == "NetworkPolicy":
            assert metadata["name"] == "amber"  # made once; the API server says so of a second one
        elif kind == "Job" and EVALUATION_LABEL in metadata["labels"]:
            self.begin_evaluation(metadata)
        elif kind == "Job":
            assert self.preflight is None, "a second preflight job"
            self.preflight = Preflight(annotations[CONFIG_ANNOTATION], "Running")
        elif kind == "RayCluster":
            assert self.cluster is None, "a second cluster"
            self.clusters_made += 1
            is_suspended = bool(manifest["spec"].get("suspend"))
            self.cluster = Cluster(
                annotations[DIGEST_ANNOTATION], uid="c-1", is_suspended=is_suspended, created=self.now
            )
        else:
            assert kind == "RayJob"
            number = int(metadata["name"].rpartition("-")[2])
            assert number not in self.jobs, "a second job of one number"
            assert not any(job.state == "Active" for job in self.jobs.values()), "a second driver"
            assert self.cluster is not None
            assert self.cluster.is_head_ready
            assert not self.cluster.is_deleting, "a job for a cluster that is going"
            self.jobs[number] = Job(number, "Active")

    def begin_evaluation(self, metadata):
        """Once it is there, the API server takes no second one of its name."""
        if metadata["name"] in self.evaluations:
            return
        annotations = metadata["annotations"]
        made = Evaluation(
            name=metadata["name"],
            step=int(metadata["labels"][EVALUATION_LABEL]),
            digest=annotations[CHECKPOINT_ANNOTATION],
            labels=frozenset(filter(None, annotations[TASKS_ANNOTATION].split(","))),
            generation=int(annotations[GENERATION_ANNOTATION]),
        )
        assert made.labels or self.driver is None, "a job that only tells what the driver can tell"
        self.evaluated_steps.add(made.step)
        assert made.digest not in [job.digest for job in self.evaluations.values()], "a second job of a checkpoint"
        done = self.evaluated.setdefault(made.digest, set())
        assert not made.labels & done, "what is done is done again"
        self.evaluations[made.name] = made
        self.most_evaluations = max(self.most_evaluations, len(self.evaluations))

    def delete(self, action):
        assert action.kind in ("Job", "Pod", "RayCluster", "RayJob"), f"{action.kind} must never be deleted"
        assert action.is_forced == (action.kind == "Pod"), "only what is lost is removed by force"
        if action.kind == "Pod":
            assert action.name in self.lost_pods, "a pod that KubeRay takes care of"
            self.lost_pods = tuple(name for name in self.lost_pods if name != action.name)
        elif action.name in self.evaluations:
            self.evaluations[action.name] = replace(self.evaluations[action.name], is_deleting=True)
        elif action.kind == "Job":
            assert self.preflight is not None
            self.preflight = replace(self.preflight, is_deleting=True)
        elif action.kind == "RayCluster":
            assert self.cluster is not None
            assert not self.live, "a cluster goes while its driver was not asked to stop"
            self.cluster = replace(self.cluster, is_deleting=True)
        else:
            number = int(action.name.rpartition("-")[2])
            if self.driver:
                self.driver = self.driver | {"phase": "Stopped"}
            self.jobs[number] = replace(self.jobs[number], is_deleting=True)

    # What the others do.

    def pass_time(self, seconds=10.0):
        self.now += timedelta(seconds=seconds)

    def finish_deletions(self):
        """What is on its way out is gone."""
        if self.preflight and self.preflight.is_deleting:
            self.preflight = None
        if self.cluster and self.cluster.is_deleting and not self.lost_pods:
            self.cluster, self.driver = None, None
        self.evaluations = {name: job for name, job in self.evaluations.items() if not job.is_deleting}
        for number in [number for number, job in self.jobs.items() if job.is_deleting]:
            if self.jobs.pop(number).state == "Active":
                self.leave()

    def leave(self):
        """The driver has stopped, and waits until its end was read."""
        if self.driver and self.driver.get("phase") == "Stopped":
            self.step()
        self.driver = None

    def end_preflight(self, state="Passed", **answer):
        if self.preflight and self.preflight.state == "Running" and not self.preflight.is_deleting:
            self.preflight = replace(self.preflight, state=state, finished=self.now, answer=answer)

    def make_ready(self, workers=2):
        if self.cluster and not self.cluster.is_suspended and not self.lost_pods:
            self.cluster = replace(self.cluster, is_head_ready=True, ready_workers=workers)

    def end_evaluations(self, *steps, state="Succeeded", answer=None, **changes):
        """Jobs end: those of the given steps, or all."""
        for name, job in self.evaluations.items():
            if job.state == "Active" and not job.is_deleting and (not steps or job.step in steps):
                tasks = sorted({label.partition(":")[0] for label in job.labels})
                scores = [{"task": task, "metric": "acc", "value": job.step / 100, "stderr": 0.01} for task in tasks]
                said = answer or {"reason": "Done", "message": "", "scores": scores if state == "Succeeded" else []}
                self.evaluations[name] = replace(job, state=state, answer=said, **changes)
                if state == "Succeeded":
                    self.evaluated.setdefault(job.digest, set()).update(job.labels)

    def lose_evaluations(self):
        """Their node loses its power."""
        for name, job in self.evaluations.items():
            if job.state == "Active":
                self.evaluations[name] = replace(job, is_lost=True)

    def evaluate_all(self, rounds=40):
        """Evaluations go well until nothing is left of them to do."""
        for _ in range(rounds):
            self.step()
            self.finish_deletions()
            self.end_evaluations()

    def lose_pods(self, *, head=False):
        if self.cluster:
            self.cluster = replace(self.cluster, is_head_ready=not head, ready_workers=0 if head else 1)
        if head:
            self.driver = None

    def lose_node(self):
        """Two pods were on it; while they are there KubeRay neither makes others nor lets the cluster go."""
        if self.cluster and not self.cluster.is_suspended:
            self.lose_pods(head=True)
            self.lost_pods = ("amber-head-x", "amber-worker-y")

    def admit(self):
        if self.cluster and self.has_queue:
            self.cluster = replace(self.cluster, is_suspended=False)

    def preempt(self):
        if self.cluster and self.has_queue:
            self.cluster = replace(self.cluster, is_suspended=True, is_head_ready=False, ready_workers=0)
            self.driver = None

    def train(self, step=7, **changes):
        if self.live and self.cluster and self.cluster.is_head_ready:
            ours = {"configDigest": self.status.get("configDigest")}
            self.driver = driver_status(step, **(ours | changes))
            listed = {entry.get("entry") for entry in self.driver["checkpoints"]}
            self.evaluated = {digest: labels for digest, labels in self.evaluated.items() if digest in listed}

    @property
    def live(self):
        return [number for number, job in self.jobs.items() if job.state == "Active" and not job.is_deleting]

    def vanish(self):
        """Somebody removes the cluster."""
        self.cluster, self.driver = None, None

    @property
    def cluster_spec(self):
        """What the user states of the cluster."""
        return {"queue": "gpus"} if self.has_queue else {}

    def end_job(self, exit_code=0, reason="WorkerDied", message="a worker died"):
        for number in self.live:
            state = "Failed" if exit_code else "Succeeded"
            self.jobs_failed += state == "Failed"
            self.jobs[number] = Job(number, state, exit_code, reason, message, self.now)
            self.driver = None

    def change(self, **spec):
        """The user applies another specification."""
        changed = self.run["spec"] | spec
        if changed != self.run["spec"]:
            self.run["spec"] = changed
            self.run["metadata"]["generation"] += 1

    def settle(self, rounds=12):
        """Rounds in which everything goes well, until a round changes nothing but numbers."""
        for _ in range(rounds):
            self.step()
            self.finish_deletions()
            self.end_preflight()
            self.admit()
            self.make_ready()

    @property
    def status(self):
        return self.run.get("status", {})

    @property
    def said(self):
        """Phase and reason of the last round."""
        return self.status["phase"], self.status["conditions"][0]["reason"]

    @property
    def conditions(self):
        return {condition["type"]: condition["status"] for condition in self.status["conditions"]}


@pytest.fixture(scope="session")
def make_run():
    """Makes an LLM360Run with a changed specification."""
    return run_object


@pytest.fixture(scope="session")
def worlds():
    """Makes a world, with a Kueue or without."""

    def make(*, has_queue=False, **spec):
        return World(run=run_object(cluster={"queue": "gpus"} if has_queue else {}, **spec), has_queue=has_queue)

    return make


@pytest.fixture(scope="session")
def list_checkpoints():
    """Makes the checkpoints of some steps, as a driver lists them; on another branch they are others."""
    return lambda *steps, branch="0": [checkpoint(step, branch) for step in steps]


@pytest.fixture
def world():
    return World()


@pytest.fixture
def training():
    """A run in the middle of its training."""
    world = World()
    world.settle()
    world.train()
    world.step()
    assert world.said == ("Training", "Training")
    return world
