"""Each bad input gets one sentence, exit code 2, JSON as the last line, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm360.cli.main import run as llm360
from llm360.storage.file import FileStorage

pytestmark = pytest.mark.slow

Refused = Callable[..., dict[str, str]]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Runs `llm360 run` with the arguments; gives the JSON of its last line."""

    def run(*arguments: str | Path, exit_code: int = 2) -> dict[str, str]:
        before = sorted(tmp_path.rglob("*"))
        assert llm360(["run", *map(str, arguments), "--port", "0"]) == exit_code
        assert sorted(tmp_path.rglob("*")) == before, "something was left behind"
        err = capsys.readouterr().err
        assert "Traceback" not in err
        last: dict[str, str] = json.loads(err.splitlines()[-1])
        return last

    return run


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.sead=1", "did you mean 'seed'?"),
        ("training.batchSize=many", "training.batchSize"),
        ("training.batchSize=1", "spec.parallelism.microBatch: 4 is more than a whole batch (1)"),
        ("model.vocabSize=300", "has 512 ids; raise vocabSize to at least that"),
        ("training.sequenceLength=32", "has rows of 65 tokens, which is a sequence length of 64"),
        ("tokenizer.digest=sha256:" + "0" * 64, "was made with the tokenizer sha256:"),
        ("data.chunks=0", "spec.data.chunks"),
        ("training.schedule.warmupSteps=90", "does not fit stage 'stage1', which has 80 steps"),
        ("data.uri=file:///nowhere/data", "llm360 data prepare"),
    ],
)
def test_specification_or_data_do_not_fit(
    undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused, override: str, sentence: str
) -> None:
    fields = [f"data.uri={undisturbed.data}", "data.recipe=null", "data.chunks=null", "data.heldOut=null", override]
    overrides = [part for field in fields for part in ("--set", field)]
    assert sentence in refused(spec_file, "--store", tmp_path / "store", *overrides)["message"]


def test_unknown_preset(refused: Refused, tmp_path: Path) -> None:
    assert "amber-tiny" in refused("amber-tny", "--store", tmp_path / "store")["message"]


def test_missing_store(refused: Refused, spec_file: Path) -> None:
    assert "--store" in refused(spec_file)["message"]


def test_missing_tokenizer(undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused) -> None:
    data = tmp_path / "data"
    shutil.copytree(undisturbed.store / "data" / "stage1", data)
    (data / "tokenizer.json").unlink()
    problem = refused(spec_file, "--store", tmp_path / "store", "--set", f"data.uri=file://{data}")
    assert problem["reason"] == "TokenizerMissing"


def test_identity_changed(undisturbed: Any, spec_file: Path, refused: Refused) -> None:
    problem = refused(spec_file, "--store", undisturbed.store, "--set", "training.seed=2")
    assert problem["reason"] == "IdentityChanged"
    assert "spec.training.seed: was 11111, is now 2" in problem["message"]


def test_data_changed(undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused) -> None:
    store = undisturbed.store
    manifest = store / "data" / "stage1" / "manifest.json"
    entries = sorted((store / "ledger").iterdir())
    kept, moved = manifest.read_bytes(), tmp_path / "entries"
    moved.mkdir()
    try:
        for entry in entries[-2:]:
            shutil.move(entry, moved / entry.name)
        changed = json.loads(kept) | {"seed": 7}
        manifest.write_text(json.dumps(changed, sort_keys=True, separators=(",", ":")))
        problem = refused(spec_file, "--store", store, "--set", "data.heldOut=null")
        assert problem["reason"] == "DataChanged"
    finally:
        manifest.write_bytes(kept)
        for entry in moved.iterdir():
            shutil.move(entry, store / "ledger" / entry.name)


def test_store_that_cannot_be_written(undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").touch()
    problem = refused(spec_file, "--store", tmp_path / "file" / "store", "--set", f"data.uri={undisturbed.data}")
    assert problem["reason"] == "NotADirectory"


def test_store_without_conditional_create(
    undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileStorage, "create", FileStorage.put)
    problem = refused(spec_file, "--store", tmp_path / "store", "--set", f"data.uri={undisturbed.data}")
    assert problem["reason"] == "ConditionalCreateUnsupported"


def test_missing_bucket_and_wrong_credentials(
    undisturbed: Any, s3_bucket: Any, spec_file: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"data.uri={undisturbed.data}"
    assert refused(spec_file, "--store", "s3://no-such-bucket/x", "--set", data)["reason"] == "BucketMissing"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert refused(spec_file, "--store", f"{s3_bucket.uri}/x", "--set", data)["reason"] == "CredentialsRefused"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(undisturbed: Any, spec_file: Path, small_disk: Path, train: Any) -> None:
    run = train(spec_file, "--store", small_disk / "store", "--set", f"data.uri={undisturbed.data}")
    assert run.end() == 2
    assert run.last_line()["reason"] == "DiskFull"
    assert "is full" in run.last_line()["message"]


def test_no_gpus_on_this_machine(spec_file: Path, tmp_path: Path, train: Any) -> None:
    """Before the data is prepared and before the release begins."""
    cuda = [part for field in ("device=cuda", "gpus=1") for part in ("--set", f"cluster.workers.{field}")]
    run = train(spec_file, "--store", tmp_path / "store", *cuda, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert run.end() == 2
    assert run.last_line()["reason"] == "GpusMissing"
    assert "asks for 2 GPUs (cluster.workers: device cuda, 2 replicas of 1 GPU), but this" in run.last_line()["message"]
    assert not (tmp_path / "store").exists()


def test_host_of_another_machine(undisturbed: Any, spec_file: Path, tmp_path: Path, refused: Refused) -> None:
    problem = refused(
        *(spec_file, "--store", tmp_path / "store", "--set", f"data.uri={undisturbed.data}", "--host", "300.1.1.1")
    )
    assert problem["reason"] == "HostUnusable"
