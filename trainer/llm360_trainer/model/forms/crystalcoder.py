"""The code in LLM360/CrystalCoder on the hub: CrystalCoder; its names are those of GPT-2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.forms.base import Form, Tensors, export_joined, has_plain_heads, require, restore_joined

_CRYSTAL_TOP = {
    "embed.weight": "transformer.wte.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
    "head.weight": "lm_head.weight",
}
_CRYSTAL_LAYER = {
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_proj": "mlp.c_fc2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_CRYSTAL_ROTARY_BASE = 10_000.0  # its code has no setting for it
_CRYSTAL_CODE = "LLM360/CrystalCoder"


def _fits_crystal(config: DecoderConfig) -> bool:
    return (
        (config.norm, config.mlp, config.residual) == ("layernorm", "swiglu", "serial")
        and (config.attention_bias, config.mlp_bias, config.output_bias) == (True, True, False)
        and (config.rotary_layout, config.rotary_base) == ("interleaved", _CRYSTAL_ROTARY_BASE)
        and has_plain_heads(config)
    )


def _crystal_config(config: DecoderConfig) -> dict[str, Any]:
    return {
        "architectures": ["CrystalCoderLMHeadModel"],
        "model_type": "crystalcoder",
        "auto_map": {
            "AutoConfig": f"{_CRYSTAL_CODE}--configuration_crystalcoder.CrystalCoderConfig",
            "AutoModel": f"{_CRYSTAL_CODE}--modeling_crystalcoder.CrystalCoderModel",
            "AutoModelForCausalLM": f"{_CRYSTAL_CODE}--modeling_crystalcoder.CrystalCoderLMHeadModel",
        },
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_position_embeddings,
        "activation_function": "swiglu",
        "layer_norm_epsilon": config.norm_epsilon,
        "position_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim,
        "scale_attn_weights": True,
        "mup_embeddings_scale": config.embeddings_scale,
        # The code multiplies the logits by the product of the two; only that is known here.
        "mup_output_alpha": config.output_logits_scale,
        "mup_width_scale": 1.0,
        "mup_scale_qk_dot_by_d": config.attention_scale == "d",
        "tie_word_embeddings": config.tied_embeddings,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        "use_cache": True,
    }


def _crystal_decoder(hf: Mapping[str, Any]) -> DecoderConfig:
    require(hf, "activation_function", "swiglu")
    require(hf, "position_embedding_type", "rotary")
    require(hf, "scale_attn_weights", True)
    heads, hidden = hf["n_head"], hf["n_embd"]
    return DecoderConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        intermediate_size=hf["n_inner"],
        num_layers=hf["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=hf["n_positions"],
        norm="layernorm",
        norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
        rotary_base=_CRYSTAL_ROTARY_BASE,
        rotary_fraction=hf["rotary_dim"] / (hidden // heads),
        rotary_layout="interleaved",
        attention_bias=True,
        mlp_bias=True,
        tied_embeddings=hf.get("tie_word_embeddings", True),
        embeddings_scale=hf.get("mup_embeddings_scale", 1.0),
        output_logits_scale=hf.get("mup_output_alpha", 1.0) * hf.get("mup_width_scale", 1.0),
        attention_scale="d" if hf.get("mup_scale_qk_dot_by_d", False) else "sqrt_d",
    )


def _crystal_export(_config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    """Its layers are GPT-2's: matrices lie transposed, query, key and value one after another."""
    return export_joined(
        tensors, _CRYSTAL_TOP, "transformer.h.{}.", _CRYSTAL_LAYER, "attn.c_attn", torch.cat, _transposed
    )


def _crystal_restore(_config: DecoderConfig, tensors: Tensors) -> dict[str, Tensor]:
    return restore_joined(
        tensors,
        _CRYSTAL_TOP,
        r"^transformer\.h\.(\d+)\.",
        _CRYSTAL_LAYER,
        "attn.c_attn",
        lambda joined: list(joined.chunk(3)),
        _transposed,
    )


def _transposed(value: Tensor) -> Tensor:
    return value.T.contiguous() if value.ndim == 2 else value


CRYSTALCODER = Form("crystalcoder", _fits_crystal, _crystal_config, _crystal_decoder, _crystal_export, _crystal_restore)
