import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360_trainer.prepare.permutation import Permutation


@given(size=st.integers(0, 600), seed=st.integers(0, 2**53), purpose=st.text(max_size=5))
def test_every_number_has_its_own_image(size, seed, purpose):
    images = Permutation(size, seed, purpose)(np.arange(size))
    assert np.array_equal(np.sort(images), np.arange(size))


@given(size=st.integers(1, 10**15), seed=st.integers(0, 100), data=st.data())
def test_an_image_does_not_depend_on_what_else_is_asked(size, seed, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), dtype=np.int64)
    permutation = Permutation(size, seed, "test")
    together = permutation(numbers)
    assert np.all((together >= 0) & (together < size))
    assert [int(permutation(numbers[index : index + 1])[0]) for index in range(len(numbers))] == together.tolist()


def test_the_order_of_a_seed_never_changes():
    assert Permutation(10, 42, "order of rows")(np.arange(10)).tolist() == [6, 5, 2, 3, 4, 8, 0, 9, 1, 7]


def test_seeds_and_purposes_give_unrelated_orders():
    size = 10_000
    images = {
        (seed, purpose): Permutation(size, seed, purpose)(np.arange(size)) for seed in range(3) for purpose in "ab"
    }
    names = list(images)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            assert abs(np.corrcoef(images[first], images[second])[0, 1]) < 0.05
            assert np.mean(images[first] == images[second]) < 0.002


def test_neighbours_are_spread_evenly():
    size = 100_003
    images = Permutation(size, 7, "test")(np.arange(size))
    assert abs(np.corrcoef(np.arange(size), images)[0, 1]) < 0.02
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.02
    # Where the first tenth goes: every tenth of the range gets its share, within five standard deviations.
    counts = np.bincount(images[: size // 10] * 10 // size, minlength=10)
    assert np.all(abs(counts - size / 100) < 5 * np.sqrt(size / 100))


def test_small_permutations_are_all_possible():
    seen = {tuple(Permutation(3, seed, "test")(np.arange(3)).tolist()) for seed in range(200)}
    assert len(seen) == 6


@pytest.mark.parametrize("size", [-1, 2**62 + 1])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="cannot permute"):
        Permutation(size, 0, "test")
