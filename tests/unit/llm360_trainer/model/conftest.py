from dataclasses import replace

import pytest
import torch

from llm360_trainer.model import Decoder, DecoderConfig, initial_tensor
from llm360_trainer.parallel import fill

LLAMA = DecoderConfig(
    vocab_size=61, hidden_size=32, intermediate_size=44, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=8
)
NEOX = replace(
    LLAMA,
    intermediate_size=128,
    norm="layernorm",
    norm_epsilon=1e-5,
    rotary_fraction=0.5,
    mlp="gelu",
    residual="parallel",
    attention_bias=True,
    mlp_bias=True,
)
CRYSTAL = replace(
    LLAMA,
    norm="layernorm",
    rotary_fraction=0.25,
    rotary_layout="interleaved",
    attention_bias=True,
    mlp_bias=True,
    tied_embeddings=True,
    embeddings_scale=14.6,
    output_logits_scale=0.13875,
    attention_scale="d",
)


@pytest.fixture
def llama():
    return LLAMA


@pytest.fixture(params=[LLAMA, NEOX, CRYSTAL], ids=["llama", "neox", "crystal"])
def config(request):
    return request.param


@pytest.fixture
def neox():
    return NEOX


@pytest.fixture
def build():
    """A decoder with first values on the CPU; norms and biases are moved off 1 and 0 so that each one matters."""

    def build_decoder(config, seed=7):
        model = Decoder(config)
        fill(model, lambda name, shape: initial_tensor(name, shape, config, seed))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return model

    return build_decoder


@pytest.fixture
def ids():
    return torch.randint(0, 61, (3, 17), generator=torch.Generator().manual_seed(1))
