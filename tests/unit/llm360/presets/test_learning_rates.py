"""Every preset's learning rate, step by step, against its original's formula written out on its own."""

import math

import pytest

from llm360.facts import preset_facts


def amber(step, start=3e-4, end=3e-5, warmup=2000, total=274_320):
    """main.py of LLM360/amber-train."""
    if step < warmup:
        return start * step / warmup
    ratio = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return end + ratio * (start - end)


def megatron(step, start=1.5e-4, end=1.5e-5, warmup=2000, total=338_760, batch=2040):
    """OptimizerParamScheduler of Megatron-LM, which counts in samples."""
    samples = step * batch
    if samples <= warmup * batch:
        return start * samples / (warmup * batch)
    ratio = (samples - warmup * batch) / (total * batch - warmup * batch)
    return end + 0.5 * (math.cos(math.pi * ratio) + 1.0) * (start - end)


def gpt_neox(step, start, total=143_000, warmup=143_000 * 0.01):
    """AnnealingLR of GPT-NeoX before its pull request 1008 (2023-08), which says that Pythia was trained with it."""
    seen = min(step, total - warmup)
    if step <= warmup:
        return start * seen / warmup
    return max(start / 2 * (math.cos(math.pi * (seen - warmup) / total) + 1), start / 10)


def cerebras(step, *parts):
    """Linear schedulers one after another, each (initial, end, steps), as params.yaml of CrystalCoder lists them."""
    for initial, end, length in parts:
        if step < length:
            return initial + (end - initial) * step / length
        step -= length
    return parts[-1][1]


CRYSTAL = [
    ((0.0, 0.012, 86), (0.012, 0.00012408, 294_337)),
    ((0.0, 0.0087825, 86), (0.0087825, 0.00013679, 214_301)),
    ((0.0, 0.002, 276), (0.002, 0.0002, 27_452)),
]
# models/*/pythia-*.yml; the README's table has 3.0e-4 for 1b.
PYTHIA = {
    "14m": 1e-3, "31m": 1e-3, "70m": 1e-3, "160m": 6e-4, "410m": 3e-4, "1b": 2.5e-4, "1.4b": 2e-4, "2.8b": 1.6e-4,
    "6.9b": 1.2e-4, "12b": 1.2e-4,
}  # fmt: skip


def assert_follows(stage, formula):
    """At the ends, around the warm-up's end, where a floor begins, and in between."""
    warmup = stage.schedule.warmup_steps
    near = {0, 1, 2, warmup - 1, warmup, warmup + 1, stage.num_steps - 1, stage.num_steps}
    for step in sorted(near | set(range(0, stage.num_steps, 499))):
        assert stage.at(step).learning_rate == pytest.approx(formula(step), rel=1e-12, abs=0), step


def test_amber():
    (stage,) = preset_facts("amber-7b").stages
    assert_follows(stage, amber)


def test_k2():
    (stage,) = preset_facts("k2-65b").stages
    assert_follows(stage, megatron)


@pytest.mark.parametrize("suffix", ["", "-deduped"])
@pytest.mark.parametrize("size", PYTHIA)
def test_pythia(size, suffix):
    (stage,) = preset_facts(f"pythia-{size}{suffix}").stages
    assert_follows(stage, lambda step: gpt_neox(step, PYTHIA[size]))
    assert stage.at(71_500).learning_rate != pytest.approx(PYTHIA[size] * (0.1 + 0.9 * 0.5), rel=0.01), (
        "not the cosine that ends at min_lr"
    )


@pytest.mark.parametrize("index", range(3))
def test_crystalcoder(index):
    stage = preset_facts("crystalcoder-7b").stages[index]
    assert_follows(stage, lambda step: cerebras(step, *CRYSTAL[index]))
