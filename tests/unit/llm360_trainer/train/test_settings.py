"""The presets as the trainer builds them: size, first values, groups of the optimizer."""

from dataclasses import replace

import pytest
import torch

from llm360.errors import InputError
from llm360.facts import num_parameters
from llm360.spec import load_run, preset_names
from llm360_trainer.model import Decoder, initial_tensor
from llm360_trainer.model import num_parameters as num_built_parameters
from llm360_trainer.optim import build_optimizer, set_learning_rate
from llm360_trainer.train.settings import decoder_config, end_of_document, optimizer_settings, parallel_settings

NAMES = [name for name in preset_names() if not name.endswith("-deduped")]
CUT_STD = 0.8796  # of a unit normal cut at 2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))


@pytest.fixture(scope="module", params=NAMES)
def run(request):
    return load_run(request.param, require_store=False)


def test_decoder_has_as_many_parameters_as_the_formula_says(run):
    assert num_built_parameters(decoder_config(run.spec.model)) == num_parameters(run.spec.model)


@pytest.mark.parametrize(
    ("tensor", "law"),
    [
        ("embed.weight", "embedding"),
        ("head.weight", "hidden"),
        ("layers.1.self_attn.q_proj.weight", "hidden"),
        ("layers.1.mlp.up_proj.weight", "hidden"),
        ("layers.1.self_attn.o_proj.weight", "output"),
        ("layers.1.mlp.down_proj.weight", "output"),
    ],
)
def test_first_values_have_the_presets_deviation(run, tensor, law):
    wanted = getattr(run.spec.model.initialization, law)
    values = initial_tensor(tensor, (256, 512), decoder_config(run.spec.model), run.spec.training.seed)
    std = wanted.std * (CUT_STD if wanted.kind == "truncated_normal" else 1.0)
    assert values.std().item() == pytest.approx(std, rel=0.01)
    assert values.mean().item() == pytest.approx(0.0, abs=std / 64)
    if wanted.cut is not None:
        assert values.abs().max().item() <= wanted.cut


def test_groups_are_the_originals(run):
    """Amber decays everything; Megatron, GPT-NeoX and Cerebras spare biases and norms; muP slows layers' matrices."""
    sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 8, "num_layers": 1}
    heads = {"num_heads": 1, "num_kv_heads": 1, "head_dim": 16, "rotary_fraction": 1.0}
    model = Decoder(replace(decoder_config(run.spec.model), **sizes, **heads))
    optimizer = build_optimizer(model, optimizer_settings(run))
    set_learning_rate(optimizer, 1.0)
    found = {
        id(parameter): (group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    decays_all = run.spec.preset.startswith("amber")
    multiplier = run.spec.training.optimizer.matrix_learning_rate_multiplier
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2
        decay = 0.1 if is_matrix or decays_all else 0.0
        assert found[id(parameter)] == (decay, multiplier if is_matrix and name.startswith("layers.") else 1.0), name
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["betas"], group["eps"]) == ((0.9, 0.95), 1e-9 if "crystal" in run.spec.preset else 1e-8)


def settings_of(*changes, preset="amber-tiny"):
    run = load_run(preset, changes, require_store=False)
    return parallel_settings(run, torch.device("cpu"), micro_batch=2, length=16)


def test_parallelism_becomes_settings():
    found = settings_of("parallelism.reshardAfterForward=false", "parallelism.prefetch=2")
    assert (found.attention, found.reshard_after_forward, found.prefetch) == ("sdpa", False, 2)
    assert found.fp8 is None


def test_a_memory_for_activations_is_filled_by_measurement():
    measured = "parallelism.activationCheckpointing=measured"
    assert settings_of(measured, "parallelism.activationMemory=1Gi").kept
    assert not settings_of(measured, "parallelism.activationMemory=1k").kept


@pytest.mark.parametrize("change", ["parallelism.attention=cudnn", "training.fp8=rowwise"])
def test_what_the_device_has_not_is_refused(change):
    field, _, value = change.partition("=")
    with pytest.raises(InputError, match=f"spec.{field} is '{value}', but it needs a CUDA device, found cpu"):
        settings_of(change, preset="amber-7b")


def test_a_mask_of_documents_needs_their_end(make_run, stage):
    assert end_of_document(make_run(), stage.manifest) is None
    masked = make_run("training.documentMask=true")
    assert end_of_document(masked, stage.manifest) == 0
    tokenizer = stage.manifest.tokenizer.model_copy(update={"eos_id": None})
    with pytest.raises(InputError, match="names no end-of-document token"):
        end_of_document(masked, stage.manifest.model_copy(update={"tokenizer": tokenizer}))
