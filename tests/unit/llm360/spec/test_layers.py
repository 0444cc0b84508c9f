"""Defaults, presets, and how one layer lies over another."""

from llm360.spec.layers import (
    default_layer,
    fill_derived,
    merge,
    preset_description,
    preset_files,
    preset_layer,
    preset_names,
    preset_published,
    preset_text,
    without_nulls,
)


def test_upper_layer_wins_field_by_field():
    lower = {"a": {"x": 1, "y": 2}, "b": [1, 2]}
    assert merge(lower, {"a": {"y": 3}}, {"b": [9]}) == {"a": {"x": 1, "y": 3}, "b": [9]}


def test_named_entries_take_what_they_do_not_state_from_below():
    lower = {"stages": [{"name": "one", "steps": 1, "uri": "a"}, {"name": "two", "steps": 2}]}
    upper = {"stages": [{"name": "two", "uri": "b"}, {"name": "three"}]}
    assert merge(lower, upper) == {"stages": [{"name": "two", "steps": 2, "uri": "b"}, {"name": "three"}]}


def test_layers_do_not_share_values():
    default_layer()["model"]["norm"]["kind"] = "changed"
    preset_layer("amber-tiny")["model"]["hiddenSize"] = 1
    assert default_layer()["model"]["norm"]["kind"] == "rmsnorm"
    assert preset_layer("amber-tiny")["model"]["hiddenSize"] == 128
    lower = {"a": {"b": 1}}
    merge(lower, {"c": 1})["a"]["b"] = 2
    assert lower == {"a": {"b": 1}}


def test_null_states_nothing():
    assert without_nulls({"a": None, "b": {"c": None}, "d": [{"e": None}]}) == {"b": {}, "d": [{}]}


def test_derived_values_follow_from_others_and_give_way_to_stated_ones():
    filled = fill_derived({"model": {"hiddenSize": 64, "numHeads": 4}, "training": {"sequenceLength": 32}})
    assert filled["model"] == {
        "hiddenSize": 64,
        "numHeads": 4,
        "numKeyValueHeads": 4,
        "headDim": 16,
        "maxPositionEmbeddings": 32,
    }
    assert filled["data"] == {"stages": [{"name": "stage1"}]}
    assert fill_derived(filled) == filled
    assert fill_derived({"model": {"hiddenSize": 64, "numHeads": 4, "headDim": 8}})["model"]["headDim"] == 8


def test_schedule_of_a_stage_is_filled_from_the_training():
    spec = {
        "training": {"schedule": {"kind": "cosine", "warmupSteps": 5}},
        "data": {"stages": [{"name": "a", "schedule": {"kind": "linear"}}]},
    }
    assert fill_derived(spec)["data"]["stages"][0]["schedule"] == {"kind": "linear", "warmupSteps": 5}


def test_built_in_values_are_no_preset():
    assert not any(name.startswith("_") for name in preset_names())


def test_a_preset_lies_over_those_that_it_extends():
    assert preset_files("pythia-70m-deduped") == ("_pythia", "pythia-70m", "pythia-70m-deduped")
    base, deduped = preset_layer("pythia-70m"), preset_layer("pythia-70m-deduped")
    assert base["training"]["batchSize"] == 1024
    assert base == deduped


def test_a_preset_describes_itself_and_not_the_runs_that_begin_with_it():
    assert preset_description("pythia-70m") != preset_description("pythia-70m-deduped")
    assert not {"description", "release"} & set(preset_layer("pythia-70m-deduped"))


def test_what_was_published_is_not_part_of_the_layer():
    assert preset_published("pythia-70m") == {
        "parameters": 70_426_624,
        "totalSteps": 143_000,
        "totalTokens": 299_892_736_000,
        "checkpoints": 154,
    }
    assert preset_published("amber-tiny") == {}
    assert not {"extends", "published"} & set(preset_layer("pythia-70m"))


def test_text_of_a_preset_shows_its_base_first():
    text = preset_text("pythia-70m")
    assert text.index("===== _pythia.yaml") < text.index("batchSize: 1024") < text.index("===== pythia-70m.yaml")
