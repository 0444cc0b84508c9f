"""The same training over 1, 2, 3 and 4 processes: seven rows a step, which none but 1 divides."""

import math

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(world):
    return world(1, "plain", "masked", "poisoned")


@pytest.fixture(scope="module")
def two(world):
    return world(2, "plain", "short", "restarted", "micro", "masked", "bf16", "poisoned")


@pytest.fixture(scope="module")
def three(world):
    return world(3, "plain", "masked")


@pytest.fixture(scope="module")
def four(world):
    return world(4, "plain", "hybrid")


@pytest.mark.parametrize("other", ["two", "three", "four"])
def test_any_number_of_workers_gives_the_same_losses(one, other, request):
    alone, shared = one["plain"], request.getfixturevalue(other)["plain"]
    assert len(alone["losses"]) == 100
    assert shared["losses"] == pytest.approx(alone["losses"], rel=0, abs=1e-5)
    assert shared["grad_norms"] == pytest.approx(alone["grad_norms"], rel=1e-3)
    assert shared["source_tokens"] == alone["source_tokens"]
    for ours, theirs in zip(shared["source_losses"], alone["source_losses"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert alone["losses"][-1] < alone["losses"][0] - 1.0


def test_flags_are_summed_over_ranks(one, two, four):
    assert {tuple(flags) for flags in one["plain"]["flags"]} == {(0.0,)}
    assert {tuple(flags) for flags in two["plain"]["flags"]} == {(1.0,)}
    assert {tuple(flags) for flags in four["plain"]["flags"]} == {(6.0,)}


def test_masks_count_over_all_ranks(one, two, three):
    for shared in (two, three):
        assert shared["masked"]["losses"] == pytest.approx(one["masked"]["losses"], rel=0, abs=1e-5)
        assert shared["masked"]["source_tokens"] == one["masked"]["source_tokens"]


def test_the_same_world_gives_the_same_bits(two):
    for name, values in two["short"].items():
        if name != "checksum":
            assert values == two["plain"][name][:40]


def test_a_restart_gives_the_same_bits(two):
    assert two["restarted"] == two["short"]


def test_micro_batches_give_the_same_losses(two):
    assert two["micro"]["losses"] == pytest.approx(two["short"]["losses"], rel=0, abs=1e-5)


def test_replicas_give_the_same_losses_and_norms(one, four):
    assert four["hybrid"]["losses"] == pytest.approx(one["plain"]["losses"][:40], rel=0, abs=1e-5)
    assert four["hybrid"]["grad_norms"] == pytest.approx(one["plain"]["grad_norms"][:40], rel=1e-3)


def test_bf16_follows_fp32(two):
    assert two["bf16"]["losses"] == pytest.approx(two["plain"]["losses"][:20], rel=0, abs=0.05)


def test_one_bad_rank_makes_all_leave_the_step_out(one, two):
    for group in (one, two):
        poisoned = group["poisoned"]
        assert poisoned["finite"] == [True, True, True, False, True, True]
        assert math.isnan(poisoned["losses"][3])
        assert math.isfinite(poisoned["checksum"])
    assert two["poisoned"]["losses"][4:] == pytest.approx(one["poisoned"]["losses"][4:], abs=1e-5)
