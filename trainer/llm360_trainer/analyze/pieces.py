"""What a checkpoint is measured on: a sample of each data chunk, as the release's ledger binds it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llm360.canonical import digest_of
from llm360.data.manifest import MANIFEST_KEY, DataManifest, load_manifest
from llm360.data.rows import GROUP_ROWS, Rows, read_rows
from llm360.errors import InputError, IntegrityError
from llm360.release.entries import Stage
from llm360.release.history import History
from llm360.storage import Storage, open_storage

PARALLEL_READS = 8


@dataclass(frozen=True)
class Piece:
    """What one measurement is made on.

    Attributes:
        name: Stands in keys, results and figures.
        digest: Of everything that decides what it holds.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class ChunkSample(Piece):
    """Rows chosen from a data chunk.

    Attributes:
        storage: Rooted at the data's folder.
        manifest: Of that folder.
        chunk: The chunk's index in its stage.
        rows: The chosen rows, counted from the chunk's first, in the order of the choice.
        num_trained: The chunk's rows that are ever trained on are those before this one.
        trained_tokens: Predictions of the run when the chunk has been read to its end.
    """

    storage: Storage = field(repr=False)
    manifest: DataManifest = field(repr=False)
    chunk: int
    rows: NDArray[np.int64] = field(repr=False)
    num_trained: int
    trained_tokens: int

    @cached_property
    def read(self) -> Rows:
        """The rows themselves, in the order of the choice; their documents are left out.

        Raises:
            IntegrityError: a shard is not what the manifest names.
            StorageError: it cannot be read.
        """
        groups = np.split(*_group_cuts(np.sort(self.rows)))
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            parts = list(pool.map(self._read_group, groups))
        ids = np.concatenate([ids for ids, _, _ in parts])
        sources = np.concatenate([sources for _, sources, _ in parts])
        masks = [mask for _, _, mask in parts if mask is not None]
        place = np.argsort(np.argsort(self.rows))
        mask = np.concatenate(masks)[place] if masks else None
        return Rows(ids[place], mask, sources[place], [[] for _ in range(len(place))])

    @property
    def sources(self) -> list[str]:
        """The name of each row's source."""
        return [self.manifest.sources[int(source)].name for source in self.read.source]

    def _read_group(self, rows: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray | None]:  # type: ignore[type-arg]
        first = int(rows[0])
        found = read_rows(self.storage, self.manifest, self.chunk, first, int(rows[-1]) + 1)
        at = rows - first
        return found.ids[at], found.source[at], None if found.loss_mask is None else found.loss_mask[at]


def _group_cuts(ascending: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows, and where to cut them so that each part lies in one Parquet row group (of the format's usual size)."""
    return ascending, np.flatnonzero(np.diff(ascending // GROUP_ROWS)) + 1


def choose_rows(num_rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which rows of a chunk are sampled, in their order: `count` of them, or all where there are fewer.

    The choice of LLM360's memorization demo (`datasets.Dataset.shuffle(seed=42)`, then the first 1,000), which is
    the permutation of NumPy's default generator: LLM360/Analysis360 analysis/memorization/demo.ipynb at efe4ec3.
    """
    return np.random.default_rng(seed).permutation(num_rows)[:count]


def chunk_samples(storage: Storage, history: History, chosen: str, *, count: int, seed: int) -> list[ChunkSample]:
    """Samples of the run's data chunks.

    Args:
        storage: Rooted at the release.
        history: What its ledger says.
        chosen: `all`, or chunks by comma, each an index, or `stage:index` where a run has several stages.
        count: Rows of each.
        seed: Of the choice.

    Raises:
        InputError: there is no such chunk.
        IntegrityError: the data is not what the ledger names.
    """
    if not history.stages:
        raise InputError(f"{storage.uri} has no stage in its ledger yet, so there is no data to sample; train first")
    wanted = [(stage, chunk) for stage in history.stages for chunk in range(len(stage.chunk_rows))]
    if chosen != "all":
        wanted = [_find_chunk(history.stages, word.strip()) for word in chosen.split(",")]
    manifests = {stage.stage: stage_data(storage, stage) for stage, _ in wanted}
    return [_sample(history, stage, chunk, *manifests[stage.stage], count=count, seed=seed) for stage, chunk in wanted]


def _find_chunk(stages: Sequence[Stage], word: str) -> tuple[Stage, int]:
    name, _, index = word.rpartition(":")
    found = [stage for stage in stages if not name or stage.name == name]
    names = ", ".join(f"{stage.name} (chunks 0 to {len(stage.chunk_rows) - 1})" for stage in stages)
    if not index.isdecimal() or not found:
        raise InputError(f"--chunks has '{word}'; give `all`, or indices by comma (stage:index); there are {names}")
    if len(found) > 1:
        raise InputError(f"--chunks has '{word}', but the run has several stages: {names}; write stage:index")
    if int(index) >= len(found[0].chunk_rows):
        raise InputError(f"--chunks has '{word}'; there are {names}")
    return found[0], int(index)


def stage_data(storage: Storage, stage: Stage) -> tuple[Storage, DataManifest]:
    """A stage's data folder and its manifest, the one that the ledger names.

    Raises:
        IntegrityError: it is another one.
        InputError: there is none.
    """
    place = open_storage(stage.data, storage.options) if "://" in stage.data else storage.at(stage.data)
    manifest, digest = load_manifest(place)
    if digest != stage.digests.manifest:
        raise IntegrityError(f"{place.uri}/{MANIFEST_KEY} has {digest}, but the ledger names {stage.digests.manifest}")
    return place, manifest


def _sample(
    history: History, stage: Stage, chunk: int, storage: Storage, manifest: DataManifest, *, count: int, seed: int
) -> ChunkSample:
    num_rows = stage.chunk_rows[chunk]
    kept = num_rows - num_rows % stage.batch_rows if stage.remainder == "drop" else num_rows
    name = f"chunk_{chunk:03d}" if len(history.stages) == 1 else f"{stage.name}_chunk_{chunk:03d}"
    rows = choose_rows(num_rows, count, seed)
    return ChunkSample(
        name=name,
        digest=digest_of({"manifest": stage.digests.manifest, "chunk": chunk, "rows": rows.tolist()}),
        storage=storage,
        manifest=manifest,
        chunk=chunk,
        rows=rows,
        num_trained=kept,
        trained_tokens=stage.tokens_after(stage.step + stage.order.chunk_end_steps()[chunk]),
    )
