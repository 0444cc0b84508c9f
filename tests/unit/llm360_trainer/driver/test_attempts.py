import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import AttemptsExhaustedError
from llm360_trainer.driver.attempts import Attempts


def allows(attempts):
    try:
        attempts.check()
    except AttemptsExhaustedError:
        return False
    return True


@given(st.integers(1, 5), st.lists(st.sampled_from(["claims", "dies early", "checkpoint"])))
def test_groups_count_once_each_and_a_checkpoint_forgives_them(most, events):
    attempts, groups = Attempts(most), 0
    for event in events:
        if event == "checkpoint":
            attempts.checkpointed()
            groups = 0
            continue
        groups += 1
        if event == "claims":
            attempts.claimed()
        assert attempts.count_group() == (event == "dies early")
        assert allows(attempts) == (groups < most)


def test_a_group_whose_rank_has_said_why_needs_no_other_explanation():
    attempts = Attempts(1)
    attempts.told("rank 1: no memory is left")
    assert not attempts.group_failed()
    assert attempts.group_failed(), "what one group said explains nothing of the next"
    attempts.claimed()
    with pytest.raises(AttemptsExhaustedError) as error:
        attempts.check()
    assert error.value.exit_code == 4
    assert error.value.message.startswith("1 attempt ended without a new checkpoint, as many as recovery.maxAttempts")
    assert error.value.message.endswith("the last failure was: rank 1: no memory is left")


def test_a_death_without_a_word_is_called_one():
    attempts = Attempts(1)
    attempts.count_group()
    with pytest.raises(AttemptsExhaustedError, match="the last failure was: a worker process died"):
        attempts.check()
