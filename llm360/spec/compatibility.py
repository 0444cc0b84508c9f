"""Which changes of the CustomResourceDefinition break objects that are stored already.

Every object that the released definition took must be taken by the next one, whole: v1alpha1 changes only by addition.
So the next schema may only be wider. What cannot be decided (another pattern, another rule) counts as narrower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]

LOWER = {"minimum": "exclusiveMinimum", "minLength": "", "minItems": "", "minProperties": ""}
UPPER = {"maximum": "exclusiveMaximum", "maxLength": "", "maxItems": "", "maxProperties": ""}
"""Bounds, each with the field that leaves the bound itself out."""

KEPT = ("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-int-or-string")
"""What says how stored objects are merged: any change is one of their meaning."""

WIDER_TYPES = {("integer", "number")}
WIDER_FORMATS = {("int32", "int64"), ("float", "double"), ("int64", "double"), ("int32", "double")}


def breaking_changes(released: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What an object that the released definition took would lose, or be refused for, under the present one.

    Args:
        released: The CustomResourceDefinition that users have.
        present: The one that is to follow it.

    Returns:
        A sentence per change, in the order of the released schema; empty if there is none.
    """
    found = list(_names(released["spec"], present["spec"]))
    after = {version["name"]: version for version in present["spec"]["versions"]}
    for version in released["spec"]["versions"]:
        name = version["name"]
        if not after.get(name, {}).get("served"):
            if version["served"]:
                found.append(f"version {name} is no longer served")
            continue
        if version.get("subresources", {}).keys() - after[name].get("subresources", {}).keys():
            found.append(f"version {name} has lost a subresource")
        schemas = (each["schema"]["openAPIV3Schema"] for each in (version, after[name]))
        found += _node("", *schemas)
    return found


def _names(released: Node, present: Node) -> Iterator[str]:
    for path in ("group", "scope"):
        if released[path] != present[path]:
            yield f"{path} is '{present[path]}' and was '{released[path]}'"
    for name in ("kind", "plural"):
        if released["names"][name] != present["names"][name]:
            yield f"names.{name} is '{present['names'][name]}' and was '{released['names'][name]}'"


def _node(path: str, old: Node, new: Node) -> Iterator[str]:
    """The changes of a field and of all below it."""
    at = path or "the object"
    if old.get("type") != new.get("type") and (old.get("type"), new.get("type")) not in WIDER_TYPES:
        yield f"{at}: its type is {new.get('type')} and was {old.get('type')}"
        return
    yield from _values(at, old, new)
    yield from _bounds(at, old, new)
    for key in KEPT:
        if old.get(key) != new.get(key):
            yield f"{at}: {key} is {new.get(key)} and was {old.get(key)}"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{at}: {name} is required and was not"
    yield from _rules(at, old, new)
    yield from _below(path, old, new)


def _values(at: str, old: Node, new: Node) -> Iterator[str]:
    """Choices, patterns and formats."""
    if "enum" in new:
        if "enum" not in old:
            yield f"{at}: only {', '.join(map(str, new['enum']))} are allowed, and all values were"
        for value in old.get("enum", ()):
            if value not in new["enum"]:
                yield f"{at}: '{value}' is no longer allowed"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{at}: its pattern is {new['pattern']} and was {old.get('pattern')}"
    formats = (old.get("format"), new.get("format"))
    if new.get("format") and formats[0] != formats[1] and formats not in WIDER_FORMATS:
        yield f"{at}: its format is {formats[1]} and was {formats[0]}"
    if old.get("nullable") and not new.get("nullable"):
        yield f"{at}: it may no longer be null"


def _bounds(at: str, old: Node, new: Node) -> Iterator[str]:
    for sign, bounds in ((1, LOWER), (-1, UPPER)):
        for bound, exclusive in bounds.items():
            if bound not in new:
                continue
            before = (sign * old[bound], bool(old.get(exclusive))) if bound in old else (float("-inf"), False)
            after = (sign * new[bound], bool(new.get(exclusive)))
            if after > before:
                shut = " (itself left out)" if after[1] else ""
                yield f"{at}: {bound} is {new[bound]}{shut} and was {old.get(bound, 'none')}"


def _rules(at: str, old: Node, new: Node) -> Iterator[str]:
    """CEL rules: one that is new may refuse what is stored."""
    known = {rule["rule"] for rule in old.get("x-kubernetes-validations", ())}
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in known:
            yield f"{at}: a rule that was not there: {rule['rule']}"


def _below(path: str, old: Node, new: Node) -> Iterator[str]:
    members = new.get("properties", {})
    for name, member in old.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        if name in members:
            yield from _node(inner, member, members[name])
        else:
            yield f"{inner}: it is gone; the API server would drop it from stored objects"
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if key in old and key in new:
            yield from _node(path + mark, old[key], new[key])
        elif key in old:
            yield f"{path}{mark}: it is gone; the API server would drop it from stored objects"
