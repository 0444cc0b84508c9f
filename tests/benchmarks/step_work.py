"""What the step's benchmark computes: a preset's architecture, optimizer and batch, read without the project's core."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm360_trainer.model import DecoderConfig, decoder_from_section
from llm360_trainer.optim import OptimizerSettings

PRESETS = Path(__file__).parents[2] / "llm360" / "presets"
SMALL = {"hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "num_layers": 2, "vocab_size": 512}
SMALL_TOKENS = 64


@dataclass(frozen=True)
class Work:
    """What is computed: the same under every setting."""

    config: DecoderConfig
    optimizer: OptimizerSettings
    sequence_length: int
    batch_rows: int
    """Sequences of an optimizer step on this device."""


def load_work(preset: str, small: bool, batch: int | None = None, sequence_length: int | None = None) -> Work:
    """The architecture, optimizer and batch of a preset, at its own size or a small one.

    Args:
        preset: A preset's name, or a file of a resolved run's JSON.
        small: Whether the preset's form is made small.
        batch: Sequences of a step; None: the preset's batch by its GPUs, or 4 where it is small.
        sequence_length: Tokens of a sequence; None: the preset's, or 64.

    Raises:
        OSError: There is no such file.
        KeyError: A value is missing.
        ValueError: Not JSON, or no sizes that fit each other.
        ImportError: A preset's name, and no PyYAML to read it.
    """
    spec = read_spec(preset)
    config = decoder_from_section(derived(spec["model"], spec["training"]))
    optimizer = spec["training"]["optimizer"]
    workers = spec["cluster"]["workers"]
    batch_rows = spec["training"]["batchSize"] // (workers["replicas"] * max(1, workers["gpus"]))
    tokens = spec["training"]["sequenceLength"]
    if small:
        config = replace(config, intermediate_size=4 * SMALL["hidden_size"], **SMALL)
        batch_rows, tokens = 4, SMALL_TOKENS
    return Work(
        config=config,
        optimizer=OptimizerSettings(
            beta1=optimizer["beta1"],
            beta2=optimizer["beta2"],
            epsilon=optimizer["epsilon"],
            weight_decay=optimizer["weightDecay"],
            weight_decay_on=optimizer["weightDecayOn"],
            matrix_learning_rate_multiplier=optimizer["matrixLearningRateMultiplier"],
        ),
        sequence_length=sequence_length or tokens,
        batch_rows=batch or max(1, batch_rows),
    )


def read_spec(preset: str) -> dict[str, Any]:
    """`spec` of a resolved run's JSON, or of a preset over those that it extends and the built-in values."""
    if preset.endswith(".json"):
        spec: dict[str, Any] = json.loads(Path(preset).read_text())["spec"]
        return spec
    import yaml

    def layer(name: str) -> dict[str, Any]:
        return numbers(yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))

    layers = [layer(preset)]
    while "extends" in layers[0]:
        layers.insert(0, layer(layers[0].pop("extends")))
    spec = layer("_defaults")
    for upper in layers:
        spec = over(spec, upper)
    return spec


def numbers(value: Any) -> Any:
    """The value with 1e-6 as a number, which YAML 1.1 takes for a word."""
    if isinstance(value, dict):
        return {key: numbers(member) for key, member in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9.]+e[-+]?[0-9]+", value):
        return float(value)
    return value


def over(lower: Any, upper: Any) -> Any:
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    return lower | {key: over(lower[key], value) if key in lower else value for key, value in upper.items()}


def derived(model: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """The model's section with what follows where it is not stated."""
    return {
        "numKeyValueHeads": model["numHeads"],
        "headDim": model["hiddenSize"] // model["numHeads"],
        "maxPositionEmbeddings": training["sequenceLength"],
        **model,
    }


def positive(text: str) -> int:
    """A command line's count."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def at_least_zero(text: str) -> int:
    """A command line's count that may be none."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number
