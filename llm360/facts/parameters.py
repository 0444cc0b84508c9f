"""How many parameters a decoder has, by what they do."""

from __future__ import annotations

from llm360.spec.model import Model


def num_parameters(model: Model) -> int:
    """Number of parameters, a tied embedding counted once."""
    return sum(parameter_counts(model).values())


def parameter_counts(model: Model) -> dict[str, int]:
    """Number of parameters of the embedding, of all layers' attention, MLPs and norms, and of the head (0 if tied)."""
    hidden = model.hidden_size
    norm = hidden * (2 if model.norm.kind == "layernorm" else 1)
    head = 0 if model.tied_embeddings else model.vocab_size * (hidden + model.output_bias)
    return {
        "embedding": model.vocab_size * hidden,
        "attention": model.num_layers * _attention(model),
        "mlp": model.num_layers * _mlp(model),
        "norms": (2 * model.num_layers + 1) * norm,
        "head": head,
    }


def _attention(model: Model) -> int:
    """Query, key, value and output projections of one layer."""
    query, key = model.num_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    biases = query + 2 * key + model.hidden_size if model.attention_bias else 0
    return 2 * model.hidden_size * (query + key) + biases


def _mlp(model: Model) -> int:
    """Matrices of one layer that widen (two where gated) and the one that narrows."""
    widening = 2 if model.mlp == "swiglu" else 1
    biases = widening * model.intermediate_size + model.hidden_size if model.mlp_bias else 0
    return (widening + 1) * model.hidden_size * model.intermediate_size + biases


def block_shapes(model: Model) -> list[tuple[int, ...]]:
    """Shapes of the parameters of one decoder block: matrices [out, in], vectors [size]."""
    hidden, inner = model.hidden_size, model.intermediate_size
    query, key = model.num_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    attention = [(query, hidden), (key, hidden), (key, hidden), (hidden, query)]
    mlp = [(inner, hidden)] * (2 if model.mlp == "swiglu" else 1) + [(hidden, inner)]
    biases = [(out,) for out, _ in (*attention * model.attention_bias, *mlp * model.mlp_bias)]
    return [*attention, *mlp, *biases, *2 * _norm_shapes(model)]


def outer_shapes(model: Model) -> list[tuple[int, ...]]:
    """Shapes of the parameters outside the blocks: embedding, final norm, and a head of its own."""
    table = (model.vocab_size, model.hidden_size)
    head = [] if model.tied_embeddings else [table, *[(model.vocab_size,)] * model.output_bias]
    return [table, *_norm_shapes(model), *head]


def _norm_shapes(model: Model) -> list[tuple[int, ...]]:
    return [(model.hidden_size,)] * (2 if model.norm.kind == "layernorm" else 1)
