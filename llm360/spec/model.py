"""`spec.model`: the architecture of a causal decoder and the law of its first values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from llm360.canonical import DIGEST_PATTERN
from llm360.spec.base import Section, Uri, optional, setting


class Norm(Section):
    """The normalisation before attention, before the MLP and before the head."""

    kind: Literal["rmsnorm", "layernorm"] = setting(
        "rmsnorm divides by the root mean square (Llama, Amber, K2); layernorm also subtracts the mean and has a bias"
        " (Pythia, CrystalCoder)."
    )
    epsilon: float = setting(
        "Added to the mean square, or variance, before the root.", unit="squared activation", gt=0, le=0.1
    )


class Rotary(Section):
    """Rotary position embeddings."""

    base: float = setting(
        "Base of the geometric series of wavelengths; 10000 in most models.", unit="ratio", ge=1, le=1e9
    )
    fraction: float = setting(
        "Share of each head's dimensions that is rotated, from the first on; 1 rotates all, 0.25 is Pythia's and"
        " CrystalCoder's.",
        unit="ratio",
        gt=0,
        le=1,
    )
    layout: Literal["half", "interleaved"] = setting(
        "Which dimensions turn together: half pairs i with i + D/2 (Llama, GPT-NeoX), interleaved 2i with 2i + 1"
        " (GPT-J, CrystalCoder)."
    )


class Mup(Section):
    """Multipliers of the maximal update parametrisation; 1, 1 and sqrt_d leave the model as it is."""

    embeddings_scale: float = setting("Multiplies the token embeddings.", unit="ratio", gt=0, le=1e6)
    output_logits_scale: float = setting("Multiplies the logits.", unit="ratio", gt=0, le=1e6)
    attention_scale: Literal["sqrt_d", "d"] = setting(
        "Attention scores are divided by the square root of headDim (sqrt_d) or by headDim itself (d)."
    )


class Initializer(Section):
    """A distribution with mean 0 from which a tensor's first values are drawn."""

    kind: Literal["normal", "truncated_normal"] = setting("truncated_normal draws nothing beyond cut.")
    std: float = setting("Standard deviation before any cut.", unit="weight", ge=0, le=10)
    cut: float | None = optional(
        "Largest absolute value drawn; truncated_normal needs it, normal has none.", unit="weight", gt=0, le=100
    )


class Initialization(Section):
    """First values by what a matrix does; norm weights start at 1 and biases at 0."""

    embedding: Initializer = setting("Token embeddings.")
    hidden: Initializer = setting("Matrices that read from the residual stream, and an untied head.")
    output: Initializer = setting("Matrices that write to the residual stream: attention output and MLP down.")


class Weights(Section):
    """Weights to begin with, as `llm360 import hf` wrote them."""

    uri: Uri = setting("Folder of the weights' manifest.json.")
    digest: Annotated[str, StringConstraints(max_length=71, pattern=DIGEST_PATTERN)] = setting(
        "sha256 digest of that manifest.json, which holds the digest of every tensor."
    )


class Model(Section):
    """Architecture of a causal decoder."""

    vocab_size: int = setting(
        "Number of token ids that the embedding and the head have a row for; at least the tokenizer's.",
        unit="token ids",
        ge=2,
        le=2**24,
    )
    hidden_size: int = setting("Width of the residual stream.", unit="features", ge=2, le=2**18)
    intermediate_size: int = setting("Inner width of the MLP.", unit="features", ge=1, le=2**20)
    num_layers: int = setting("Number of decoder blocks.", unit="layers", ge=1, le=1024)
    num_heads: int = setting("Number of attention heads per layer; it divides hiddenSize.", unit="heads", ge=1, le=1024)
    num_key_value_heads: int = setting(
        "Number of key and value heads; fewer than numHeads is grouped-query attention. Unset: numHeads.",
        unit="heads",
        ge=1,
        le=1024,
    )
    head_dim: int = setting("Size of one head. Unset: hiddenSize / numHeads.", unit="features", ge=2, le=4096)
    max_position_embeddings: int = setting(
        "Longest sequence that the model is made for. Unset: training.sequenceLength.", unit="tokens", ge=1, le=2**24
    )
    norm: Norm = setting("Normalisation.")
    rotary: Rotary = setting("Rotary position embeddings.")
    mlp: Literal["swiglu", "gelu", "gelu_tanh"] = setting(
        "swiglu has three matrices (Llama, Amber), the others two: gelu is exact, gelu_tanh the approximation by tanh"
        " that GPT-NeoX's fused kernel computes (Pythia)."
    )
    residual: Literal["serial", "parallel"] = setting(
        "serial: the MLP reads what attention has added to; parallel: both read the block's input (Pythia)."
    )
    attention_bias: bool = setting("Whether the four projections of attention have biases.")
    mlp_bias: bool = setting("Whether the matrices of the MLP have biases.")
    output_bias: bool = setting("Whether the head has a bias.")
    tied_embeddings: bool = setting("Whether the head uses the embedding's matrix.")
    mup: Mup = setting("Multipliers of the maximal update parametrisation.")
    initialization: Initialization = setting("Distributions of the first values.")
    weights: Weights | None = optional(
        "Weights that the run begins with. Unset: they are drawn as initialization says."
    )
