"""float8 as a CPU emulates it, against the step without."""

from dataclasses import replace

import pytest
import torch

from llm360_trainer.model import Decoder, initial_tensor
from llm360_trainer.parallel import ParallelSettings, build_model, fill, fill_initial, fp8_unavailable

RECIPES = ("tensorwise", "rowwise")


@pytest.fixture
def ids():
    return torch.randint(0, 61, (2, 17), generator=torch.Generator().manual_seed(1))


def loss_and_gradients(model, ids):
    weights = torch.full(ids[:, 1:].shape, 1 / ids[:, 1:].numel())
    total, _ = model.loss(ids[:, :-1], ids[:, 1:], weights)
    total.backward()
    return total.item(), {name: p.grad.full_tensor() for name, p in model.named_parameters()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_loss_and_gradients_follow_fp32(config, mesh, ids, recipe):
    config = replace(config, intermediate_size=48)
    settings = ParallelSettings(param_dtype=torch.bfloat16)
    found = []
    for changed in (ParallelSettings(), settings, replace(settings, fp8=recipe)):
        model = build_model(config, changed, mesh)
        fill_initial(model, seed=5)
        found.append(loss_and_gradients(model, ids))
    (exact, gradients), (_, half), (loss, rounded) = found
    assert loss == pytest.approx(exact, rel=2e-3)
    for name, gradient in gradients.items():
        error = (rounded[name] - gradient).norm() / gradient.norm()
        assert error < 0.15, name
    # It is really there: e4m3 has 3 bits behind the point, bf16 7.
    name = "layers.1.mlp.gate_proj.weight"
    errors = [(g[name] - gradients[name]).norm() for g in (half, rounded)]
    assert errors[1] > 2 * errors[0]


def test_names_and_first_values_stay(config, mesh):
    model = build_model(config, ParallelSettings(param_dtype=torch.bfloat16, fp8="rowwise"), mesh)
    plain = Decoder(config)
    fill(plain, lambda name, shape: initial_tensor(name, shape, config, seed=5))
    fill_initial(model, seed=5)
    for (name, parameter), (wanted, expected) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert name == wanted
        assert torch.equal(parameter.full_tensor(), expected)


def test_sizes_that_the_hardware_refuses_are_left_alone(config, mesh):
    model = build_model(config, ParallelSettings(param_dtype=torch.bfloat16, fp8="tensorwise"), mesh)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["layers.0.self_attn.q_proj"] == "Float8Linear"
    assert kinds["layers.0.mlp.up_proj"] == "Linear"  # 44 is no multiple of 16
    assert kinds["head"] == "Linear"


def test_what_is_missing_is_said(monkeypatch):
    assert fp8_unavailable("rowwise", torch.device("cpu")) == "it needs a CUDA device, found cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA L40S")
    assert fp8_unavailable("tensorwise", torch.device("cuda")) is None
    assert fp8_unavailable("rowwise", torch.device("cuda")) == ("it needs compute capability 9.0, NVIDIA L40S has 8.9")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "torchao is not installed" in fp8_unavailable("tensorwise", torch.device("cuda"))
