"""`spec.release`: what the release says about itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from llm360.spec.base import Section, optional, setting

Author = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Release(Section):
    """Words for the release's card, its makers' own: no preset states any, and no number depends on them."""

    license: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = optional(
        "Licence of the release as an SPDX expression, for example Apache-2.0."
    )
    authors: tuple[Author, ...] = setting("Names of those who made it.", max_length=64)
    description: Annotated[str, StringConstraints(max_length=4096)] | None = optional("What it is, for a reader.")
