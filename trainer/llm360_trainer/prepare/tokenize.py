"""From text to ids: the tokenizer, its end-of-document id, and the rule by which documents become ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from llm360.data.rows import Ids
from llm360.errors import InputError

# Names by which tokenizers call the token that ends a document, the most telling first.
EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<eos>", "[EOS]", "<|end|>")
# The special token of the tokenizers made here.
END_OF_TEXT = "<|endoftext|>"
# Those that fill-in-the-middle needs as well, as CrystalCoder's published tokenizer calls them.
FIM_SENTINELS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
# Characters tokenized at a time: enough to keep threads busy, few enough that the library's objects stay small.
BATCH_CHARS = 2**18


@lru_cache(maxsize=4)
def load_tokenizer(data: bytes) -> Tokenizer:
    """The tokenizer in the bytes of a `tokenizer.json`, set to give a text's plain ids and nothing else.

    Neither is text cut or padded, nor is a special token found in text: a document that happens to contain `</s>`
    spells it out, and decodes to itself.

    Raises:
        InputError: the bytes are no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"the tokenizer file is not a `tokenizer.json` of the library tokenizers: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id, which may be more than the number of tokens."""
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)) + 1


def describe_difference(earlier: Tokenizer, later: Tokenizer) -> str:
    """How a tokenizer fails to continue an earlier one, which knows every token of it under the same id; else nothing.

    A model's rows belong to ids: one that was trained with the earlier goes on with the later if this holds.
    """
    known, given = earlier.get_vocab(with_added_tokens=True), later.get_vocab(with_added_tokens=True)
    for token, number in sorted(known.items(), key=lambda item: item[1]):
        if given.get(token) != number:
            return f"{token!r} has id {number} there and {given.get(token, 'none')} here"
    return ""


def ids_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest dtype of the format that holds the ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def end_of_document(tokenizer: Tokenizer, wanted: str | None) -> int:
    """The id that ends each document.

    Args:
        tokenizer: Where it stands.
        wanted: A token or an id; None looks for one of the usual names.

    Raises:
        InputError: the tokenizer has no such token.
    """
    size = vocabulary_size(tokenizer)
    if wanted is None:
        for name in EOS_NAMES:
            found = tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        raise InputError(
            f"the tokenizer has none of the usual end-of-document tokens {', '.join(EOS_NAMES)};"
            " name the one to use with --eos TOKEN or --eos ID"
        )
    found = tokenizer.token_to_id(wanted)
    if found is None and wanted.isdecimal() and int(wanted) < size:
        found = int(wanted)
    if found is None:
        raise InputError(f"the tokenizer has no token or id {wanted!r}; ids are 0 to {size - 1}")
    return int(found)


def encode_documents(
    tokenizer: Tokenizer, eos_id: int, dtype: str, texts: Sequence[str]
) -> tuple[NDArray[np.uint32], Ids]:
    """The ids of documents end to end, each followed by EOS.

    Returns:
        lengths[documents] with EOS counted, and ids[tokens] of the dtype.
    """
    lengths: list[int] = []
    arrays: list[Ids] = []
    for batch in _batches(texts):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            ids = encoding.ids
            ids.append(eos_id)
            lengths.append(len(ids))
            arrays.append(np.array(ids, dtype=dtype))
    return np.array(lengths, dtype=np.uint32), np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for text in texts:
        batch.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def check_vocabulary(vocab_size: int, *, sentinels: bool = False) -> None:
    """See that a tokenizer made here can have so few tokens.

    Raises:
        InputError: it cannot hold all bytes and its special tokens.
    """
    special = (END_OF_TEXT, *(FIM_SENTINELS if sentinels else ()))
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise InputError(f"a vocabulary of {vocab_size} is too small; bytes and {', '.join(special)} need {smallest}")


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, sentinels: bool = False) -> bytes:
    """Make a byte-level BPE tokenizer; the same texts give the same bytes.

    Args:
        texts: Documents; only the counts of their words are held in memory.
        vocab_size: Tokens, the 256 bytes and `<|endoftext|>` (id 0) among them.
        sentinels: Whether the sentinels of fill-in-the-middle are among them too, as ids 1 to 4.

    Returns:
        The contents of `tokenizer.json`.

    Raises:
        InputError: the vocabulary cannot hold all bytes, or the texts do not give that many tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = (END_OF_TEXT, *(FIM_SENTINELS if sentinels else ()))
    check_vocabulary(vocab_size, sentinels=sentinels)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    made = tokenizer.get_vocab_size()
    if made < vocab_size:
        raise InputError(
            f"the texts give only {made} tokens, {vocab_size} were asked for; give more text or ask for less"
        )
    return bytes(tokenizer.to_str(pretty=True).encode())
