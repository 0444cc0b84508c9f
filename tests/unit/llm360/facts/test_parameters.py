"""Parameter counts to the unit."""

import pytest

from llm360.facts import num_parameters, parameter_counts
from llm360.spec import load_run

COUNTS = {
    "amber-7b": 6_738_415_616,  # weights of LLM360/Amber
    "crystalcoder-7b": 6_575_278_720,  # pytorch_model.bin.index.json of LLM360/CrystalCoder
    "k2-65b": 65_286_184_960,  # weights of LLM360/K2
    # Model cards of EleutherAI's Pythia models; 14m and 31m: by the formula of the others.
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_models_have_their_published_size(name):
    assert num_parameters(load_run(name, require_store=False).spec.model) == COUNTS[name]


def test_a_tied_head_and_its_bias():
    model = load_run("crystalcoder-7b", require_store=False).spec.model
    assert parameter_counts(model)["head"] == 0
    untied = model.model_copy(update={"tied_embeddings": False, "output_bias": True})
    assert parameter_counts(untied)["head"] == 32_032 * 4097


def test_fewer_key_heads_have_fewer_parameters():
    model = load_run("amber-7b", require_store=False).spec.model
    grouped = model.model_copy(update={"num_key_value_heads": 8})
    assert num_parameters(model) - num_parameters(grouped) == 32 * 2 * 24 * 128 * 4096
