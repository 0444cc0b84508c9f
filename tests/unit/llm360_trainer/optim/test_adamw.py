import math

import pytest
import torch

from llm360_trainer.model import Decoder, DecoderConfig
from llm360_trainer.optim import OptimizerSettings, build_optimizer, set_finished_steps, set_learning_rate


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocab_size=11,
            hidden_size=8,
            intermediate_size=12,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_dim=4,
            norm="layernorm",
            attention_bias=True,
            mlp_bias=True,
        )
    )


def settings_by_name(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_amber_decays_everything(model):
    optimizer = build_optimizer(model, OptimizerSettings(weight_decay=0.1))
    set_learning_rate(optimizer, 3e-4)
    assert set(settings_by_name(model, optimizer).values()) == {(0.1, 3e-4)}
    assert len(settings_by_name(model, optimizer)) == len(list(model.parameters()))


def test_crystal_spares_vectors_and_slows_the_layers_matrices(model):
    optimizer = build_optimizer(
        model, OptimizerSettings(weight_decay_on="matrices", matrix_learning_rate_multiplier=1 / 16)
    )
    set_learning_rate(optimizer, 0.016)
    found = settings_by_name(model, optimizer)
    assert found["embed.weight"] == found["head.weight"] == (0.1, 0.016)
    assert found["layers.0.mlp.up_proj.weight"] == (0.1, 0.001)
    assert found["layers.0.mlp.up_proj.bias"] == found["layers.0.input_layernorm.weight"] == (0.0, 0.016)


def test_update_is_that_of_the_paper(model):
    """Two updates against the formulas in Python's floats, the second after a step that was left out."""
    settings = OptimizerSettings(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
    optimizer = build_optimizer(model, settings)
    weight = model.layers[0].mlp.up_proj.weight
    value, first, second = weight[0, 0].item(), 0.0, 0.0
    for step, (gradient, rate) in {1: (0.3, 1e-2), 3: (-0.2, 2e-2)}.items():
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        set_learning_rate(optimizer, rate)
        set_finished_steps(optimizer, step - 1)
        optimizer.step()
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        value *= 1 - rate * 0.1
        value -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.95**step)) + 1e-8)
        assert weight[0, 0].item() == pytest.approx(value, rel=1e-6)


def test_moments_exist_before_the_first_update(model):
    optimizer = build_optimizer(model, OptimizerSettings())
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
        assert state["exp_avg"].dtype == torch.float32
        assert not state["exp_avg"].any()
