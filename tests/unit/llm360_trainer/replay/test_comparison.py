"""When two trainings are the same bits, and what is said where they are not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic.release import eventful_release

from llm360.release.create import open_release
from llm360.storage import open_storage
from llm360_trainer.replay.comparison import Digests, Replayed, compare, environment_differences, is_same_loss
from llm360_trainer.replay.segment import Segment, StepLoss, find_segment


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    """The last five steps of a run, and the checkpoint after them."""
    storage = open_storage(str(tmp_path / "release"))
    eventful_release(storage, num_chunks=5, chunk_steps=5)
    return find_segment(storage, open_release(storage).history(), "latest")


def honest(segment: Segment) -> Replayed:
    digests = {known.step: Digests(known.body.digests.model, known.body.digests.state) for known in segment.checkpoints}
    return Replayed(dict(segment.losses), digests, segment.environment)


def test_the_same_bits(segment: Segment) -> None:
    comparison = compare(segment, honest(segment))
    assert comparison.is_same
    assert (comparison.num_steps, comparison.different, comparison.largest_difference) == (5, (), 0.0)
    assert [checkpoint.name for checkpoint in comparison.checkpoints] == ["ckpt_004"]
    assert comparison.environment == ()


def test_one_bit_of_one_loss(segment: Segment) -> None:
    made = honest(segment)
    step = segment.last_step - 2
    loss = math.nextafter(made.losses[step].loss, math.inf)
    comparison = compare(segment, replace(made, losses={**made.losses, step: StepLoss(loss, skipped=False)}))
    assert not comparison.is_same
    assert comparison.different == (step,)
    assert 0 < comparison.largest_difference < 1e-14


@pytest.mark.parametrize("part", ["model", "state"])
def test_one_digest(segment: Segment, part: str) -> None:
    made = honest(segment)
    digests = {step: replace(digest, **{part: "sha256:" + "0" * 64}) for step, digest in made.digests.items()}
    comparison = compare(segment, replace(made, digests=digests))
    assert not comparison.is_same
    assert [checkpoint.is_same for checkpoint in comparison.checkpoints] == [False]


def test_a_checkpoint_only_to_resume_from_need_not_be_made_again_but_the_end_must(segment: Segment) -> None:
    body = segment.end.body.model_copy(update={"step": segment.last_step - 1})
    earlier = replace(segment.end, name="sha256:" + "0" * 64, body=body)
    assert compare(replace(segment, checkpoints=(earlier, segment.end)), honest(segment)).is_same
    with pytest.raises(KeyError):
        compare(segment, replace(honest(segment), digests={}))


losses = st.floats(width=32)


@given(losses, losses, st.booleans(), st.booleans())
def test_losses_are_compared_by_their_bits(one: float, other: float, one_skipped: bool, other_skipped: bool) -> None:
    first, second = StepLoss(one, one_skipped), StepLoss(other, other_skipped)
    assert is_same_loss(first, first)
    assert is_same_loss(first, second) == is_same_loss(second, first)
    if one_skipped != other_skipped:
        assert not is_same_loss(first, second), "a step with an update is none without"
    elif not one_skipped:
        assert is_same_loss(first, second) == (one == other or (math.isnan(one) and math.isnan(other)))


def test_a_loss_that_is_not_finite_is_infinitely_far_from_one_that_is(segment: Segment) -> None:
    made = honest(segment)
    bad = {**made.losses, segment.last_step: StepLoss(math.nan, skipped=False)}
    assert compare(segment, replace(made, losses=bad)).largest_difference == math.inf


def test_what_may_decide_bits_is_named_and_host_names_are_not() -> None:
    recorded = {
        "code": {"source_digest": "sha256:a"},
        "python": "3.11.7",
        "libraries": {"torch": "2.15.0", "nccl": "2.27"},
        "world_size": 2,
        "packages": {"boto3": "1"},
        "ranks": [{"host": "a", "device": "H200", "threads": 1}, {"host": "b", "device": "H200", "threads": 1}],
    }
    here = {
        "code": {"source_digest": "sha256:a"},
        "python": "3.12.1",
        "libraries": {"torch": "2.15.0", "ray": "2.60"},
        "world_size": 1,
        "packages": {"boto3": "2"},
        "ranks": [{"host": "c", "device": "A100", "threads": 1}],
    }
    assert environment_differences(recorded, recorded | {"packages": {}}) == ()
    assert environment_differences(recorded, here) == (
        "Python: 3.11.7 recorded, 3.12.1 here",
        "nccl: 2.27 recorded, none here",
        "ranks: 2 recorded, 1 here",
        "devices: H200 recorded, A100 here",
        "ray: none recorded, 2.60 here",
    )
