"""Every preset resolves, and says where its numbers come from."""

import pytest

from llm360.spec import load_run, preset_names, preset_text

NAMES = preset_names()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def test_resolves_and_describes_itself(name):
    run = load_run(name, require_store=False)
    assert run.spec.preset == name
    assert run.spec.release.description
    assert "\n" not in run.spec.release.description


def test_every_number_has_its_source(name):
    """Each line that states a number ends in a comment, or lies under a heading that has one."""
    heading = ""
    for line in preset_text(name).splitlines():
        stated = line.split("#")[0].rstrip()
        if stated.endswith(":"):
            heading = line
        key, _, value = stated.partition(":")
        if key.strip() != "description" and any(character.isdigit() for character in value):
            assert "#" in line or "#" in heading, line


def parameters(model):
    """Number of parameters of a decoder with untied embeddings, no biases, RMSNorm and SwiGLU."""
    attention = model.hidden_size * model.head_dim * (2 * model.num_heads + 2 * model.num_key_value_heads)
    layer = attention + 3 * model.hidden_size * model.intermediate_size + 2 * model.hidden_size
    return 2 * model.vocab_size * model.hidden_size + model.num_layers * layer + model.hidden_size


def test_amber_7b_is_the_published_model():
    run = load_run("amber-7b", require_store=False)
    assert parameters(run.spec.model) == 6_738_415_616
    training = run.spec.training
    steps = 1_706_976 // training.batch_size * 360
    assert steps == training.schedule.decay_steps == 274_320
    assert steps * training.batch_size * training.sequence_length == 1_258_448_486_400


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
