"""`LlamaForCausalLM` of transformers: Amber, K2. Our own names are close to its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.forms.base import Form, Tensors, require
from llm360_trainer.model.huggingface import from_hf_name, hf_config, is_llama_shaped, to_hf_name


def _llama_decoder(hf: Mapping[str, Any]) -> DecoderConfig:
    require(hf, "hidden_act", "silu")
    require(hf, "rope_scaling", None)
    require(hf, "pretraining_tp", 1)
    heads, hidden = hf["num_attention_heads"], hf["hidden_size"]
    return DecoderConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        intermediate_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hidden // heads,
        max_position_embeddings=hf.get("max_position_embeddings", 2048),
        norm_epsilon=hf.get("rms_norm_eps", 1e-6),
        rotary_base=hf.get("rope_theta", 10_000.0),
        attention_bias=hf.get("attention_bias", False),
        mlp_bias=hf.get("mlp_bias", False),
        tied_embeddings=hf.get("tie_word_embeddings", False),
    )


def _llama_export(_config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    return {to_hf_name(name): tensor for name, tensor in tensors.items()}


def _llama_restore(_config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    # rotary_emb.inv_freq: a table that old exports carry along and every reader computes.
    return {from_hf_name(name): tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


LLAMA = Form("llama", is_llama_shaped, hf_config, _llama_decoder, _llama_export, _llama_restore)
