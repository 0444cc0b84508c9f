"""Every number of a preset has its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llm360.spec import preset_names
from llm360.spec.layers import preset_layer
from llm360.spec.sources import preset_legend, preset_sources


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from leaves(member, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(member, dict) for member in value):
        for index, member in enumerate(value):
            yield from leaves(member, f"{path}[{member.get('name', index)}]")
    else:
        yield path


@pytest.mark.parametrize("name", preset_names())
def test_every_value_has_a_source(name: str) -> None:
    named = {path for path in leaves(preset_layer(name)) if not path.endswith(".name")}
    assert named - preset_sources(name).keys() == set()


def test_sources_are_those_of_the_line_or_else_of_the_section() -> None:
    amber = preset_sources("amber-7b")
    assert amber["training.batchSize"] == "run: 56 nodes × 4 GPUs × 10 sequences, no accumulation"
    assert amber["model.initialization.output.std"].startswith("initializer_range of the configuration")
    assert "  run      run.sh and the defaults of main.py" in preset_legend("amber-7b")


def test_the_upper_file_has_the_word() -> None:
    pythia = preset_sources("pythia-6.9b")
    assert pythia["training.seed"] == "README", "of _pythia.yaml"
    assert pythia["training.schedule.peakLearningRate"] == "yml: lr", "of its own"
    assert preset_sources("pythia-1b-deduped")["model.hiddenSize"] == preset_sources("pythia-1b")["model.hiddenSize"]
