"""The part of `verify` that reads files: checks 2 and 6 to 10. Each function answers for one file or folder.

A function returns the faults it found, as sentences. Files that are missing, that cannot be read or whose
bytes differ are faults; a store that gives no answer is not, it raises `StorageUnavailableError`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from llm360.canonical import DIGEST_PREFIX, canonical_json, sha256_digest
from llm360.data.manifest import parse_manifest
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError, StorageError, StorageUnavailableError
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord, load_checkpoint_manifest
from llm360.release.config_checks import compare_config
from llm360.release.entries import Checkpoint, Eval, Metrics, Score, Stage
from llm360.release.history import History
from llm360.release.layout import config_key, manifest_key
from llm360.release.metrics import read_segment
from llm360.release.safetensors import TensorHasher
from llm360.release.scores import RESULTS_NAME, scores_of
from llm360.storage.base import NotAFileError, Storage

CHUNK_BYTES = 1024 * 1024
"""Read and hashed at a time: large enough that Python costs nothing, small enough to stay in the cache."""


class Fault(NamedTuple):
    """What is wrong with the object at a key."""

    key: str
    problem: str


def guarded(key: str, check: Callable[[], Iterator[str]]) -> list[Fault]:
    """Run a check of one object; what it raises because of the object becomes a fault too."""
    problems: list[str] = []
    try:
        problems.extend(check())
    except StorageUnavailableError:
        raise
    except NotAFileError:
        problems.append("is no regular file")
    except ObjectNotFoundError:
        problems.append("is missing")
    except (IntegrityError, StorageError, InputError) as error:
        problems.append(error.message)
    return [Fault(key, without_key(problem, key)) for problem in problems]


def without_key(problem: str, key: str) -> str:
    """A sentence about the object at a key as its fault tells it: behind the key, which it does not name again."""
    return re.sub(rf"^(metrics segment )?'?{re.escape(key)}'?:? ", "", problem)


def check_config(storage: Storage, history: History) -> tuple[Any, list[Fault]]:
    """Check 2: the configuration is canonical JSON, has its digest, and describes what was trained.

    Returns:
        The configuration, None where it cannot be read, and what is wrong with it.
    """
    digest, found = history.config_digest, [None]

    def check() -> Iterator[str]:
        data = storage.get(config_key(digest))
        if sha256_digest(data) != digest:
            yield from compare_digest(sha256_digest(data), digest)
            return
        try:
            config = json.loads(data)
            is_canonical = canonical_json(config) == data
        except (ValueError, RecursionError) as error:
            yield f"is not JSON: {error}"
            return
        if not is_canonical:
            yield "is not stored in canonical form (RFC 8785)"
        found[0] = config
        yield from compare_config(config, history)

    faults = guarded(config_key(digest), check)
    return found[0], faults


def check_segment(storage: Storage, body: Metrics, stages: Sequence[Stage]) -> Iterator[str]:
    """Check 6: a metrics segment's bytes, and one record for each step that its entry names, of the stage's tokens."""
    table = read_segment(storage, body).select(["step", "stage", "tokens"])
    size = storage.stat(body.key).size
    if size != body.bytes:
        yield f"has {size} bytes; the ledger names {body.bytes}"
    for step, *found in zip(*(column.to_pylist() for column in table.columns), strict=True):
        stage = next((stage for stage in stages if stage.step < step <= stage.last_step), None)
        # A step in no stage is a fault of the entry, which says its last step.
        if stage is not None and found != (expected := [stage.stage, stage.tokens_after(step)]):
            yield f"says stage and tokens {found} at step {step}; the stages give {expected}"
            return


def check_manifest(storage: Storage, body: Checkpoint) -> tuple[CheckpointManifest | None, list[Fault]]:
    """Check 7: a checkpoint's manifest has its digest, agrees with its entry and with itself."""
    found: list[CheckpointManifest] = []

    def check() -> Iterator[str]:
        manifest = load_checkpoint_manifest(storage, body.prefix, body.digests.manifest)
        found.append(manifest)
        for what, inside, entry in (
            ("step", manifest.step, body.step),
            ("tokens", manifest.tokens, body.tokens),
            ("attempt", manifest.attempt, body.attempt),
            ("config_digest", manifest.config_digest, body.digests.config),
            ("model_digest", manifest.model_digest, body.digests.model),
            ("state_digest", manifest.state_digest, body.digests.state),
            ("bytes", manifest.total_bytes, body.bytes),
        ):
            if inside != entry:
                yield f"says {what} {inside}; the ledger says {entry}"

    faults = guarded(manifest_key(body.prefix), check)
    return (found[0] if found else None), faults


def check_no_others(storage: Storage, manifest: CheckpointManifest) -> list[Fault]:
    """Check 7, where the store can list: no file lies in a committed checkpoint that its manifest does not list.

    Programs load what lies in a model's folder (weights, code), so a file that nobody vouches for is a fault.
    """
    prefix = manifest.prefix
    known = {manifest_key(prefix)} | {f"{prefix}/{file.key}" for file in manifest.files}
    try:
        keys = [info.key for info in storage.list(prefix + "/")]
    except StorageUnavailableError:
        raise
    except StorageError as error:
        return [Fault(prefix, error.message)]
    return [
        Fault(key, "lies in a committed checkpoint whose manifest does not list it") for key in keys if key not in known
    ]


def check_size(storage: Storage, key: str, record: FileRecord) -> Iterator[str]:
    """Check 8 without reading: the file is there and has its size."""
    size = storage.stat(key).size
    if size != record.bytes:
        yield f"has {size} bytes; the manifest names {record.bytes}"


def check_file(
    storage: Storage,
    key: str,
    record: FileRecord,
    tensors: tuple[TensorRecord, ...] | None,
    advance: Callable[[int], None],
) -> Iterator[str]:
    """Check 8: a file's size and sha256; with `tensors`, also what its header says and the sha256 of each tensor.

    The bytes are read once. Tensors cost a second hash of the same bytes.

    Args:
        storage: Rooted at the release.
        key: Of the file.
        record: From the manifest.
        tensors: The tensors that the manifest places in this file; None: do not look at tensors.
        advance: Called with the number of bytes after each chunk.
    """
    file_hash = hashlib.sha256()
    hasher = TensorHasher() if tensors is not None else None
    size = 0
    broken = ""
    for chunk in storage.iter_bytes(key, CHUNK_BYTES):
        file_hash.update(chunk)
        size += len(chunk)
        if hasher is not None and not broken:
            try:
                hasher.update(chunk)
            except IntegrityError as error:
                broken = error.message
        advance(len(chunk))
    if size != record.bytes:
        yield f"has {size} bytes; the manifest names {record.bytes}"
    yield from compare_digest(DIGEST_PREFIX + file_hash.hexdigest(), record.sha256)
    if broken:
        yield broken
    elif hasher is not None and tensors is not None:
        yield from _compare_tensors(hasher, tensors)


def _compare_tensors(hasher: TensorHasher, tensors: tuple[TensorRecord, ...]) -> Iterator[str]:
    found = hasher.finish()
    expected = {record.name: record for record in tensors}
    for name in sorted(found.keys() - expected.keys()):
        yield f"holds the tensor '{name}', which the manifest does not list"
    for name in sorted(expected.keys() - found.keys()):
        yield f"does not hold the tensor '{name}', which the manifest lists"
    for name in sorted(expected.keys() & found.keys()):
        record, (part, digest) = expected[name], found[name]
        if (part.dtype, part.shape) != (record.dtype, record.shape):
            yield (
                f"tensor '{name}' is {part.dtype} {list(part.shape)};"
                f" the manifest names {record.dtype} {list(record.shape)}"
            )
        if digest != record.sha256:
            yield f"tensor '{name}' has digest {digest}; the manifest names {record.sha256}"


def check_data_manifest(storage: Storage, key: str, stage: Stage, tokenizer: Any) -> Iterator[str]:
    """Check 9: a stage's data manifest has its digest, and the order pinned in the chain is that of its rows.

    Args:
        storage: Holds the manifest.
        key: Of the manifest.
        stage: The stage's entry.
        tokenizer: The digest that the configuration asks of the tokenizer; None: any.
    """
    data = storage.get(key)
    digest = sha256_digest(data)
    if digest != stage.digests.manifest:
        yield from compare_digest(digest, stage.digests.manifest)
        return
    manifest = parse_manifest(data, key)
    if manifest.chunk_rows != stage.chunk_rows:
        yield "its chunks have other rows than the ledger's stage entry pins"
    if manifest.predictions != stage.predictions:
        yield f"its rows have {manifest.predictions} predictions; the ledger's stage entry says {stage.predictions}"
    if tokenizer is not None and manifest.tokenizer.digest != tokenizer:
        yield f"its tokenizer is {manifest.tokenizer.digest or 'unknown'}; the configuration names {tokenizer}"


def check_bytes(storage: Storage, key: str, digest: str) -> Iterator[str]:
    """Check 10: the object at a key has its digest."""
    file_hash = hashlib.sha256()
    for chunk in storage.iter_bytes(key, CHUNK_BYTES):
        file_hash.update(chunk)
    yield from compare_digest(DIGEST_PREFIX + file_hash.hexdigest(), digest)


def check_scores(storage: Storage, body: Eval) -> Iterator[str]:
    """Check 10: the scores in an evaluation's entry are those in its results."""
    if body.scores is None:
        return
    digest = body.digests.get(RESULTS_NAME)
    if digest is None:
        yield f"is not named by the entry, whose scores nothing vouches for; it names {sorted(body.digests)}"
        return
    data = storage.get(f"{body.prefix}/{RESULTS_NAME}")
    if sha256_digest(data) != digest:  # said where all files are read
        return
    try:
        found = scores_of(json.loads(data), body.task)
    except (ValueError, OverflowError, RecursionError) as error:
        yield f"holds no results: {error}"
        return
    for one, other in zip_longest(found, body.scores):
        if one != other:
            yield f"gives the score {_score(one)}; the ledger says {_score(other)}"
            return


def _score(score: Score | None) -> str:
    return "none" if score is None else f"{score.metric} {score.value} ± {score.stderr}"


def compare_digest(found: str, expected: str) -> Iterator[str]:
    """A sentence where two digests differ."""
    if found != expected:
        yield f"has digest {found}; expected {expected}"
