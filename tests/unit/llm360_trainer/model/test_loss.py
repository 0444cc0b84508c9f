import pytest
import torch
from torch.nn import functional

from llm360_trainer.model import loss
from llm360_trainer.model.loss import weighted_cross_entropy


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 6, generator=generator, requires_grad=True)
    weight = torch.randn(9, 6, generator=generator, requires_grad=True)
    bias = torch.randn(9, generator=generator, requires_grad=True)
    labels = torch.randint(0, 9, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    weights[4] = 0.0
    return hidden, weight, bias, labels, weights


@pytest.mark.parametrize("chunk_logits", [1, 9 * 4, 2**25], ids=["token", "four tokens", "all"])
@pytest.mark.parametrize("with_bias", [True, False])
def test_value_and_gradients_are_those_of_cross_entropy(inputs, monkeypatch, chunk_logits, with_bias):
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", chunk_logits)
    hidden, weight, bias, labels, weights = inputs
    parameters = [hidden, weight, bias] if with_bias else [hidden, weight]
    total, losses = weighted_cross_entropy(hidden, weight, bias if with_bias else None, labels, weights, 0.7)
    grads = torch.autograd.grad(3.0 * total, parameters)

    logits = 0.7 * functional.linear(hidden, weight, bias if with_bias else None)
    expected = functional.cross_entropy(logits, labels, reduction="none")
    expected_total = (expected * weights).sum()
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(total, expected_total)
    for grad, wanted in zip(grads, torch.autograd.grad(3.0 * expected_total, parameters), strict=True):
        torch.testing.assert_close(grad, wanted)


def test_large_logits_do_not_overflow(inputs):
    hidden, weight, _, labels, weights = inputs
    total, losses = weighted_cross_entropy(hidden * 1e4, weight, None, labels, weights)
    expected = functional.cross_entropy(functional.linear(hidden * 1e4, weight), labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    assert total.isfinite()


def test_not_a_number_shows(inputs):
    hidden, weight, _, labels, weights = inputs
    broken = hidden.detach().clone()
    broken[2, 0] = float("nan")
    total, losses = weighted_cross_entropy(broken, weight, None, labels, weights)
    assert total.isnan()
    assert losses.isnan().nonzero().flatten().tolist() == [2]


def test_without_gradients_only_the_value_is_made(inputs):
    hidden, weight, bias, labels, weights = inputs
    with torch.no_grad():
        total, _ = weighted_cross_entropy(hidden, weight, bias, labels, weights)
    assert not total.requires_grad


def test_bf16_sums_in_fp32(inputs):
    hidden, weight, _, labels, weights = inputs
    half_hidden, half_weight = hidden.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()
    total, losses = weighted_cross_entropy(half_hidden, half_weight, None, labels, weights)
    total.backward()
    assert losses.dtype == total.dtype == torch.float32
    assert half_weight.grad.dtype == torch.bfloat16
    expected = functional.cross_entropy(functional.linear(half_hidden, half_weight).float(), labels, reduction="none")
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "expected"),
    [
        (4096, 32_000, 1024),  # the limit allows 1,048: four chunks, which divide it
        (2048, 50_432, 512),  # and 665
        (5000, 32_000, 1024),
        (700, 32_000, 700),  # one chunk
        (3000, 2**20, 32),  # less than a tile
        (10, 2**26, 1),
        (0, 32_000, 1),
    ],
)
def test_chunks_are_alike_and_of_whole_tiles(tokens, vocab_size, expected):
    chunk = loss._chunk_tokens(tokens, vocab_size)
    assert chunk == expected
    assert chunk == 1 or chunk * vocab_size <= loss.MAX_CHUNK_LOGITS
