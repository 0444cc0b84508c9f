"""What tells one decoder from another: the architecture's numbers and the law of the first values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Initializer:
    """A distribution with mean 0 from which a tensor's first values are drawn."""

    kind: Literal["normal", "truncated_normal"] = "normal"
    std: float = 0.02
    """Standard deviation, before any cut. 0.02 is GPT-2's, and that of most models since."""
    cut: float | None = None
    """Truncated normal only: no value lies outside ±cut (an absolute number; CrystalCoder takes 2·std)."""

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std is {self.std}; a standard deviation is at least 0")
        if self.kind == "truncated_normal" and (self.cut is None or self.cut <= 0):
            raise ValueError(f"a truncated normal needs cut above 0, found {self.cut}; CrystalCoder takes 2·std")


@dataclass(frozen=True)
class InitialValues:
    """The distributions by what a matrix does; norm weights start at 1, biases at 0."""

    embedding: Initializer = Initializer()
    hidden: Initializer = Initializer()
    """Matrices that read from the residual stream, and an untied head."""
    output: Initializer = Initializer()
    """Matrices that write to the residual stream (attention output, MLP down)."""


@dataclass(frozen=True)
class DecoderConfig:
    """Architecture of a causal decoder; the defaults below the sizes are Llama's (and Amber's).

    Raises:
        ValueError: Sizes that do not fit each other.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    """Longest sequence in tokens; rows beyond it are refused."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-6
    rotary_base: float = 10_000.0
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that is rotated, from the first on (Pythia and CrystalCoder: 0.25)."""
    rotary_layout: Literal["half", "interleaved"] = "half"
    """Which dimensions turn together: i with i + D/2 (Llama, GPT-NeoX), or 2i with 2i + 1 (GPT-J, CrystalCoder)."""
    mlp: Literal["swiglu", "gelu", "gelu_tanh"] = "swiglu"
    """Gated, or plain with the exact GELU, or with its approximation by tanh (Pythia's training)."""
    residual: Literal["serial", "parallel"] = "serial"
    """Parallel: attention and MLP both read the block's input (GPT-NeoX)."""
    attention_bias: bool = False
    mlp_bias: bool = False
    output_bias: bool = False
    tied_embeddings: bool = False
    embeddings_scale: float = 1.0
    """Multiplies the embeddings (muP)."""
    output_logits_scale: float = 1.0
    """Multiplies the logits (muP)."""
    attention_scale: Literal["sqrt_d", "d"] = "sqrt_d"
    """Scores are divided by √head_dim, or by head_dim (muP)."""
    initial: InitialValues = field(default_factory=InitialValues)

    def __post_init__(self) -> None:
        if self.tied_embeddings and self.output_bias:
            raise ValueError("output_bias needs a head of its own, but tied_embeddings is on; set one of them to false")
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}; it must divide num_heads ({self.num_heads}), "
                "since every key head serves the same number of query heads"
            )
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"rotary_fraction {self.rotary_fraction} of head_dim {self.head_dim} gives {self.rotary_dim} rotated "
                "dimensions; an even number of at least 2 and at most head_dim is needed"
            )

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of each head are rotated."""
        return int(self.head_dim * self.rotary_fraction)
