"""Which configuration a run has: resolved once, pinned, and afterwards changed only in its operations.

The first resolution goes into the ConfigMap `<run>-config`. A later change of the object is resolved again, but
only its operations are taken; the identity stays the pinned one, whatever this version's presets say. As long as
the object does not change, nothing is resolved at all, so an upgrade of the operator touches no run.

What is evaluated is no part of what the run's own pods are given: the object's words are laid over those that were
pinned, anew in each round, so that changing them disturbs no pod.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from llm360.canonical import canonical_json, sha256_digest
from llm360.errors import LLM360Error, SpecError
from llm360.spec import ResolvedRun, identity_changes, resolve, resolved_from_json
from llm360.spec.evaluation import Evaluation
from llm360.spec.identity import identity_of, operations_of
from llm360.spec.layers import merge, without_nulls
from llm360_operator.names import base_config_name, config_name


@dataclass(frozen=True)
class Plan:
    """What a run's pods are to be given.

    Attributes:
        config: The configuration; None where there is no valid one yet.
        name: Of its ConfigMap.
        is_pinned: Whether that ConfigMap exists.
        document: What stands in it. It tells configurations apart: one that an earlier version wrote stays as it is,
            even where this version would fill in more.
        evaluation: What is evaluated and how; None where the object's words on it are wrong, or nothing is pinned yet.
        problem: What is wrong with the object as it is now; the last valid configuration holds meanwhile.
        reason: The word for it.
    """

    config: ResolvedRun | None
    name: str
    is_pinned: bool
    document: bytes = b""
    evaluation: Evaluation | None = None
    problem: str = ""
    reason: str = "InvalidSpec"

    @property
    def digest(self) -> str:
        """sha256 of the document."""
        return sha256_digest(self.document)


def make_plan(run: Mapping[str, Any], configs: Mapping[str, bytes], default_image: str) -> Plan:
    """Decide which configuration holds.

    Args:
        run: The LLM360Run object.
        configs: Contents of the run's ConfigMaps by name.
        default_image: Image of head and workers where the object names none.
    """
    metadata, status = run["metadata"], run.get("status") or {}
    base, current = base_config_name(metadata["name"]), status.get("config", "")
    pinned = read_config(configs[base]) if base in configs else None
    evaluation = make_evaluation(run, pinned) if pinned is not None else None
    held = (
        Plan(read_config(configs[current]), current, True, configs[current], evaluation) if current in configs else None
    )
    if held is not None and status.get("configGeneration") == metadata["generation"]:
        return held
    if pinned is None and "configDigest" in status:
        return Plan(None, base, False, problem=_lost(base), reason="ConfigLost")
    try:
        fresh = resolve({key: run[key] for key in ("apiVersion", "kind", "metadata", "spec")})
        if pinned is not None and "configDigest" not in status:
            # The API server holds the identity only once the status names it; until then it could be changed.
            changes = identity_changes(pinned.identity(), fresh.identity())
            if changes:
                return Plan(None, base, True, problem=_edited(base, changes))
        document = _written(_resolve(fresh, pinned, run["spec"], default_image), configs.get(base), run["spec"])
        config = read_config(document)
    except LLM360Error as error:
        return replace(held or Plan(None, current, False), problem=error.message)
    if held is not None and held.config == config:
        return held
    name = config_name(metadata["name"], document)
    if pinned is None or pinned == config:
        name = base
    return Plan(config, name, name in configs, configs.get(name, document), evaluation)


def make_evaluation(run: Mapping[str, Any], pinned: ResolvedRun) -> Evaluation | None:
    """What is evaluated of a run: what the object states, over what the run began with.

    Args:
        run: The LLM360Run object.
        pinned: The configuration that the run began with.
    """
    before = pinned.spec.evaluation
    stated = run["spec"].get("evaluation")
    if not stated:
        return before
    complete = merge(before.model_dump(mode="json", by_alias=True, exclude_none=True), without_nulls(stated))
    try:
        return Evaluation.model_validate_json(json.dumps(complete))
    except ValidationError:
        return None  # the resolution of the whole object says what is wrong with it


@lru_cache(maxsize=256)
def read_config(document: bytes) -> ResolvedRun:
    """A stored configuration. It never changes; of a thousand runs all would take 20 MB, and to read one 0.5 ms."""
    return resolved_from_json(document)


def _resolve(
    fresh: ResolvedRun, pinned: ResolvedRun | None, stated: Mapping[str, Any], default_image: str
) -> ResolvedRun:
    """The object resolved now; with a pinned configuration, that one with the object's operations.

    What only the operator acts on is left out, so that changing it disturbs no pod. The words of the release stay those
    that the run began with, where the object has none: presets had some once.
    """
    document = fresh.document()
    image = default_image
    if pinned is not None:
        base = pinned.document()["spec"]
        image = base["cluster"]["image"]
        operations = operations_of(document["spec"]) | {"evaluation": base["evaluation"]}
        operations["cluster"]["keepOnFailure"] = base["cluster"]["keepOnFailure"]
        if "release" not in stated:
            operations["release"] = base["release"]
        document["spec"] = merge(operations, identity_of(base))
    elif fresh.store.startswith("file://"):
        raise SpecError(
            [
                f"spec.storage.uri: '{fresh.store}' is a folder, and the pods of a run share none: what"
                " one writes no other finds; write s3://bucket/prefix (with storage.endpoint for other servers than"
                " Amazon's)"
            ]
        )
    document["spec"]["suspend"] = False
    document["spec"]["cluster"].setdefault("image", image)
    return resolve(document)


def _written(config: ResolvedRun, pinned: bytes | None, stated: Mapping[str, Any]) -> bytes:
    """What is stored of a configuration, which loads again to the same.

    As long as its image is the one that the run began with, it holds no field that came since and that the object does
    not state: the image's program might not know it.
    """
    document = config.document()
    if pinned is not None:
        base = json.loads(pinned)["spec"]
        if document["spec"]["cluster"]["image"] == base["cluster"]["image"]:
            document["spec"] = _known(document["spec"], base, stated)
    return canonical_json(document)


def _known(value: Any, *others: Any) -> Any:
    """A value without what no other knows: members of objects are left out, anything else stays."""
    there = [other for other in others if isinstance(other, Mapping)]
    if not isinstance(value, dict) or not there:
        return value
    return {
        key: _known(member, *(other[key] for other in there if key in other))
        for key, member in value.items()
        if any(key in other for other in there)
    }


def _edited(name: str, changes: Sequence[str]) -> str:
    return (
        f"the run's configuration is stored already, in the ConfigMap {name}, and the object differs from it in what"
        f" cannot change: {'; '.join(changes)}; put that back, or delete the run and apply it anew"
    )


def _lost(name: str) -> str:
    return (
        f"the ConfigMap {name}, which holds the configuration that the run began with, is gone; put it back from a"
        " backup, or apply the run under another name with the same storage.uri and specification: it goes on there"
    )
