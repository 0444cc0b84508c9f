"""Every preset resolves, and says where its numbers come from."""

import math

import pytest

from llm360.spec import load_run, preset_names
from llm360.spec.layers import FOLDER, preset_description
from llm360.spec.release import Release

NAMES = preset_names()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def test_resolves_and_describes_itself(name):
    run = load_run(name, require_store=False)
    assert run.spec.preset == name
    assert preset_description(name)
    assert "\n" not in preset_description(name)
    assert run.spec.release == Release(authors=()), "who made the preset did not make the run"
    assert run.spec.training.gradient_clip == 1.0, "all originals clip at 1"


@pytest.mark.parametrize(
    "path", sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "_defaults.yaml"}), ids=lambda path: path.stem
)
def test_every_number_has_its_source(path):
    """Each line that states a number ends in a comment, or lies under a heading that has one."""
    heading = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        stated = line.split("#")[0].rstrip()
        if stated.endswith(":"):
            heading = line
        key, _, value = stated.partition(":")
        if key.strip().lstrip("- ") not in ("description", "name", "extends") and any(map(str.isdigit, value)):
            assert "#" in line or "#" in heading, line


def test_amber_7b_takes_the_whole_batch_at_once():
    run = load_run("amber-7b", require_store=False)
    assert run.spec.cluster.world_size * run.spec.parallelism.micro_batch == run.spec.training.batch_size


def test_amber_tiny_has_ambers_architecture():
    tiny, amber = (load_run(name, require_store=False).spec for name in ("amber-tiny", "amber-7b"))
    sizes = {
        "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings",
    }  # fmt: skip
    assert tiny.model.model_dump(exclude=sizes) == amber.model.model_dump(exclude=sizes)
    assert tiny.training.optimizer == amber.training.optimizer
    assert tiny.cluster.workers.device == "cpu"


def test_crystal_tiny_has_crystalcoders_architecture():
    tiny, crystal = (load_run(name, require_store=False).spec for name in ("crystal-tiny", "crystalcoder-7b"))
    sizes = {
        "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings", "mup", "initialization",
    }  # fmt: skip
    assert tiny.model.model_dump(exclude=sizes) == crystal.model.model_dump(exclude=sizes)
    multiplier = {"matrix_learning_rate_multiplier"}
    assert tiny.training.optimizer.model_dump(exclude=multiplier) == crystal.training.optimizer.model_dump(
        exclude=multiplier
    )
    assert [stage.optimizer_state for stage in tiny.data.stages] == [
        stage.optimizer_state for stage in crystal.data.stages
    ]


@pytest.mark.parametrize(("name", "base_width"), [("crystalcoder-7b", 256), ("crystal-tiny", 32)])
def test_crystals_multipliers_follow_from_the_width(name, base_width):
    """muP by the width's ratio to the base's, as config.json of LLM360/CrystalCoder writes it: 2.22 x 1/16."""
    spec = load_run(name, require_store=False).spec
    ratio = spec.model.hidden_size / base_width
    initial = spec.model.initialization
    assert spec.training.optimizer.matrix_learning_rate_multiplier == 1 / ratio
    assert spec.model.mup.output_logits_scale == pytest.approx(2.22 / ratio)
    assert spec.model.mup.attention_scale == "d"
    assert initial.embedding.std == 0.073
    assert initial.hidden.std == pytest.approx(0.073 / math.sqrt(ratio))
    assert initial.output.std == pytest.approx(0.073 / math.sqrt(2 * spec.model.num_layers * ratio), rel=1e-4)
    for law in (initial.embedding, initial.hidden, initial.output):
        assert law.cut == pytest.approx(2 * law.std)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("pythia-")])
def test_pythias_first_values_follow_from_its_sizes(name):
    """small_init and wang_init of GPT-NeoX; its defaults in 6.9B and 12B, whose configurations name none."""
    model = load_run(name, require_store=False).spec.model
    initial = model.initialization
    if name.removesuffix("-deduped") in ("pythia-6.9b", "pythia-12b"):
        wide, narrow = 0.02, 0.02 / math.sqrt(2 * model.num_layers)
    else:
        wide, narrow = math.sqrt(2 / (5 * model.hidden_size)), 2 / model.num_layers / math.sqrt(model.hidden_size)
    assert (initial.embedding.std, initial.hidden.std, initial.output.std) == (wide, wide, narrow)
    assert (model.norm.kind, model.rotary.fraction, model.residual, model.mlp) == (
        *("layernorm", 0.25, "parallel", "gelu_tanh"),
    )


def test_k2s_first_values_shrink_with_its_depth():
    initial = load_run("k2-65b", require_store=False).spec.model.initialization
    assert (initial.embedding.std, initial.hidden.std, initial.output.std) == (0.02, 0.02, 0.02 / math.sqrt(160))
