"""Which configuration a run has: resolved once, pinned, and afterwards changed only in its operations.

The first resolution goes into the ConfigMap `<run>-config`. A later change of the object is resolved again, but
only its operations are taken; the identity stays the pinned one, whatever this version's presets say. As long as
the object does not change, nothing is resolved at all, so an upgrade of the operator touches no run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llm360.errors import LLM360Error
from llm360.spec import ResolvedRun, resolve, resolved_from_json
from llm360.spec.identity import identity_of, operations_of
from llm360.spec.layers import merge
from llm360_operator.names import base_config_name, config_name


@dataclass(frozen=True)
class Plan:
    """What a run's pods are to be given.

    Attributes:
        config: The configuration; None where there is no valid one yet.
        name: Of its ConfigMap.
        is_pinned: Whether that ConfigMap exists.
        problem: What is wrong with the object as it is now; the last valid configuration holds meanwhile.
        reason: The word for it.
    """

    config: ResolvedRun | None
    name: str
    is_pinned: bool
    problem: str = ""
    reason: str = "InvalidSpec"


def make_plan(run: Mapping[str, Any], configs: Mapping[str, bytes], default_image: str) -> Plan:
    """Decide which configuration holds.

    Args:
        run: The LLM360Run object.
        configs: Contents of the run's ConfigMaps by name.
        default_image: Image of head and workers where the object names none.
    """
    metadata, status = run["metadata"], run.get("status") or {}
    base, current = base_config_name(metadata["name"]), status.get("config", "")
    if current in configs and status.get("configGeneration") == metadata["generation"]:
        return Plan(_read(configs[current]), current, is_pinned=True)
    if base not in configs and "configDigest" in status:
        return Plan(None, base, False, _lost(base), "ConfigLost")
    held = _read(configs[current]) if current in configs else None
    try:
        config = _resolve(run, configs.get(base), default_image)
    except LLM360Error as error:
        return Plan(held, current, held is not None, error.message)
    name = config_name(metadata["name"], config.canonical())
    if base not in configs or configs[base] == config.canonical():
        name = base
    return Plan(config, name, is_pinned=name in configs)


@lru_cache(maxsize=4096)
def _read(document: bytes) -> ResolvedRun:
    """A stored configuration. It never changes, and to read it takes longer than all the rest of a round."""
    return resolved_from_json(document)


def _resolve(run: Mapping[str, Any], pinned: bytes | None, default_image: str) -> ResolvedRun:
    """The object resolved now; with a pinned configuration, that one with the object's operations.

    What only the operator acts on is left out, so that changing it disturbs no pod.
    """
    fresh = resolve({key: run[key] for key in ("apiVersion", "kind", "metadata", "spec")}).document()
    image = default_image
    if pinned is not None:
        base = _read(pinned).document()["spec"]
        image = base["cluster"]["image"]
        operations = operations_of(fresh["spec"]) | {"evaluation": base["evaluation"]}
        operations["cluster"]["keepOnFailure"] = base["cluster"]["keepOnFailure"]
        fresh["spec"] = merge(operations, identity_of(base))
    fresh["spec"]["suspend"] = False
    fresh["spec"]["cluster"].setdefault("image", image)
    return resolve(fresh)


def _lost(name: str) -> str:
    return (
        f"the ConfigMap {name}, which holds the configuration that the run began with, is gone; put it back from a"
        " backup, or apply the run under another name with the same storage.uri and specification: it goes on there"
    )
