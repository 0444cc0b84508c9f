"""`status` of an LLM360Run: what the operator writes and `kubectl describe` shows. A view; the ledger is the truth.

Every field is optional: a run that has just been applied has none of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints

from llm360.spec.base import MAX_EXACT, MAX_STEPS, Name, Section, optional, setting

Phase = Literal[
    "Pending", "Preflight", "Queued", "Starting", "Preparing", "Training", "Recovering", "Suspending", "Suspended",
    "Succeeded", "Failed",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)

RunCondition = Literal["Ready", "Progressing", "Suspended", "Succeeded"]
CONDITION_TYPES: tuple[RunCondition, ...] = get_args(RunCondition)
"""Those that follow from the phase."""

ConditionType = Literal["Ready", "Progressing", "Suspended", "Succeeded", "Evaluated"]

MAX_MESSAGE = 4096
"""Longest message of a condition, in characters."""

_DATE_TIME: dict[str, Any] = {"format": "date-time"}

Digest = Annotated[str, StringConstraints(max_length=71)]
Message = Annotated[str, StringConstraints(max_length=MAX_MESSAGE)]
Time = Annotated[str, Field(max_length=64, json_schema_extra=_DATE_TIME)]
"""An instant as Kubernetes writes it: 2026-11-22T15:20:00Z."""


class Condition(Section):
    """One aspect of the run's state, as Kubernetes' conditions are."""

    type: ConditionType = setting(
        "Ready: what the specification asks for is being done, or is done. Progressing: the run comes nearer to its"
        " end. Suspended: it holds no pods on purpose. Succeeded: the release is complete (True), or this run will not"
        " complete it (False). Evaluated: all its checkpoints have what evaluation asks for (True), or something is in"
        " the way (False)."
    )
    status: Literal["True", "False", "Unknown"] = setting("Whether it holds.")
    reason: Annotated[str, StringConstraints(max_length=128)] = setting(
        "One word for the cause; the runbook lists all."
    )
    message: Message = setting("What is the case and what to do.")
    last_transition_time: Time = setting("When status last changed.")
    observed_generation: int = setting(
        "Generation of the specification that this was said of.", unit="generations", ge=0, le=MAX_EXACT
    )


class Preflight(Section):
    """What was found before any worker was asked for."""

    passed: bool = setting("Whether the store, the data and the tokenizer can be used.")
    config: Annotated[str, StringConstraints(max_length=63)] = setting("ConfigMap with which that was found.")
    prepares: tuple[Name, ...] = setting("Stages whose data is missing and will be prepared first.", max_length=16)


class LatestCheckpoint(Section):
    """The newest published checkpoint."""

    step: int = setting("Its step.", unit="steps", ge=0, le=MAX_STEPS)
    labels: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = setting("Its names.", max_length=16)
    model_digest: Digest = setting("Digest of the model's tensors.")


Label = Annotated[str, StringConstraints(max_length=140)]
"""A task with its shots (`arc_challenge:25`), or an analysis (`analysis/memorization`)."""


class Score(Section):
    """One number of the newest checkpoint that has it."""

    task: Annotated[str, StringConstraints(max_length=128)] = setting("What was evaluated.")
    metric: Annotated[str, StringConstraints(max_length=128)] = setting("Which of its numbers, for example acc_norm.")
    value: float = setting("The number. One that is larger is in the release alone.", ge=-1e15, le=1e15)
    stderr: float | None = optional("Its standard error. Unset: not known.", ge=0, le=1e15)
    step: int = setting("Of the checkpoint.", unit="steps", ge=0, le=MAX_STEPS)


class EvaluationFailure(Section):
    """An evaluation that ended badly and is not tried again before the specification changes."""

    step: int = setting("Of the checkpoint.", unit="steps", ge=0, le=MAX_STEPS)
    reason: Annotated[str, StringConstraints(max_length=128)] = setting("One word for the cause.")
    message: Annotated[str, StringConstraints(max_length=512)] = setting("What was the case.")


class EvaluationStatus(Section):
    """What has been evaluated. It stays when the run's pods are gone, so that evaluation can go on without them."""

    due: int | None = optional("Checkpoints to be evaluated so far.", unit="checkpoints", ge=0, le=MAX_STEPS)
    done: int | None = optional("Of these, with all that is asked for.", unit="checkpoints", ge=0, le=MAX_STEPS)
    running: int | None = optional("Evaluation Jobs that are there.", unit="Jobs", ge=0, le=MAX_STEPS)
    waiting: int | None = optional("Checkpoints that wait for their Job.", unit="checkpoints", ge=0, le=MAX_STEPS)
    failed: int | None = optional("Checkpoints of which something failed.", unit="checkpoints", ge=0, le=MAX_STEPS)
    failures: tuple[EvaluationFailure, ...] | None = optional(
        "The newest of these failures, with reasons.", max_length=8
    )
    scores: tuple[Score, ...] | None = optional("Each task's numbers at its newest checkpoint.", max_length=256)
    tasks: tuple[Label, ...] | None = optional(
        "Every task (arc_challenge:25) and analysis (analysis/memorization) that was asked for so far; the bits of"
        " checkpoints count them from 0.",
        max_length=128,
    )
    checkpoints: (
        tuple[
            Annotated[
                str,
                StringConstraints(max_length=160, pattern=r"^[0-9]{1,10} [0-9a-f]{64} [0-9a-f]{1,32} [0-9a-f]{1,32}$"),
            ],
            ...,
        ]
        | None
    ) = optional(
        "Published checkpoints, each as four words: step, digest of its entry in the ledger, and as hexadecimal numbers"
        " with a bit for each of tasks what is done and what failed.",
        max_length=4096,
    )


class RunStatus(Section):
    """Where the run stands, as last seen by the operator."""

    phase: Phase | None = optional("Where the run stands, in one word.")
    conditions: tuple[Condition, ...] | None = optional(
        "The run's state by aspect, each with a reason and with what to do.",
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    observed_generation: int | None = optional(
        "Generation of the specification that this status was derived from.", unit="generations", ge=0, le=MAX_EXACT
    )
    config_digest: Digest | None = optional(
        "sha256 of the run's identity, pinned before its first pod; from then on the identity cannot change."
    )
    config: Annotated[str, StringConstraints(max_length=63)] | None = optional(
        "ConfigMap with the complete configuration that the run's pods have."
    )
    config_generation: int | None = optional(
        "Generation of the specification that this configuration was resolved from.",
        unit="generations",
        ge=0,
        le=MAX_EXACT,
    )
    preflight: Preflight | None = optional("What was found before any worker was asked for.")
    submission: int | None = optional("Number of the newest RayJob of this run.", unit="RayJobs", ge=0, le=MAX_STEPS)
    judged: int | None = optional(
        "Number of the newest RayJob whose bad end has been counted in failures.", unit="RayJobs", ge=0, le=MAX_STEPS
    )
    stopping: Time | None = optional("Since when the driver is asked to stop; then its pods go.")
    gone_after: Time | None = optional("From when on a driver that is asked to stop counts as gone unless it answers.")
    failures: int | None = optional(
        "RayJobs that ended badly one after another without a new checkpoint between them.",
        unit="RayJobs",
        ge=0,
        le=MAX_STEPS,
    )
    failed_at_step: int | None = optional(
        "Step of the newest checkpoint, published or to resume from, as the driver last said it; with a later one the"
        " failures before it are forgotten.",
        unit="steps",
        ge=0,
        le=MAX_STEPS,
    )
    attempt: int | None = optional("Newest attempt in the ledger.", unit="attempts", ge=0, le=MAX_STEPS)
    step: int | None = optional("Finished optimizer steps.", unit="steps", ge=0, le=MAX_STEPS)
    total_steps: int | None = optional("Optimizer steps of the whole run.", unit="steps", ge=0, le=10**12)
    tokens: int | None = optional("Predictions trained on.", unit="tokens", ge=0, le=MAX_EXACT)
    loss: float | None = optional("Mean loss of the last step.", unit="nats", ge=-1e9, le=1e9)
    tokens_per_second: float | None = optional("Rate of the last step.", unit="tokens/s", ge=0, le=1e15)
    mfu: float | None = optional("Model FLOPs utilisation of the last step.", unit="ratio", ge=0, le=10)
    checkpoints: int | None = optional("Published checkpoints.", unit="checkpoints", ge=0, le=MAX_STEPS)
    latest_checkpoint: LatestCheckpoint | None = optional("The newest published checkpoint.")
    evaluations: int | None = optional("Finished evaluations.", unit="evaluations", ge=0, le=MAX_STEPS)
    evaluation: EvaluationStatus | None = optional("Where the evaluation of its checkpoints stands.")
    ray_cluster: Annotated[str, StringConstraints(max_length=63)] | None = optional(
        "Name of the RayCluster while there is one."
    )
    start_time: Time | None = optional("When the release was begun.")
    estimated_completion: Time | None = optional("When the run will be complete at the rate of the last step.")
    ledger_head: Digest | None = optional("Name of the newest entry of the ledger.")
