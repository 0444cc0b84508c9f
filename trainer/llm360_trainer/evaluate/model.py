"""A checkpoint as the evaluation harness sees a model: text in, log-likelihoods or greedy text out.

Tokens, truncation and stops are those of the harness's own Hugging Face backend on the exported checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llm360.errors import InputError
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.generating import generate
from llm360_trainer.evaluate.scoring import Request, score
from llm360_trainer.exchange.opened import OpenedCheckpoint

DEFAULT_NEW_TOKENS = 256
"""Of tasks that name no number of their own; what the harness's Hugging Face backend takes."""

_CONTEXTS = 8192  # encoded contexts that are kept: the endings of a question are encoded one after another


class DecoderLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """A checkpoint for the harness.

    Args:
        opened: The checkpoint.
        batches: How many sequences at a time.

    Raises:
        InputError: the release has no tokenizer, or no token that ends a document.
    """

    def __init__(self, opened: OpenedCheckpoint, batches: Batches) -> None:
        super().__init__()
        if opened.tokenizer is None or opened.eos_id is None:
            lacking = "tokenizer" if opened.tokenizer is None else "token that ends a document"
            raise InputError(
                f"the release has no {lacking} beside its checkpoints, and tasks are text; evaluate a run whose data"
                " was prepared with one"
            )
        self._tokenizer, self._eos_id = opened.tokenizer, opened.eos_id
        self.decoder = opened.decoder
        self.batches = batches
        self._encoded = lru_cache(_CONTEXTS)(self._encode)
        self._end = self._tokenizer.decode([self._eos_id], skip_special_tokens=False)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document; it also stands before a text that has no context."""
        return self._eos_id

    @property
    def max_length(self) -> int:
        """Tokens that the model takes at a time."""
        return self.decoder.config.max_position_embeddings

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text, with the tokenizer's own special tokens unless the text begins with one already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._end)
        return list(self._encoded(string, add_special_tokens))

    def _encode(self, string: str, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(string, add_special_tokens=add_special_tokens).ids)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether greedy decoding would give it."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        wanted = [Request(tuple(context), tuple(ending)) for _, context, ending in requests]
        self.batches.expect(len(wanted))
        scored = score(self.decoder, wanted, self.batches)
        return [tuple(likelihood) for likelihood in scored]  # type: ignore[misc]

    def loglikelihood_rolling(self, requests: list[Instance], **_: Any) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the model takes them."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            ):
                context, ending = make_disjoint_window(window)
                windows.append(Request(tuple(context), tuple(ending)))
                owners.append(number)
        self.batches.expect(len(windows))
        totals = [0.0] * len(requests)
        for owner, likelihood in zip(owners, score(self.decoder, windows, self.batches), strict=True):
            totals[owner] += likelihood.log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], **_: Any) -> list[str]:
        """Greedy text after each context, up to the first of its stops.

        Raises:
            InputError: a task asks to draw at random, or for more tokens than the model has room for.
        """
        self.batches.expect(len(requests))
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(number)
        for numbers in groups.values():
            stops, num_tokens = self._generation(requests[numbers[0]])
            contexts = [self.tok_encode(requests[number].args[0])[num_tokens - self.max_length :] for number in numbers]
            is_over = partial(self._is_over, stops)
            found = generate(self.decoder, contexts, num_tokens, is_over, self.batches)
            for number, ids in zip(numbers, found, strict=True):
                texts[number] = postprocess_generated_text(self._text(ids), stops, None)
        return texts

    def _generation(self, request: Instance) -> tuple[list[str], int]:
        """Stops, and how many tokens at most."""
        settings = normalize_gen_kwargs(request.args[1], DEFAULT_NEW_TOKENS)
        if settings.get("do_sample") or settings.get("temperature"):
            raise InputError(
                f"task '{request.task_name}' draws its text at random (temperature"
                f" {settings.get('temperature')}); only tasks that decode greedily can be evaluated here"
            )
        num_tokens = int(settings["max_gen_toks"])
        if num_tokens >= self.max_length:
            raise InputError(
                f"task '{request.task_name}' asks for {num_tokens} new tokens, but the model has room for"
                f" {self.max_length} in all; leave the task out"
            )
        return handle_stop_sequences(settings.get("until"), self._end), num_tokens

    def _is_over(self, stops: Sequence[str], ids: Sequence[int]) -> bool:
        """Whether the text that these tokens make has ended, by the model's word or by a stop."""
        if ids[-1] == self._eos_id:
            return True
        text = self._text(ids)
        return any(stop and stop in text for stop in stops)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
