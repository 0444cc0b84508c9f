"""A small run as the driver and the ranks know it, its data described but never read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from synthetic.small import SmallRelease, small_release
from synthetic.trained import TrainedRelease, trained_release

from llm360.canonical import sha256_digest
from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.data.order import StageOrder
from llm360.release.checkpoint import FileRecord, TensorRecord
from llm360.release.create import create_release
from llm360.release.layout import checkpoint_prefix
from llm360.release.metrics import StepRecord
from llm360.spec import ResolvedRun, load_run
from llm360.storage import open_storage
from llm360_trainer.checkpoint.parts import RankPart
from llm360_trainer.driver.messages import RecorderInput
from llm360_trainer.driver.recorder import Recorder
from llm360_trainer.train.plan import GroupInfo, StagePlan

DIGEST = sha256_digest(b"")
CHUNK_ROWS = (34, 34)  # batches of 8: 4 steps a chunk, 2 rows left over


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the run's release lies."""
    return tmp_path / "release"


@pytest.fixture
def make_run(store: Path) -> Callable[..., ResolvedRun]:
    """The run, with fields of its specification overridden."""

    def make(*overrides: str) -> ResolvedRun:
        fields = (
            "training.batchSize=8",
            "parallelism.microBatch=4",
            "training.schedule.warmupSteps=2",
            "recovery.backoffSeconds=0",
        )
        return load_run("amber-tiny", [*fields, *overrides], store=str(store))

    return make


@pytest.fixture
def stage() -> StagePlan:
    """8 steps in 2 chunks of data with the sources `docs` and `code`."""
    chunks = tuple(
        Chunk(rows=rows, shards=(Shard(key=f"{i}.parquet", rows=rows, bytes=1, sha256=DIGEST),))
        for i, rows in enumerate(CHUNK_ROWS)
    )
    sources = tuple(
        Source(name=name, weight=None, documents=1, tokens=34 * 257, rows=34, dropped_tokens=0)
        for name in ("docs", "code")
    )
    manifest = DataManifest(
        format="llm360-data/1",
        row_tokens=257,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=False,
        sources=sources,
        chunks=chunks,
        tokenizer=TokenizerInfo(key=None, digest=DIGEST, vocab_size=4096, eos_id=0),
        shuffle="none",
        seed=None,
        unigram_entropy=6.0,
        recipe={},
    )
    order = StageOrder(manifest.chunk_rows, 8, "drop")
    return StagePlan(0, "file:///data", manifest, DIGEST, None, order, 0, order.num_steps, 0)


@pytest.fixture
def start_recorder(stage: StagePlan) -> Iterator[Callable[..., Recorder]]:
    """Starts the driver's recorder on the run's release, in this process."""
    started: list[Recorder] = []

    def start(run: ResolvedRun, stages: tuple[StagePlan, ...] = (stage,), push: str | None = None) -> Recorder:
        storage = open_storage(run.store)
        create_release(storage, run.identity())
        recorder = Recorder(RecorderInput(run.canonical(), stages, storage.options, "127.0.0.1", 0, push))
        started.append(recorder)
        return recorder

    yield start
    for recorder in started:
        recorder.interrupt(1, "TestOver")
        recorder.close()


@pytest.fixture
def group() -> GroupInfo:
    """One rank on a CPU."""
    return GroupInfo(ranks=({"host": "here", "device": "cpu", "threads": 1},), libraries={"torch": "0"})


@pytest.fixture
def make_record(stage: StagePlan) -> Callable[..., StepRecord]:
    """The record of a step, by the number of steps finished with it."""

    def make(step: int, attempt: int = 1, loss: float = 1.0) -> StepRecord:
        return StepRecord(
            step=step,
            attempt=attempt,
            stage=0,
            time=datetime(2026, 1, 1, tzinfo=UTC),
            tokens=stage.tokens_after(step),
            loss=loss,
            learning_rate=0.1,
            grad_norm=1.0,
            step_seconds=1.0,
            tokens_per_second=1.0,
        )

    return make


@pytest.fixture
def make_part() -> Callable[..., RankPart]:
    """What the only rank wrote of a checkpoint."""

    def make(step: int, attempt: int = 1) -> RankPart:
        def tensor(name: str, file: str) -> TensorRecord:
            return TensorRecord(name=name, file=file, dtype="F32", shape=(1,), sha256=sha256_digest(str(step).encode()))

        return RankPart(
            step=step,
            prefix=checkpoint_prefix(step, attempt),
            rank=0,
            world_size=1,
            expected=("all",),
            groups=("all",),
            files=tuple(FileRecord(key=f"{part}/a.safetensors", bytes=1, sha256=DIGEST) for part in ("model", "state")),
            model=(tensor("w", "model/a.safetensors"),),
            state=(tensor("w.master", "state/a.safetensors"),),
            seconds=0.0,
        )

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that lies beside the repository, or where LLM360_SHARED_DATA says."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    folder = Path(os.environ.get("LLM360_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set LLM360_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRelease:
    """A run as its training left it, in a few seconds: read it, but write nothing."""
    return trained_release(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def trained_copy(trained: TrainedRelease, tmp_path: Path) -> TrainedRelease:
    """A copy of it to write into."""
    shutil.copytree(trained.uri, tmp_path / "trained")
    return TrainedRelease(open_storage(str(tmp_path / "trained")), trained.manifest, trained.texts)


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., SmallRelease]:
    """Makes a release of one checkpoint: the first values of a preset's architecture with small sizes."""
    return lambda preset, *overrides: small_release(tmp_path, preset, *overrides)
