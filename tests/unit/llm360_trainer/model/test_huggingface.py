"""Exported decoders compute in `transformers` what they compute here."""

from dataclasses import replace

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from llm360_trainer.model import from_hf_name, hf_config, layer_of, to_hf_name


def logits_of(model, ids):
    model.eval()
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 2},
        {"tied_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 10, "rotary_base": 500_000.0, "norm_epsilon": 1e-5},
    ],
    ids=["amber", "grouped", "tied", "biased", "other sizes"],
)
def test_llama_gives_the_same_logits(build, llama, ids, changes):
    config = replace(llama, **changes)
    model = build(config)
    exported = LlamaForCausalLM(LlamaConfig(**hf_config(config)))
    missing = exported.load_state_dict({to_hf_name(name): value for name, value in model.state_dict().items()}, False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys == (["lm_head.weight"] if config.tied_embeddings else [])
    exported.tie_weights()
    long_ids = ids.repeat(1, 120)  # 2,040 positions: angles agree far out as well
    with torch.no_grad():
        torch.testing.assert_close(model(long_ids), logits_of(exported, long_ids), rtol=0, atol=1e-5)


def test_neox_gives_the_same_logits(build, neox, ids):
    model = build(neox)
    exported = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=61,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            rotary_pct=0.5,
            layer_norm_eps=1e-5,
            max_position_embeddings=2048,
            use_parallel_residual=True,
        )
    )
    exported.load_state_dict(neox_state(model.state_dict(), num_heads=4))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), logits_of(exported, ids), rtol=0, atol=1e-5)


def neox_state(state, num_heads):
    """GPT-NeoX's names; it keeps query, key and value of a head side by side in one matrix."""
    names = {
        "embed.": "gpt_neox.embed_in.",
        "norm.": "gpt_neox.final_layer_norm.",
        "head.": "embed_out.",
        "layers.": "gpt_neox.layers.",
        "self_attn.o_proj.": "attention.dense.",
        "mlp.up_proj.": "mlp.dense_h_to_4h.",
        "mlp.down_proj.": "mlp.dense_4h_to_h.",
    }
    renamed = {}
    for name, value in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            per_head = [part.view(num_heads, -1, *part.shape[1:]) for part in parts]
            value = torch.cat(per_head, dim=1).flatten(0, 1)  # noqa: PLW2901
            name = name.replace("self_attn.q_proj", "attention.query_key_value")  # noqa: PLW2901
        for ours, theirs in names.items():
            if name.startswith(ours) or (ours.count(".") > 1 and ours in name):
                name = name.replace(ours, theirs, 1)  # noqa: PLW2901
        renamed[name] = value
    return renamed


def test_names_go_there_and_back(build, config):
    for name in build(config).state_dict():
        assert from_hf_name(to_hf_name(name)) == name
        assert layer_of(to_hf_name(name)) == layer_of(name)


@pytest.mark.parametrize(
    ("ours", "theirs", "layer"),
    [
        ("embed.weight", "model.embed_tokens.weight", None),
        ("layers.12.self_attn.q_proj.weight", "model.layers.12.self_attn.q_proj.weight", 12),
        ("norm.weight", "model.norm.weight", None),
        ("head.weight", "lm_head.weight", None),
    ],
)
def test_names_are_those_of_llama(ours, theirs, layer):
    assert to_hf_name(ours) == theirs
    assert layer_of(ours) == layer


def test_other_shapes_keep_a_configuration_of_our_own(neox):
    content = hf_config(neox, dtype="bfloat16", eos_id=0)
    assert content["model_type"] == "llm360"
    assert content["residual"] == "parallel"
    assert content["eos_token_id"] == 0
