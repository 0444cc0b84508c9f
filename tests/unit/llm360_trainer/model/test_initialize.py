from dataclasses import replace

import pytest
import torch

from llm360_trainer.model import Decoder, Initializer, InitialValues, initial_tensor
from llm360_trainer.model.initialize import parameter_seed

LAWS = InitialValues(
    embedding=Initializer(std=0.5), hidden=Initializer(std=0.1), output=Initializer("truncated_normal", 0.01, 0.02)
)


def test_values_depend_on_seed_and_name_alone(llama):
    value = initial_tensor("layers.1.mlp.up_proj.weight", (44, 32), llama, seed=3)
    torch.rand(5)
    assert torch.equal(value, initial_tensor("layers.1.mlp.up_proj.weight", (44, 32), replace(llama, num_layers=9), 3))
    assert not torch.equal(value, initial_tensor("layers.1.mlp.up_proj.weight", (44, 32), llama, seed=4))
    assert not torch.equal(value, initial_tensor("layers.2.mlp.up_proj.weight", (44, 32), llama, seed=3))


def test_seed_is_pinned():
    # The first 16 digits of `printf 0:embed.weight | sha256sum`: another law would change every run.
    assert parameter_seed(0, "embed.weight") == 0x8F91D8BAC53B8FD8 >> 1


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("embed.weight", 0.5),
        ("head.weight", 0.1),
        ("layers.0.self_attn.q_proj.weight", 0.1),
        ("layers.0.mlp.gate_proj.weight", 0.1),
        ("layers.0.self_attn.o_proj.weight", 0.00880),  # 0.01 · 0.8796, a normal cut at 2 sigma
        ("layers.0.mlp.down_proj.weight", 0.00880),
    ],
)
def test_each_matrix_has_the_law_of_its_role(llama, name, std):
    value = initial_tensor(name, (400, 500), replace(llama, initial=LAWS), seed=0)
    assert value.std().item() == pytest.approx(std, rel=0.01)
    assert value.mean().item() == pytest.approx(0.0, abs=0.01 * std)


def test_nothing_lies_beyond_the_cut(llama):
    value = initial_tensor("layers.0.mlp.down_proj.weight", (400, 500), replace(llama, initial=LAWS), seed=0)
    assert 0.0199 < value.abs().max().item() <= 0.02


def test_norms_start_at_one_and_biases_at_zero(neox):
    with torch.device("meta"):
        model = Decoder(neox)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            value = initial_tensor(name, tuple(parameter.shape), neox, seed=0)
            assert torch.equal(value, torch.full_like(value, 0.0 if name.endswith("bias") else 1.0))


def test_values_lie_on_the_cpu_under_another_default(llama):
    with torch.device("meta"):
        assert initial_tensor("embed.weight", (61, 32), llama, seed=0).device.type == "cpu"
        assert initial_tensor("norm.weight", (32,), llama, seed=0).device.type == "cpu"
