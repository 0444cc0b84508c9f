"""The forms of published rows: what a line of JSON must hold, and what is wrong with one that does not.

amber-jsonl     token_ids and, if known, source: Amber's 2,049 ids, K2's 2,048 (`row_tokens`)
crystal-jsonl   token_ids, label_ids and loss_mask of the same length: CrystalChat's 2,048; label_ids are token_ids
                shifted by one, so a row is token_ids and the last label
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llm360_trainer.prepare.instruct import COUNTS, label_verdicts

# Source of the rows that name none.
UNLABELLED = "unlabelled"


class Line(NamedTuple):
    """A line's row."""

    ids: list[int]
    """row_tokens of them."""
    source: str
    loss_mask: list[int] | None
    """row_tokens - 1 of 0 and 1; None in a form without masks."""


@dataclass(frozen=True)
class LineForm:
    """A form of lines.

    Args:
        parse: Gives a line's row, or raises ValueError with what is wrong with it.
        row_tokens: Ids of a row.
        vocab_size: Ids are below it.
        has_loss_mask: Whether rows carry masks.
    """

    parse: Callable[[bytes, LineForm], Line]
    row_tokens: int
    vocab_size: int
    has_loss_mask: bool


def parse_amber(line: bytes, form: LineForm) -> Line:
    """The row of a line of the form amber-jsonl.

    Raises:
        ValueError: says what is wrong with the line.
    """
    value = _object(line, "token_ids")
    return Line(_ids(value["token_ids"], form.row_tokens, form.vocab_size), _source(value), None)


def parse_crystal(line: bytes, form: LineForm) -> Line:
    """The row of a line of the form crystal-jsonl.

    A line without `loss_mask` gets the one of the rule (instruct.py); what the row alone does not tell counts nothing.

    Raises:
        ValueError: says what is wrong with the line.
    """
    value = _object(line, "token_ids", "label_ids")
    inputs = _ids(value["token_ids"], form.row_tokens - 1, form.vocab_size)
    labels = _ids(value["label_ids"], form.row_tokens - 1, form.vocab_size, "labels")
    shifted = next((place for place in range(1, len(inputs)) if inputs[place] != labels[place - 1]), None)
    if shifted is not None:
        raise ValueError(
            f"has the label {labels[shifted - 1]} at position {shifted - 1}, but {inputs[shifted]} follows there;"
            " labels are the ids, shifted by one"
        )
    ids = [*inputs, labels[-1]]
    if "loss_mask" not in value:
        verdicts = label_verdicts(np.array(ids))
        return Line(ids, _source(value), (verdicts == COUNTS).astype(int).tolist())
    mask = value["loss_mask"]
    if not isinstance(mask, list) or len(mask) != len(labels):
        raise ValueError(f"has a loss_mask that is no list of {len(labels):,} numbers, one for each label")
    wrong = next((place for place, item in enumerate(mask) if type(item) is not int or item not in (0, 1)), None)
    if wrong is not None:
        raise ValueError(f"has {mask[wrong]!r} in its loss_mask at position {wrong}; only 0 and 1 are allowed")
    return Line(ids, _source(value), mask)


FORMS: Mapping[str, LineForm] = {
    # Rows of 2,049 ids of LLaMA's 32,000 tokens.
    "amber-jsonl": LineForm(parse_amber, 2049, 32_000, has_loss_mask=False),
    # Rows of 2,048 inputs; CrystalCoder's embedding has 32,032 rows.
    "crystal-jsonl": LineForm(parse_crystal, 2049, 32_032, has_loss_mask=True),
}


def _object(line: bytes, *lists: str) -> dict[str, Any]:
    """The JSON object of a line, which has these lists."""
    try:
        text = line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text):
            inside = "a list" if text.count("[") > text.count("]") else "an object"
            raise ValueError(f"is not JSON: it is cut off inside {inside} at column {error.colno}") from error
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is JSON nested too deeply") from error
    for name in lists:
        if not isinstance(value, dict) or not isinstance(value.get(name), list):
            raise ValueError(f"is not a JSON object with a list '{name}'")
    found: dict[str, Any] = value
    return found


def _ids(ids: list[Any], wanted: int, vocab_size: int, what: str = "ids") -> list[int]:
    if len(ids) != wanted:
        raise ValueError(f"has {len(ids):,} {what}; a row has {wanted:,}")
    wrong = next(
        (number for number, item in enumerate(ids) if type(item) is not int or not 0 <= item < vocab_size), None
    )
    if wrong is not None:
        raise ValueError(f"has {ids[wrong]!r} at position {wrong}; ids are integers from 0 to {vocab_size - 1}")
    return ids


def _source(value: dict[str, Any]) -> str:
    source = value.get("source", UNLABELLED)
    if not isinstance(source, str) or not source:
        raise ValueError(f"has the source {source!r}; a source is a name, or left out")
    return source
