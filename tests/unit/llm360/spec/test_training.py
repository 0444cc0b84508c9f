"""The learning rate at any step, against each original's formula written out on its own."""

import math

import pytest

from llm360.spec.training import Schedule

AMBER = Schedule(kind="cosine", peakLearningRate=3e-4, endLearningRate=3e-5, warmupSteps=2000, decaySteps=274_320)
# CrystalCoder's pretrain/params/phase2/params.yaml: 86 warm-up steps, then linear over 214,301.
CRYSTAL_2 = Schedule(
    kind="linear", peakLearningRate=0.0087825, endLearningRate=0.00013679, warmupSteps=86, decaySteps=86 + 214_301
)
# Pythia's models/*/pythia-6.9b.yml: 1% of 143,000 steps warm up; how the cosine is taken is `gpt_neox` below.
PYTHIA = Schedule(
    kind="cosine",
    peakLearningRate=1.2e-4,
    endLearningRate=0,
    minLearningRate=1.2e-5,
    warmupSteps=1430,
    decaySteps=1430 + 143_000,
)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (1, 1.5e-07), (2000, 0.0003), (137_160, 0.00016655737955648686)])
def test_amber_to_the_last_bit(step, rate):
    # Values of the formula in LLM360/amber-train main.py.
    assert AMBER.rate(step, 274_320) == rate


def test_cosine_stays_at_its_end():
    assert AMBER.rate(274_320, 274_320) == AMBER.rate(10**9, 274_320) == 3e-5


def gpt_neox(step, start, floor, warmup, total):
    """AnnealingLR of GPT-NeoX before its pull request 1008 (2023-08), which says that Pythia was trained with it."""
    seen = min(step, total - warmup)
    if step <= warmup:
        return start * seen / warmup
    return max(start / 2 * (math.cos(math.pi * (seen - warmup) / total) + 1), floor)


def test_pythia_goes_to_zero_and_stops_at_its_floor():
    steps = [*range(0, 143_001, 997), 1429, 1430, 1431, 141_569, 141_570, 142_999, 143_000]
    for step in steps:
        wanted = gpt_neox(step, 1.2e-4, 1.2e-5, 143_000 * 0.01, 143_000)
        assert PYTHIA.rate(step, 143_000) == pytest.approx(wanted, rel=1e-13, abs=0)
    assert PYTHIA.rate(143_000, 143_000) == 1.2e-5


def cerebras(step, stages):
    """Cerebras' linear schedulers one after another, each (initial, end, steps), as params.yaml lists them."""
    for initial, end, length in stages:
        if step < length:
            return initial + (end - initial) * step / length
        step -= length
    return end


@pytest.mark.parametrize(
    ("schedule", "stages", "num_steps"),
    [
        pytest.param(
            Schedule(
                kind="linear", peakLearningRate=0.012, endLearningRate=0.00012408, warmupSteps=86, decaySteps=294_423
            ),
            [(0.0, 0.012, 86), (0.012, 0.00012408, 294_337)],
            79_721,
            id="stage 1 ends in the middle of its decay",
        ),
        pytest.param(CRYSTAL_2, [(0.0, 0.0087825, 86), (0.0087825, 0.00013679, 214_301)], 214_387, id="stage 2"),
        pytest.param(
            Schedule(kind="linear", peakLearningRate=0.002, endLearningRate=0.0002, warmupSteps=276),
            [(0.0, 0.002, 276), (0.002, 0.0002, 27_452)],
            27_728,
            id="stage 3",
        ),
    ],
)
def test_crystalcoder_goes_straight_down(schedule, stages, num_steps):
    for step in [*range(0, num_steps, 509), num_steps]:
        assert schedule.rate(step, num_steps) == pytest.approx(cerebras(step, stages), rel=1e-12, abs=0)


def test_constant_stays_at_its_peak():
    constant = Schedule(kind="constant", peakLearningRate=0.1, endLearningRate=0, warmupSteps=4)
    assert [constant.rate(step, 10) for step in (0, 1, 4, 10**6)] == [0.0, 0.025, 0.1, 0.1]


def test_without_warm_up_the_first_step_has_the_peak():
    plain = Schedule(kind="cosine", peakLearningRate=0.1, endLearningRate=0, warmupSteps=0)
    assert plain.rate(0, 10) == 0.1
    assert plain.rate(10, 10) == 0.0
