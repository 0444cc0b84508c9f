"""The run file that a release is made of: whatever made it, the file is the same run again."""

from __future__ import annotations

from collections.abc import Callable

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.canonical import canonical_json, sha256_digest
from llm360.errors import InputError, IntegrityError
from llm360.release.create import create_release, open_release
from llm360.release.entries import Attempt
from llm360.release.history import History
from llm360.release.layout import config_key
from llm360.release.recorded import find_attempt, name_at, recorded_run
from llm360.spec import ResolvedRun, documents, layers, load_run, preset_names, resolve
from llm360.spec.schema import openapi_schema
from llm360.storage import Storage, open_storage

# What a run without them takes from a layer below, and what may change from attempt to attempt.
OVERRIDES = (
    "training.gradientClip=null", "training.seed=7", "evaluation.nodeSelector={}", "checkpoints.resumeEvery=null",
    "cluster.workers.replicas=3", "parallelism.microBatch=2", "release.description='it: a # b'", "data.uri=s3://b/data",
    'evaluation.tasks=[{"name": "arc_easy", "shots": 5}]', "storage.endpoint=http://minio:9000",
)  # fmt: skip
Record = Callable[..., tuple[Storage, History]]


@pytest.fixture
def record(tmp_path) -> Record:
    """Begins the release of runs of one identity: an attempt each."""

    def begin(*runs: ResolvedRun, folder: str = "Amber_7B.1") -> tuple[Storage, History]:
        storage = open_storage(str(tmp_path / folder))
        ledger = create_release(storage, runs[0].identity())
        for number, run in enumerate(runs, start=1):
            claim = Attempt(
                attempt=number, step=0, tokens=0, world_size=1, device="cpu", checkpoint=None,
                operations=run.operations(),
            )  # fmt: skip
            ledger.append(lambda _, claim=claim: claim)
        return storage, open_release(storage).history()

    return begin


def recorded(storage: Storage, history: History, attempt: int | None = None) -> ResolvedRun:
    return recorded_run(storage, history, find_attempt(history, attempt))


@settings(max_examples=30, deadline=None)
@given(preset=st.sampled_from(preset_names()), overrides=st.lists(st.sampled_from(OVERRIDES), unique=True))
def test_whatever_made_a_release_its_file_is_the_same_run(tmp_path_factory, preset, overrides):
    folder = tmp_path_factory.mktemp("release") / "run"
    run = load_run(preset, overrides, store=str(folder))
    storage = open_storage(str(folder))
    ledger = create_release(storage, run.identity())
    claim = Attempt(
        attempt=1, step=0, tokens=0, checkpoint=None, world_size=1, device="cpu", operations=run.operations()
    )
    ledger.append(lambda _: claim)
    found = recorded(storage, ledger.history())
    assert found.spec == run.spec
    assert found.identity_digest() == ledger.history().config_digest
    written = documents.parse(documents.dump(found.document()), "run.yaml")
    jsonschema.Draft4Validator(openapi_schema()).validate(written)  # as the API server does
    assert resolve(written) == found


def test_neither_presets_nor_built_in_values_of_a_later_version_reach_it(record, tmp_path, monkeypatch):
    run = load_run("amber-tiny", ["training.gradientClip=null"], store=str(tmp_path / "run"))
    storage, history = record(run, folder="run")
    built_in = layers.default_layer()
    later = {
        "training": {"batchSize": 1, "fp8": "rowwise", "gradientClip": 3.0, "seed": 5, "optimizer": {"beta1": 0.5}},
        "data": {"uri": "s3://other/data"},
        "checkpoints": {"resumeEvery": 3},
    }
    monkeypatch.setattr(layers, "preset_layer", lambda _: later)
    monkeypatch.setattr(layers, "default_layer", lambda: layers.merge(built_in, later))
    assert recorded(storage, history).spec == run.spec
    monkeypatch.setattr(layers, "preset_names", tuple)
    assert recorded(storage, history).spec == run.spec, "even where the preset is gone"


def test_an_operation_that_came_later_has_its_built_in_value(record, tmp_path):
    run = load_run("amber-tiny", store=str(tmp_path / "run"))
    storage, history = record(run, folder="run")
    claim = history.attempts[0]
    del claim.operations["recovery"]["maxAttempts"]
    assert recorded_run(storage, history, claim).spec.recovery.max_attempts == 5


def test_a_release_that_this_version_reads_otherwise_is_refused(record, tmp_path):
    storage, history = record(load_run("amber-tiny", store=str(tmp_path / "run")), folder="run")
    config = load_run("amber-tiny", store=str(tmp_path / "run")).identity()
    del config["training"]["deterministic"]
    data = canonical_json(config)
    storage.put(config_key(sha256_digest(data)), data)
    history.config_digest = sha256_digest(data)
    with pytest.raises(InputError, match=r"otherwise: spec\.training\.deterministic: was unset, is now false; use"):
        recorded(storage, history)


def test_each_attempt_has_its_own_settings(record, tmp_path):
    runs = [
        load_run("amber-tiny", [f"parallelism.microBatch={size}"], store=str(tmp_path / "Amber_7B.1"))
        for size in (2, 4, 8)
    ]
    storage, history = record(*runs)
    assert recorded(storage, history, 2).spec == runs[1].spec
    newest = recorded(storage, history)
    assert newest.spec == runs[2].spec
    assert newest.name == "amber-7b-1"
    with pytest.raises(InputError, match=r"there is no attempt 4; the ledger has 1, 2, 3$"):
        find_attempt(history, 4)


def test_before_the_first_attempt_nothing_is_known_of_it(tmp_path):
    run = load_run("amber-tiny", store=str(tmp_path / "run"))
    storage = open_storage(str(tmp_path / "run"))
    history = create_release(storage, run.identity()).history()
    with pytest.raises(InputError, match="no attempt of the run has begun yet"):
        find_attempt(history, None)


def test_another_configuration_is_refused(record, tmp_path):
    storage, history = record(load_run("amber-tiny", store=str(tmp_path / "run")), folder="run")
    key = config_key(history.config_digest)
    storage.put(key, storage.get(key).replace(b"11111", b"11112"))
    with pytest.raises(IntegrityError, match="but the ledger names"):
        recorded(storage, history)


def test_a_password_that_was_recorded_is_not_told(record, tmp_path):
    run = load_run("amber-tiny", store=str(tmp_path / "run"))
    storage, history = record(run, folder="run")
    history.attempts[0].operations["storage"]["endpoint"] = "http://me:hush@minio:9000"
    with pytest.raises(InputError) as caught:
        recorded(storage, history)
    assert "hush" not in caught.value.message


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:///data/runs/amber-tiny", "amber-tiny"),
        ("file:///data/my%20run", "my-run"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/Pythia 1.4B/", "pythia-1-4b"),
        ("s3://bucket/…", "run"),
        ("s3://bucket/" + "a" * 39 + ".b", "a" * 39),
    ],
)
def test_a_run_is_named_after_its_address(uri, name):
    assert name_at(uri) == name
