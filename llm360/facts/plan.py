"""Whether a run fits its GPUs and how fast it can be there, before any GPU is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from llm360.errors import InputError
from llm360.facts.hardware import GIB, Gpu
from llm360.facts.memory import Memory, StepShape, step_memory
from llm360.facts.speed import StepTime, Traffic, step_time, step_traffic
from llm360.spec import ResolvedRun
from llm360.spec.base import quantity_bytes
from llm360.spec.model import Model

COMPUTE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Setting:
    """What may be changed so that a run fits: operations all.

    Attributes:
        gpus: Ranks.
        micro_batch: `parallelism.microBatch`.
        checkpointing: `parallelism.activationCheckpointing`.
        reduce_gradients: `parallelism.reduceGradients`.
        activation_bytes: `parallelism.activationMemory`, with measured checkpointing; else 0.
    """

    gpus: int
    micro_batch: int
    checkpointing: str
    reduce_gradients: str
    activation_bytes: int = 0

    def changes(self, before: Setting) -> str:
        """What to set, as a person would type it; empty where nothing differs."""
        parts = []
        if self.micro_batch != before.micro_batch:
            parts.append(f"parallelism.microBatch={self.micro_batch}")
        if self.checkpointing != before.checkpointing:
            parts.append(f"parallelism.activationCheckpointing={self.checkpointing}")
        if self.activation_bytes != before.activation_bytes:
            budget = f"{self.activation_bytes // GIB}Gi" if self.activation_bytes else "null"
            parts.append(f"parallelism.activationMemory={budget}")
        if self.reduce_gradients != before.reduce_gradients:
            parts.append(f"parallelism.reduceGradients={self.reduce_gradients}")
        if self.gpus != before.gpus:
            parts.append(f"{self.gpus:,} GPUs")
        return " and ".join(parts)


@dataclass(frozen=True)
class Plan:
    """What a step needs and how long it takes at least.

    Attributes:
        model: The architecture.
        batch: Sequences of a step, all ranks together.
        setting: How it is run.
        replicas: Copies of the model.
        step: The step of one rank.
        memory: Its peak.
        capacity: Bytes that a rank may use.
    """

    model: Model
    batch: int
    setting: Setting
    replicas: int
    step: StepShape
    memory: Memory
    capacity: int

    @property
    def fits(self) -> bool:
        """Whether the peak is within the capacity."""
        return self.memory.total <= self.capacity

    @property
    def step_tokens(self) -> int:
        """Predictions of a step, all ranks together."""
        return self.batch * self.step.sequence_length

    @property
    def traffic(self) -> Traffic:
        """What a rank sends in a step."""
        return step_traffic(self.model, self.step, self.replicas)

    def time(self, gpu: Gpu, node_gpus: int, mfu: float | None = None) -> StepTime:
        """Seconds of a step on these GPUs."""
        return step_time(self.model, self.step, gpu, replicas=self.replicas, node_gpus=node_gpus, mfu=mfu)


def plan(run: ResolvedRun, capacity: int, gpus: int | None = None) -> Plan:
    """The plan of a run's largest batch.

    Args:
        run: The complete specification.
        capacity: Bytes that a rank may use.
        gpus: Ranks; None: those of the specification.

    Raises:
        InputError: the batch or the replicas do not go with the ranks.
    """
    parallelism = run.spec.parallelism
    setting = Setting(
        run.spec.cluster.world_size if gpus is None else gpus,
        parallelism.micro_batch,
        parallelism.activation_checkpointing,
        parallelism.reduce_gradients,
        quantity_bytes(parallelism.activation_memory or "0"),
    )
    return _plan(run, setting, capacity)


def refusal(run: ResolvedRun, found: Plan) -> str | None:
    """Why a plan cannot be, with the changes that would help; None where it fits."""
    if found.fits:
        return None
    changes = [other.changes(found.setting) for other in _fitting(run, found)]
    advice = (
        f"it would fit with {', or with '.join(changes)}"
        if changes
        else (
            "no micro batch, recomputation or number of GPUs up to the batch would change that; take GPUs with more"
            " memory, or a smaller model"
        )
    )
    return (
        f"a step needs {found.memory.total / GIB:.1f} GiB of each of {found.setting.gpus:,} ranks, which have"
        f" {found.capacity / GIB:.1f} GiB for it; {advice}"
    )


def _plan(run: ResolvedRun, setting: Setting, capacity: int) -> Plan:
    spec = run.spec
    batch = max(stage.batch_size or spec.training.batch_size for stage in spec.data.stages)
    if not 1 <= setting.gpus <= batch:
        raise InputError(f"--gpus {setting.gpus}: a batch of {batch:,} sequences can be shared by 1 to {batch:,} ranks")
    replicas = spec.parallelism.replicas or 1
    if setting.gpus % replicas:
        raise InputError(
            f"--gpus {setting.gpus}: parallelism.replicas ({replicas}) does not divide them; take a multiple of it"
        )
    rows = math.ceil(batch / setting.gpus)
    micro_batch = min(setting.micro_batch, rows)
    step = StepShape(
        micro_batch=micro_batch,
        micro_steps=math.ceil(rows / micro_batch),
        sequence_length=spec.training.sequence_length,
        compute_bytes=COMPUTE_BYTES[spec.training.precision],
        shard_ranks=setting.gpus // replicas,
        checkpointing=setting.checkpointing,
        reshard=spec.parallelism.reshard_after_forward,
        fused_norm=spec.cluster.workers.device == "cuda",
        activation_bytes=setting.activation_bytes,
        reduce_each=setting.reduce_gradients == "each",
        fp8=spec.training.fp8 is not None,
    )
    return Plan(spec.model, batch, setting, replicas, step, step_memory(spec.model, step), capacity)


def _fitting(run: ResolvedRun, refused: Plan) -> Iterator[Setting]:
    """The least change of each kind that makes the run fit; where none does, both together; where not, more GPUs."""
    setting, batch = refused.setting, refused.batch
    smaller = range(min(setting.micro_batch, refused.step.micro_batch) - 1, 0, -1)
    less_kept, stronger = _less_kept(setting), _stronger(setting)
    alone = [
        *_first(run, refused, (replace(setting, micro_batch=size) for size in smaller)),
        *_first(run, refused, iter(less_kept)),
        *_first(run, refused, iter(stronger)),
        *_first(run, refused, iter([replace(setting, reduce_gradients="each")])),
    ]
    together = (
        replace(kind, micro_batch=size, reduce_gradients=reduce)
        for kind in (setting, *less_kept, *stronger)
        for size in (setting.micro_batch, *smaller)
        for reduce in (setting.reduce_gradients, "each")
    )
    both = alone or _first(run, refused, together)
    more = (
        replace(variant, gpus=number)
        for number in _multiples(setting.gpus, batch)
        for variant in (
            setting,
            replace(setting, reduce_gradients="each"),
            replace(setting, micro_batch=1, checkpointing="full", reduce_gradients="each", activation_bytes=0),
        )
    )
    yield from both or _first(run, refused, more)


def _less_kept(setting: Setting) -> list[Setting]:
    """The setting with smaller budgets of measured recomputation, the largest first."""
    budgets = range((setting.activation_bytes - 1) // GIB, 0, -1) if setting.checkpointing == "measured" else ()
    return [replace(setting, activation_bytes=gib * GIB) for gib in budgets]


def _stronger(setting: Setting) -> list[Setting]:
    """The setting with other recomputation that makes more again, the least first."""
    kinds = {"none": ("selective", "full"), "selective": ("full",), "measured": ("full",)}
    return [replace(setting, checkpointing=kind, activation_bytes=0) for kind in kinds.get(setting.checkpointing, ())]


def _first(run: ResolvedRun, refused: Plan, settings: Iterator[Setting]) -> list[Setting]:
    found = next((setting for setting in settings if _plan(run, setting, refused.capacity).fits), None)
    return [] if found is None else [found]


def _multiples(gpus: int, batch: int) -> list[int]:
    """Twice, four times … as many GPUs, as far as the batch goes."""
    return [gpus * 2**power for power in range(1, 20) if gpus * 2**power <= batch]


def plan_facts(found: Plan, gpu: Gpu | None, node_gpus: int, mfu: float | None) -> dict[str, Any]:
    """The plan in JSON types.

    Args:
        found: The plan.
        gpu: Whose peak and links count; None: no time is given.
        node_gpus: GPUs of a node.
        mfu: As measured; None: the peak itself, which gives a bound.
    """
    memory = found.memory
    facts: dict[str, Any] = {
        "ranks": found.setting.gpus,
        "replicas": found.replicas,
        "micro_batch": found.step.micro_batch,
        "micro_steps": found.step.micro_steps,
        "activation_checkpointing": found.setting.checkpointing,
        "memory_bytes": {
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "gathered": memory.gathered,
            "activations": memory.activations,
            "logits": memory.logits,
            "total": memory.total,
        },
        "peak_moment": memory.moment,
        "capacity_bytes": found.capacity,
        "fits": found.fits,
        "sent_bytes": {
            "gather": found.traffic.gather,
            "reduce": found.traffic.reduce,
            "replicate": found.traffic.replicate,
        },
    }
    if gpu is not None:
        time = found.time(gpu, node_gpus, mfu)
        facts["step_seconds"] = {
            "compute": time.compute,
            "communicate": time.communicate,
            "ends": time.ends,
            "total": time.total,
        }
        facts["tokens_per_second"] = found.step_tokens / time.total
    return facts
