"""What the status remembers of evaluations, written and read back."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.spec.crd import crd
from llm360_operator.evaluated import Memory, Record, read_memory, write_memory
from llm360_operator.seen import Evaluation

LABELS = ("arc:25", "hella", "analysis/memorization")
DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: f"sha256:{number:064x}")
SOME = st.frozensets(st.sampled_from(LABELS))
RECORDS = st.builds(Record, st.integers(0, 10**9), DIGESTS, SOME, SOME)
MEMORIES = st.builds(
    Memory,
    st.just(LABELS),
    st.lists(RECORDS, max_size=5).map(tuple),
    st.dictionaries(st.integers(0, 10**9), st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=8),
)


SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["evaluation"]


@settings(max_examples=50)
@given(memory=MEMORIES)
def test_what_is_written_is_read_back_and_fits_the_schema(memory):
    fields = json.loads(json.dumps(write_memory(memory)))
    assert read_memory({"evaluation": fields}) == memory
    assert set(fields) <= set(SCHEMA["properties"])
    for line in fields.get("checkpoints", ()):
        assert re.fullmatch(SCHEMA["properties"]["checkpoints"]["items"]["pattern"], line)


def test_nothing_is_nothing():
    assert read_memory({}) == Memory()
    assert write_memory(Memory()) == {}


def test_the_newest_checkpoints_are_kept_where_there_are_too_many():
    entries = [{"step": step, "entry": f"sha256:{step:064x}"} for step in range(5000)]
    steps = [record.step for record in Memory().knowing(entries).records]
    assert steps == list(range(904, 5000))


def test_what_nobody_asks_for_any_more_is_forgotten_where_there_is_too_much():
    digest = f"sha256:{1:064x}"
    memory = Memory(("old", "kept"), (Record(7, digest, frozenset({"old", "kept"})),))
    more = ("kept", *(f"task{number}" for number in range(79)))
    assert memory.asking(more).labels == ("old", *more)
    many = memory.asking([f"other{number}" for number in range(60)]).asking(more)
    assert many.labels == more
    assert many.records == (Record(7, digest, frozenset({"kept"})),)


def job(step, *scores, state="Succeeded"):
    return Evaluation(f"j-{step}", step, f"sha256:{step:064x}", frozenset({"arc"}), 1, state, {"scores": list(scores)})


def test_the_scores_are_those_of_the_newest_checkpoint_whatever_ends_last():
    memory = Memory(("arc",), tuple(Record(step, f"sha256:{step:064x}") for step in (1, 2, 3)))
    for step in (2, 3, 1):
        memory = memory.taking(job(step, {"task": "arc", "metric": "acc", "value": step / 10, "stderr": 0.01}))
    (score,) = memory.scores.values()
    assert score == {"task": "arc", "metric": "acc", "value": 0.3, "stderr": 0.01, "step": 3}
    assert memory.num_evaluations == 3


@pytest.mark.parametrize(
    "score",
    [
        None, "acc", [], {}, {"task": "arc", "metric": "acc", "value": "0.5"},
        {"task": "arc", "metric": "acc", "value": float("nan")}, {"task": "arc", "metric": "acc", "value": True},
    ],
)  # fmt: skip
def test_a_pod_can_say_anything_and_only_numbers_are_taken(score):
    memory = Memory(("arc",), (Record(1, f"sha256:{1:064x}"),)).taking(job(1, score))
    assert memory.scores == {}
    assert memory.records[0].done == {"arc"}
