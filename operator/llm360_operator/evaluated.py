"""What has been evaluated of a run, as its status remembers it; the rest is in the release.

The status holds a line per published checkpoint: 75 characters, so 360 checkpoints take 28 kB of the 1.5 MB that an
object may have. It is all that is needed to go on when the run's cluster is gone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from llm360_operator.seen import Evaluation

MAX_CHECKPOINTS, MAX_LABELS, MAX_FAILURES, MAX_SCORES = 4096, 128, 8, 256
"""As the schema bounds them. Of more checkpoints the newest are kept."""

MAX_NAME, MAX_MESSAGE, MAX_VALUE = 128, 512, 1e15

NOTHING: frozenset[str] = frozenset()

_ENTRY = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """A published checkpoint: which tasks and analyses of it are done, and which failed, by their labels."""

    step: int
    digest: str
    done: frozenset[str] = NOTHING
    failed: frozenset[str] = NOTHING

    @property
    def settled(self) -> frozenset[str]:
        """What is not to be done any more."""
        return self.done | self.failed


@dataclass(frozen=True)
class Memory:
    """What is remembered.

    Attributes:
        labels: Of all that was ever asked for, in the order of the bits.
        records: Published checkpoints by step.
        failures: Of checkpoints of which something failed, by step: reason and message.
        scores: Each task's numbers at its newest checkpoint, by task and metric.
    """

    labels: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    failures: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    scores: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    @property
    def num_evaluations(self) -> int:
        """Finished evaluations, each of one task or analysis of one checkpoint."""
        return sum(len(record.done) for record in self.records)

    def asking(self, labels: Sequence[str]) -> Memory:
        """With further labels; where they are too many, those that nobody asks for any more are forgotten."""
        known = (*self.labels, *(label for label in labels if label not in self.labels))
        if len(known) <= MAX_LABELS:
            return replace(self, labels=known)
        kept = frozenset(labels)
        records = tuple(replace(r, done=r.done & kept, failed=r.failed & kept) for r in self.records)
        return replace(self, labels=tuple(labels), records=records)

    def knowing(self, checkpoints: Sequence[Mapping[str, Any]]) -> Memory:
        """With the checkpoints that the driver lists: all that are the run's now, after a rewind others than before."""
        known = {record.digest: record for record in self.records}
        listed = sorted((int(c["step"]), str(c["entry"])) for c in checkpoints if c.get("entry"))
        records = tuple(known.get(digest) or Record(step, digest) for step, digest in listed[-MAX_CHECKPOINTS:])
        steps = {record.step for record in records if record.failed}
        return replace(self, records=records, failures={s: f for s, f in self.failures.items() if s in steps})

    def hearing(self, job: Evaluation) -> Memory:
        """With the later checkpoints that a Job's pod found in the ledger; malformed ones are left."""
        known = {record.digest for record in self.records}
        told = [c for c in job.answer.get("later") or () if isinstance(c, Mapping)]
        new = {
            str(c["entry"]): Record(c["step"], str(c["entry"]))
            for c in told
            if isinstance(c.get("step"), int) and c["step"] >= 0 and _ENTRY.fullmatch(str(c.get("entry")))
        }
        records = [*self.records, *(record for digest, record in new.items() if digest not in known)]
        records.sort(key=lambda record: record.step)
        return replace(self, records=tuple(records[-MAX_CHECKPOINTS:]))

    def without_answer(self, job: Evaluation) -> Memory:
        """With a Job that was to tell of later checkpoints and did not."""
        return replace(self, failures={**self.failures, job.step: _failure(job)})

    def trying_again(self) -> Memory:
        """Without what failed."""
        return replace(self, records=tuple(replace(r, failed=NOTHING) for r in self.records), failures={})

    def taking(self, job: Evaluation) -> Memory:
        """With what a Job came to; one that failed may have finished some of its tasks before."""
        scores = [score for score in job.answer.get("scores") or () if isinstance(score, Mapping)]
        done = job.labels
        if job.state == "Failed":
            finished = {str(score.get("task")) for score in scores}
            done = frozenset(label for label in job.labels if task_of(label) in finished)
        failed = job.labels - done
        records = tuple(
            replace(r, done=r.done | done, failed=(r.failed | failed) - done) if r.digest == job.digest else r
            for r in self.records
        )
        failures = {step: failure for step, failure in self.failures.items() if step != job.step}
        if failed:
            failures[job.step] = _failure(job)
        return replace(self, records=records, failures=failures, scores=_newer(self.scores, scores, job.step))


def _failure(job: Evaluation) -> tuple[str, str]:
    message = job.message or "it ended without a word; its pods' logs may say more"
    return (job.reason or "EvaluationFailed")[:MAX_NAME], message[:MAX_MESSAGE]


def task_of(label: str) -> str:
    """A task's name without its shots."""
    return label.partition(":")[0]


def _newer(
    known: Mapping[tuple[str, str], Mapping[str, Any]], scores: Sequence[Mapping[str, Any]], step: int
) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The known scores with those of a checkpoint, as far as that is not older; malformed ones are left."""
    found = dict(known)
    for score in scores:
        key = str(score.get("task"))[:MAX_NAME], str(score.get("metric"))[:MAX_NAME]
        value, stderr = _number(score.get("value")), _number(score.get("stderr"))
        is_new = found[key]["step"] <= step if key in found else len(found) < MAX_SCORES
        if is_new and value is not None:
            error = {} if stderr is None else {"stderr": abs(stderr)}
            found[key] = {"task": key[0], "metric": key[1], "value": value, **error, "step": step}
    return found


def _number(value: Any) -> float | None:
    """A number that is one; a pod can say anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_VALUE
    return float(value) if is_number else None


def read_memory(status: Mapping[str, Any]) -> Memory:
    """What a run's status remembers."""
    stored = status.get("evaluation") or {}
    labels = tuple(stored.get("tasks") or ())
    lines = (line.split() for line in stored.get("checkpoints") or ())
    return Memory(
        labels,
        tuple(
            Record(int(step), f"sha256:{entry}", _labels_of(done, labels), _labels_of(failed, labels))
            for step, entry, done, failed in lines
        ),
        {entry["step"]: (entry["reason"], entry["message"]) for entry in stored.get("failures") or ()},
        {(score["task"], score["metric"]): score for score in stored.get("scores") or ()},
    )


def write_memory(memory: Memory) -> dict[str, Any]:
    """The same as fields of the status."""
    newest = sorted(memory.failures.items())[-MAX_FAILURES:]
    lines = [_line(record, memory.labels) for record in memory.records]
    fields = {
        "failures": [{"step": step, "reason": reason, "message": message} for step, (reason, message) in newest],
        "scores": [memory.scores[key] for key in sorted(memory.scores)],
        "tasks": list(memory.labels),
        "checkpoints": lines,
    }
    return {name: value for name, value in fields.items() if value}


def _line(record: Record, labels: tuple[str, ...]) -> str:
    entry = record.digest.removeprefix("sha256:")
    return f"{record.step} {entry} {_bits_of(record.done, labels)} {_bits_of(record.failed, labels)}"


@lru_cache(maxsize=4096)
def _labels_of(bits: str, labels: tuple[str, ...]) -> frozenset[str]:
    number = int(bits, 16)
    return frozenset(label for bit, label in enumerate(labels) if number >> bit & 1)


@lru_cache(maxsize=4096)
def _bits_of(chosen: frozenset[str], labels: tuple[str, ...]) -> str:
    return f"{sum(1 << bit for bit, label in enumerate(labels) if label in chosen):x}"
