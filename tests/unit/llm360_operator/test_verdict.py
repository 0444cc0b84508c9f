"""From a verdict to conditions."""

from datetime import UTC, datetime, timedelta

from llm360_operator.verdict import Verdict, condition, is_warning

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def conditions(verdict, before=(), now=NOW):
    return verdict.conditions(list(before), 3, now)


def test_all_four_are_always_there_with_reason_sentence_and_generation():
    found = conditions(Verdict("Training", "Training", "step 3 of 9"))
    assert [entry["type"] for entry in found] == ["Ready", "Progressing", "Suspended", "Succeeded"]
    assert [entry["reason"] for entry in found] == ["Training", "Training", "NotSuspended", "NotFinished"]
    assert {entry["observedGeneration"] for entry in found} == {3}


def test_a_transition_is_when_the_status_changed_not_when_the_sentence_did():
    first = conditions(Verdict("Starting", "WaitsForPods", "1 of 2"))
    later = conditions(Verdict("Training", "Training", "step 1"), first, NOW + timedelta(hours=1))
    times = {entry["type"]: entry["lastTransitionTime"] for entry in later}
    assert times["Ready"] == "2026-11-22T13:00:00Z"
    assert times["Progressing"] == times["Suspended"] == times["Succeeded"] == "2026-11-22T12:00:00Z"


def test_what_is_wrong_with_the_object_of_a_run_that_is_over_does_not_hide_how_it_ended():
    found = conditions(Verdict("Failed", "Fenced", "another driver", problem=("InvalidSpec", "no such preset")))
    assert [entry["reason"] for entry in found] == ["InvalidSpec", "Fenced", "NotSuspended", "Fenced"]
    assert [entry["status"] for entry in found] == ["False", "False", "False", "False"]


def test_words_fit_the_schema():
    found = conditions(Verdict("Failed", "R" * 500, "m" * 9000))
    assert max(len(entry["reason"]) for entry in found) == 128
    assert max(len(entry["message"]) for entry in found) == 4096


def test_bad_news_is_a_warning():
    def is_bad(*words, **flags):
        return is_warning({"phase": words[0], "conditions": conditions(Verdict(*words, "why", **flags))})

    assert is_bad("Failed", "DataMissing")
    assert is_bad("Starting", "ImagePullFailed", is_stuck=True)
    assert is_bad("Training", "InvalidSpec", is_invalid=True)
    assert is_bad("Recovering", "PodsLost")
    assert not is_bad("Recovering", "JobSubmitted")
    assert not is_bad("Training", "DriverUnreachable", is_silent=True)
    assert not any(is_bad(phase, "X") for phase in ("Pending", "Queued", "Suspended", "Succeeded"))


def test_a_condition_that_is_not_there_is_nothing():
    assert condition({}, "Ready") == {}
