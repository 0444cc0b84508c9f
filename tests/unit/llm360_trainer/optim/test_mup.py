"""CrystalCoder's muP: what a step changes does not depend on the width, and the first loss is the one that follows.

The coordinate check is that of arXiv:2203.03466, section D.1: train a few steps at several widths with the same
learning rate, and compare by how much activations have moved.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from llm360.spec import load_run
from llm360_trainer.model import Decoder, Initializer, InitialValues, initial_tensor
from llm360_trainer.optim import build_optimizer, set_finished_steps, set_learning_rate
from llm360_trainer.parallel import fill
from llm360_trainer.train.settings import decoder_config, optimizer_settings

BASE_WIDTH, VOCAB, LAYERS, STEPS = 32, 512, 2, 6
CUT_STD = 0.8796  # of a unit normal cut at 2
CRYSTAL_TINY = load_run("crystal-tiny", require_store=False)


def law(std):
    return Initializer("truncated_normal", std, 2 * std)


def mup(width):
    """crystal-tiny's rules at another width (`test_presets` holds that they are CrystalCoder's)."""
    ratio = width / BASE_WIDTH
    narrow = 0.073 / math.sqrt(2 * LAYERS * ratio)
    config = replace(
        decoder_config(CRYSTAL_TINY.spec.model),
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=2 * width,
        num_layers=LAYERS,
        head_dim=width // 4,
        output_logits_scale=2.22 / ratio,
        initial=InitialValues(law(0.073), law(0.073 / math.sqrt(ratio)), law(narrow)),
    )
    return config, replace(optimizer_settings(CRYSTAL_TINY), matrix_learning_rate_multiplier=1 / ratio)


def standard(width):
    """The numbers of width 64 at every width, and attention scores divided by the root."""
    config, settings = mup(64)
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 4}
    return replace(config, **sizes, attention_scale="sqrt_d"), settings


def filled(config):
    model = Decoder(config)
    fill(model, lambda name, shape: initial_tensor(name, shape, config, 1))
    return model


def movements(config, settings):
    """Mean absolute change of each layer's output and of the logits over the steps, and the losses."""
    model, losses, seen = filled(config), [], {}
    optimizer = build_optimizer(model, settings)
    ids = torch.randint(0, VOCAB, (8, 33), generator=torch.Generator().manual_seed(0))
    for index, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda _module, _input, output, index=index: seen.update({index: output.detach()}))
    for step in range(STEPS):
        set_learning_rate(optimizer, 0.012)
        set_finished_steps(optimizer, step)
        logits = model(ids[:, :-1])
        seen["logits"] = logits.detach()
        if step == 0:
            first = dict(seen)
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {place: (seen[place] - first[place]).abs().mean().item() for place in seen}, losses


def test_coordinates_move_alike_at_every_width():
    found = {width: movements(*mup(width)) for width in (32, 64, 128, 256)}
    for place in (0, 1, "logits"):
        moved = [movement[place] for movement, _ in found.values()]
        assert max(moved) / min(moved) < 1.4, (place, moved)
    last = [losses[-1] for _, losses in found.values()]
    assert last == sorted(last, reverse=True), "wider is better at the same learning rate"
    assert last[0] - last[-1] < 0.4


def test_without_mup_they_move_more_the_wider():
    found = {width: movements(*standard(width))[0] for width in (32, 256)}
    assert found[256][1] / found[32][1] > 2


@pytest.mark.parametrize("preset", [pytest.param("crystalcoder-7b", marks=pytest.mark.slow), "crystal-tiny"])
def test_first_loss_is_the_one_that_follows_from_the_multipliers(preset):
    """The head is the embedding, and the stream is little more than the embedding of the present token.

    So after the last norm that token's logit is scale · width · std, the others have deviation
    scale · √width · std, whatever the label: the loss is their log-sum-exp. Layers and vocabulary are cut here.
    """
    model = load_run(preset, require_store=False).spec.model
    config = replace(decoder_config(model), vocab_size=VOCAB, num_layers=1, intermediate_size=64)
    std, scale = config.initial.embedding.std * CUT_STD, config.output_logits_scale
    own, spread = scale * config.hidden_size * std, scale * math.sqrt(config.hidden_size) * std
    wanted = math.log(math.exp(own) + (VOCAB - 1) * math.exp(spread**2 / 2))
    generator = torch.Generator().manual_seed(0)
    ids, labels = torch.randint(0, VOCAB, (2, 4, 32), generator=generator)
    with torch.no_grad():
        logits = filled(config)(ids)
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    assert loss == pytest.approx(wanted, rel=0.03)
