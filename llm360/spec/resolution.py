"""Resolution: built-in < preset < user < `--set`, field by field, then derived values, then every check.

The operator and the command line resolve with the same function and say the same sentences. What comes out
is complete, and resolving it again changes nothing: a resolved document carries an annotation by which its
preset is not applied a second time, even where a later version's preset differs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from llm360.errors import InputError, SpecError, nearest
from llm360.spec import documents, layers
from llm360.spec.base import Name
from llm360.spec.overrides import apply_override, parse_override
from llm360.spec.problems import Problem, describe, model_in, shown
from llm360.spec.rules import broken_rules
from llm360.spec.run import API_VERSION, KIND, NO_STORE, RESOLVED, ResolvedRun, ResolvedSpec
from llm360.spec.training import Schedule
from llm360.storage import normalize_uri
from llm360.storage.open import without_credentials

MAX_NAME = 40
"""Longest name of a run: the names of its Ray cluster, jobs and pods begin with it."""

_ROOT_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def load_run(
    source: str, overrides: Sequence[str] = (), *, store: str | None = None, require_store: bool = True
) -> ResolvedRun:
    """The complete run that a file, standard input or a preset describes.

    Args:
        source: A preset's name, a path of a YAML or JSON file, or `-` for standard input.
        overrides: Values of `--set`, each `path=value`.
        store: Address of the release, over `storage.uri`; a path is taken from the working directory.
        require_store: Whether a run without an address is an error.

    Raises:
        SpecError: one or more fields are wrong; all are listed.
        InputError: the file is missing or not readable, or an override is no assignment.
    """
    document = read_document(source)
    if store is not None:
        overrides = [*overrides, f"storage.uri={json.dumps(store)}"]
    run = resolve(document, overrides, local=True)
    if require_store and run.spec.storage.uri is None:
        raise SpecError([f"spec.storage.uri: {NO_STORE}"])
    return run


def resolved_from_json(data: bytes) -> ResolvedRun:
    """The run of a resolved document, as `ResolvedRun.canonical` wrote it.

    Raises:
        SpecError: fields are wrong.
        InputError: it is no JSON.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"run.json: not readable as JSON: {error}") from None
    return resolve(document)


def read_document(source: str) -> Any:
    """The object that a source holds; for a preset's name one that states nothing else.

    Raises:
        InputError: there is no such file or preset, or it cannot be read.
    """
    if source == "-":
        return documents.read(sys.stdin, "standard input")
    if source in layers.preset_names():
        metadata = {"name": source.replace(".", "-")}  # pythia-1.4b: a run's name has no dots
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"preset": source}}
    path = Path(source)
    try:
        with path.open(encoding="utf-8") as stream:
            return documents.read(stream, source)
    except FileNotFoundError:
        names = layers.preset_names()
        if path.suffix or len(path.parts) > 1:
            raise InputError(f"there is no file '{source}', and no preset; {layers.WHERE_PRESETS_ARE}") from None
        raise InputError(
            f"there is no preset and no file '{source}'{nearest(source, names)}; {layers.WHERE_PRESETS_ARE}"
        ) from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from None


def resolve(document: Any, overrides: Sequence[str] = (), *, local: bool = False) -> ResolvedRun:
    """The complete run that an LLM360Run object describes.

    Args:
        document: The object in JSON types, resolved or not.
        overrides: Values of `--set`, laid over everything else.
        local: Whether paths count from the working directory; otherwise an address needs a scheme.

    Raises:
        SpecError: one or more fields are wrong; all are listed.
        InputError: an override is no assignment.
    """
    root = _metadata_and_spec(document)
    envelope = _envelope_problems(document)
    if envelope and "spec" not in document:
        raise SpecError(envelope)
    for text in overrides:
        if parse_override(text)[0] == ("spec", "preset"):
            apply_override(root, text)

    base, problems = _base_layer(root)
    before = layers.merge(base)
    root["spec"] = layers.merge(base, root["spec"])
    for text in overrides:
        apply_override(root, text)
    problems += overrides_without_effect(before, root["spec"])
    name = root["metadata"].get("name")
    envelope += _name_problems(name)

    spec = _validate(root["spec"], base, problems, local=local)
    if envelope or problems or spec is None:
        raise SpecError([*envelope, *map(str, problems)])
    return ResolvedRun(name=str(name), spec=spec)


def _base_layer(root: Mapping[str, Any]) -> tuple[layers.Layer, list[Problem]]:
    """The layers below the user's, and what is wrong with the preset's name."""
    defaults = layers.default_layer()
    preset = root["spec"].get("preset")
    annotations = root["metadata"].get("annotations")
    if isinstance(annotations, Mapping) and annotations.get(RESOLVED) == "true":
        return _lacking(defaults, root["spec"], ResolvedSpec), []
    if preset is None:
        return defaults, []
    names = layers.preset_names()
    if preset not in names:
        hint = nearest(preset, names) if isinstance(preset, str) else ""
        sentence = f"there is no preset {shown(preset)}{hint}; {layers.WHERE_PRESETS_ARE}"
        return defaults, [Problem("preset", sentence)]
    return layers.merge(defaults, layers.preset_layer(preset)), []


def _lacking(defaults: layers.Layer, stated: layers.Layer, model: type[BaseModel]) -> layers.Layer:
    """What a resolved document takes of the built-in values: those of fields that came since it was written.

    A field that it may well be without (no limit of the gradient) it is without, and a map that it states is whole.
    """
    lacking: layers.Layer = {}
    for field in model.model_fields.values():
        name = str(field.alias)
        if name not in defaults or not field.is_required():
            continue
        section, own = model_in(field.annotation), stated.get(name)
        if own is None:
            lacking[name] = defaults[name]
        elif section is not None and isinstance(own, dict) and isinstance(defaults[name], dict):
            lacking[name] = _lacking(defaults[name], own, section)
    return lacking


SHARED = {
    **{f"data.{name}": name for name in ("uri", "recipe", "chunks", "remainder")},
    **{f"training.{name}": name for name in ("batchSize", "steps")},
    **{f"training.schedule.{field.alias}": f"schedule.{field.alias}" for field in Schedule.model_fields.values()},
}
"""Fields that hold for the stages that do not state their own, each with its path in a stage."""


def overrides_without_effect(base: layers.Layer, stated: layers.Layer) -> list[Problem]:
    """Values that a user lays over the preset's although each of its stages states its own.

    Args:
        base: The layers below the user's.
        stated: All layers together, before derived values.
    """
    stages, below = _stages(stated), {stage.get("name"): stage for stage in _stages(base)}
    problems = []
    for path, name in SHARED.items():
        value = _at(stated, path)
        if value in (None, _at(base, path)) or not stages or any(_at(stage, name) is None for stage in stages):
            continue
        kept = [i for i, stage in enumerate(stages) if _at(below.get(stage.get("name")), name) == _at(stage, name)]
        if kept:
            sentence = (
                f"{shown(value)} would have no effect: the preset's stages state their own, '{stages[kept[0]]['name']}'"
                f" {shown(_at(stages[kept[0]], name))}; set data.stages[{kept[0]}].{name} and so on instead"
            )
            problems.append(Problem(path, sentence))
    return problems


def _stages(spec: layers.Layer) -> list[Any]:
    stages = _at(spec, "data.stages")
    return stages if isinstance(stages, list) else []


def _at(value: Any, path: str) -> Any:
    """The member at a path; None where there is none."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _validate(stated: layers.Layer, base: layers.Layer, problems: list[Problem], *, local: bool) -> ResolvedSpec | None:
    """Check the fields, then the rules that read none of the wrong ones, and add what is wrong to `problems`.

    With a wrong field the rules see what would hold without it, so that all errors are told at once.
    """
    untold = {problem.path for problem in problems} | set(layers.DERIVED)
    is_preset_known = "preset" not in untold
    complete = layers.fill_derived(stated)
    problems += _make_addresses_absolute(complete, local=local) + _take_out_secrets(complete)
    spec, found = _parse(complete)
    problems += [
        problem for problem in found if problem.path not in untold and (is_preset_known or not problem.is_missing)
    ]
    if spec is None:
        repaired = _without(complete, [problem.path for problem in found if not problem.is_missing])
        spec, _ = _parse(layers.fill_derived(layers.merge(base, repaired)))
    wrong = [re.sub(r"\[[0-9]+\]", "", problem.path) for problem in problems]
    if spec is not None:
        problems += broken_rules(spec, wrong)
    return spec


def _parse(spec: layers.Layer) -> tuple[ResolvedSpec | None, list[Problem]]:
    try:
        return ResolvedSpec.model_validate_json(json.dumps(spec)), []
    except ValidationError as error:
        return None, [describe(detail, ResolvedSpec) for detail in error.errors(include_url=False)]


def _without(value: Any, paths: Sequence[str], prefix: str = "") -> Any:
    """The value without the members at the paths; a list with something wrong in it goes as a whole."""
    if not isinstance(value, dict):
        return value
    return {
        key: _without(member, paths, f"{prefix}{key}.")
        for key, member in value.items()
        if not any(wrong == f"{prefix}{key}" or wrong.startswith(f"{prefix}{key}[") for wrong in paths)
    }


def _make_addresses_absolute(spec: layers.Layer, *, local: bool) -> list[Problem]:
    """Give every address its one spelling in place, so that equal stores are equal in the identity."""
    problems = []
    for path, holder in _address_holders(spec):
        uri = holder.get("uri")
        if isinstance(uri, str) and uri and (local or "://" in uri):
            try:
                holder["uri"] = _without_secret(normalize_uri(uri))
            except InputError as error:
                problems.append(Problem(path, error.message))
                del holder["uri"]
    return problems


def _take_out_secrets(spec: layers.Layer) -> list[Problem]:
    """Look for passwords where an address stays as it was written."""
    instead = {
        "evaluation.mirror": INSTEAD_OF_SECRET,
        "storage.endpoint": "the server's address alone, its credentials are AWS_ACCESS_KEY_ID and the rest",
    }
    problems = []
    for path, advice in instead.items():
        section, _, name = path.partition(".")
        holder = spec.get(section)
        if isinstance(holder, dict) and isinstance(holder.get(name), str):
            try:
                _without_secret(holder[name], advice)
            except InputError as error:
                problems.append(Problem(path, error.message))
                del holder[name]
    return problems


INSTEAD_OF_SECRET = "an address that needs none, s3:// with credentials from the environment, or a folder"  # noqa: S105


def _without_secret(uri: str, instead: str = INSTEAD_OF_SECRET) -> str:
    """The address; raises `InputError` where it holds a password, for a configuration is published."""
    if (shown := without_credentials(uri)) != uri:
        raise InputError(
            f"{shown} is written with a name and password, and a run's configuration is published; give {instead}"
        )
    return uri


def _address_holders(spec: layers.Layer) -> Iterator[tuple[str, dict[str, Any]]]:
    sections = [(f"{name}.uri", spec.get(name)) for name in ("storage", "data", "tokenizer")]
    model, data = spec.get("model"), spec.get("data")
    if isinstance(model, dict):
        sections.append(("model.weights.uri", model.get("weights")))
    stages = data.get("stages") if isinstance(data, dict) else None
    if isinstance(stages, list):
        sections += [(f"data.stages[{index}].uri", stage) for index, stage in enumerate(stages)]
    for path, section in sections:
        if isinstance(section, dict):
            yield path, section


def _metadata_and_spec(document: Any) -> dict[str, Any]:
    """The two parts that are read, as copies that may be changed."""
    if not isinstance(document, Mapping):
        raise SpecError(
            [f"the document must be an object with apiVersion, kind, metadata and spec, found {shown(document)}"]
        )
    parts = {key: {} if document.get(key) is None else document[key] for key in ("metadata", "spec")}
    problems = [
        f"{key}: must be an object with fields, found {shown(part)}"
        for key, part in parts.items()
        if not isinstance(part, Mapping)
    ]
    if problems:
        raise SpecError(problems)
    return {key: layers.without_nulls(dict(part)) for key, part in parts.items()}


def _envelope_problems(document: Mapping[str, Any]) -> list[str]:
    """What is wrong beside `metadata` and `spec`."""
    problems = [
        f"{key}: unknown field{nearest(str(key), _ROOT_FIELDS) or '; fields here are ' + ', '.join(_ROOT_FIELDS)}"
        for key in document
        if key not in _ROOT_FIELDS
    ]
    for key, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
        if key not in document:
            problems.append(f"{key}: needs a value; write {key}: {wanted}")
        elif document[key] != wanted:
            problems.append(f"{key}: must be {wanted}, found {shown(document[key])}")
    return problems


def _name_problems(name: Any) -> list[str]:
    if name is None:
        return ["metadata.name: needs a value, the run's name"]
    try:
        _NAME.validate_python(name, strict=True)
    except ValidationError:
        pass
    else:
        if len(name) <= MAX_NAME:
            return []
    return [
        f"metadata.name: must be at most {MAX_NAME} lower-case letters, digits and dashes, beginning and ending with a"
        f" letter or digit, found {shown(name)}"
    ]
