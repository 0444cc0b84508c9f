"""Documents that no row may come from, by a rule over their text alone.

A document is held out where the first 64 bits of sha256(seed, 0, its UTF-8 text) are below the share. Equal texts are
so on the same side, wherever they stand, and whoever knows share and seed (the manifest's recipe has them) can tell
for any text whether the data set may hold it, without reading a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Any

from llm360.errors import InputError

RECIPE_KEY = "held_out"


@dataclass(frozen=True)
class HeldOut:
    """The rule.

    Args:
        share: Of the documents, above 0 and below 1.
        seed: Other seeds hold out other documents.
    """

    share: Fraction
    seed: int

    def takes(self, text: str) -> bool:
        """Whether a document of this text is held out."""
        digest = sha256(f"{self.seed}\0{text}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2**64

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest's recipe."""
        return {"share": str(self.share), "seed": self.seed}


def parse_held_out(text: str) -> HeldOut:
    """Read `SHARE[:SEED]`.

    Raises:
        InputError: the share is not between 0 and 1, or the seed is no whole number.
    """
    share, _, seed = text.partition(":")
    try:
        rule = HeldOut(Fraction(share), int(seed or "0"))
    except (ValueError, ZeroDivisionError):
        rule = None
    if rule is None or not 0 < rule.share < 1 or not 0 <= rule.seed < 2**53:
        raise InputError(f"--held-out is {text!r}; give SHARE[:SEED], a share between 0 and 1, for example 0.001:7")
    return rule


def rule_of(recipe: Mapping[str, Any]) -> HeldOut | None:
    """The rule by which a manifest's recipe held documents out; None where it held out none."""
    found = recipe.get(RECIPE_KEY)
    return None if found is None else HeldOut(Fraction(found["share"]), int(found["seed"]))
