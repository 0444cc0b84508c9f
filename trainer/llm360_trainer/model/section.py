"""`spec.model` in JSON types as a decoder's configuration, and back.

Plain mappings are read here, which the specification has checked before: a bare GPU machine has them from JSON or YAML
without the package that checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm360_trainer.model.config import DecoderConfig, Initializer, InitialValues


def decoder_from_section(section: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that `spec.model` describes.

    Args:
        section: `spec.model` of a resolved run, as `llm360 spec resolve -o json` prints it.

    Raises:
        KeyError: A value is missing.
    """
    norm, rotary, mup, initial = (section[name] for name in ("norm", "rotary", "mup", "initialization"))
    return DecoderConfig(
        vocab_size=section["vocabSize"],
        hidden_size=section["hiddenSize"],
        intermediate_size=section["intermediateSize"],
        num_layers=section["numLayers"],
        num_heads=section["numHeads"],
        num_kv_heads=section["numKeyValueHeads"],
        head_dim=section["headDim"],
        max_position_embeddings=section["maxPositionEmbeddings"],
        norm=norm["kind"],
        norm_epsilon=norm["epsilon"],
        rotary_base=rotary["base"],
        rotary_fraction=rotary["fraction"],
        rotary_layout=rotary["layout"],
        mlp=section["mlp"],
        residual=section["residual"],
        attention_bias=section["attentionBias"],
        mlp_bias=section["mlpBias"],
        output_bias=section["outputBias"],
        tied_embeddings=section["tiedEmbeddings"],
        embeddings_scale=mup["embeddingsScale"],
        output_logits_scale=mup["outputLogitsScale"],
        attention_scale=mup["attentionScale"],
        initial=InitialValues(*(Initializer(**initial[name]) for name in ("embedding", "hidden", "output"))),
    )


def model_section(config: DecoderConfig) -> dict[str, Any]:
    """The inverse, without the law of the first values."""
    return {
        "vocabSize": config.vocab_size,
        "hiddenSize": config.hidden_size,
        "intermediateSize": config.intermediate_size,
        "numLayers": config.num_layers,
        "numHeads": config.num_heads,
        "numKeyValueHeads": config.num_kv_heads,
        "headDim": config.head_dim,
        "maxPositionEmbeddings": config.max_position_embeddings,
        "norm": {"kind": config.norm, "epsilon": config.norm_epsilon},
        "rotary": {
            "base": config.rotary_base,
            "fraction": config.rotary_fraction,
            "layout": config.rotary_layout,
        },
        "mlp": config.mlp,
        "residual": config.residual,
        "attentionBias": config.attention_bias,
        "mlpBias": config.mlp_bias,
        "outputBias": config.output_bias,
        "tiedEmbeddings": config.tied_embeddings,
        "mup": {
            "embeddingsScale": config.embeddings_scale,
            "outputLogitsScale": config.output_logits_scale,
            "attentionScale": config.attention_scale,
        },
    }
