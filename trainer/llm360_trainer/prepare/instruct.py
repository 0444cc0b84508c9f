"""Which labels of an instruction row count: the assistant's words, and all of a plain document.

    <s> <|sys_start|> system <|sys_end|> <|im_start|> prompt <|im_end|> answer </s>      <s> text </s>
    └───────────────────────── do not count ──────────────────────────┘└─ count ─┘      └── count ───┘

The rule is what the published rows of CrystalChat show (crystalcoder-train, instruct-data/processed at 03efa54):
further prompts and answers may follow an answer, and an answer may follow the system's words at once. Rows are packed,
so one may begin or end inside a document; what a row alone does not tell stays undetermined. Preparation has the whole
documents (conversations.py), of which all is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llm360.data.rows import Ids
from llm360.errors import InputError

COUNTS, IGNORED, UNDETERMINED = 1, 0, -1


class ChatTokens(NamedTuple):
    """Ids of the tokens that tell a conversation's parts apart; the defaults are those of CrystalChat's tokenizer."""

    start: int = 1
    """`<s>`, begins each document."""
    end: int = 2
    """`</s>`, ends it."""
    prompt_start: int = 32018
    """`<|im_start|>`."""
    prompt_end: int = 32019
    """`<|im_end|>`; the answer follows."""
    system_start: int = 32020
    """`<|sys_start|>`."""
    system_end: int = 32021
    """`<|sys_end|>`; a prompt follows, or an answer."""


CRYSTAL_CHAT = ChatTokens()
# Of all tokens but the end, which is the data's end-of-document token, whatever its name.
NAMES = {
    "start": "<s>",
    "prompt_start": "<|im_start|>",
    "prompt_end": "<|im_end|>",
    "system_start": "<|sys_start|>",
    "system_end": "<|sys_end|>",
}


def find_chat_tokens(tokenizer: Tokenizer, eos_id: int) -> ChatTokens:
    """The tokenizer's tokens that tell a conversation's parts apart.

    Raises:
        InputError: reason ChatTokensMissing; it has not all of them.
    """
    found = {part: tokenizer.token_to_id(name) for part, name in NAMES.items()}
    missing = [NAMES[part] for part, number in found.items() if number is None]
    if missing:
        raise InputError(
            f"conversations (chat) need tokens that tell their parts apart, but the tokenizer has no"
            f" {', '.join(missing)}; use a tokenizer that has them, as CrystalChat's",
            reason="ChatTokensMissing",
        )
    return ChatTokens(end=eos_id, **found)


def conversation_masks(ids: Ids, starts: Sequence[int], tokens: ChatTokens) -> NDArray[np.uint8]:
    """For each id of documents end to end, as a label, whether it counts.

    Args:
        ids: [n], from the first id of a document on; the last may be cut off, but not behind its first id.
        starts: Positions in ids of the first id of each document but the first.
        tokens: Those that tell a document's parts apart.

    Returns:
        mask[n], uint8. A document's own ids decide, so nothing is undetermined.
    """
    verdicts = np.concatenate([_verdicts(document, tokens) for document in np.split(ids, starts)])
    mask: NDArray[np.uint8] = (verdicts == COUNTS).astype(np.uint8)
    return mask


def label_verdicts(ids: Ids, tokens: ChatTokens = CRYSTAL_CHAT) -> NDArray[np.int8]:
    """For each label of a row, ids[1:], whether it counts: 1, 0, or -1 where the row alone does not tell.

    Args:
        ids: [row_tokens], consecutive ids of packed documents.
        tokens: Those that tell a document's parts apart.

    Returns:
        verdicts[row_tokens - 1], int8.
    """
    return _verdicts(ids, tokens)[1:]


def _verdicts(ids: Ids, tokens: ChatTokens) -> NDArray[np.int8]:
    """For each id, as a label, whether it counts."""
    verdicts = np.empty(len(ids), np.int8)
    sequence = ids.tolist()
    inside = _verdict_before_first_mark(sequence, tokens)
    for position, token in enumerate(sequence):
        following = sequence[position + 1] if position + 1 < len(sequence) else None
        if token == tokens.start:
            # The kind of a document shows in its first token.
            is_chat = following == tokens.system_start or following == tokens.prompt_start
            inside = UNDETERMINED if following is None else IGNORED if is_chat else COUNTS
            verdicts[position] = inside
        elif token in (tokens.system_start, tokens.prompt_start):
            verdicts[position] = inside = IGNORED
        elif token == tokens.prompt_end or token == tokens.system_end:
            verdicts[position], inside = IGNORED, COUNTS
        else:
            verdicts[position] = inside
    return verdicts


def _verdict_before_first_mark(sequence: list[int], tokens: ChatTokens) -> int:
    """Of the labels of a document that began in an earlier row, from the first token that tells its parts apart."""
    mark = next((token for token in sequence if token in tokens), None)
    if mark in (tokens.end, tokens.prompt_start):
        return COUNTS  # an answer, or a plain document, comes to its end here
    if mark in (tokens.prompt_end, tokens.system_end):
        return IGNORED
    return UNDETERMINED
