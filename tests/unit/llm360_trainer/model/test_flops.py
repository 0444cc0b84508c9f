from dataclasses import replace

import pytest
import torch

from llm360_trainer.model import (
    DecoderConfig,
    flops_per_token,
    model_flops_utilization,
    num_parameters,
    peak_flops,
)

AMBER_7B = DecoderConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
)
K2_65B = DecoderConfig(
    vocab_size=32_032,
    hidden_size=8192,
    intermediate_size=22_016,
    num_layers=80,
    num_heads=64,
    num_kv_heads=64,
    head_dim=128,
)
PYTHIA_70M = DecoderConfig(
    vocab_size=50_304,
    hidden_size=512,
    intermediate_size=2048,
    num_layers=6,
    num_heads=8,
    num_kv_heads=8,
    head_dim=64,
    norm="layernorm",
    rotary_fraction=0.25,
    mlp="gelu",
    residual="parallel",
    attention_bias=True,
    mlp_bias=True,
)
PYTHIA_7B = replace(
    PYTHIA_70M,
    vocab_size=50_432,
    hidden_size=4096,
    intermediate_size=16_384,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
)
CRYSTAL_7B = replace(
    AMBER_7B,
    vocab_size=32_032,
    intermediate_size=10_922,
    norm="layernorm",
    rotary_fraction=0.25,
    attention_bias=True,
    mlp_bias=True,
    tied_embeddings=True,
)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        pytest.param(AMBER_7B, 6_738_415_616, id="amber-7b"),
        pytest.param(K2_65B, 65_286_184_960, id="k2-65b"),
        pytest.param(PYTHIA_70M, 70_426_624, id="pythia-70m"),
        pytest.param(PYTHIA_7B, 6_857_302_016, id="pythia-6.9b"),
    ],
)
def test_published_models_have_their_published_size(config, count):
    assert num_parameters(config) == count


def test_tied_embeddings_count_once():
    untied = num_parameters(replace(CRYSTAL_7B, tied_embeddings=False))
    assert untied - num_parameters(CRYSTAL_7B) == 32_032 * 4096


def test_a_token_of_amber_costs_44_gflop():
    assert flops_per_token(AMBER_7B, 2048) == 6 * 6_738_415_616 + 12 * 32 * 4096 * 2048


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some Other Card", None),
    ],
)
def test_peaks_are_known_by_name(name, peak):
    assert peak_flops(name) == peak


def test_utilization_compares_speed_with_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H200")
    rate = 2 * 0.5 * 989e12 / flops_per_token(AMBER_7B, 2048)
    assert model_flops_utilization(AMBER_7B, 2048, rate, torch.device("cuda"), num_devices=2) == pytest.approx(0.5)


def test_a_cpu_has_no_utilization():
    assert model_flops_utilization(PYTHIA_70M, 2048, 1e3, torch.device("cpu")) is None
