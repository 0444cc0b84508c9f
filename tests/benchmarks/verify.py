"""How fast `llm360 verify --bytes all` reads a release: against `sha256sum` of the same files.

A release of several checkpoints is made in a temporary folder (all read once before, so that the disk does not
count). Then alternating pairs in the same run: verify, sha256sum, and `openssl dgst` where it is there: Debian's
sha256sum before version 13 does not use the processor's SHA instructions, OpenSSL and Python do, so the second
is the harder peer.

    per core   one worker against one process, in CPU seconds, which other load on the machine does not change;
               ratio = their CPU seconds / ours (goal: 0.9 or more)
    scaling    wall time of one worker / wall time of N workers
    tensors    none: every file's sha256. latest: also each tensor's by itself, of the last checkpoint (the default).
               all: of all checkpoints, which hashes every byte twice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm360.canonical import sha256_digest
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord, tensors_digest
from llm360.release.create import create_release
from llm360.release.layout import checkpoint_prefix, manifest_key
from llm360.release.verify import verify
from llm360.release.writer import TrainingWriter
from llm360.storage import Storage, open_storage

MIB = 1024 * 1024
TENSORS_PER_FILE = 9
EXAMPLES = """\
examples:
  python tests/benchmarks/verify.py
  python tests/benchmarks/verify.py --checkpoints 9 --files 8 --file-mib 64 --pairs 9 --json result.json
"""


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="llm360-bench-", dir=args.folder) as folder:
        storage = open_storage(folder)
        for _ in range(args.checkpoints):
            add_checkpoint(storage, args.files, args.file_mib * MIB)
        files = sorted(str(path) for path in Path(folder).rglob("*.safetensors"))
        size = sum(os.path.getsize(path) for path in files)  # noqa: PTH202
        result = measure(storage, files, size, args.pairs, args.workers)
    print(describe(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


def add_checkpoint(storage: Storage, num_files: int, file_bytes: int) -> None:
    """A checkpoint of random fp32 tensors, by an attempt of its own that goes back to the beginning."""
    ledger = create_release(storage, {"benchmark": "verify", "data": {"stages": []}})
    writer = TrainingWriter(ledger)
    writer.claim(world_size=1, device="cpu", operations={}, environment={})
    writer.rewind(0, None, "the next checkpoint")
    prefix = checkpoint_prefix(0, writer.attempt)
    files, records = [], []
    for number in range(num_files):
        key = f"state/layer_{number:05d}.safetensors"
        data, tensors = tensor_file(key, file_bytes, seed=writer.attempt * 1000 + number)
        storage.put(f"{prefix}/{key}", data)
        files.append(FileRecord(key=key, bytes=len(data), sha256=sha256_digest(data)))
        records += tensors
    manifest = CheckpointManifest(
        step=0,
        tokens=0,
        attempt=writer.attempt,
        world_size=1,
        config_digest=ledger.history().config_digest,
        files=tuple(files),
        model=(),
        state=tuple(records),
        model_digest=tensors_digest(()),
        state_digest=tensors_digest(records),
    )
    storage.put(manifest_key(prefix), manifest.encode())
    writer.checkpoint(manifest)


def tensor_file(key: str, size: int, seed: int) -> tuple[bytes, list[TensorRecord]]:
    """A safetensors file of about `size` bytes and its tensors' records."""
    length = size // TENSORS_PER_FILE // 4
    values = np.random.default_rng(seed).integers(0, 2**31, (TENSORS_PER_FILE, length), np.int32)
    records, header = [], {}
    for index, value in enumerate(values):
        name = f"{key}.{index}"
        header[name] = {
            "dtype": "F32",
            "shape": [length],
            "data_offsets": [index * length * 4, (index + 1) * length * 4],
        }
        records.append(
            TensorRecord(name=name, file=key, dtype="F32", shape=(length,), sha256=sha256_digest(value.tobytes()))
        )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values.tobytes(), records


def measure(storage: Storage, files: list[str], size: int, pairs: int, workers: int) -> dict[str, Any]:
    """Alternating runs of all contestants; medians of CPU and wall seconds."""

    def verified(tensors: Any, workers: int) -> Callable[[], None]:
        def run() -> None:
            report = verify(storage, bytes="all", tensors=tensors, workers=workers)
            assert report.ok, report.first_fault
            assert report.bytes_hashed == size

        return run

    contestants: dict[str, Callable[[], None]] = {
        "verify --tensors none": verified("none", 1),
        "sha256sum": lambda: quietly(["sha256sum", *files]),
        "verify --tensors latest": verified("latest", 1),
        "verify --tensors all": verified("all", 1),
        f"verify --tensors none, {workers} workers": verified("none", workers),
        f"sha256sum, {workers} processes": lambda: quietly(
            ["xargs", "-P", str(workers), "-n", str(-(-len(files) // workers)), "sha256sum"], "\n".join(files)
        ),
    }
    if shutil.which("openssl"):
        contestants["openssl dgst -sha256"] = lambda: quietly(["openssl", "dgst", "-sha256", *files])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()  # warms the page cache
    for number in range(pairs):
        order = list(contestants.items())
        for name, run in order if number % 2 == 0 else reversed(order):
            seconds[name].append(timed(run))
    medians = {
        name: {"cpu": statistics.median(cpu for cpu, _ in times), "wall": statistics.median(wall for _, wall in times)}
        for name, times in seconds.items()
    }
    return {
        "bytes": size,
        "files": len(files),
        "pairs": pairs,
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "seconds": medians,
        "all": seconds,
    }


def quietly(command: list[str], given: str = "") -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, input=given, text=True)


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds (this process and its children, user and system) and wall seconds."""

    def cpu() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    cpu_before, wall_before = cpu(), time.perf_counter()
    run()
    return cpu() - cpu_before, time.perf_counter() - wall_before


def describe(result: dict[str, Any]) -> str:
    """The table."""
    medians, size = result["seconds"], result["bytes"]
    lines = [
        f"{size / 2**30:.2f} GiB in {result['files']} files, {result['pairs']} pairs, {result['cores']} cores,"
        f" Python {result['python']}, {result['machine']}",
        f"{'':36}{'CPU s':>8}{'wall s':>8}{'GB per CPU s':>14}",
    ]
    for name, median in medians.items():
        lines.append(f"{name:36}{median['cpu']:8.2f}{median['wall']:8.2f}{size / median['cpu'] / 1e9:14.2f}")
    lines.append("")
    ours = [name for name in medians if name.startswith("verify") and "workers" not in name]
    for peer in ("sha256sum", "openssl dgst -sha256"):
        if peer in medians:
            ratios = ", ".join(
                f"{name.removeprefix('verify ')} {medians[peer]['cpu'] / medians[name]['cpu']:.2f}" for name in ours
            )
            lines.append(f"per core, against {peer}: {ratios}")
    many = next(median for name, median in medians.items() if name.startswith("verify") and "workers" in name)
    one = medians["verify --tensors none"]
    lines.append(f"scaling, {result['workers']} workers: {one['wall'] / many['wall']:.2f} times as fast as one")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoints", type=int, default=9)
    parser.add_argument("--files", type=int, default=4, help="files of a checkpoint (default: 4)")
    parser.add_argument("--file-mib", type=int, default=24, help="MiB of a file (default: 24)")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--workers", type=int, default=max(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--folder", type=Path, help="where the release is made (default: the system's)")
    parser.add_argument("--json", type=Path, help="also write the result here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
