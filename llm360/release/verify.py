"""Verification of a release: every link from the first entry to the last byte.

The checks, in the order of the links:

     1. The chain can be read: every entry canonical, numbered, linked to the one before.
     2. The configuration has the digest that genesis names and describes the stages that were trained.
     3. Attempts count up, resume where the chain says, and only the newest writes.
     4. Checkpoints, stages and what refers to them fit: steps, tokens, folders, labels, the line of checkpoints.
        A complete run has published those that its configuration asks for.
     5. The rows read since each checkpoint's forerunner are those of the order's formula, without hole or overlap.
     6. Metrics segments have their digests and hold one record of every step.
     7. Manifests have their digests, agree with their entries, and their tensors give model and state digest.
     8. Every file has its size and sha256, every safetensors file the tensors that its manifest lists.
     9. Data manifests have their digests; with `data`, every shard too.
    10. Environments, evaluations and analyses have their digests, and evaluations the scores in their results.
    11. The chain ends with the run's completion, and holds the head that the caller knows.

Parts that a prune entry gave up are not expected, and checkpoints that a fallback entry passed over are known
to be damaged; both are counted, not read. Nothing is parsed before its digest is checked.

**Two digests of the same bytes.** A file's sha256 binds all its bytes to the ledger. A tensor's sha256 is what
model and state digest, the claim about *bits*, are made of; checking it hashes the same bytes again and halves
the speed. So files are always hashed where bytes are asked for, and tensors by their own option: `latest`
(the default) for the checkpoint that people use, `all` for an audit of every claim.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from llm360.data.verify import verify_data
from llm360.errors import InputError, IntegrityError, StoreUnusableError
from llm360.release import byte_checks, chain_checks
from llm360.release.byte_checks import Fault, guarded, without_key
from llm360.release.checkpoint import TENSORS_SUFFIX, CheckpointManifest, FileRecord, TensorRecord
from llm360.release.config_checks import compare_schedule, tokenizer_digest
from llm360.release.entries import Analysis, Checkpoint, Complete, Eval, Metrics, Stage
from llm360.release.entry import Entry
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import environment_key, ledger_key, manifest_key
from llm360.release.ledger import Ledger, check_link, entry_beyond, entry_exists, find_head, read_entry
from llm360.release.scores import RESULTS_NAME
from llm360.release.verify_report import Check, VerifyReport
from llm360.storage.base import Storage
from llm360.storage.open import open_storage, without_credentials

Extent = Literal["all", "latest", "none"]

_PROBED_BEYOND = 8
"""Numbers behind the head that are asked for where the store cannot list."""


class Progress(NamedTuple):
    """How far a verification is."""

    check: int
    done_bytes: int
    total_bytes: int


def verify(
    storage: Storage,
    *,
    bytes: Extent = "all",  # noqa: A002  (the option's name)
    tensors: Extent = "latest",
    data: bool = False,
    expected_head: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    workers: int | None = None,
) -> VerifyReport:
    """Check a release.

    Args:
        storage: Rooted at the release; a folder, S3 or plain HTTP.
        bytes: Whose files to read: of all checkpoints, of the latest, of none.
        tensors: Whose tensors to hash as well, among the files that are read.
        data: Whether to check the data's shards too.
        expected_head: Name of an entry that the caller knows from elsewhere; it must be in the chain.
        progress: Called from several threads, one at a time.
        workers: Files under way at a time; the cores this process may use where not given.

    Raises:
        InputError: there is no release.
        StorageUnavailableError: the store gave no answer, so nothing can be said.
    """
    workers = workers or len(os.sched_getaffinity(0))
    return _Verification(storage, bytes, tensors, data, expected_head, progress, workers).run()


class _Verification:
    def __init__(
        self,
        storage: Storage,
        extent: Extent,
        tensors: Extent,
        data: bool,
        expected_head: str | None,
        progress: Callable[[Progress], None] | None,
        workers: int,
    ) -> None:
        self.storage = storage
        self.extent = extent
        self.tensors = tensors
        self.data = data
        self.expected_head = expected_head
        self.progress = progress
        self.workers = workers
        self.report = VerifyReport(storage.uri)
        self.entries: list[Entry] = []
        self.history = History()
        self.manifests: dict[str, CheckpointManifest] = {}
        self.can_list = True
        self.config: Any = None
        self._lock = threading.Lock()
        self._total_bytes = 0

    def run(self) -> VerifyReport:
        """All checks, in order."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="llm360-verify") as pool:
            self.pool = pool
            self._tell(1)
            # 1. The chain. What follows stands on it, so nothing else is checked where it is broken.
            if not self._check_chain(self._begin(1)):
                return self.report
            self.history = History.from_entries(self.entries)
            self.report.complete = self.history.complete is not None
            # 2. The configuration.
            self._check_config(self._begin(2))
            # 3.–6. What holds between entries.
            self._check_links()
            # 6. The segments' bytes.
            self._check_segments(self.report.checks[6])
            # 7. Manifests.
            self._check_manifests(self._begin(7))
            # 8. Files and tensors.
            self._check_files(self._begin(8))
            # 9. Data.
            self._check_data(self._begin(9))
            # 10. Whatever else the ledger names.
            self._check_others(self._begin(10))
            # 11. The head.
            self._check_head(self._begin(11))
        return self.report

    # -- 1 -------------------------------------------------------------------------------------------------

    def _check_chain(self, check: Check) -> bool:
        stop = find_head(self.storage) + 1
        if stop == 0:
            if self._beyond(-1):
                check.faults.append(Fault(ledger_key(0), "is missing although later entries are there"))
                return False
            raise InputError(
                f"there is no release at {self.storage.uri}: {ledger_key(0)} does not exist;"
                " give the folder or URI that a run was started with",
                reason="ReleaseMissing",
            )
        uids: set[str] = set()
        for seq, result in enumerate(self._map(self._read_entry, range(stop))):
            check.checked += 1
            if isinstance(result, str):
                check.faults.append(Fault(ledger_key(seq), result))
                return False
            problem = check_link(result, self.entries[-1] if self.entries else None)
            if problem or result.uid in uids:
                check.faults.append(Fault(ledger_key(seq), problem or f"repeats the uid {result.uid}"))
                return False
            uids.add(result.uid)
            self.entries.append(result)
            self.report.head, self.report.entries = result.name, seq + 1
        beyond = self._beyond(stop - 1)
        if beyond:
            check.faults.append(Fault(ledger_key(stop), f"is missing although {beyond} is there"))
        return not beyond

    def _read_entry(self, seq: int) -> Entry | str:
        try:
            return read_entry(self.storage, seq)
        except IntegrityError as error:
            return without_key(error.message, ledger_key(seq))

    def _beyond(self, head: int) -> str | None:
        """The key of an entry after a hole behind the head: any where the store can list, else one close by."""
        try:
            return entry_beyond(self.storage, head)
        except StoreUnusableError:  # plain HTTP
            self.can_list = False
        near = range(head + 2, head + 2 + _PROBED_BEYOND)
        found = next((seq for seq in near if entry_exists(self.storage, seq)), None)
        # Runs go on meanwhile: what was appended since the head was found leaves no hole.
        return None if found is None or entry_exists(self.storage, head + 1) else ledger_key(found)

    # -- 2 to 6 --------------------------------------------------------------------------------------------

    def _check_config(self, check: Check) -> None:
        check.checked = 1
        config, faults = byte_checks.check_config(self.storage, self.history)
        check.faults += faults
        self.config = config

    def _check_links(self) -> None:
        rules = (
            (self._begin(3), chain_checks.check_attempt),
            (self._begin(4), chain_checks.check_position),
            (self._begin(5), chain_checks.check_data),
            (self._begin(6), chain_checks.check_metrics),
        )
        before = History()
        for entry in self.entries:
            for check, rule in rules:
                check.checked += 1
                check.faults += [Fault(entry.key, problem) for problem in rule(before, entry)]
            before.apply(entry)
            if isinstance(entry.body, Complete):
                place = self.report.checks[4]
                place.faults += guarded(entry.key, lambda: compare_schedule(self.config, before))

    def _check_segments(self, check: Check) -> None:
        bodies = [entry.body for entry in self.entries if isinstance(entry.body, Metrics)]
        stages = self.history.stages
        check.checked = len(bodies)
        for faults in self._map(
            lambda body: guarded(body.key, lambda: byte_checks.check_segment(self.storage, body, stages)), bodies
        ):
            check.faults += faults

    # -- 7 and 8 -------------------------------------------------------------------------------------------

    def _check_manifests(self, check: Check) -> None:
        refused = self.history.refused
        checkpoints = [known for known in self.history.all_checkpoints.values() if known.name not in refused]
        if refused:
            check.note = f"{len(refused)} passed over by a fallback entry"
        check.checked = len(checkpoints)
        for checkpoint, (manifest, faults) in zip(
            checkpoints, self._map(self._check_manifest, [known.body for known in checkpoints]), strict=True
        ):
            check.faults += faults
            if manifest is not None:
                self.manifests[checkpoint.name] = manifest

    def _check_manifest(self, body: Checkpoint) -> tuple[CheckpointManifest | None, list[Fault]]:
        manifest, faults = byte_checks.check_manifest(self.storage, body)
        if manifest is not None and self.can_list:
            faults += byte_checks.check_no_others(self.storage, manifest)
        return manifest, faults

    def _check_files(self, check: Check) -> None:
        if self.extent == "none":
            check.ran = False
            check.note = "left out by --bytes none"
            return
        jobs = list(self._file_jobs())
        check.checked = len(jobs)
        self._total_bytes = sum(job.record.bytes for job in jobs if job.read)
        pruned = sum(bool(parts) for parts in self.history.pruned.values())
        unread = sum(not job.read for job in jobs)
        check.note = "; ".join(
            part
            for part, count in (
                (f"checkpoints with pruned parts: {pruned}", pruned),
                (f"{unread} files of older checkpoints by size only", unread),
            )
            if count
        )
        found = [(job, faults) for job, faults in zip(jobs, self._map(self._check_file, jobs), strict=True) if faults]
        if found:
            # What a prune entry appended since the chain was read explains is no fault: runs go on meanwhile.
            now = Ledger(self.storage).history()
            check.faults += [
                fault for job, faults in found if job.part not in now.pruned_parts(job.checkpoint) for fault in faults
            ]

    def _file_jobs(self) -> Iterator[_FileJob]:
        latest = self._latest()
        for name, manifest in self.manifests.items():
            gone = self.history.pruned_parts(name)
            read = self.extent == "all" or name == latest
            with_tensors = self.tensors == "all" or (self.tensors == "latest" and name == latest)
            by_file: dict[str, list[TensorRecord]] = {}
            for tensor in (*manifest.model, *manifest.state):
                by_file.setdefault(tensor.file, []).append(tensor)
            for record in manifest.files:
                if part_of(record) in gone:
                    continue
                is_tensors = record.key.endswith(TENSORS_SUFFIX)
                tensors = tuple(by_file.get(record.key, ())) if with_tensors and is_tensors else None
                yield _FileJob(f"{manifest.prefix}/{record.key}", record, tensors, read, name)

    def _latest(self) -> str | None:
        latest: CheckpointEntry | None = self.history.latest_checkpoint
        return latest.name if latest else None

    def _check_file(self, job: _FileJob) -> list[Fault]:
        if not job.read:
            return guarded(job.key, lambda: byte_checks.check_size(self.storage, job.key, job.record))
        return guarded(
            job.key,
            lambda: byte_checks.check_file(self.storage, job.key, job.record, job.tensors, self._advance),
        )

    # -- 9 to 11 -------------------------------------------------------------------------------------------

    def _check_data(self, check: Check) -> None:
        wanted = tokenizer_digest(self.config)
        for stage in self.history.stages:
            inside = "://" not in stage.data
            if not inside and not self.data:
                check.note = f"data outside the release ({without_credentials(stage.data)}) is checked with --data"
                continue
            check.checked += 1
            key = manifest_key(without_credentials(stage.data))
            store, name = (
                (self.storage, key) if inside else (open_storage(stage.data, self.storage.options), "manifest.json")
            )
            faults = guarded(key, lambda s=store, n=name, b=stage: byte_checks.check_data_manifest(s, n, b, wanted))  # type: ignore[misc]
            check.faults += faults
            if self.data and not faults:
                check.faults += self._check_shards(self.storage.at(stage.data) if inside else store, stage)
        if not self.data and check.checked:
            check.note = check.note or "shards are checked with --data"

    def _check_shards(self, store: Storage, stage: Stage) -> list[Fault]:
        return guarded(without_credentials(stage.data), lambda: iter(verify_data(store).problems))

    def _check_others(self, check: Check) -> None:
        named: dict[tuple[str, str], None] = {}  # a set in the chain's order
        for entry in self.entries:
            match entry.body:
                case Metrics() | Checkpoint() as body:
                    named[environment_key(body.attempt), body.digests.environment] = None
                case Eval() | Analysis() as body:
                    named |= {(f"{body.prefix}/{key}", digest): None for key, digest in body.digests.items()}
        check.checked = len(named)
        for faults in self._map(
            lambda item: guarded(item[0], lambda: byte_checks.check_bytes(self.storage, *item)), list(named)
        ):
            check.faults += faults
        broken = {fault.key for fault in check.faults}  # said once
        for faults in self._map(self._check_scores, self.history.evals):
            check.faults += [fault for fault in faults if fault.key not in broken]

    def _check_scores(self, body: Eval) -> list[Fault]:
        return guarded(f"{body.prefix}/{RESULTS_NAME}", lambda: byte_checks.check_scores(self.storage, body))

    def _check_head(self, check: Check) -> None:
        check.checked = 1
        names = [entry.name for entry in self.entries]
        check.note = self.report.state
        if self.expected_head is None:
            return
        if self.expected_head not in names:
            check.faults.append(
                Fault(
                    ledger_key(len(names) - 1),
                    f"is the head, {names[-1]}; the entry {self.expected_head} is not in the chain:"
                    " its tail was cut off, or another chain was put in its place",
                )
            )
        elif names[-1] != self.expected_head:
            check.note += f"; {len(names) - 1 - names.index(self.expected_head)} entries after the head given"

    # -- how -----------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> Check:
        check = self.report.checks[number]
        check.ran = True
        self._tell(number)
        return check

    def _map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the items, several at a time."""
        return self.pool.map(function, items)

    def _advance(self, count: int) -> None:
        with self._lock:
            self.report.bytes_hashed += count
            if self.progress:
                self.progress(Progress(8, self.report.bytes_hashed, self._total_bytes))

    def _tell(self, number: int) -> None:
        if self.progress:
            self.progress(Progress(number, 0, 0))


class _FileJob(NamedTuple):
    key: str
    record: FileRecord
    tensors: tuple[TensorRecord, ...] | None
    read: bool
    checkpoint: str

    @property
    def part(self) -> str:
        """`model` or `state`."""
        return part_of(self.record)


def part_of(record: FileRecord) -> str:
    """The part of a checkpoint that a file belongs to: `model` or `state`."""
    return record.key.split("/")[0]
