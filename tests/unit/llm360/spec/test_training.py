"""The forms of the learning rate; each preset's is compared with its original's in `presets/`."""

import pytest

from llm360.spec.training import Schedule

AMBER = Schedule(kind="cosine", peakLearningRate=3e-4, endLearningRate=3e-5, warmupSteps=2000, decaySteps=274_320)
# CrystalCoder's pretrain/params/phase2/params.yaml: 86 warm-up steps, then linear over 214,301.
CRYSTAL_2 = Schedule(
    kind="linear", peakLearningRate=0.0087825, endLearningRate=0.00013679, warmupSteps=86, decaySteps=86 + 214_301
)
# As Pythia 6.9B was trained: a cosine to 0 that stops at a floor.
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


def test_a_floor_holds_under_the_decay():
    rates = [PYTHIA.rate(step, 143_000) for step in range(0, 143_001, 1000)]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert min(rates[2:]) == rates[-1] == 1.2e-5
    assert PYTHIA.rate(0, 143_000) == 0.0, "the warm-up has none"


def test_linear_goes_straight_down():
    middle = 86 + 214_301 // 2
    assert CRYSTAL_2.rate(86, 214_387) == 0.0087825
    assert CRYSTAL_2.rate(middle, 214_387) == pytest.approx((0.0087825 + 0.00013679) / 2, rel=1e-5)
    assert CRYSTAL_2.rate(214_387, 214_387) == 0.00013679


def test_constant_stays_at_its_peak():
    constant = Schedule(kind="constant", peakLearningRate=0.1, endLearningRate=0, warmupSteps=4)
    assert [constant.rate(step, 10) for step in (0, 1, 4, 10**6)] == [0.0, 0.025, 0.1, 0.1]


def test_without_warm_up_the_first_step_has_the_peak():
    plain = Schedule(kind="cosine", peakLearningRate=0.1, endLearningRate=0, warmupSteps=0)
    assert plain.rate(0, 10) == 0.1
    assert plain.rate(10, 10) == 0.0
