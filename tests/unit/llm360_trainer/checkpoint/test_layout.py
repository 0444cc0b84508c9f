from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360_trainer.checkpoint.layout import group_label, index_json, plan_groups, state_name

NAMES = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] + [
    f"model.layers.{layer}.{name}" for layer in range(12) for name in ("mlp.up_proj.weight", "input_layernorm.weight")
]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("model.layers.11.mlp.up_proj.weight", "layer_00011"),
        ("model.norm.weight", "head"),
        ("lm_head.weight", "head"),
        ("model.head_bias", "head"),
    ],
)
def test_group_label(name: str, label: str) -> None:
    assert group_label(name) == label


@given(st.integers(1, 40))
def test_layer_i_is_written_by_rank_i_mod_w(world_size: int) -> None:
    groups = plan_groups(NAMES, world_size)
    assert [group.label for group in groups] == [f"layer_{layer:05d}" for layer in range(12)] + ["embeddings", "head"]
    assert [group.owner for group in groups] == [index % world_size for index in range(14)]


@given(st.permutations(NAMES), st.integers(1, 40))
def test_files_depend_neither_on_the_order_of_names_nor_on_ranks(names: list[str], world_size: int) -> None:
    def files(groups: object) -> object:
        return [(g.label, g.model_file, g.state_file, g.names) for g in groups]  # type: ignore[attr-defined]

    assert files(plan_groups(names, world_size)) == files(plan_groups(NAMES, 1))


def test_model_files_are_numbered_as_a_forward_pass_meets_them() -> None:
    numbers = {group.label: group.model_file for group in plan_groups(NAMES, 1)}
    assert numbers["embeddings"] == "model/model-00001-of-00014.safetensors"
    assert numbers["layer_00000"] == "model/model-00002-of-00014.safetensors"
    assert numbers["layer_00010"] == "model/model-00012-of-00014.safetensors"
    assert numbers["head"] == "model/model-00014-of-00014.safetensors"


def test_a_group_without_parameters_has_no_file() -> None:
    groups = plan_groups(["model.layers.0.mlp.up_proj.weight"], 4)
    assert [group.model_file for group in groups] == ["model/model-00001-of-00001.safetensors"]


def test_state_name() -> None:
    assert state_name("model.norm.weight", "exp_avg") == "model.norm.weight.exp_avg"


def test_index_json() -> None:
    index = json.loads(index_json(plan_groups(NAMES, 2), dict.fromkeys(NAMES, 10)))
    assert index["metadata"] == {"total_size": 10 * len(NAMES)}
    assert list(index["weight_map"]) == sorted(NAMES)
    assert index["weight_map"]["model.norm.weight"] == "model-00014-of-00014.safetensors"
