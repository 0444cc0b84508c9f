"""Steps, tokens, checkpoints and the state at a step, of every preset."""

import pytest

from llm360.errors import InputError
from llm360.facts import preset_facts
from llm360.spec import load_run, preset_names

COMPARED = ("parameters", "total_steps", "total_tokens", "checkpoints")


@pytest.mark.parametrize("name", preset_names())
def test_what_follows_is_what_was_published(name):
    facts = preset_facts(name)
    published = {field: getattr(facts.published, field) for field in COMPARED}
    found = {field: getattr(facts, field) for field in COMPARED}
    assert {field: found[field] for field, value in published.items() if value is not None} == {
        field: value for field, value in published.items() if value is not None
    }
    if not name.endswith("-tiny"):
        assert published["total_steps"]
        assert published["checkpoints"]


def test_amber_is_360_chunks_of_762_steps():
    facts = preset_facts("amber-7b")
    (stage,) = facts.stages
    assert (facts.total_steps, facts.total_tokens, facts.checkpoints) == (274_320, 1_258_448_486_400, 360)
    assert [step for step in range(3000) if stage.publishes(step)] == [762, 1524, 2286]
    assert [facts.at(step).chunk for step in (0, 761, 762, 274_319, 274_320)] == [0, 0, 1, 359, 359]
    # Values of the formula in LLM360/amber-train main.py.
    assert facts.at(137_160).learning_rate == 0.00016655737955648686


def test_crystalcoder_has_54_143_and_28_checkpoints():
    facts = preset_facts("crystalcoder-7b")
    assert [stage.checkpoints for stage in facts.stages] == [54, 143, 28]
    assert [stage.num_steps for stage in facts.stages] == [79_721, 214_387, 27_728]
    # By max_steps x 2,112 x 2,048: 344.82B, 927.30B and 119.93B tokens.
    assert [stage.tokens for stage in facts.stages] == [344_823_300_096, 927_304_384_512, 119_934_025_728]
    assert [stage.publishes(1500) for stage in facts.stages] == [True, True, False]
    assert facts.stages[2].publishes(1000)


def test_a_boundary_ends_the_stage_before_and_starts_the_next():
    facts = preset_facts("crystalcoder-7b")
    end, start = facts.at(79_721), facts.at(0, "stage2")
    assert (end.stage, end.step, start.stage, start.step) == ("stage1", 79_721, "stage2", 0)
    assert end.run_step == start.run_step == 79_721
    assert end.tokens == start.tokens == 344_823_300_096
    assert end.checkpoint
    assert start.checkpoint
    assert end.learning_rate == pytest.approx(0.0087868841, abs=1e-10)
    assert start.learning_rate == 0.0
    assert facts.at(79_722) == facts.at(1, "2")


def test_k2_reads_two_chunks_last():
    facts = preset_facts("k2-65b")
    assert facts.total_tokens == 338_760 * 2040 * 2047  # rows of 2,048 ids give 2,047 predictions
    read = [facts.at(chunk * 941).chunk for chunk in range(360)]
    assert sorted(read) == list(range(360))
    # main.py of LLM360/k2-train: 0-15, 32-37, 44-51, then the others in order, 160 and 186 at the end.
    assert read[:30] == [*range(16), *range(32, 38), *range(44, 52)]
    assert read[30:36] == list(range(16, 22))
    assert read[-2:] == [160, 186]
    assert read[30:-2] == sorted(set(range(360)) - {*read[:30], 160, 186})


def test_pythia_has_154_checkpoints():
    (stage,) = preset_facts("pythia-12b").stages
    assert [step for step in range(3001) if stage.publishes(step)] == [
        *(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000)
    ]
    assert stage.checkpoints == 154


@pytest.mark.parametrize("name", ["amber-7b", "crystal-tiny", "pythia-tiny"])
def test_counted_checkpoints_are_those_of_a_walk_through_all_steps(name):
    for stage in preset_facts(name).stages:
        first = 0 if stage.first_step == 0 else 1
        assert stage.checkpoints == sum(map(stage.publishes, range(first, stage.num_steps + 1)))


def test_deduplicated_ones_differ_in_name_alone():
    for name in preset_names():
        if name.endswith("-deduped"):
            ours, base = (load_run(each, require_store=False).spec for each in (name, name.removesuffix("-deduped")))
            differing = {key for key in ours.model_dump() if getattr(ours, key) != getattr(base, key)}
            assert differing == {"preset"}


def test_steps_that_follow_from_data_are_not_known_before():
    facts = preset_facts("amber-tiny")
    assert (facts.total_steps, facts.total_tokens, facts.checkpoints) == (None, None, None)
    with pytest.raises(InputError, match="follow from data that its recipe makes"):
        facts.at(0)


@pytest.mark.parametrize(
    ("step", "stage", "sentence"),
    [
        (-1, None, "--at -1: crystalcoder-7b has the steps 0 to 321,836; give one of them"),
        (321_837, None, "has the steps 0 to 321,836"),
        (27_729, "3", "--at 27729: stage 'stage3' of crystalcoder-7b has the steps 0 to 27,728"),
        (0, "4", "--stage 4: crystalcoder-7b has no such stage; its stages are 1 (stage1), 2 (stage2), 3 (stage3)"),
    ],
)
def test_steps_and_stages_that_are_not_there(step, stage, sentence):
    with pytest.raises(InputError) as caught:
        preset_facts("crystalcoder-7b").at(step, stage)
    assert sentence in caught.value.message


def test_unknown_preset_is_given_its_nearest_name():
    with pytest.raises(InputError, match=r"no preset 'pythia-6\.7b' \(did you mean 'pythia-6\.9b'\?\)"):
        preset_facts("pythia-6.7b")
