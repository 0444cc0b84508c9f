from __future__ import annotations

import pytest

from llm360.release.history import History
from llm360.report.tables import attempt_rows, checkpoint_rows, event_rows


@pytest.fixture
def history(eventful) -> History:
    return History.from_entries(eventful.entries)


def test_checkpoints_name_the_chunk_and_rows_that_made_them(history):
    rows = checkpoint_rows(history, {50: 4.25})

    assert [row.label for row in rows[:4]] == ["init", "ckpt_000", "ckpt_001", "ckpt_001"]
    assert (rows[0].chunk, rows[0].rows, rows[0].num_rows) == ("", "", 0)
    assert (rows[1].chunk, rows[1].rows, rows[1].num_rows, rows[1].loss) == ("0", "chunk 0: 0–799", 800, 4.25)
    assert rows[-1].model_digest == history.branch[-1].body.digests.model
    assert rows[-1].entry == history.branch[-1].name


def test_checkpoints_say_what_became_of_them(history):
    rows = checkpoint_rows(history, {})

    assert [(row.label, row.attempt, row.status) for row in rows if row.status] == [
        ("ckpt_000", 1, "state pruned"),
        ("ckpt_001", 1, "given up"),
    ]


def test_attempts_say_where_they_began_and_what_was_made_again(history):
    rows = attempt_rows(history)

    assert [(r.attempt, r.resumed, r.step, r.reached, r.again, r.checkpoints) for r in rows] == [
        (1, "the start", 0, 130, 80, 3),
        (2, "ckpt_000", 50, 175, 25, 2),
        (3, "ckpt_002", 150, 400, 0, 5),
    ]
    assert [row.outcome for row in rows] == [
        "ended; the next one went on",
        "went back: the loss is NaN",
        "completed the run",
    ]
    assert rows[0].environment.startswith("sha256:")
    assert rows[0].workers == "2 × cpu"


def test_events_are_sentences_in_the_ledgers_order(history):
    events = event_rows(history)

    assert [event.kind for event in events] == ["stage", "fallback", "skip", "rewind", "complete", "prune", "eval"]
    assert events[1].text == (
        "ckpt_001 refused, fell back to ckpt_000: state/w.safetensors has another digest than its manifest names"
    )
    assert events[2].text == "step 174 of stage 0 passed over without an update: the loss is NaN"
    assert events[3].text == "went back from step 175 to ckpt_002 (step 150): the loss is NaN"
