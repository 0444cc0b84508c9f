"""FSDP2 around a decoder: float8, then recomputation, then compilation, then sharding, block by block.

with torch.device("meta"): Decoder     no memory
parallelize                            each parameter becomes a DTensor, fp32, sharded in dim 0
fill                                   each rank keeps its rows of one full tensor at a time
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from llm360_trainer.model import Backend, Decoder, DecoderConfig, initial_tensor
from llm360_trainer.model.attention import kernel_operations
from llm360_trainer.parallel.fp8 import Recipe, use_fp8
from llm360_trainer.parallel.recompute import Key, is_product, keep, key_of, last_product

_KEPT_OPERATIONS = frozenset(
    (
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    )
)
"""Selective recomputation keeps the results of what is costly to compute, and makes the rest again; the kernel of
attention may add its own (`kernel_operations`)."""


@dataclass(frozen=True)
class ParallelSettings:
    """How the decoder is run; none of it but `fp8` changes what is computed, beyond rounding."""

    param_dtype: torch.dtype = torch.float32
    """Compute dtype of forward and backward; gradients are reduced, and weights kept, in fp32."""
    activation_checkpointing: Literal["none", "selective", "full", "measured"] = "none"
    """What of a block's activations is made again in backward: nothing, all but matrix products, everything, or all
    but `kept`."""
    kept: frozenset[Key] = frozenset()
    """With measured: operations whose results are kept (`with_measured_recomputation`)."""
    compile: bool = False
    """Compile each block with torch.compile."""
    reshard_after_forward: bool = True
    """Free a block's gathered weights after forward and gather them again in backward."""
    prefetch: int = 0
    """Blocks whose weights are gathered ahead of the one at work, in forward and backward; 0: as FSDP2 does by itself,
    one in backward, and in forward as far ahead as the CPU is."""
    attention: Backend = "sdpa"
    """The kernel of attention."""
    fp8: Recipe | None = None
    """Matrix products of the blocks in float8; on a CPU they are emulated."""


def parallelize(model: Decoder, settings: ParallelSettings, mesh: DeviceMesh) -> Decoder:
    """Shard a decoder in place, one communication group per block and one for embedding, norm and head.

    Gradients are summed over all processes, not averaged: the loss already carries its global denominator.

    Args:
        model: Usually on the meta device.
        settings: Precision, recomputation, compilation.
        mesh: From `make_mesh`.

    Returns:
        The same module, now also an `FSDPModule`.
    """
    # The loss's weights and the rotation's angles must stay fp32; what enters a block has its dtype already.
    precision = MixedPrecisionPolicy(
        param_dtype=settings.param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    model.set_attention(settings.attention)
    for block in model.layers:
        if settings.fp8 is not None:
            use_fp8(block, settings.fp8, emulate=mesh.device_type == "cpu")
        _wrap_forward(block, settings)
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=settings.reshard_after_forward)
    fully_shard(model, mesh=mesh, mp_policy=precision)
    _prefetch(list(model.layers), settings.prefetch)
    register_fsdp_forward_method(model, "loss")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # A divisor of 1 would otherwise travel inside the reduction, which gloo cannot do.
            module.set_force_sum_reduction_for_comms(True)
    return model


def build_model(config: DecoderConfig, settings: ParallelSettings, mesh: DeviceMesh) -> Decoder:
    """A sharded decoder on the mesh's device whose parameters are still undefined: `fill` or restore them."""
    with torch.device("meta"):
        model = Decoder(config)
    parallelize(model, settings, mesh)
    return model.to_empty(device=mesh.device_type)


def fill(model: nn.Module, values: Callable[[str, tuple[int, ...]], Tensor]) -> None:
    """Give every parameter its values; each rank takes its shard without communication.

    Args:
        model: From `build_model`; a module without sharding works too.
        values: Full tensor of a parameter by name and shape, the same on every rank.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            full = values(name, tuple(parameter.shape)).to(parameter.device)
            if isinstance(parameter, DTensor):
                full = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(full)


def fill_initial(model: Decoder, seed: int) -> None:
    """Give every parameter its first values (see `initial_tensor`)."""
    fill(model, lambda name, shape: initial_tensor(name, shape, model.config, seed))


def _prefetch(blocks: list[nn.Module], number: int) -> None:
    if number == 0:
        return
    for index, block in enumerate(blocks):
        assert isinstance(block, FSDPModule)
        block.set_modules_to_forward_prefetch(_sharded(blocks[index + 1 : index + 1 + number]))
        block.set_modules_to_backward_prefetch(_sharded(blocks[max(0, index - number) : index][::-1]))


def _sharded(blocks: list[nn.Module]) -> list[FSDPModule]:
    return [block for block in blocks if isinstance(block, FSDPModule)]


def _wrap_forward(block: nn.Module, settings: ParallelSettings) -> None:
    # The bound method is replaced rather than the module, so that parameters keep their names.
    forward = block.forward
    if settings.activation_checkpointing != "none":
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        policies = {"selective": _keep_dear, "measured": _keep_measured}
        if settings.activation_checkpointing in policies:
            policy = policies[settings.activation_checkpointing](block, settings)
            options["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
        forward = partial(checkpoint, forward, **options)
    if settings.compile:
        forward = _without_gradients(block, torch.compile(forward, fullgraph=True))
    block.forward = forward


def _without_gradients(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled forward that sees no gradients: the compiler refuses bf16 weights with FSDP's fp32 gradients."""

    def run(*args: Any, **kwargs: Any) -> Any:
        held = [(parameter, parameter.grad) for parameter in block.parameters() if parameter.grad is not None]
        for parameter, _ in held:
            parameter.grad = None
        try:
            return forward(*args, **kwargs)
        finally:
            for parameter, gradient in held:
                parameter.grad = gradient

    return run


def _keep_dear(block: nn.Module, settings: ParallelSettings) -> Callable[..., CheckpointPolicy]:
    kept = _KEPT_OPERATIONS | frozenset(kernel_operations(settings.attention))
    last = last_product(block)

    def policy(_context: Any, operation: Any, *arguments: Any, **_options: Any) -> CheckpointPolicy:
        is_kept = operation in kept and not is_product(key_of(operation, arguments), last)
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


def _keep_measured(_block: nn.Module, settings: ParallelSettings) -> Callable[..., CheckpointPolicy]:
    return keep(settings.kept)
