"""Conversations as documents: what a line of them must hold, and which ids they become.

    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
                  {"role": "assistant", "content": "Hello!"}]}
    {"text": "A plain document."}

    <s> <|sys_start|> Be kind. <|sys_end|> <|im_start|> Hi <|im_end|> Hello! </s> <s> A plain document. </s>

Each message is tokenized for itself and its marks are put around it as ids, so a message that spells a mark out does
not become one. So the published conversations of CrystalChat were made: all 138 that stand whole in the rows of
crystalcoder-train's instruct-data (03efa54) give the same ids again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llm360.data.rows import Ids
from llm360_trainer.prepare.instruct import ChatTokens

SYSTEM, USER, ASSISTANT = ROLES = ("system", "user", "assistant")


class Message(NamedTuple):
    """One speaker's words."""

    role: str
    """One of `ROLES`; empty for a plain document."""
    content: str


class Conversation(NamedTuple):
    """A document of messages; a plain document has one, of no role."""

    messages: tuple[Message, ...]


Document = str | Conversation


def text_of(document: Document) -> str:
    """A document's words, without what tells its parts apart."""
    return document if isinstance(document, str) else "\n".join(message.content for message in document.messages)


def parse_conversation(value: Any) -> Conversation:
    """The conversation that a line of JSON holds: `messages`, or the `text` of a plain document.

    Raises:
        ValueError: says what is wrong with it.
    """
    messages = value.get("messages") if isinstance(value, dict) else None
    if messages is None and isinstance(value, dict) and isinstance(value.get("text"), str):
        return Conversation((Message("", value["text"]),))
    if not isinstance(messages, list) or not messages:
        raise ValueError("is not a JSON object with a list 'messages', or a string 'text' for a plain document")
    return Conversation(_in_turn([_message(number, message) for number, message in enumerate(messages)]))


def _message(number: int, value: Any) -> Message:
    role, content = (value.get("role"), value.get("content")) if isinstance(value, dict) else (None, None)
    if role not in ROLES:
        raise ValueError(f"has the role {role!r} in message {number}; roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"has no string 'content' in message {number}")
    return Message(role, content)


def _in_turn(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, if they follow one another as the marks can show."""
    allowed: tuple[str, ...] = (SYSTEM, USER)
    for number, message in enumerate(messages):
        if message.role not in allowed:
            raise ValueError(
                f"has the role {message.role!r} in message {number}, where only {' or '.join(allowed)} may speak;"
                " system may begin, then user and assistant take turns"
            )
        allowed = {SYSTEM: (USER, ASSISTANT), USER: (ASSISTANT,), ASSISTANT: (USER,)}[message.role]
    if messages[-1].role != ASSISTANT:
        raise ValueError(
            f"ends with the words of {messages[-1].role}; only the assistant's are learned, and none follow"
        )
    return tuple(messages)


def encode_conversations(
    tokenizer: Tokenizer, tokens: ChatTokens, dtype: str, conversations: Sequence[Conversation]
) -> tuple[NDArray[np.uint32], Ids]:
    """The ids of conversations end to end, each with its marks.

    Args:
        tokenizer: Set to find no special tokens in text.
        tokens: The marks.
        dtype: Of the ids.
        conversations: In order.

    Returns:
        lengths[conversations] and ids[tokens] of the dtype.
    """
    contents = [message.content for conversation in conversations for message in conversation.messages]
    encoded = iter(tokenizer.encode_batch_fast(contents, add_special_tokens=False))
    before = {SYSTEM: [tokens.system_start], USER: [tokens.prompt_start]}
    behind = {SYSTEM: [tokens.system_end], USER: [tokens.prompt_end]}
    lengths: list[int] = []
    ids: list[int] = []
    for conversation in conversations:
        start = len(ids)
        ids.append(tokens.start)
        for message in conversation.messages:
            ids += [*before.get(message.role, []), *next(encoded).ids, *behind.get(message.role, [])]
        ids.append(tokens.end)
        lengths.append(len(ids) - start)
    return np.array(lengths, np.uint32), np.array(ids, dtype)
