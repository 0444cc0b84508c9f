"""Every kind of tampering is its own case: found by the right check, named by the right key.

Two strengths of it. *Plain*: bytes of the release are changed and nothing else. *Forged*: the entries are
changed and every link and name in the chain is made right again (`Release.forge`), so that only what the
entries say can give it away, or the head that someone noted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save

from llm360.canonical import canonical_json, sha256_digest
from llm360.release.checkpoint import CheckpointManifest, tensors_digest
from llm360.release.layout import metrics_key
from llm360.release.metrics import SCHEMA

MODEL_FILE = "model/model-00001-of-00001.safetensors"
STATE_FILE = "state/layer_00000.safetensors"
CHECKPOINT = "checkpoints/step_000000002/a001"
LAST = "checkpoints/step_000000006/a002"


class Case(NamedTuple):
    """A tampering, and what must be said about it."""

    tamper: Callable[[Any], None]
    check: int
    key: str  # as it begins
    words: str = ""


def flip(release, key, position=-1):
    data = bytearray(release.path(key).read_bytes())
    data[position] ^= 1
    release.path(key).write_bytes(data)


def flipped(pattern, check, number=0, position=-1, named=None):
    """A case that flips a bit in the file that the pattern finds."""

    def tamper(release):
        key = release.keys(pattern)[number]
        flip(release, key, position)

    return Case(tamper, check, named or pattern.split("*")[0].rstrip("/"))


def removed(pattern, check, number=0):
    """A case that removes the file that the pattern finds."""
    return Case(
        lambda release: release.path(release.keys(pattern)[number]).unlink(), check, pattern.split("*")[0], "missing"
    )


def piped(pattern, check, words="is no regular file"):
    """A case that puts a pipe that nobody writes to where the file that the pattern finds was."""

    def tamper(release):
        path = release.path(release.keys(pattern)[0])
        path.unlink()
        os.mkfifo(path)

    return Case(tamper, check, pattern.split("*")[0], words)


def edit_entry(release, index, **changes):
    path = release.path(f"ledger/{index:08d}.json")
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | changes))


def swap(release, first, second):
    a, b = release.path(first), release.path(second)
    data = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(data)


def delete_and_close_up(release):
    keys = release.keys("ledger/*.json")
    release.path(keys[6]).unlink()
    for old, new in zip(keys[7:], keys[6:], strict=False):
        release.path(old).rename(release.path(new))


def append(release, key, data):
    release.path(key).write_bytes(release.path(key).read_bytes() + data)


def link(release, key, target):
    release.path(key).unlink()
    release.path(key).symlink_to(target)


BYTES = {
    "flip config": flipped("config/*.json", 2),
    "flip environment": flipped("environment/a001.json", 10),
    "flip environment of the second attempt": flipped("environment/a002.json", 10),
    "flip metrics": flipped("metrics/a001/*.parquet", 6),
    "flip metrics in its middle": flipped("metrics/a002/*.parquet", 6, position=100),
    "flip manifest": flipped(f"{CHECKPOINT}/manifest.json", 7),
    "flip model": flipped(f"{CHECKPOINT}/{MODEL_FILE}", 8),
    "flip model's header": flipped(f"{CHECKPOINT}/{MODEL_FILE}", 8, position=12),
    "flip state": flipped(f"{CHECKPOINT}/{STATE_FILE}", 8),
    "flip state of the last": flipped(f"{LAST}/{STATE_FILE}", 8),
    "flip model's config.json": flipped(f"{CHECKPOINT}/model/config.json", 8),
    "flip data manifest": flipped("data/one/manifest.json", 9),
    "flip shard": flipped("data/two/chunk_000/0.parquet", 9, named="data/two"),
    "flip tokenizer": flipped("data/one/tokenizer.json", 9, named="data/one"),
    "flip evaluation": flipped("evals/*/*/*/results.json", 10),
    "flip analysis": flipped("analysis/*/table.json", 10),
    "pipe for an entry": piped("ledger/00000002.json", 1, "is missing although ledger/00000003.json is there"),
    "pipe for an entry far from the head": piped("ledger/00000004.json", 1),
    "pipe for the config": piped("config/*.json", 2),
    "pipe for metrics": piped("metrics/a001/*.parquet", 6),
    "pipe for a manifest": piped(f"{CHECKPOINT}/manifest.json", 7),
    "pipe for a model file": piped(f"{CHECKPOINT}/{MODEL_FILE}", 8),
    "pipe for an evaluation": piped("evals/*/*/*/results.json", 10),
    "remove config": removed("config/*.json", 2),
    "remove environment": removed("environment/a002.json", 10),
    "remove metrics": removed("metrics/a001/*.parquet", 6),
    "remove manifest": removed(f"{CHECKPOINT}/manifest.json", 7),
    "remove model file": removed(f"{CHECKPOINT}/{MODEL_FILE}", 8),
    "remove state file": removed(f"{CHECKPOINT}/{STATE_FILE}", 8),
    "remove data manifest": removed("data/two/manifest.json", 9),
    "remove evaluation": removed("evals/*/*/*/results.json", 10),
    "remove analysis": removed("analysis/*/table.json", 10),
    "remove shard": Case(
        lambda release: release.path("data/one/chunk_001/0.parquet").unlink(), 9, "data/one", "chunk_001/0.parquet"
    ),
    "remove a whole checkpoint": Case(
        lambda release: shutil.rmtree(release.path(CHECKPOINT)), 7, f"{CHECKPOINT}/manifest.json", "missing"
    ),
    "swap model and state files": Case(
        lambda release: swap(release, f"{CHECKPOINT}/{MODEL_FILE}", f"{CHECKPOINT}/{STATE_FILE}"), 8, CHECKPOINT
    ),
    "swap files of two checkpoints": Case(
        lambda release: swap(release, f"{CHECKPOINT}/{STATE_FILE}", f"{LAST}/{STATE_FILE}"), 8, CHECKPOINT, "digest"
    ),
    "swap manifests": Case(
        lambda release: swap(release, f"{CHECKPOINT}/manifest.json", f"{LAST}/manifest.json"), 7, CHECKPOINT, "digest"
    ),
    "swap metrics": Case(lambda release: swap(release, *release.keys("metrics/a001/*.parquet")), 6, "metrics/a001"),
    "swap environments": Case(
        lambda release: release.path("environment/a001.json").write_bytes(b"{}"), 10, "environment/a001.json"
    ),
    "empty file": Case(
        lambda release: release.path(f"{CHECKPOINT}/{MODEL_FILE}").write_bytes(b""), 8, CHECKPOINT, "has 0 bytes"
    ),
    "longer file": Case(lambda release: append(release, f"{CHECKPOINT}/{MODEL_FILE}", b"0"), 8, CHECKPOINT, "bytes"),
    "file replaced by a folder": Case(
        lambda release: (
            release.path(f"{CHECKPOINT}/{MODEL_FILE}").unlink(),
            release.path(f"{CHECKPOINT}/{MODEL_FILE}").mkdir(),
        ),
        8,
        CHECKPOINT,
        "missing",
    ),
    "link to other bytes": Case(
        lambda release: link(release, f"{CHECKPOINT}/{STATE_FILE}", release.path(f"{LAST}/{STATE_FILE}")),
        8,
        CHECKPOINT,
        "digest",
    ),
    "link to nothing": Case(
        lambda release: link(release, f"{CHECKPOINT}/{STATE_FILE}", "nowhere"), 8, CHECKPOINT, "missing"
    ),
    "link to itself": Case(
        lambda release: link(release, f"{CHECKPOINT}/{STATE_FILE}", "layer_00000.safetensors"), 7, CHECKPOINT
    ),
    "a file that nobody lists beside the model": Case(
        lambda release: release.path(f"{CHECKPOINT}/model/modeling.py").write_text("import os"),
        7,
        f"{CHECKPOINT}/model/modeling.py",
        "does not list it",
    ),
}

CHAIN = {
    "flip entry": flipped("ledger/00000005.json", 1, position=30),
    "flip last entry": flipped("ledger/*.json", 1, number=-1, position=30),
    "edit entry": Case(lambda release: edit_entry(release, 4, step=3), 1, "ledger/00000005.json", "follows"),
    "edit time": Case(
        lambda release: edit_entry(release, 7, time="2020-01-01T00:00:00.000000Z"), 1, "ledger/00000008.json", "follows"
    ),
    "edit genesis": Case(
        lambda release: edit_entry(release, 0, digests={"config": "sha256:" + "0" * 64}), 1, "ledger/00000001.json"
    ),
    "remove first entry": Case(
        lambda release: release.path("ledger/00000000.json").unlink(), 1, "ledger/00000000.json", "missing"
    ),
    "remove middle entry": Case(
        lambda release: release.path("ledger/00000006.json").unlink(), 1, "ledger/00000006.json", "missing"
    ),
    "remove last but one": Case(
        lambda release: release.path(release.keys("ledger/*.json")[-2]).unlink(), 1, "ledger/", "missing"
    ),
    "remove middle entry and close up": Case(delete_and_close_up, 1, "ledger/00000006.json", "carries number 7"),
    "reorder": Case(
        lambda release: swap(release, "ledger/00000004.json", "ledger/00000005.json"), 1, "ledger/00000004.json"
    ),
    "repeat an entry at the end": Case(
        lambda release: shutil.copy(
            release.path(release.keys("ledger/*.json")[-1]),
            release.path(f"ledger/{len(release.entries()):08d}.json"),
        ),
        1,
        "ledger/",
        "carries number",
    ),
    "repeat an entry, renumbered": Case(
        lambda release: release.path(f"ledger/{len(release.entries()):08d}.json").write_bytes(
            canonical_json(
                release.entries()[-1]
                | {
                    "seq": len(release.entries()),
                    "prev": sha256_digest(release.path(release.keys("ledger/*.json")[-1]).read_bytes()),
                }
            )
        ),
        1,
        "ledger/",
        "uid",
    ),
    "not canonical: spaces": Case(
        lambda release: release.path("ledger/00000003.json").write_text(json.dumps(release.entries()[3])),
        1,
        "ledger/00000003.json",
        "canonical",
    ),
    "not canonical: a field twice": Case(
        lambda release: release.path("ledger/00000003.json").write_bytes(
            release.path("ledger/00000003.json").read_bytes().replace(b'{"attempt":1', b'{"attempt":1,"attempt":1')
        ),
        1,
        "ledger/00000003.json",
        "canonical",
    ),
    "not JSON": Case(
        lambda release: release.path("ledger/00000003.json").write_bytes(b"\xff\x00"), 1, "ledger/00000003.json"
    ),
    "empty entry": Case(lambda release: release.path("ledger/00000003.json").write_bytes(b""), 1, "ledger/00000003"),
    "nested too deep": Case(
        lambda release: release.path("ledger/00000003.json").write_bytes(b"[" * 100_000), 1, "ledger/00000003.json"
    ),
    "unknown field": Case(lambda release: edit_entry(release, 3, extra=1), 1, "ledger/00000003.json", "extra"),
    "unknown kind": Case(lambda release: edit_entry(release, 3, kind="party"), 1, "ledger/00000003.json", "kind"),
    "second genesis": Case(
        lambda release: release.forge(lambda entries: entries.insert(3, entries[0] | {"uid": "0" * 32, "was": None})),
        1,
        "ledger/00000003.json",
        "genesis",
    ),
    "key that leads out": Case(
        lambda release: release.forge(lambda entries: entries[5].update(key="../../etc/passwd")),
        1,
        "ledger/00000005.json",
        "relative key",
    ),
}


def at(kind, number=0, /, **changes):
    """A forgery that changes fields of the `number`th entry of a kind."""

    def forge(entries):
        found = [entry for entry in entries if entry["kind"] == kind][number]
        for field, change in changes.items():
            found[field] = change(found[field]) if callable(change) else change
            if found[field] is None:
                del found[field]

    return forge


def forged(change, check, words="", key="ledger/"):
    return Case(lambda release: release.forge(change), check, key, words)


def drop(kind, number=0):
    def forge(entries):
        entries.remove([entry for entry in entries if entry["kind"] == kind][number])

    return forge


def move(kind, number, to):
    def forge(entries):
        entry = [entry for entry in entries if entry["kind"] == kind][number]
        entries.remove(entry)
        entries.insert(to, entry)

    return forge


def again(kind, number, to):
    """A forgery that repeats an entry at another place."""

    def forge(entries):
        entry = [entry for entry in entries if entry["kind"] == kind][number]
        entries.insert(to, entry | {"uid": "0" * 32, "was": None})

    return forge


def skip(stage, step):
    """A forgery that leaves a step of a stage out after the checkpoint of step 2."""

    def forge(entries):
        place = next(number for number, entry in enumerate(entries) if entry.get("labels") == ["ckpt_000"]) + 1
        fields = {"kind": "skip", "attempt": 1, "step": 2, "tokens": 64, "reason": "the loss is NaN"}
        frame = {"uid": "0" * 32, "time": entries[0]["time"], "was": None}
        entries.insert(place, frame | fields | {"stage": stage, "steps": [step]})

    return forge


def lose_last_steps(entries):
    at("complete", checkpoint=[entry for entry in entries if entry["kind"] == "checkpoint"][3]["was"])(entries)
    at("complete", step=4, tokens=128)(entries)
    digests = [entry for entry in entries if entry["kind"] == "checkpoint"][3]["digests"]
    at("complete", digests={name: digests[name] for name in ("config", "model", "state")})(entries)
    for kind, number in (("checkpoint", 4), ("eval", 0)):
        drop(kind, number)(entries)


def other_rows(spans):
    return [spans[0] | {"rows": [[0, 1, 9]]}]


FORGED = {
    "attempt missing": forged(drop("attempt", 1), 3, "newest claim before it is attempt 1"),
    "attempt numbered wrong": forged(at("attempt", 1, attempt=3), 3, "expected 2"),
    "attempt from elsewhere": forged(at("attempt", 1, step=2), 3, "resumes from"),
    "older attempt writes after the newer claim": forged(at("checkpoint", 3, attempt=1), 3, "newest claim"),
    "training before any attempt": forged(move("stage", 0, 1), 3, "newest claim before it is attempt 0"),
    "training after complete": forged(move("metrics", 3, 15), 3, "follows 'complete'"),
    "step altered": forged(at("checkpoint", 1, step=1), 4, "lies in"),
    "tokens altered": forged(at("checkpoint", 1, tokens=65), 4, "tokens at step 2"),
    "tokens of metrics altered": forged(at("metrics", 0, tokens=65), 4, "tokens at step 2"),
    "previous altered": forged(at("checkpoint", 1, previous=None), 4, "on this branch"),
    "folder of another step": forged(at("checkpoint", 1, prefix=LAST), 4, "its folder"),
    "config of another run": forged(
        at("checkpoint", 1, digests=lambda digests: digests | {"config": "sha256:" + "0" * 64}), 4, "configuration"
    ),
    "label twice": forged(at("checkpoint", 1, labels=["init"]), 4, "label 'init'"),
    "chunk altered": forged(at("checkpoint", 1, chunk=1), 4, "stage and chunk"),
    "checkpoint left out": forged(drop("checkpoint", 1), 4, "on this branch"),
    "stages swapped": forged(move("stage", 1, 2), 2, "says name", key="config/"),
    "stage longer than its data": forged(at("stage", 1, num_steps=3), 2, "at most 2 steps", key="config/"),
    "first stage longer than its data": forged(at("stage", 0, num_steps=9), 2, "whose rows fill 4", key="config/"),
    "first stage shorter than its data": forged(
        at("stage", 0, num_steps=3), 2, "whose rows fill 4; the ledger pins 3", key="config/"
    ),
    "stage of another index": forged(at("stage", 1, stage=2), 4, "index"),
    "stage with an impossible batch": forged(at("stage", 1, chunk_rows=[0]), 4, "no order"),
    "evaluation of no checkpoint": forged(at("eval", checkpoint="sha256:" + "0" * 64), 4, "no entry before it"),
    "evaluation in another's folder": forged(at("eval", prefix="evals/step_000000006/0/mmlu-abc"), 4, "its folder"),
    "evaluation of another step": forged(at("eval", step=4), 4, "is of step 6"),
    "complete too early": forged(drop("checkpoint", 4), 4, "as the last checkpoint"),
    "complete before the stages end": forged(lose_last_steps, 4, "stages end at step 6"),
    "complete with other bits": forged(
        at("complete", digests=lambda digests: digests | {"model": "sha256:" + "0" * 64}), 4, "last checkpoint has"
    ),
    "hole in the rows": forged(at("checkpoint", 1, data=other_rows), 5, "chunk 0 rows [1, 9)"),
    "rows left out": forged(at("checkpoint", 1, data=[]), 5, "nothing"),
    "rows of another data set": forged(
        at("checkpoint", 1, data=lambda spans: [spans[0] | {"manifest": "sha256:" + "0" * 64}]), 5, "the order gives"
    ),
    "order altered": forged(at("stage", 1, chunk_rows=[3, 6]), 4, "stage and chunk"),
    "batch altered": forged(at("stage", 0, batch_rows=5), 2, "batchSize 4", key="config/"),
    "metrics left out": forged(drop("metrics", 0), 6, "not every step"),
    "metrics of fewer steps": forged(at("metrics", 2, first_step=5), 6, "the segment's key"),
    "records of a checkpoint made again": forged(again("metrics", 0, 5), 6, "the records before it end with step 2"),
    "end of a stage not published": forged(
        at("checkpoint", 4, published=False), 4, "published checkpoint after step 6"
    ),
    "skip of rows that a checkpoint holds": forged(skip(0, 1), 4, "which the checkpoint of step 2 holds already"),
    "skip of rows that a stage does not have": forged(skip(0, 4), 4, "which has 4 steps"),
    "skip in no stage": forged(skip(2, 0), 4, "which is not pinned"),
    "scores of an evaluation altered": forged(
        at("eval", scores=[{"metric": "acc", "value": 0.75, "stderr": 0.125}]),
        10,
        "gives the score acc 0.25 ± 0.125; the ledger says acc 0.75",
        key="evals/",
    ),
    "scores of an evaluation left out": forged(at("eval", scores=[]), 10, "the ledger says none", key="evals/"),
    "metrics not named": forged(at("checkpoint", 1, metrics=[]), 6, "names the metrics entries []"),
    "size altered": forged(at("checkpoint", 1, bytes=7), 7, "says bytes", key=f"{CHECKPOINT}/manifest.json"),
    "model digest altered": forged(
        at("checkpoint", 1, digests=lambda digests: digests | {"model": "sha256:" + "0" * 64}),
        7,
        "model_digest",
        key=f"{CHECKPOINT}/manifest.json",
    ),
    "rows of the manifest altered": forged(
        at("stage", 0, chunk_rows=[11, 10]), 9, "other rows", key="data/one/manifest.json"
    ),
    "predictions altered": forged(at("stage", 0, predictions=9), 2, "sequenceLength 8", key="config/"),
    "predictions altered by the one that the configuration leaves open": forged(
        at("stage", 0, predictions=7), 4, "tokens"
    ),
    "size of a segment altered": forged(at("metrics", 0, bytes=7), 6, "bytes", key="metrics/a001"),
    "environment of another attempt": forged(
        at("checkpoint", 1, digests=lambda digests: digests | {"environment": "sha256:" + "0" * 64}),
        10,
        "digest",
        key="environment/a001.json",
    ),
}


def remake_manifest(release, change, write=None):
    """Change the last checkpoint's manifest, and make its digests and the chain right again."""
    path = release.path(f"{LAST}/manifest.json")
    values = json.loads(path.read_bytes())
    change(values)
    data = canonical_json(values)
    path.write_bytes(data)

    def forge(entries):
        for entry in entries:
            if entry.get("prefix") == LAST or entry["kind"] == "complete":
                entry["digests"] |= {"model": values["model_digest"], "state": values["state_digest"]}
            if entry.get("prefix") == LAST:
                entry["digests"]["manifest"] = sha256_digest(data)
                entry["bytes"] = sum(file["bytes"] for file in values["files"])

    release.forge(forge)


def with_digests(values):
    """Make a manifest's two digests those of its records."""
    manifest = CheckpointManifest.model_construct(
        **CheckpointManifest.model_validate(values).model_dump(exclude={"model", "state"}),
        model=CheckpointManifest.model_validate(values).model,
        state=CheckpointManifest.model_validate(values).state,
    )
    values["model_digest"] = tensors_digest(manifest.model)
    values["state_digest"] = tensors_digest(manifest.state)


def alter_record(release, field, value):
    def change(values):
        values["model"][0][field] = value
        with_digests(values)

    remake_manifest(release, change)


def rewrite_tensors(release, change):
    """Write other tensors into the last model file, with the file's record made right."""
    path = release.path(f"{LAST}/{MODEL_FILE}")
    tensors = load(path.read_bytes())
    change(tensors)
    data = save(tensors)
    path.write_bytes(data)

    def record(values):
        file = next(file for file in values["files"] if file["key"] == MODEL_FILE)
        file |= {"bytes": len(data), "sha256": sha256_digest(data)}

    remake_manifest(release, record)


def drop_from_records(release):
    def change(values):
        values["model"] = values["model"][1:]
        with_digests(values)

    remake_manifest(release, change)


MANIFEST = {
    "tensor's digest": Case(
        lambda release: alter_record(release, "sha256", "sha256:" + "0" * 64), 8, LAST, "tensor 'w0' has digest"
    ),
    "tensor's shape": Case(lambda release: alter_record(release, "shape", [4, 3]), 8, LAST, "names F32 [4, 3]"),
    "tensor's type": Case(lambda release: alter_record(release, "dtype", "I32"), 8, LAST, "names I32"),
    "tensor's name": Case(lambda release: alter_record(release, "name", "other"), 8, LAST, "holds the tensor 'w0'"),
    "tensor in another file": Case(
        lambda release: alter_record(release, "file", "model/config.json"), 7, LAST, "not a .safetensors file"
    ),
    "tensor in no file": Case(
        lambda release: alter_record(release, "file", "model/other.safetensors"), 7, LAST, "not a listed file"
    ),
    "tensor left out": Case(drop_from_records, 8, LAST, "holds the tensor 'w0'"),
    "extra tensor": Case(
        lambda release: rewrite_tensors(release, lambda t: t.update(w9=np.zeros(3, np.float32))),
        8,
        LAST,
        "holds the tensor 'w9'",
    ),
    "renamed tensor": Case(
        lambda release: rewrite_tensors(release, lambda t: t.update(w9=t.pop("w0"))), 8, LAST, "holds the tensor 'w9'"
    ),
    "other values": Case(
        lambda release: rewrite_tensors(release, lambda t: t.update(w0=t["w0"] + 1)), 8, LAST, "tensor 'w0' has digest"
    ),
    "swapped values": Case(
        lambda release: rewrite_tensors(release, lambda t: t.update(w0=t["w1"], w1=t["w0"])), 8, LAST, "tensor 'w0'"
    ),
    "digests not of the records": Case(
        lambda release: remake_manifest(release, lambda v: v.update(model_digest="sha256:" + "0" * 64)),
        7,
        LAST,
        "model_digest is",
    ),
    "not canonical": Case(
        lambda release: remake_manifest(release, lambda v: v.update(step=4)), 7, LAST, "describes checkpoints/step_0"
    ),
    "tokens": Case(lambda release: remake_manifest(release, lambda v: v.update(tokens=1)), 7, LAST, "says tokens 1"),
    "file listed twice": Case(
        lambda release: remake_manifest(release, lambda v: v["files"].append(v["files"][0])), 7, LAST, "each once"
    ),
    "key that leads out": Case(
        lambda release: remake_manifest(release, lambda v: v["files"][0].update(key="../../../secret")),
        7,
        LAST,
        "not a checkpoint manifest",
    ),
    "file left out": Case(
        lambda release: remake_manifest(release, lambda v: v["files"].pop(0)), 7, f"{LAST}/model/config.json"
    ),
}


def reconfigured(words, change):
    """A case whose configuration describes another run than the one that was trained."""
    return Case(lambda release: release.rewrite_config(change), 2, "config/", words)


CONFIG = {
    "batch": reconfigured("batchSize 5", lambda c: c["training"].update(batchSize=5)),
    "sequence length": reconfigured("sequenceLength 16", lambda c: c["training"].update(sequenceLength=16)),
    "stages": reconfigured("describes 1 stages", lambda c: c["data"]["stages"].pop()),
    "stages to come": reconfigured("describes 3 stages", lambda c: c["data"]["stages"].append({"name": "x"})),
    "name": reconfigured("name three", lambda c: c["data"]["stages"][1].update(name="three")),
    "remainder": reconfigured("remainder drop", lambda c: c["data"]["stages"][1].pop("remainder")),
    "no stages": reconfigured("describes no stages", lambda c: c["data"].pop("stages")),
    "no data": reconfigured("describes no stages", lambda c: c.pop("data")),
    "data of another type": reconfigured("says data [1, 2]; expected an object", lambda c: c.update(data=[1, 2])),
    "stages of another type": reconfigured("says stages 2; expected a list", lambda c: c["data"].update(stages=2)),
    "a stage of another type": reconfigured("says a stage 'x'", lambda c: c["data"]["stages"].__setitem__(0, "x")),
    "batch of another type": reconfigured(
        "says batchSize '4'; expected a whole number", lambda c: c["training"].update(batchSize="4")
    ),
    "steps of another type": reconfigured(
        "says steps True; expected a whole number", lambda c: c["data"]["stages"][1].update(steps=True)
    ),
    "length of another type": reconfigured(
        "says sequenceLength [8]", lambda c: c["training"].update(sequenceLength=[8])
    ),
    "steps": reconfigured("at most 1 steps", lambda c: c["data"]["stages"][1].update(steps=1)),
}


def scheduled(words, **schedule):
    """A case whose configuration asks for other checkpoints than those of the run."""
    return Case(
        lambda release: release.rewrite_config(lambda c: c.update(checkpoints={"schedule": schedule})),
        4,
        "ledger/",
        words,
    )


SCHEDULE = {
    "a step": scheduled("after step 5", steps=[5]),
    "an interval whose checkpoint was there to resume from alone": scheduled("after step 3", everySteps=3),
    "no list of steps": scheduled("says steps 5; expected a list", steps=5),
    "no number of steps": scheduled("schedule of checkpoints that is none: everySteps", everySteps="2"),
}


def rewrite_segment(release, column, value):
    """Write another value into the second record of the first segment, with its digest and the chain made right."""
    path = release.path(release.keys("metrics/a001/1-2-*.parquet")[0])
    records = pq.read_table(path)
    values = records[column].to_pylist()
    values[1] = value
    place = records.schema.get_field_index(column)
    pq.write_table(
        records.set_column(place, records.schema.field(column), pa.array(values, SCHEMA.field(column).type)), path
    )
    data = path.read_bytes()
    key = metrics_key(1, 1, 2, sha256_digest(data))
    path.rename(release.path(key))

    def forge(entries):
        entry = next(entry for entry in entries if entry["kind"] == "metrics")
        digests = entry["digests"] | {"segment": sha256_digest(data)}
        entry |= {"key": key, "bytes": len(data), "digests": digests}

    release.forge(forge)


SEGMENT = {
    "tokens of a record": Case(
        lambda release: rewrite_segment(release, "tokens", 65), 6, "metrics/a001/1-2", "the stages give [0, 64]"
    ),
    "stage of a record": Case(
        lambda release: rewrite_segment(release, "stage", 1), 6, "metrics/a001/1-2", "the stages give [0, 64]"
    ),
}

CASES = {f"{group}: {name}": case for group, cases in
         {"bytes": BYTES, "chain": CHAIN, "config": CONFIG, "forged": FORGED, "manifest": MANIFEST,
                                "schedule": SCHEDULE, "segment": SEGMENT}.items()
         for name, case in cases.items()}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tampering_is_found(release, case):
    case.tamper(release)
    report = release.verify(data=True)
    assert not report.ok
    check, fault = report.first_fault
    assert (check.number, fault.problem) == (case.check, fault.problem), report.first_fault
    assert fault.key.startswith(case.key)
    assert case.words in fault.problem


def test_data_of_another_tokenizer_than_the_configuration_names(release):
    release.rewrite_config(lambda config: config.update(tokenizer={"digest": "sha256:" + "0" * 64}))
    faults = release.verify().checks[9].faults
    assert [fault.key for fault in faults] == ["data/one/manifest.json", "data/two/manifest.json"]
    assert "the configuration names sha256:000" in faults[0].problem


def test_configuration_that_is_no_object(release):
    old = release.path(release.keys("config/*.json")[0])
    data = canonical_json([1, 2])
    new = sha256_digest(data)
    old.rename(release.path(f"config/{new.removeprefix('sha256:')}.json")).write_bytes(data)

    def forge(entries):
        text = json.dumps(entries).replace(f"sha256:{old.stem}", new)
        entries[:] = json.loads(text)

    release.forge(forge)
    check, fault = release.verify().first_fault
    assert (check.number, fault.problem) == (2, "is [1, 2]; expected an object")


def test_forging_nothing_changes_nothing(release):
    """The tool itself makes no fault: what the forged cases find is what they forged."""
    head = release.verify().head
    release.forge(lambda _: None)
    assert release.verify().head == head
    assert release.verify().ok


def test_cut_tail_shows_only_against_a_known_head(release):
    head = release.verify().head
    for key in release.keys("ledger/*.json")[-4:]:
        release.path(key).unlink()
    report = release.verify()
    assert report.ok
    assert report.state == "in progress or truncated"
    check, fault = release.verify(expected_head=head).first_fault
    assert check.number == 11
    assert head in fault.problem


def test_chain_forged_in_all_its_links_shows_only_against_a_known_head(release):
    head = release.verify().head
    release.forge(lambda entries: entries[-1].update(time="2020-01-01T00:00:00.000000Z"))
    assert release.verify().ok
    assert release.verify(expected_head=head).first_fault[0].number == 11


def test_claims_about_tensors_need_a_second_hash_of_the_bytes(release):
    """What hashing each file once cannot see."""
    alter_record(release, "sha256", "sha256:" + "0" * 64)
    assert release.verify(tensors="none").ok
    assert release.verify(tensors="latest").first_fault[0].number == 8
