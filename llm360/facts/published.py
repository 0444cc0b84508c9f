"""What is known of a preset's original that is no part of a specification: its data's shape, and what came out.

Data is described by its manifest, which a preset has not; with these numbers steps, tokens and chunks can be told
before any data is there. The outcome's numbers are compared with what follows from the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import StringConstraints

from llm360.spec.base import MAX_EXACT, MAX_STEPS, Section, optional
from llm360.spec.layers import preset_published

ChunkRange = Annotated[str, StringConstraints(pattern=r"^[0-9]+(-[0-9]+)?$", max_length=32)]


class Published(Section):
    """The section `published` of a preset's file."""

    parameters: int | None = optional("Parameters of the published weights.", unit="parameters", ge=1, le=MAX_EXACT)
    total_steps: int | None = optional("Optimizer steps of all stages.", unit="steps", ge=1, le=MAX_STEPS)
    total_tokens: int | None = optional("Predictions trained on.", unit="tokens", ge=1, le=MAX_EXACT)
    checkpoints: int | None = optional("Published checkpoints.", unit="checkpoints", ge=1, le=MAX_STEPS)
    predictions: int | None = optional("Predictions per row. Unset: training.sequenceLength.", unit="tokens", ge=1)
    chunks: int | None = optional("Chunks of the original's data.", unit="chunks", ge=1, le=100_000)
    chunk_rows: int | None = optional("Rows of each chunk.", unit="rows", ge=1, le=MAX_EXACT)
    chunk_order: tuple[ChunkRange, ...] | None = optional(
        "Numbers of the chunks in the order in which they were read, as ranges. Unset: ascending."
    )

    @property
    def order(self) -> tuple[int, ...]:
        """Numbers of the chunks in the order in which they were read."""
        if self.chunk_order is None:
            return tuple(range(self.chunks or 0))
        return tuple(chunk for part in self.chunk_order for chunk in _range(part))


def published_of(preset: str) -> Published:
    """What a preset's file says of its original."""
    return Published.model_validate_json(json.dumps(preset_published(preset)))


def _range(part: str) -> Iterator[int]:
    first, last = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part).groups()  # type: ignore[union-attr]
    return iter(range(int(first), int(last or first) + 1))
