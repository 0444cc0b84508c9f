"""`GPTNeoXForCausalLM` of transformers: Pythia."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.forms.base import Form, Tensors, export_joined, has_plain_heads, require, restore_joined

_NEOX_TOP = {
    "embed.weight": "gpt_neox.embed_in.weight",
    "norm.weight": "gpt_neox.final_layer_norm.weight",
    "norm.bias": "gpt_neox.final_layer_norm.bias",
    "head.weight": "embed_out.weight",
}
_NEOX_LAYER = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "self_attn.o_proj": "attention.dense",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}
_NEOX_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def _fits_neox(config: DecoderConfig) -> bool:
    return (
        config.norm == "layernorm"
        and config.mlp in _NEOX_ACTIVATIONS
        and (config.attention_bias, config.mlp_bias, config.output_bias) == (True, True, False)
        and (config.rotary_layout, config.attention_scale) == ("half", "sqrt_d")
        and (config.embeddings_scale, config.output_logits_scale) == (1.0, 1.0)
        and has_plain_heads(config)
    )


def _neox_config(config: DecoderConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_act": _NEOX_ACTIVATIONS[config.mlp],
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rotary_base,
        "max_position_embeddings": config.max_position_embeddings,
        "layer_norm_eps": config.norm_epsilon,
        "use_parallel_residual": config.residual == "parallel",
        "attention_bias": True,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": config.initial.hidden.std,
        "use_cache": True,
    }


def _neox_decoder(hf: Mapping[str, Any]) -> DecoderConfig:
    require(hf, "rope_scaling", None)
    require(hf, "attention_bias", True)
    activations = {"gelu": "gelu", **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh"), "gelu_tanh")}
    require(hf, "hidden_act", *activations)
    heads, hidden = hf["num_attention_heads"], hf["hidden_size"]
    return DecoderConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        intermediate_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=hf.get("max_position_embeddings", 2048),
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_eps", 1e-5),
        rotary_base=hf.get("rotary_emb_base", 10_000.0),
        rotary_fraction=hf.get("rotary_pct", 0.25),
        mlp="gelu_tanh" if activations[hf.get("hidden_act", "gelu")] == "gelu_tanh" else "gelu",
        residual="parallel" if hf.get("use_parallel_residual", True) else "serial",
        attention_bias=True,
        mlp_bias=True,
        tied_embeddings=hf.get("tie_word_embeddings", False),
    )


def _neox_export(config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    """Query, key and value of each head lie side by side in one matrix: [heads, 3, head_dim, …]."""

    def join(parts: list[Tensor]) -> Tensor:
        heads = [part.reshape(config.num_heads, 1, config.head_dim, *part.shape[1:]) for part in parts]
        return torch.cat(heads, dim=1).flatten(0, 2)

    return export_joined(
        tensors, _NEOX_TOP, "gpt_neox.layers.{}.", _NEOX_LAYER, "attention.query_key_value", join, lambda value: value
    )


def _neox_restore(config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    def split(joined: Tensor) -> list[Tensor]:
        heads = joined.reshape(config.num_heads, 3, config.head_dim, *joined.shape[1:])
        return [part.flatten(0, 1) for part in heads.unbind(1)]

    # Masks and rotary tables that old exports carry along.
    tables = (".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(tables)}
    return restore_joined(
        kept, _NEOX_TOP, r"^gpt_neox\.layers\.(\d+)\.", _NEOX_LAYER, "attention.query_key_value", split, lambda x: x
    )


GPT_NEOX = Form("gpt_neox", _fits_neox, _neox_config, _neox_decoder, _neox_export, _neox_restore)
