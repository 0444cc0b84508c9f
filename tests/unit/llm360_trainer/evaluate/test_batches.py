"""A lack of memory halves the batch, once and for good, and changes no answer."""

from __future__ import annotations

import random

import pytest
import torch

from llm360.errors import LLM360Error
from llm360_trainer.evaluate import scoring
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.generating import generate
from llm360_trainer.evaluate.scoring import Request, score
from llm360_trainer.model import Decoder, DecoderConfig


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
        max_position_embeddings=64,
    )  # fmt: skip
    return Decoder(config).requires_grad_(False).eval()


def requests(count: int = 40, num_prefixes: int = 6) -> list[Request]:
    rng = random.Random(3)
    prefixes = [tuple(rng.randrange(50) for _ in range(rng.randrange(1, 60))) for _ in range(num_prefixes)]
    return [
        Request(rng.choice(prefixes), tuple(rng.randrange(50) for _ in range(rng.randrange(1, 20))))
        for _ in range(count)
    ]


def plain(decoder: Decoder, request: Request) -> tuple[float, bool]:
    tokens = (request.context + request.continuation)[-65:]
    logits = decoder(torch.tensor([tokens[:-1]]))[0, -len(request.continuation) :]
    wanted = torch.tensor(request.continuation)
    values = torch.log_softmax(logits, dim=-1).gather(1, wanted[:, None]).sum()
    return float(values), bool((logits.argmax(dim=-1) == wanted).all())


def test_scores_are_those_of_the_plain_forward(decoder):
    wanted = requests()
    for size in (1, 7, 64):
        for found, request in zip(score(decoder, wanted, Batches(size)), wanted, strict=True):
            value, greedy = plain(decoder, request)
            assert found.log_likelihood == pytest.approx(value, abs=1e-4)
            assert found.is_greedy == greedy


def test_memory_that_does_not_suffice_halves_the_batch(decoder, monkeypatch):
    wanted, said, done = requests(60, num_prefixes=60), [], []
    expected = score(decoder, wanted, Batches(16))
    original = scoring.logits

    def short_of_memory(model, hidden):
        # Late in a batch: what was found before in it must not be counted twice.
        if batches.size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, hidden)

    monkeypatch.setattr(scoring, "logits", short_of_memory)
    monkeypatch.setattr(scoring, "_LOGIT_PLACES", 5)
    batches = Batches(16, said.append, done=done.append)
    for found, before in zip(score(decoder, wanted, batches), expected, strict=True):
        assert found.log_likelihood == pytest.approx(before.log_likelihood, abs=1e-4)
    assert said == [
        "memory does not suffice for 16 sequences at a time; going on with 8",
        "memory does not suffice for 8 sequences at a time; going on with 4",
        "memory does not suffice for 4 sequences at a time; going on with 2",
    ]
    assert batches.size == 2
    assert sum(done) == len(wanted)


def test_one_sequence_that_does_not_fit_is_told(decoder, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scoring, "extend", never)
    with pytest.raises(LLM360Error, match="memory does not suffice for one sequence") as caught:
        score(decoder, requests(3), Batches(4))
    assert caught.value.reason == "OutOfMemory"


def test_other_errors_are_not_taken_for_it(decoder, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(scoring, "extend", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        score(decoder, requests(3), Batches(4))


def test_generation_is_greedy_to_its_end_for_any_batch(decoder):
    rng = random.Random(5)
    contexts = [[rng.randrange(50) for _ in range(rng.randrange(1, 30))] for _ in range(9)]

    def is_over(ids):
        return ids[-1] % 7 == 0

    expected = []
    for context in contexts:
        ids = list(context)
        while len(ids) - len(context) < 12 and not (len(ids) > len(context) and is_over(ids)):
            ids.append(int(decoder(torch.tensor([ids]))[0, -1].argmax()))
        expected.append(ids[len(context) :])
    for size in (1, 4, 9):
        assert generate(decoder, contexts, 12, is_over, Batches(size)) == expected
