"""Tokens per second that one training worker gets: llm360 through Ray Data, LitData, mosaicml-streaming.

All three read the same rows in the same order from this machine's disk with the same number of reader processes, and
give batches [rows, row_tokens] of 64-bit ids, as a model takes them. Each contender lives in a process of its own and
takes its turn; a pair is one turn of each. The clock runs over the second half of a turn's rows, when what was read
ahead before the first batch is used up. Run it on a machine that does nothing else: the contenders' reader processes
are scheduled in different ways (Ray's are sessions of their own), and a busy machine shares itself out by that.

    ours       zstd Parquet; every shard's sha256 and every row's position are checked in each turn
    litdata    `TokensLoader` and `StreamingDataLoader`, uncompressed, its fastest form; nothing is checked
    mosaicml   MDS with one array a row and `DataLoader`, uncompressed; nothing is checked
    ratio      ours / the faster of the two, the median over all pairs (goal: ≥ 1.0)
    start      seconds from the call to the first batch
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

EXAMPLES = """\
examples:
  python tests/benchmarks/data_path.py
  python tests/benchmarks/data_path.py --rows 131072 --batch 512 --pairs 9 -o json
"""
CONTENDERS = ("ours", "litdata", "mosaicml")
SHARD_BYTES = 64 * 1024 * 1024  # uncompressed, for all three
VOCABULARY = 32_000


class Job(NamedTuple):
    """What all contenders read, and how."""

    folder: Path
    rows: int
    row_tokens: int
    batch: int
    readers: int


class Turn(NamedTuple):
    """One contender's pass over all rows."""

    tokens_per_second: float
    start_seconds: float
    checksum: int


def row_ids(job: Job) -> Iterator[np.ndarray]:
    """All rows, [rows of a shard, row_tokens] uint16 at a time: ids as frequent as words are (Zipf), fixed seed."""
    generator = np.random.default_rng(0)
    frequency = np.cumsum(1 / np.arange(1, VOCABULARY + 1) ** 1.1)
    ids = np.searchsorted(frequency, np.linspace(0, frequency[-1], 2**16, endpoint=False)).astype(np.uint16)
    step = max(1, SHARD_BYTES // (2 * job.row_tokens))
    for start in range(0, job.rows, step):
        shape = (min(step, job.rows - start), job.row_tokens)
        yield ids[generator.integers(0, 2**16, shape, dtype=np.uint16)]


def write_ours(job: Job) -> None:
    """Shards and manifest as the preparation writes them, without documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
    from llm360.data.rows import GROUP_ROWS, fixed_binary, shard_schema

    schema, shards = shard_schema(job.row_tokens, "uint16", has_loss_mask=False), []
    for index, ids in enumerate(row_ids(job)):
        documents = pa.array([[]] * len(ids), schema.field("documents").type)
        table = pa.table([fixed_binary(ids), pa.array(np.zeros(len(ids), np.uint16)), documents], schema=schema)
        file = io.BytesIO()
        pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS, use_dictionary=["source"])
        data = file.getvalue()
        key = f"shard-{index:05d}.parquet"
        (job.folder / "ours" / key).write_bytes(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        shards.append(Shard(key=key, rows=len(ids), bytes=len(data), sha256=digest))
    tokens = job.rows * job.row_tokens
    manifest = DataManifest(
        row_tokens=job.row_tokens,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=False,
        sources=(Source(name="zipf", documents=job.rows, tokens=tokens, rows=job.rows, dropped_tokens=0),),
        chunks=(Chunk(rows=job.rows, shards=tuple(shards)),),
        tokenizer=TokenizerInfo(digest=f"sha256:{'0' * 64}", vocab_size=VOCABULARY),
        shuffle="none",
        unigram_entropy=0.0,
        recipe={},
    )
    (job.folder / "ours" / "manifest.json").write_bytes(manifest.to_bytes())


def write_litdata(job: Job) -> None:
    """Chunks of tokens without headers."""
    import torch
    from litdata.streaming.item_loader import TokensLoader
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(
        str(job.folder / "litdata"), chunk_bytes=SHARD_BYTES, item_loader=TokensLoader(block_size=job.row_tokens)
    )
    index = 0
    for ids in row_ids(job):
        for row in torch.from_numpy(ids.astype(np.int16)):  # ids are below 2**15; the same two bytes an id
            writer[index] = row
            index += 1
    writer.done()
    writer.merge()


def write_mosaicml(job: Job) -> None:
    """MDS shards of one array a row."""
    from streaming import MDSWriter

    columns = {"ids": f"ndarray:uint16:{job.row_tokens}"}
    with MDSWriter(out=str(job.folder / "mosaicml"), columns=columns, size_limit=SHARD_BYTES) as writer:
        for ids in row_ids(job):
            for row in ids:
                writer.write({"ids": row})


def open_ours(job: Job) -> Callable[[], Iterator[np.ndarray]]:
    """Start Ray; each turn is one stream with a cache that knows nothing."""
    import ray

    from llm360.data.manifest import load_manifest
    from llm360.data.order import StageOrder
    from llm360.storage import StorageOptions, open_storage
    from llm360_trainer.stream import ShardCache, stream_steps

    start_ray(ray, job.readers)
    uri = (job.folder / "ours").as_uri()
    manifest, _ = load_manifest(open_storage(uri))
    order = StageOrder(manifest.chunk_rows, job.batch)

    def turn() -> Iterator[np.ndarray]:
        cache = job.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for step in stream_steps(
            uri,
            StorageOptions(),
            manifest,
            order,
            rank=0,
            world=1,
            first_step=0,
            last_step=order.num_steps,
            cache=ShardCache(cache),
        ):
            yield step.ids

    return turn


def start_ray(ray: Any, cpus: int) -> None:
    """A busy machine may need longer than the 30 s that Ray gives itself to start."""
    for attempt in range(3):
        try:
            ray.init(
                address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
        else:
            return


def open_litdata(job: Job) -> Callable[[], Iterator[np.ndarray]]:
    """Each turn is one epoch of a new loader."""
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.item_loader import TokensLoader

    def turn() -> Iterator[np.ndarray]:
        dataset = StreamingDataset(
            str(job.folder / "litdata"), item_loader=TokensLoader(block_size=job.row_tokens), shuffle=False
        )
        for batch in StreamingDataLoader(dataset, batch_size=job.batch, num_workers=job.readers, drop_last=True):
            yield batch.numpy()

    return turn


def open_mosaicml(job: Job) -> Callable[[], Iterator[np.ndarray]]:
    """Each turn is one epoch of a new loader."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    def turn() -> Iterator[np.ndarray]:
        clean_stale_shared_memory()
        dataset = StreamingDataset(local=str(job.folder / "mosaicml"), shuffle=False, batch_size=job.batch)
        for batch in DataLoader(dataset, batch_size=job.batch, num_workers=job.readers, drop_last=True):
            yield batch["ids"].numpy()

    return turn


WRITERS = {"ours": write_ours, "litdata": write_litdata, "mosaicml": write_mosaicml}
READERS = {"ours": open_ours, "litdata": open_litdata, "mosaicml": open_mosaicml}


def serve(name: str, job: Job, pipe: Connection) -> None:
    """A contender's process: write its files, then take a turn whenever asked until told to stop."""
    warnings.simplefilter("ignore")  # the peers' own, and their loader processes inherit it
    (job.folder / name).mkdir()
    WRITERS[name](job)
    turn = READERS[name](job)
    pipe.send(sum(path.stat().st_size for path in (job.folder / name).rglob("*") if path.is_file()))
    while pipe.recv():
        pipe.send(measure(job, turn))


def measure(job: Job, turn: Callable[[], Iterator[np.ndarray]]) -> Turn:
    """One turn; every batch becomes 64-bit ids, as training does with it."""
    called = time.perf_counter()
    rows, checksum, first, half = 0, 0, 0.0, (0, 0.0)
    for batch in turn():
        first = first or time.perf_counter()
        ids = batch.astype(np.int64)
        rows += len(ids)
        checksum += int(ids[:, -1].sum())
        if not half[0] and rows >= job.rows // 2:
            half = (rows, time.perf_counter())
    elapsed = time.perf_counter() - half[1]
    return Turn((rows - half[0]) * (job.row_tokens - 1) / elapsed, first - called, checksum)


def compare(job: Job, pairs: int) -> dict[str, Any]:
    """Let the contenders take turns and gather what came out."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    try:
        for name in CONTENDERS:
            pipes[name], theirs = spawn.Pipe()
            processes.append(spawn.Process(target=serve, args=(name, job, theirs)))
            processes[-1].start()
            theirs.close()
        stored = {name: pipes[name].recv() for name in CONTENDERS}
        turns: dict[str, list[Turn]] = {name: [] for name in CONTENDERS}
        for pair in range(-1, pairs):  # the first one warms up
            for name in CONTENDERS if pair % 2 else CONTENDERS[::-1]:
                pipes[name].send(True)
                turns[name].append(pipes[name].recv())
        for pipe in pipes.values():
            pipe.send(False)
        for process in processes:
            process.join(60)
    finally:
        for process in processes:
            process.kill()
    checksums = {turn.checksum for of_one in turns.values() for turn in of_one}
    if len(checksums) != 1:
        raise RuntimeError(f"the contenders did not read the same rows: {checksums}")
    return summary(job, {name: of_one[1:] for name, of_one in turns.items()}, stored)


def summary(job: Job, turns: dict[str, list[Turn]], stored: dict[str, int]) -> dict[str, Any]:
    """Medians, and the ratio to the faster peer of each pair."""
    ratios = [
        ours.tokens_per_second / max(peer.tokens_per_second for peer in peers)
        for ours, *peers in zip(*(turns[name] for name in CONTENDERS), strict=True)
    ]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "tokens_per_second": {
            name: round(statistics.median(turn.tokens_per_second for turn in turns[name])) for name in CONTENDERS
        },
        "start_seconds": {
            name: round(statistics.median(turn.start_seconds for turn in turns[name]), 3) for name in CONTENDERS
        },
        "stored_bytes": stored,
        "row_bytes": job.rows * job.row_tokens * 2,
        "rows": job.rows,
        "row_tokens": job.row_tokens,
        "batch": job.batch,
        "readers": job.readers,
        "pairs": len(ratios),
        "versions": {name: version(name) for name in ("ray", "pyarrow", "litdata", "mosaicml-streaming")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def main() -> int:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=65_536, help="rows to read in each turn (default 65,536)")
    parser.add_argument("--row-tokens", type=int, default=2_049, help="ids in a row (default 2,049)")
    parser.add_argument("--batch", type=int, default=512, help="rows of a batch (default 512)")
    parser.add_argument("--readers", type=int, default=2, help="reader processes of each contender (default 2)")
    parser.add_argument("--pairs", type=int, default=9, help="turns of each contender (default 9)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default text")
    args = parser.parse_args()
    if args.rows % args.batch:
        parser.error(f"--rows {args.rows} is no multiple of --batch {args.batch}")
    with tempfile.TemporaryDirectory(prefix="llm360-data-path-") as folder:
        job = Job(Path(folder), args.rows, args.row_tokens, args.batch, args.readers)
        found = compare(job, args.pairs)
    if args.output == "json":
        print(json.dumps(found, indent=2))
        return 0
    for name in CONTENDERS:
        speed, start, stored = (found[fact][name] for fact in ("tokens_per_second", "start_seconds", "stored_bytes"))
        print(f"{name:9} {speed / 1e6:8.1f} M tokens/s   start {start:6.3f} s   {stored / 1e6:8.1f} MB stored")
    print(f"ratio to the faster peer: {found['ratio']} (median of {found['pairs']}; {found['ratios']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
