"""What a token costs in arithmetic, and how much of a device's peak a speed amounts to."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.decoder import Decoder


class Peak(NamedTuple):
    """A device's dense bf16 peak, its matrix units without sparsity."""

    name: str
    """Part of the device's name as CUDA gives it."""
    flops: float
    """FLOP/s."""
    source: str


_PEAKS = (
    # First match in the device's name wins.
    Peak("B200", 2250e12, "NVIDIA DGX B200 datasheet: 36 PFLOP/s sparse for 8"),
    Peak("H200 NVL", 835.5e12, "NVIDIA H200 datasheet: 1,671 TFLOP/s sparse"),
    Peak("H200", 989e12, "NVIDIA H200 datasheet: 1,979 TFLOP/s sparse (SXM)"),
    Peak("H100 PCIe", 756e12, "NVIDIA H100 datasheet"),
    Peak("H100 NVL", 835e12, "NVIDIA H100 datasheet: 1,671 TFLOP/s sparse"),
    Peak("H100", 989e12, "NVIDIA H100 datasheet: 1,979 TFLOP/s sparse (SXM)"),
    Peak("A100", 312e12, "NVIDIA A100 datasheet"),
    Peak("L40S", 362e12, "NVIDIA L40S datasheet"),
)


@cache
def num_parameters(config: DecoderConfig) -> int:
    """Number of parameters, a tied embedding counted once."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


def flops_per_token(config: DecoderConfig, sequence_length: int) -> float:
    """Floating point operations of forward and backward per token: 6N + 12·L·d·s.

    PaLM's count (arXiv:2204.02311, appendix B) with all N parameters, embeddings included, and without the factor
    ½ that causal attention saves. Recomputation is not counted.

    Args:
        config: The architecture.
        sequence_length: s, tokens per sequence.
    """
    attention_size = config.num_heads * config.head_dim
    return 6.0 * num_parameters(config) + 12.0 * config.num_layers * attention_size * sequence_length


def device_peak(device_name: str) -> Peak | None:
    """The peak of a device by the name that CUDA gives it, or None where it is not known."""
    return next((peak for peak in _PEAKS if peak.name in device_name), None)


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 peak in FLOP/s of a device by the name that CUDA gives it, or None where it is not known."""
    peak = device_peak(device_name)
    return None if peak is None else peak.flops


def model_flops_utilization(
    config: DecoderConfig, sequence_length: int, tokens_per_second: float, device: torch.device, num_devices: int = 1
) -> float | None:
    """Share (0–1) of the devices' dense bf16 peak that the model's own arithmetic takes; None on a CPU.

    Args:
        config: The architecture.
        sequence_length: Tokens per sequence.
        tokens_per_second: Of all devices together.
        device: This process's device, of which there are `num_devices`.
        num_devices: Devices that share the work.
    """
    if device.type != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    return None if peak is None else tokens_per_second * flops_per_token(config, sequence_length) / (peak * num_devices)
