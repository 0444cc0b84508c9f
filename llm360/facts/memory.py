"""Memory of one rank in a training step, from a specification alone.

A step's need is the most that it holds at any of a few moments; each is a sum of terms that follow from shapes:

    loss          all saved activations, and the loss's chunk of logits with their gradient
    block i       backward of block i: what is still saved, the block's recomputed activations and gradients, the
                  weights gathered for it and for the next, the gradients being reduced for the one before
    outer         the embedding's gradient is reduced, all blocks are done
    update        weights, gradients and moments alone

The terms are those of blocks that run as written. Compiled blocks keep less where `activationCheckpointing` is none,
since the compiler recomputes what is cheap; so the plan is an upper bound there. What the CUDA context, NCCL's
buffers and fragmentation of the allocator take is not in it.

float8 keeps weights, gradients and saved activations as they are: each product casts its operands when it is computed,
and again in backward (`torchao/float8/float8_linear.py`). Only those casts come on top, at the block's moment; the
compiler merges a cast's steps into one, so that here too the plan is an upper bound for compiled blocks.

Letters: B sequences of a micro batch, T tokens, N = B·T; C hidden, F intermediate, Q and K all query or key features,
H heads, V vocabulary, L layers; c bytes of the compute dtype; P parameters; W ranks that share one copy of the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llm360.facts.parameters import block_shapes, outer_shapes
from llm360.spec.model import Model

MAX_CHUNK_LOGITS = 2**25
"""Most logits that the loss holds at once (`llm360_trainer/model/loss.py`)."""

FP32 = 4

FP8_MULTIPLE = 16
"""Sizes of a matrix that is multiplied in float8 are multiples of it (`llm360_trainer/parallel/fp8.py`)."""

CAST = 2 * FP32 + 1
"""Bytes per element at the height of a cast to float8: scaled in fp32, clamped in fp32, the result
(`torchao/float8/float8_training_tensor.py` and `to_fp8_saturated`)."""


@dataclass(frozen=True)
class StepShape:
    """What the memory of a step depends on besides the model.

    Attributes:
        micro_batch: B, sequences of one forward and backward of a rank.
        micro_steps: Forwards and backwards of a rank in a step.
        sequence_length: T, tokens.
        compute_bytes: c, 2 for bf16 and 4 for fp32.
        shard_ranks: W, ranks that share one copy of the model.
        checkpointing: `parallelism.activationCheckpointing`.
        reshard: Whether a block's gathered weights are freed after forward.
        activation_bytes: With checkpointing measured, `parallelism.activationMemory`.
        reduce_each: Whether every micro step reduces its gradients.
        fused_norm: Whether RMSNorm is one kernel (CUDA); in parts (CPU) it keeps two fp32 copies of its input.
        fp8: Whether the blocks' products are computed in float8.
    """

    micro_batch: int
    micro_steps: int
    sequence_length: int
    compute_bytes: int
    shard_ranks: int
    checkpointing: str
    reshard: bool = True
    fused_norm: bool = True
    activation_bytes: int = 0
    reduce_each: bool = False
    fp8: bool = False

    @property
    def tokens(self) -> int:
        """N, of a micro batch."""
        return self.micro_batch * self.sequence_length


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank at the moment of its peak, by what they are for.

    Attributes:
        moment: loss, block, outer or update.
        parameters: Sharded fp32 master weights.
        optimizer: AdamW's two moments.
        gathered: Weights in the compute dtype, gathered for use, and the buffers of gathering.
        gradients: Of weights: sharded, not yet sharded, being reduced.
        activations: Saved for backward, recomputed, or gradients of such.
        logits: The loss's chunk of logits, their gradient, and the output matrix's gradient.
    """

    moment: str
    parameters: int
    optimizer: int
    gathered: int
    gradients: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.parameters + self.optimizer + self.gathered + self.gradients + self.activations + self.logits


def step_memory(model: Model, step: StepShape) -> Memory:
    """What a rank holds at the peak of a step."""
    return max(_moments(model, step), key=lambda memory: memory.total)


def _moments(model: Model, step: StepShape) -> list[Memory]:
    layers = model.num_layers
    blocks = [_block_moment(model, step, index) for index in {0, min(1, layers - 1), max(0, layers - 2), layers - 1}]
    return [_loss_moment(model, step), *blocks, _outer_moment(model, step), _update_moment(model, step)]


def _loss_moment(model: Model, step: StepShape) -> Memory:
    """The last chunk of logits, all activations saved."""
    sizes, c = _Sizes(model, step), step.compute_bytes
    chunk = min(step.tokens, max(1, MAX_CHUNK_LOGITS // model.vocab_size))
    matrix = model.vocab_size * model.hidden_size
    casted = 0 if c == FP32 else c * model.vocab_size * chunk
    final_norm = norm_input_bytes(model, step) + norm_bytes(model, step)
    states = step.tokens * (final_norm + 2 * c * model.hidden_size + FP32)  # hidden states and their gradient
    return sizes.memory(
        "loss",
        gathered=c * sizes.outer + (sizes.gathering if step.reshard else c * model.num_layers * sizes.block),
        gradients=sizes.accumulated(0),
        activations=sizes.always + model.num_layers * step.tokens * sizes.saved + states,
        logits=FP32 * model.vocab_size * chunk + casted + FP32 * matrix + c * matrix,
    )


def _block_moment(model: Model, step: StepShape, index: int) -> Memory:
    """Backward of the MLP of one block, those after it done."""
    sizes, c, layers = _Sizes(model, step), step.compute_bytes, model.num_layers
    done = layers - 1 - index
    reducing = FP32 * sizes.block if done else 0
    head = c * (model.vocab_size * model.hidden_size + 2 * model.hidden_size)
    weights, flowing = max(_mlp_backward(model, step), key=sum)
    if step.reshard:
        gathered = c * (sizes.outer + sizes.block) + (sizes.gathering if index else 0)
    else:
        gathered = c * (sizes.outer + (index + 1) * sizes.block)
    return sizes.memory(
        "block",
        gathered=gathered,
        gradients=sizes.accumulated(done) + sizes.reduced(done) + reducing + head + weights,
        activations=sizes.always + step.tokens * ((index + 1) * sizes.saved + sizes.recomputed) + flowing,
    )


def _mlp_backward(model: Model, step: StepShape) -> list[tuple[int, int]]:
    """Bytes of the MLP's own gradients, and of what flows beside the saved activations, at its heights in backward."""
    c, hidden, inner = step.compute_bytes, model.hidden_size, model.intermediate_size
    widening = 2 if model.mlp == "swiglu" else 1
    narrowed = (c * hidden * (inner + 1), step.tokens * c * (hidden + widening * inner))
    if not (step.fp8 and multiplies_in_fp8((inner, hidden))):
        return [narrowed]
    matrix = hidden * inner
    # The narrowing matrix: its result's gradient and two casts of it, a cast of the matrix, the input's gradient; the
    # input's cast is the last. Then the last that widens: gradients of the others are there, of the activations those
    # of the narrowing are gone; the matrix's cast is the largest.
    return [
        narrowed,
        (0, step.tokens * ((2 * c) * hidden + (c + CAST) * inner) + matrix),
        (
            c * widening * matrix,
            step.tokens * (2 * c * hidden + (c + 1 - 2 * c * widening) * inner) + CAST * matrix,
        ),
    ]


def multiplies_in_fp8(shape: tuple[int, ...]) -> bool:
    """Whether a block's parameter is a matrix that takes part where products are computed in float8."""
    return len(shape) == 2 and all(size % FP8_MULTIPLE == 0 for size in shape)


def _outer_moment(model: Model, step: StepShape) -> Memory:
    """Reduction of the gradients of embedding, norm and head."""
    sizes, c = _Sizes(model, step), step.compute_bytes
    return sizes.memory(
        "outer",
        gathered=0,
        gradients=sizes.reduced(model.num_layers)
        + FP32 * (sizes.outer + sizes.outer_shard)
        + (sizes.accumulated(model.num_layers) or c * model.vocab_size * model.hidden_size),
        activations=sizes.always,
    )


def _update_moment(model: Model, step: StepShape) -> Memory:
    sizes = _Sizes(model, step)
    return sizes.memory("update", gradients=FP32 * sizes.shard)


def norm_input_bytes(model: Model, step: StepShape) -> int:
    """Of a token: the norm's input, where the norm keeps it as it came."""
    in_parts = model.norm.kind == "rmsnorm" and not step.fused_norm and step.compute_bytes != FP32
    return 0 if in_parts else step.compute_bytes * model.hidden_size


def norm_bytes(model: Model, step: StepShape) -> int:
    """Of a token: what a norm keeps besides its input."""
    if model.norm.kind == "layernorm":
        return 2 * (FP32 if step.fused_norm else step.compute_bytes)  # mean and reciprocal deviation
    if step.fused_norm:
        return FP32
    copies = 1 if step.compute_bytes == FP32 else 2  # the input and the normed input, both fp32
    return copies * FP32 * model.hidden_size + FP32


class _Sizes:
    """Numbers that the moments share; bytes where not said otherwise."""

    def __init__(self, model: Model, step: StepShape) -> None:
        self.step = step
        block, outer = block_shapes(model), outer_shapes(model)
        self.block, self.outer = _count(block), _count(outer)  # parameters
        self.block_shard, self.outer_shard = _shard(block, step.shard_ranks), _shard(outer, step.shard_ranks)
        self.shard = model.num_layers * self.block_shard + self.outer_shard
        self.all = model.num_layers * self.block + self.outer
        self.gathering = step.compute_bytes * self.block if step.shard_ranks > 1 else 0
        self.saved, self.recomputed = _saved_and_recomputed(model, step)  # of a token
        rotated = int(model.head_dim * model.rotary.fraction)
        # Angles; ids, labels, weights.
        self.always = 2 * FP32 * step.sequence_length * rotated + step.tokens * 20

    def accumulated(self, done: int) -> int:
        """Gradients that earlier micro steps left whole, in fp32, until their block is reduced.

        Args:
            done: Blocks that are reduced already.
        """
        if self.step.micro_steps == 1:
            return 0
        # Reduced ones wait as shards.
        return FP32 * (self.shard if self.step.reduce_each else self.all - done * self.block)

    def reduced(self, done: int) -> int:
        """Shards of the gradients of the blocks that are done, where they were not there before.

        Args:
            done: Blocks that are reduced already.
        """
        there_before = self.step.reduce_each and self.step.micro_steps > 1
        return 0 if there_before else FP32 * done * self.block_shard

    def memory(
        self, moment: str, *, gathered: int = 0, gradients: int = 0, activations: int = 0, logits: int = 0
    ) -> Memory:
        """The moment's bytes with what is always there."""
        parameters = FP32 * self.shard
        return Memory(moment, parameters, 2 * parameters, gathered, gradients, activations, logits)


def _saved_and_recomputed(model: Model, step: StepShape) -> tuple[int, int]:
    """Bytes of a token and block: kept from forward to backward, and made again (net) when backward comes to it."""
    c, hidden, inner = step.compute_bytes, model.hidden_size, model.intermediate_size
    query, key = model.num_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    widening = 2 if model.mlp == "swiglu" else 1  # matrices that widen; each leaves its result and one more
    statistics = FP32 * model.num_heads  # of the softmax
    norm_input, norm = norm_input_bytes(model, step), norm_bytes(model, step)
    norms = norm_input + 2 * norm + (norm_input if model.residual == "serial" else 0)
    everything = norms + c * (2 * hidden + 2 * query + 2 * key + 2 * widening * inner) + statistics
    if step.checkpointing == "none":
        return everything, 0
    again = everything - norm_input  # the block's input is kept
    if step.checkpointing == "full":
        return c * hidden, again
    if step.checkpointing == "measured":  # the budget, used up, and at worst as much made again as with full
        return max(c * hidden, step.activation_bytes // (step.tokens * model.num_layers)), again
    # Nothing needs the result of the last matrix; it is kept where its shape does not tell it from another.
    last = hidden if inner in (hidden, query) else 0
    kept = c * (query + 2 * key + query + hidden + widening * inner + last) + statistics
    # Results that backward needs as they are; the queries and keys before their rotation go once they are rotated.
    used = c * (key + query + widening * inner) + statistics
    return c * hidden + kept, again - used - c * (query + key + hidden)


def _count(shapes: Sequence[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _shard(shapes: Sequence[tuple[int, ...]], ranks: int) -> int:
    """Parameters of the largest rank: each is cut along its first dimension into equal parts."""
    return sum(math.ceil(shape[0] / ranks) * math.prod(shape[1:]) for shape in shapes)
