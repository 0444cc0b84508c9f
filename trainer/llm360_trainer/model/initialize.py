"""First values of parameters, from a seed and each parameter's name alone.

Neither sharding, nor the order of layers, nor the number of processes has a say: every parameter has a random
generator of its own, on the CPU, so that a GPU run starts from the same bits as a CPU run.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from llm360_trainer.model.config import DecoderConfig, Initializer, InitialValues

_OUTPUT_MATRICES = (".o_proj.weight", ".down_proj.weight")


def initial_tensor(name: str, shape: tuple[int, ...], config: DecoderConfig, seed: int) -> Tensor:
    """First values of one parameter, fp32 on the CPU.

    Args:
        name: The parameter's name in `Decoder`.
        shape: Its full shape.
        config: Carries the distributions.
        seed: The run's seed.
    """
    if name.endswith(".bias"):
        return torch.zeros(shape, device="cpu")
    if len(shape) == 1:
        return torch.ones(shape, device="cpu")
    return _draw(shape, _initializer(name, config.initial), parameter_seed(seed, name))


def parameter_seed(seed: int, name: str) -> int:
    """63 bits of sha256 over seed and name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def _initializer(name: str, initial: InitialValues) -> Initializer:
    if name == "embed.weight":
        return initial.embedding
    return initial.output if name.endswith(_OUTPUT_MATRICES) else initial.hidden


def _draw(shape: tuple[int, ...], initializer: Initializer, seed: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(seed)
    values = torch.empty(shape, dtype=torch.float32, device="cpu")
    if initializer.kind == "normal":
        return values.normal_(0.0, initializer.std, generator=generator)
    cut = initializer.cut
    assert cut is not None, "Initializer refuses a truncated normal without a cut"
    return nn.init.trunc_normal_(values, 0.0, initializer.std, -cut, cut, generator=generator)
