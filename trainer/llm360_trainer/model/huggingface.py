"""Names and `config.json` under which a decoder is known to Hugging Face `transformers`.

Llama-shaped decoders (Amber, K2) load there as `LlamaForCausalLM`. Others keep Llama's names for their tensors
and a `config.json` of our own fields, from which this package rebuilds them.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from llm360_trainer.model.config import DecoderConfig

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def to_hf_name(name: str) -> str:
    """`layers.3.mlp.up_proj.weight` → `model.layers.3.mlp.up_proj.weight`; `head.weight` → `lm_head.weight`."""
    if name.startswith("head."):
        return f"lm_{name}"
    return "model." + re.sub(r"^embed\.", "embed_tokens.", name)


def from_hf_name(name: str) -> str:
    """Inverse of `to_hf_name`."""
    if name.startswith("lm_head."):
        return name.removeprefix("lm_")
    return re.sub(r"^embed_tokens\.", "embed.", name.removeprefix("model."))


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that a parameter (by either name) belongs to; None for embedding, norm and head."""
    match = _LAYER.search(name)
    return None if match is None else int(match[1])


def is_llama_shaped(config: DecoderConfig) -> bool:
    """Whether `LlamaForCausalLM` computes the same function."""
    return (
        (config.norm, config.mlp, config.residual, config.attention_scale) == ("rmsnorm", "swiglu", "serial", "sqrt_d")
        and (config.rotary_layout, config.rotary_fraction) == ("half", 1.0)
        and (config.embeddings_scale, config.output_logits_scale, config.output_bias) == (1.0, 1.0, False)
    )


def hf_config(config: DecoderConfig, dtype: str = "float32", eos_id: int | None = None) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        config: The architecture.
        dtype: Name of the stored tensors' torch dtype.
        eos_id: Token that ends a document, where the tokenizer has one.
    """
    if not is_llama_shaped(config):
        return {"model_type": "llm360", "torch_dtype": dtype, "eos_token_id": eos_id, **asdict(config)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rotary_base,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": config.initial.hidden.std,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "use_cache": True,
        "torch_dtype": dtype,
    }
