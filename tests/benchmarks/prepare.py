"""Preparation against `datasets.map`, tokens a second, and its memory as the input grows.

Both read the same Parquet file of text with the same `tokenizer.json` on the same number of processes, in alternating
pairs of one run. `datasets.map` tokenizes and writes its cache; preparation tokenizes, cuts rows, shuffles them, and
writes shards with digests and a manifest, all of which is inside its time. Starting the processes is not: Ray is up
before the first pair, and `datasets` forks within its time what Ray does at its start, which is told separately.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from llm360.storage import open_storage
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.pipeline import prepare
from llm360_trainer.prepare.recipes import python_code, python_docs
from llm360_trainer.prepare.runner import ray_session
from llm360_trainer.prepare.settings import PrepareSettings
from llm360_trainer.prepare.tokenize import train_tokenizer

SAMPLE_SECONDS = 0.1


def main() -> int:
    """Run one of the measurements and print its facts as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python tests/benchmarks/prepare.py speed --megabytes 64 --pairs 5\n"
        "  python tests/benchmarks/prepare.py memory --megabytes 16\n",
    )
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--megabytes", type=int, default=32, help="text in MB; memory also takes ten times as much")
    parser.add_argument("--pairs", type=int, default=5, help="alternating pairs (speed)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes of each side")
    parser.add_argument("--sequence-length", type=int, default=2048)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm360-bench-") as folder:
        facts = (speed if args.what == "speed" else memory)(args, Path(folder))
    print(json.dumps(facts, indent=2))
    return 0


def write_text(path: Path, megabytes: int) -> int:
    """Shuffled documents of Python's own text, repeated to a size; returns the bytes of text."""
    texts = [text for source in (python_docs, python_code) for text in source()]
    rng = random.Random(0)
    size, row_groups = 0, pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, row_groups) as writer:
        while size < megabytes * 10**6:
            rng.shuffle(texts)
            for start in range(0, len(texts), 64):
                group = texts[start : start + 64]
                writer.write_table(pa.table({"text": group}))
                size += sum(len(text.encode()) for text in group)
                if size >= megabytes * 10**6:
                    break
    return size


def settings_of(path: Path, tokenizer: bytes, args: argparse.Namespace) -> PrepareSettings:
    """One source, shuffled."""
    return PrepareSettings((SourceSpec("text", str(path)),), tokenizer, args.sequence_length, chunks=4, seed=1)


def run_ours(settings: PrepareSettings, out: Path, processes: int) -> int:
    """Prepare; returns the ids made."""
    shutil.rmtree(out, ignore_errors=True)
    manifest = prepare(settings, open_storage(str(out)), session=functools.partial(ray_session, None, processes))
    return sum(source.tokens for source in manifest.sources)


def run_datasets(path: Path, tokenizer_path: Path, cache: Path, processes: int) -> int:
    """Tokenize with `datasets.map` and `transformers`, as its documentation does; returns the ids made."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    shutil.rmtree(cache, ignore_errors=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_path))
    loaded = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(cache))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*ids, 0] for ids in found]}

    mapped = loaded.map(encode, batched=True, num_proc=processes, remove_columns=["text"])
    lengths = (len(chunk.values) for chunk in mapped.data.column("input_ids").chunks)
    return sum(lengths)


def speed(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Alternating pairs; the ratio is of tokens a second, ours over theirs."""
    import ray

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes, not threads, on both sides
    path = folder / "text.parquet"
    size = write_text(path, args.megabytes)
    tokenizer = train_tokenizer((text for text in python_docs()), 4096)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    settings = settings_of(path, tokenizer, args)
    rates: dict[str, list[float]] = {"llm360": [], "datasets": []}
    counts: dict[str, int] = {}
    sides = {
        "llm360": lambda: run_ours(settings, folder / "out", args.processes),
        "datasets": lambda: run_datasets(path, folder / "tokenizer.json", folder / "cache", args.processes),
    }
    started = time.perf_counter()
    with ray_session(None, args.processes):
        ray.get([ray.remote(lambda: None).remote() for _ in range(args.processes)])
        ray_seconds = time.perf_counter() - started
        for pair in range(-1, args.pairs):  # the first warms caches and workers
            for name in sorted(sides, reverse=pair % 2 == 1):
                begun = time.perf_counter()
                counts[name] = sides[name]()
                seconds = time.perf_counter() - begun
                if pair >= 0:
                    rates[name].append(counts[name] / seconds)
                print(f"pair {pair} {name}: {counts[name] / seconds:,.0f} tokens/s", file=sys.stderr, flush=True)
    assert counts["llm360"] == counts["datasets"], counts
    ratios = [ours / theirs for ours, theirs in zip(rates["llm360"], rates["datasets"], strict=True)]
    return {
        "text_bytes": size,
        "tokens": counts["llm360"],
        "processes": args.processes,
        "ray_start_seconds": round(ray_seconds, 1),
        "tokens_per_second": {name: round(statistics.median(values)) for name, values in rates.items()},
        "ratios": [round(ratio, 2) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 2),
    }


def memory(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Peak memory of the whole preparation, all its processes, at 1 and 10 times the text, each in a process anew."""
    (folder / "tokenizer.json").write_bytes(train_tokenizer(python_docs(), 4096))
    facts = {}
    for times in (1, 10):
        path = folder / f"text-{times}.parquet"
        write_text(path, times * args.megabytes)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_prepare_alone, args=(path, folder / "tokenizer.json", folder / "out", args))
        process.start()
        peak = PeakMemory(process.pid or 0)
        process.join()
        facts[f"{times}x"] = {"text_megabytes": times * args.megabytes} | peak.stop()
        path.unlink()
    one, ten = (facts[name]["largest_process_mib"] for name in ("1x", "10x"))
    return {"processes": args.processes, **facts, "largest_process_ratio": round(ten / one, 2)}


def _prepare_alone(path: Path, tokenizer: Path, out: Path, args: argparse.Namespace) -> None:
    run_ours(settings_of(path, tokenizer.read_bytes(), args), out, args.processes)


class PeakMemory:
    """Samples a process and all below it until stopped."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._total = self._largest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            private = []
            for process in processes:
                try:
                    found = process.memory_info()
                    private.append(found.rss - found.shared)  # shared: code, and the object store
                except psutil.NoSuchProcess:
                    continue
            self._total = max(self._total, sum(private))
            self._largest = max(self._largest, max(private, default=0))

    def stop(self) -> dict[str, int]:
        """Peaks in MiB: of all processes together, Ray's own among them, and of the largest."""
        self._done.set()
        self._thread.join()
        return {"all_processes_mib": self._total // 2**20, "largest_process_mib": self._largest // 2**20}


if __name__ == "__main__":
    sys.exit(main())
