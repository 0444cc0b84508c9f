"""Published forms: `transformers` computes the same logits and gradients, and there and back are the same bits."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from llm360.spec import load_run, preset_names
from llm360_trainer.model import DecoderConfig, InitialValues
from llm360_trainer.model.forms import FORMS, decoder_of, form_config, form_of
from llm360_trainer.train.settings import decoder_config

REFERENCES = {"llama": (LlamaConfig, LlamaForCausalLM), "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM)}
SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 44, "num_layers": 3, "num_heads": 4}
PRESETS = ["amber-7b", "crystalcoder-7b", "k2-65b", "pythia-70m", "pythia-6.9b"]


def shrunk(preset: str) -> DecoderConfig:
    """The preset's architecture with small sizes."""
    config = decoder_config(load_run(preset, require_store=False).spec.model)
    return replace(config, **SIZES, num_kv_heads=4, head_dim=8, initial=InitialValues())


def reference(config, state):
    """The model of `transformers` with the same weights."""
    form = form_of(config)
    configuration, model = REFERENCES[form.name]
    theirs = model(configuration(**form_config(form, config, "float32")))
    loaded = theirs.load_state_dict(form.export(config, state), strict=False)
    assert loaded.unexpected_keys == []
    assert all(config.tied_embeddings and name.endswith(("lm_head.weight", "embed_out.weight")) for name in loaded[0])
    theirs.tie_weights()
    return theirs.eval()


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        pytest.param("amber-7b", {}, id="amber"),
        pytest.param("k2-65b", {}, id="k2"),
        pytest.param("amber-7b", {"num_kv_heads": 2}, id="llama, grouped"),
        pytest.param("amber-7b", {"tied_embeddings": True}, id="llama, tied"),
        pytest.param("amber-7b", {"attention_bias": True, "mlp_bias": True}, id="llama, biased"),
        pytest.param("amber-7b", {"head_dim": 10, "rotary_base": 500_000.0}, id="llama, other sizes"),
        pytest.param("pythia-70m", {}, id="pythia"),
        pytest.param("pythia-70m", {"mlp": "gelu", "residual": "serial"}, id="neox, serial and exact"),
        pytest.param("pythia-70m", {"tied_embeddings": True}, id="neox, tied"),
    ],
)
def test_transformers_gives_the_same_logits_and_gradients(build, ids, preset, changes):
    config = replace(shrunk(preset), **changes)
    ours = build(config)
    state = ours.state_dict()
    theirs = reference(config, state)
    long_ids = ids.repeat(1, 120)  # 2,040 positions: angles agree far out as well
    with torch.no_grad():
        torch.testing.assert_close(ours(long_ids), theirs(long_ids).logits, rtol=0, atol=1e-5)

    targets = ids[:, 1:].flatten()
    functional.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), targets).backward()
    functional.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), targets).backward()
    # A gradient is laid out as its parameter is.
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    restored = form_of(config).restore(config, gradients)
    assert restored.keys() == dict(ours.named_parameters()).keys()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, restored[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("preset", PRESETS)
def test_there_and_back_are_the_same_bits(build, preset):
    config = shrunk(preset)
    state = build(config).state_dict()
    form = form_of(config)
    exported = form.export(config, state)
    assert sum(tensor.numel() for tensor in exported.values()) == sum(tensor.numel() for tensor in state.values())
    assert not set(exported) & set(state)
    restored = form.restore(config, exported)
    assert restored.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(restored[name], tensor), name
        assert restored[name].shape == tensor.shape


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_a_form_that_gives_its_decoder_again(preset):
    config = replace(decoder_config(load_run(preset, require_store=False).spec.model), initial=InitialValues())
    form = form_of(config)
    assert form.name == {"a": "llama", "k": "llama", "p": "gpt_neox", "c": "crystalcoder"}[preset[0]]
    assert decoder_of(form_config(form, config, "bfloat16")) == (form, config)


def test_crystalcoder_is_laid_out_as_its_own_converter_does(build):
    """tools/checkpoint/saver_crystalcoder_hf.py of LLM360/crystalcoder-train: transposed, gate is c_fc2, up is c_fc."""
    config = shrunk("crystalcoder-7b")
    state = build(config).state_dict()
    exported = form_of(config).export(config, state)
    assert "lm_head.weight" not in exported
    assert torch.equal(exported["transformer.wte.weight"], state["embed.weight"])
    assert torch.equal(exported["transformer.h.2.mlp.c_fc2.weight"], state["layers.2.mlp.gate_proj.weight"].T)
    assert torch.equal(exported["transformer.h.2.mlp.c_fc.weight"], state["layers.2.mlp.up_proj.weight"].T)
    key_columns = exported["transformer.h.0.attn.c_attn.weight"][:, 32:64]
    assert torch.equal(key_columns, state["layers.0.self_attn.k_proj.weight"].T)
    assert torch.equal(exported["transformer.h.1.ln_2.bias"], state["layers.1.post_attention_layernorm.bias"])


def test_published_crystalcoder_is_the_presets_decoder():
    # finetune/Megatron-LM/CrystalCoder/config.json of LLM360/crystalcoder-train.
    published = {
        "mup_embeddings_scale": 14.6,
        "n_inner": 10922,
        "n_embd": 4096,
        "layer_norm_epsilon": 1e-05,
        "n_positions": 2048,
        "activation_function": "swiglu",
        "n_head": 32,
        "n_layer": 32,
        "mup_output_alpha": 2.22,
        "mup_width_scale": 0.0625,
        "position_embedding_type": "rotary",
        "rotary_dim": 32,
        "mup_scale_qk_dot_by_d": True,
        "tie_word_embeddings": True,
        "vocab_size": 32032,
        "model_type": "crystalcoder",
    }
    form, config = decoder_of(published)
    preset = decoder_config(load_run("crystalcoder-7b", require_store=False).spec.model)
    assert form is FORMS["crystalcoder"]
    assert config == replace(preset, initial=InitialValues())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "mamba"}, "model_type is 'mamba'; supported are llama, gpt_neox, crystalcoder"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; supported is 'silu'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is {'type': 'linear'}; supported is None"),
        ({"hidden_size": ...}, "hidden_size is missing, which llama needs"),
    ],
)
def test_models_that_compute_something_else_are_refused(changes, sentence):
    hf = form_config(FORMS["llama"], shrunk("amber-7b"), "float32") | changes
    with pytest.raises(ValueError, match=r".*") as caught:
        decoder_of({name: value for name, value in hf.items() if value is not ...})
    assert sentence in str(caught.value)


def test_a_decoder_of_no_form_has_none():
    assert form_of(replace(shrunk("pythia-70m"), output_logits_scale=0.5)) is None
    assert form_of(replace(shrunk("crystalcoder-7b"), rotary_base=5e5)) is None
