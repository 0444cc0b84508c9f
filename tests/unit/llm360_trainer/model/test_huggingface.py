"""Names and configuration of a checkpoint's model folder."""

import pytest

from llm360_trainer.model import from_hf_name, hf_config, layer_of, to_hf_name


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
