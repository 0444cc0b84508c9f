"""A release that says what it is: words of its makers in every attempt, and a whole configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm360.canonical import canonical_json, sha256_digest
from llm360.release.entries import Attempt, EntryDraft, Genesis
from llm360.release.entry import Entry
from llm360.release.layout import config_key
from llm360.spec import load_run
from llm360.storage import Storage
from synthetic.release import SyntheticRelease


@dataclass
class DescribedRelease(SyntheticRelease):
    """`words` is what `spec.release` says; it may change from attempt to attempt."""

    words: dict[str, object] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    def begin(self) -> None:
        fitting = ("training.batchSize=16", "training.sequenceLength=128")
        run = load_run("amber-tiny", [*fitting, *self.overrides], store=self.storage.uri)
        data = canonical_json(run.identity())
        self.config = sha256_digest(data)
        self.storage.put(config_key(self.config), data)
        self.append(Genesis(digests={"config": self.config}))

    def append(self, body: EntryDraft) -> Entry:
        if isinstance(body, Attempt):
            body = body.model_copy(update={"operations": {"release": self.words}})
        return super().append(body)


def described_release(storage: Storage, words: dict[str, object], *overrides: str) -> DescribedRelease:
    """A run of two chunks that has not ended."""
    run = DescribedRelease(storage, words=words, overrides=overrides, num_chunks=3, chunk_steps=10)
    run.begin()
    run.claim()
    run.pin_stage()
    init = run.checkpoint("init", None, [])
    run.chunk(1, run.chunk(0, init))
    return run
