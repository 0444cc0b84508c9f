"""`spec.cluster`: the pods that the run is given."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import StringConstraints

from llm360.spec.base import ObjectName, Quantity, Section, Word, optional, setting

LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]

Duration = Annotated[
    str, StringConstraints(max_length=16, pattern=r"^([0-9]{1,4}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$", min_length=2)
]
"""As Kubernetes writes durations: 10m, 1h30m, 45s."""

_SECONDS = {"h": 3600, "m": 60, "s": 1}


def duration_seconds(text: str) -> int:
    """A `Duration` in seconds."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


class Toleration(Section):
    """A taint that the pods tolerate; the fields are those of a pod's."""

    key: Word | None = optional("Key of the taint. Unset, with operator Exists: every key.")
    operator: Literal["Exists", "Equal"] | None = optional("Equal compares value, Exists takes any. Unset: Equal.")
    value: LabelValue | None = optional("Value of the taint.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = optional("Effect of the taint. Unset: all.")
    toleration_seconds: int | None = optional(
        "How long a NoExecute taint is tolerated. Unset: forever.", unit="seconds", ge=0, le=10**9
    )


class Pods(Section):
    """What one kind of pod asks for and where it may run."""

    cpus: float = setting("CPU cores of a pod.", unit="cores", gt=0, le=4096)
    memory: Quantity = setting("Memory of a pod, for example 16Gi.")
    node_selector: dict[Word, LabelValue] = setting("Labels that a node must have.", max_length=32)
    tolerations: tuple[Toleration, ...] = setting("Taints that the pods tolerate.", max_length=32)


class Workers(Pods):
    """The pods that train."""

    replicas: int = setting("Number of worker pods; on one machine, of processes.", unit="pods", ge=1, le=100_000)
    device: Literal["cpu", "cuda"] = setting("What the ranks compute on: one rank per GPU, or one per pod on cpu.")
    gpus: int = setting("GPUs of a pod; 0 with device cpu.", unit="GPUs", ge=0, le=64)


class Cluster(Section):
    """Image, queue and pods."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^\S+$")] | None = optional(
        "Image of head and workers, best with its digest. Unset: the operator's choice."
    )
    queue: ObjectName | None = optional("Kueue LocalQueue that admits the run. Unset: no queue.")
    priority_class: ObjectName | None = optional(
        "PriorityClass of head and workers, and so of the run in its queue. Unset: the cluster's default."
    )
    keep_on_failure: Duration = setting(
        "How long the pods of a failed run stay for a look, for example 10m.", unit="duration (h, m, s)"
    )
    head: Pods = setting("The pod of the driver; it trains nothing.")
    workers: Workers = setting("The pods that train.")

    @property
    def keep_on_failure_seconds(self) -> int:
        """`keep_on_failure` in seconds."""
        return duration_seconds(self.keep_on_failure)

    @property
    def world_size(self) -> int:
        """Number of ranks: one per GPU, or one per pod on CPUs."""
        return self.workers.replicas * max(1, self.workers.gpus)
