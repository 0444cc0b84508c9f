"""Runs that share the operator's evaluations: never too many, and nobody far ahead of one that waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360_operator.names import Key
from llm360_operator.sharing import Share, Sharing, slots

ONE, OTHER, THIRD = (Key("research", name) for name in ("one", "other", "third"))


@pytest.mark.parametrize(
    ("running", "others", "allowed"),
    [
        (0, {}, 4),
        (3, {}, 1),
        (0, {OTHER: Share(4, 1)}, 0),  # nothing is free
        (1, {OTHER: Share(1, 1)}, 1),  # one ahead, then the other's turn
        (2, {OTHER: Share(1, 1)}, 0),
        (0, {OTHER: Share(2, 1)}, 2),
        (2, {OTHER: Share(1, 0)}, 1),  # the other wants none
        (0, {OTHER: Share(9, 0)}, 0),  # the bound was lowered
    ],
)
def test_a_run_may_have_one_more_than_one_that_waits(running, others, allowed):
    assert slots(4, running, others) == allowed


def test_without_a_bound_nobody_waits():
    sharing = Sharing(None)
    assert sharing.slots(ONE, 99) is None
    sharing.note(ONE, Share(9, 9))
    assert sharing.note(ONE, Share(1, 9)) is None


def test_who_has_the_fewest_is_told_when_there_is_room():
    sharing = Sharing(4)
    for key, share in ((ONE, Share(3, 1)), (OTHER, Share(1, 2)), (THIRD, Share(0, 0))):
        assert sharing.note(key, share) is None
    assert sharing.note(ONE, Share(2, 2)) == OTHER
    assert sharing.note(ONE, None) == OTHER


RUNS = [Key("research", f"run-{number}") for number in range(4)]
STORIES = st.lists(st.tuples(st.sampled_from(RUNS), st.sampled_from(("round", "end", "more"))), max_size=80)


@given(bound=st.integers(1, 7), maximum=st.integers(1, 5), story=STORIES)
def test_any_order_of_rounds_keeps_the_bound_and_the_balance(bound, maximum, story):
    sharing, running, waiting = Sharing(bound), dict.fromkeys(RUNS, 0), dict.fromkeys(RUNS, 0)

    def wanting(key):
        return min(waiting[key], maximum - running[key])

    def play_round(key):
        begun = min(sharing.slots(key, running[key]), wanting(key))
        running[key] += begun
        waiting[key] -= begun
        if begun:
            # An evaluation that has ended counts until its run's next round has told of it.
            assert all(running[key] <= others_running + 1 for other, others_running in told.items() if other != key)
        told.pop(key, None)
        if wanting(key):
            told[key] = running[key]
        return sharing.note(key, Share(running[key], wanting(key)))

    told = {}  # of runs that wait: how many evaluations they had at their last round
    for key, what in story:
        if what == "end" and running[key]:
            running[key] -= 1
        elif what == "more":
            waiting[key] += 2
        else:
            play_round(key)
        assert sum(running.values()) <= bound

    for _ in range(3):  # and then every run has its turns
        for key in RUNS:
            play_round(key)
    assert sum(running.values()) == bound or not any(map(wanting, RUNS)), "something is free, and somebody waits"
