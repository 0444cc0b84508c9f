"""What all sections of a specification share: their strictness, their spelling, and bounded field types.

Sections describe a *complete* run: a field has no default here, because a default in the schema would be
filled in by the API server and silently win over the preset. Defaults are a layer of the resolution
(`llm360/presets/_defaults.yaml`). `X | None` marks what a complete run may well be without.

Every integer, string, list and map has an upper bound: a CRD's validation rules are refused without.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

MAX_EXACT = 2**53 - 1
"""The largest integer that every JSON reader takes exactly; RFC 8785 refuses larger ones."""

MAX_STEPS = 10**9
"""Upper bound of all counts of optimizer steps."""


class Section(BaseModel):
    """A part of a specification: frozen, camelCase outside, and it refuses what it does not know."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        protected_namespaces=(),
    )


def setting(description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """A field of every complete run: what it means, the unit of its number, its bounds.

    Args:
        description: One or two sentences; the first says what the field is.
        unit: What one of it is, for numbers.
        bounds: Arguments of `pydantic.Field` (ge, gt, le, lt, max_length …).
    """
    return Field(description=f"{description} Unit: {unit}." if unit else description, **bounds)


def optional(description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """A field that a complete run may be without; what holds then is the description's last sentence."""
    return setting(description, unit=unit, default=None, **bounds)


Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^\S+$")]
"""An address of a store."""

Name = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A lower-case word of letters, digits and dashes, as Kubernetes names objects (RFC 1123 label)."""

ObjectName = Annotated[
    str, StringConstraints(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
]
"""The name of a Kubernetes object (RFC 1123 subdomain)."""

Quantity = Annotated[str, StringConstraints(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""An amount of memory as Kubernetes writes it, for example 16Gi."""

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "": 1}


def quantity_bytes(text: str) -> int:
    """A `Quantity` in bytes."""
    number = text.rstrip("KMGTik")
    return int(float(number) * _UNITS[text.removeprefix(number)])


Word = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^\S+$")]
"""A string without spaces, as keys and values of labels are."""
