"""What a driver says, as a person reads it."""

from datetime import UTC, datetime

from llm360_operator.progress import driver_progress, progress_text

NOW = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC)


def test_fields_are_taken_rounded_and_counted():
    driver = {
        "configDigest": "sha256:1",
        "step": 2,
        "loss": 8.342894217406865,
        "tokensPerSecond": 1528.0467670816965,
        "mfu": None,
        "checkpoints": [{"step": 0, "labels": ["init"], "modelDigest": "sha256:2", "more": 1}],
        "estimatedSecondsLeft": 95.0,
    }
    assert driver_progress(driver, "sha256:1", NOW) == {
        "step": 2,
        "loss": 8.3429,
        "tokensPerSecond": 1528.0,
        "checkpoints": 1,
        "latestCheckpoint": {"step": 0, "labels": ["init"], "modelDigest": "sha256:2"},
        "failedAtStep": 0,
        "estimatedCompletion": "2026-11-22T12:02:00Z",
    }


def test_silence_and_strangers_say_nothing():
    assert driver_progress(None, "sha256:1", NOW) == {}
    assert driver_progress({"configDigest": "sha256:2", "step": 9}, "sha256:1", NOW) == {}


def test_words_for_a_person():
    assert progress_text({}) == "at its start"
    status = {"step": 1200, "totalSteps": 274320, "loss": 3.25, "tokensPerSecond": 13000.4}
    assert progress_text(status) == "step 1,200 of 274,320, loss 3.2500, 13,000 tokens/s"
