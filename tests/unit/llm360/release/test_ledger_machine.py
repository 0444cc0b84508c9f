"""Many writers, lost answers and crashes at every point: what must hold of the chain whatever happens.

The store fails on purpose. Of each conditional create hypothesis chooses the outcome: it answers; another writer
is faster; it took effect but the answer is lost; it never arrives; it arrives late, after the writer has given up
waiting. A writer that got no answer tries again, or crashes and is never heard of again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llm360.errors import FencedError, ObjectExistsError, StorageUnavailableError
from llm360.release.create import create_release
from llm360.release.entries import Analysis, TrainingDraft
from llm360.release.entry import Entry
from llm360.release.ledger import Ledger
from llm360.release.verify import verify
from llm360.release.writer import TrainingWriter

OUTCOMES = st.sampled_from(
    ["answered", "lost", "refused as own", "never arrived", "late", "an analysis is first", "a claim is first"]
)


def analysis(name: str) -> Analysis:
    return Analysis(name=name, prefix=f"analysis/{name}", digests={"x": "sha256:" + "0" * 64})


@dataclass
class Append:
    """One thing that a writer wants in the chain, tried until it is acknowledged."""

    call: Callable[[], Entry]
    attempt: int | None
    label: str
    acknowledged: Entry | None = None


class Faults:
    """Gives conditional creates the outcome that the machine chose last.

    Args:
        storage: A store in memory with the hook `on_create`.
    """

    def __init__(self, storage: Any) -> None:
        self.storage = storage
        self.outcome = "answered"
        self.late: list[tuple[str, bytes]] = []
        self.num_rivals = 0
        self.num_rival_claims = 0
        storage.on_create = self.create

    def rival(self, outcome: str) -> None:
        """Another writer takes the number, between this one's look at the chain and its create."""
        self.num_rivals += 1
        ledger = Ledger(self.storage)
        if outcome.startswith("a claim"):
            self.num_rival_claims += 1
            TrainingWriter(ledger).claim(world_size=1, device="cpu", operations={}, environment={})
        else:
            ledger.append(lambda _: analysis(f"rival-{self.num_rivals}"))

    def create(self, key: str, data: bytes) -> None:
        outcome, self.outcome = self.outcome, "answered"
        if outcome.endswith("is first"):
            self.rival(outcome)
        if outcome in ("never arrived", "late"):
            if outcome == "late":
                self.late.append((key, data))
            raise StorageUnavailableError(f"no answer for {key}")
        self.storage.create_now(key, data)
        if outcome == "lost":
            raise StorageUnavailableError(f"no answer for {key}")
        if outcome == "refused as own":
            # The client's own retry: the first request took effect, the second finds the key taken.
            raise ObjectExistsError(key)

    def deliver_late(self) -> None:
        """Requests still on their way arrive, now."""
        for key, data in self.late:
            self.storage.objects.setdefault(key, data)
        self.late.clear()


class LedgerMachine(RuleBasedStateMachine):
    """Training attempts and analyses append side by side."""

    writers: Bundle[TrainingWriter] = Bundle("writers")
    pending: Bundle[Append] = Bundle("pending")

    def __init__(self, new_memory: Callable[[], Any]) -> None:
        super().__init__()
        self.storage = new_memory()
        create_release(self.storage, {"run": 1})
        self.faults = Faults(self.storage)
        self.acknowledged: list[Append] = []
        self.count = 0
        self.claimants: set[int] = set()

    def attempt_append(self, append: Append, outcome: str) -> Any:
        """Try once; what is not acknowledged stays pending."""
        self.faults.outcome = outcome
        try:
            append.acknowledged = append.call()
        except StorageUnavailableError:
            return append
        except FencedError:
            assert append.attempt is not None
            assert append.attempt < self.newest_attempt()
            return multiple()
        finally:
            self.faults.outcome = "answered"
        self.acknowledged.append(append)
        return multiple()

    def newest_attempt(self) -> int:
        return Ledger(self.storage).history().attempt

    @rule(target=writers)
    def start(self) -> TrainingWriter:
        """A driver on another machine: its own ledger, nothing claimed yet."""
        return TrainingWriter(Ledger(self.storage))

    @rule(target=pending, writer=writers, outcome=OUTCOMES)
    def claim(self, writer: TrainingWriter, outcome: str) -> Any:
        def call() -> Entry:
            number = writer.claim(world_size=1, device="cpu", operations={}, environment={})
            claims = [e for e in Ledger(self.storage).entries() if e.kind == "attempt" and e.body.attempt == number]
            assert len(claims) == 1
            return claims[0]

        if writer._claim is not None:
            return multiple()
        self.claimants.add(id(writer))
        return self.attempt_append(Append(call, 0, "claim"), outcome)

    @rule(target=pending, writer=writers, outcome=OUTCOMES)
    def train(self, writer: TrainingWriter, outcome: str) -> Any:
        if writer._claim is None:
            return multiple()
        self.count += 1
        reason = f"skip {self.count}"
        call = lambda: writer.skip(0, 0, 0, [0], reason)  # noqa: E731
        return self.attempt_append(Append(call, writer.attempt, reason), outcome)

    @rule(target=pending, outcome=OUTCOMES)
    def analyse(self, outcome: str) -> Any:
        self.count += 1
        name = f"analysis-{self.count}"
        ledger, uid = Ledger(self.storage), f"{self.count:032x}"
        call = lambda: ledger.append(lambda _: analysis(name), uid=uid)  # noqa: E731
        return self.attempt_append(Append(call, None, name), outcome)

    @rule(target=pending, append=consumes(pending), outcome=OUTCOMES)
    def try_again(self, append: Append, outcome: str) -> Any:
        return self.attempt_append(append, outcome)

    @rule(append=consumes(pending))
    def crash(self, append: Append) -> None:
        """Its writer is never heard of again; the entry may be in the chain or not."""

    @precondition(lambda self: self.faults.late)
    @rule()
    def late_requests_arrive(self) -> None:
        self.faults.deliver_late()

    @rule(writer=writers)
    def look(self, writer: TrainingWriter) -> None:
        """A writer learns of a newer claim as soon as it looks, and only then."""
        if writer._claim is None:
            return
        newest = self.newest_attempt()
        if newest == writer.attempt:
            writer.check_fenced()
            return
        with pytest.raises(FencedError, match=f"attempt {newest} has claimed"):
            writer.check_fenced()

    @invariant()
    def chain_is_valid(self) -> None:
        report = verify(self.storage, workers=1)
        assert report.checks[1].status == report.checks[3].status == "ok", report.first_fault

    @invariant()
    def no_acknowledged_entry_is_lost(self) -> None:
        names = [entry.name for entry in Ledger(self.storage).entries()]
        for append in self.acknowledged:
            assert append.acknowledged is not None
            assert names.count(append.acknowledged.name) == 1

    @invariant()
    def each_append_takes_effect_at_most_once(self) -> None:
        entries = Ledger(self.storage).entries()
        labels = [entry.body.reason if entry.kind == "skip" else entry.body.name
                  for entry in entries if entry.kind in ("skip", "analysis")]  # fmt: skip
        assert len(labels) == len(set(labels))
        attempts = [entry.body.attempt for entry in entries if entry.kind == "attempt"]
        assert attempts == list(range(1, len(attempts) + 1))
        assert len(attempts) <= len(self.claimants) + self.faults.num_rival_claims

    @invariant()
    def no_older_attempt_writes_after_a_newer_claim(self) -> None:
        newest = 0
        for entry in Ledger(self.storage).entries():
            if isinstance(entry.body, TrainingDraft):
                assert entry.body.attempt >= newest
                newest = entry.body.attempt


@pytest.mark.slow
def test_ledger_machine(new_memory):
    run_state_machine_as_test(
        partial(LedgerMachine, new_memory),
        settings=settings(max_examples=60, stateful_step_count=40),
    )
