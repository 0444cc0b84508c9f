"""Facts from chains: what is valid, what was given up, where training goes on."""

from __future__ import annotations

import time

import pytest

from llm360.release.entries import Attempt, Checkpoint, Fallback, Metrics, Prune, Rewind, Skip
from llm360.release.entry import Entry
from llm360.release.history import History

DIGEST = "sha256:" + "0" * 64


class Chain:
    """Makes entries one after the other."""

    def __init__(self) -> None:
        self.history = History()
        self.entries: list[Entry] = []

    def add(self, body) -> Entry:
        seq = len(self.entries)
        prev = self.entries[-1].name if self.entries else None
        entry = Entry(seq, prev, f"{seq:032x}", "2026-01-01T00:00:00.000000Z", body)
        self.entries.append(entry)
        self.history.apply(entry)
        return entry

    def attempt(self):
        point = self.history.resume_point()
        return self.add(
            Attempt.model_construct(
                attempt=self.history.attempt + 1,
                step=point.step,
                tokens=0,
                checkpoint=point.name,
                world_size=1,
                device="cpu",
                operations={},
            )
        )

    def metrics(self, first, last):
        return self.add(
            Metrics.model_construct(
                attempt=self.history.attempt, step=last, tokens=0, first_step=first, key="k", bytes=1, digests=None
            )
        )

    def checkpoint(self, step, published=True):
        return self.add(
            Checkpoint.model_construct(
                attempt=self.history.attempt, step=step, tokens=step, labels=(), published=published, prefix="p"
            )
        )

    def steps(self):
        return [(known.step, known.body.attempt) for known in self.history.branch]

    def segments(self):
        return [(s.first_step, s.last_step, s.body.attempt) for s in self.history.branch_segments(0, 10**9)]


@pytest.fixture
def chain(monkeypatch) -> Chain:
    # Bodies here are only as complete as the history needs them, so their names need not be digests of bytes.
    monkeypatch.setattr(Entry, "name", property(lambda entry: f"entry-{entry.seq}"))
    return Chain()


def test_nothing_yet(chain):
    history = chain.history
    assert (history.head, history.attempt, history.latest_checkpoint, history.complete) == (None, 0, None, None)
    assert (history.resume_point().step, history.resume_point().name) == (0, None)


def test_restart_takes_back_what_came_after_its_checkpoint(chain):
    chain.attempt()
    chain.metrics(1, 5)
    chain.checkpoint(5)
    chain.metrics(6, 9)
    chain.attempt()
    assert chain.segments() == [(1, 5, 1)]
    chain.metrics(6, 7)
    assert chain.segments() == [(1, 5, 1), (6, 7, 2)]
    assert chain.history.covers(1, 7)
    assert not chain.history.covers(1, 8)


def test_segment_across_a_checkpoint_is_cut_there(chain):
    chain.attempt()
    chain.metrics(1, 8)
    chain.checkpoint(5)
    chain.attempt()
    assert chain.segments() == [(1, 5, 1)]
    assert [s.first_step for s in chain.history.branch_segments(5, 6)] == [1]


def test_rewind_and_fallback_give_up_checkpoints(chain):
    chain.attempt()
    first, second, third = (chain.checkpoint(step) for step in (2, 4, 6))
    chain.add(Rewind.model_construct(attempt=1, step=4, tokens=4, from_step=7, checkpoint=second.name, reason="x"))
    assert chain.steps() == [(2, 1), (4, 1)]
    chain.add(
        Fallback.model_construct(attempt=1, step=2, tokens=2, refused=(second.name,), checkpoint=first.name, reason="x")
    )
    assert chain.steps() == [(2, 1)]
    chain.checkpoint(4)
    assert chain.steps() == [(2, 1), (4, 1)]
    assert set(chain.history.all_checkpoints) >= {second.name, third.name}
    assert not chain.history.is_on_branch(second.name)


def test_fallback_to_the_untrained_model(chain):
    chain.attempt()
    only = chain.checkpoint(4)
    chain.add(Fallback.model_construct(attempt=1, step=0, tokens=0, refused=(only.name,), checkpoint=None, reason="x"))
    assert chain.history.resume_point().checkpoint is None


def test_attempts_since_checkpoint(chain):
    counts = []
    for act in (chain.attempt, chain.attempt, lambda: chain.checkpoint(2), chain.attempt):
        act()
        counts.append(chain.history.attempts_since_checkpoint)
    assert counts == [1, 2, 0, 1]


def test_pruned_state_is_not_resumed_from(chain):
    chain.attempt()
    chain.checkpoint(2)
    last = chain.checkpoint(4)
    chain.add(Prune.model_construct(step=4, checkpoint=last.name, parts=("model",), reason="x"))
    assert chain.history.resume_point().step == 4
    chain.add(Prune.model_construct(step=4, checkpoint=last.name, parts=("state",), reason="x"))
    assert chain.history.resume_point().step == 2
    assert chain.history.pruned_parts(last.name) == {"model", "state"}
    assert chain.history.latest_checkpoint.step == 4


def test_skips_by_stage(chain):
    chain.add(Skip.model_construct(attempt=1, step=3, tokens=0, stage=0, steps=(3, 4), reason="x"))
    chain.add(Skip.model_construct(attempt=1, step=9, tokens=0, stage=1, steps=(0,), reason="x"))
    assert chain.history.skipped_steps(0) == {3, 4}
    assert chain.history.skipped_steps(1) == {0}


def test_copy_is_a_snapshot(chain):
    chain.attempt()
    chain.metrics(1, 2)
    chain.checkpoint(2)
    copy = chain.history.copy()
    chain.attempt()
    chain.add(Rewind.model_construct(attempt=2, step=0, tokens=0, from_step=2, checkpoint=None, reason="x"))
    assert [known.step for known in copy.branch] == [2]
    assert len(copy.branch_segments(1, 2)) == 1
    assert len(copy.entries) == 3


def test_long_chains_take_linear_time(chain):
    """A year of segments every five minutes."""
    started = time.process_time()
    chain.attempt()
    for step in range(1, 100_000):
        chain.metrics(step, step)
    assert chain.history.covers(1, 99_999)
    assert time.process_time() - started < 30
