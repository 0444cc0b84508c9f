import pytest

from llm360_trainer.optim import Schedule, learning_rate

AMBER = Schedule("cosine", peak=3e-4, end=3e-5, warmup_steps=2000, total_steps=274_320)
# CrystalCoder's params.yaml, stage 2: 86 warm-up steps, then linear over 214,301.
CRYSTAL_2 = Schedule("linear", peak=0.0087825, end=0.00013679, warmup_steps=86, total_steps=86 + 214_301)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (1, 1.5e-07), (2000, 0.0003), (137_160, 0.00016655737955648686)])
def test_amber_to_the_last_bit(step, rate):
    # Values of the formula in LLM360/amber-train main.py.
    assert learning_rate(step, AMBER) == rate


def test_cosine_stays_at_its_end():
    assert learning_rate(274_320, AMBER) == learning_rate(10**9, AMBER) == 3e-5


def test_linear_goes_straight_down():
    middle = 86 + 214_301 / 2
    assert learning_rate(86, CRYSTAL_2) == 0.0087825
    assert learning_rate(int(middle), CRYSTAL_2) == pytest.approx((0.0087825 + 0.00013679) / 2, rel=1e-5)
    assert learning_rate(214_387, CRYSTAL_2) == 0.00013679


def test_constant_stays_at_its_peak():
    constant = Schedule("constant", peak=0.1, warmup_steps=4)
    assert [learning_rate(step, constant) for step in (0, 1, 4, 10**6)] == [0.0, 0.025, 0.1, 0.1]


def test_without_warm_up_the_first_step_has_the_peak():
    assert learning_rate(0, Schedule("cosine", peak=0.1, total_steps=10)) == 0.1


def test_a_decay_before_the_warm_up_is_over_is_refused():
    with pytest.raises(ValueError, match="ends at step 10, before the warm-up of 10 steps is over"):
        Schedule("cosine", peak=0.1, warmup_steps=10, total_steps=10)


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Schedule("constant", peak=-0.1)
