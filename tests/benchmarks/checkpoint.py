"""How long training stands still for a checkpoint: llm360's writer and `torch.distributed.checkpoint.save`.

Both write the same weights and moments of the same FSDP2 model to the same S3 server (SeaweedFS, started here), from
the same processes, in alternating pairs. Torch writes straight to the server, through its own extension point for file
systems and boto3's parallel uploads, because s3fs is not among the dependencies; nothing is staged on disk.

    gap        from the end of a step over the checkpoint to the end of the next step, minus the median from end to end:
               the checkpoint itself, and by how much what is still being written slows the next step
    start()    the part of it in which nothing but the checkpoint is worked on: gathering and copying
    slower     the same over all steps until the last byte is on the server; here the server, the hashing and the
               training share the cores, beside a GPU they do not
    written    from the beginning until the last byte is on the server
    server     processor seconds that the server took meanwhile, on the cores on which the training is
    torch      the time inside `torch.distributed.checkpoint.save`; making its state dict is not counted
    ratio      gap / torch (goal: < 10%)

llm360 writes more: besides the 12 bytes per parameter of weights and moments also the model folder in bfloat16, and it
takes sha256 of every tensor and file.

`--server-nice 19` gives the training's processes the cores before the server, as on a machine that the server is not
on; torch's time, in which no training waits for a core, stays what it is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import psutil
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from botocore.config import Config
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict

from llm360.storage import open_storage
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import DecoderConfig, to_hf_name
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import ParallelSettings, build_model, fill_initial, make_mesh
from llm360_trainer.step import TrainStep

BUCKET = "benchmark"
EXAMPLES = """\
examples:
  python tests/benchmarks/checkpoint.py
  python tests/benchmarks/checkpoint.py --ranks 2 --hidden 768 --layers 8 --pairs 9 --json result.json
"""


@dataclass(frozen=True)
class Pair:
    """Seconds of one pair of checkpoints; the names are those of the table."""

    gap: float
    start: float
    slower: float
    written: float
    server: float
    torch: float


def main() -> None:
    args = parse_arguments()
    sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
    from conftest import start_server  # the server that the tests use too

    with tempfile.TemporaryDirectory(prefix="llm360-bench-") as folder:
        server = start_server(Path(folder))
        try:
            server.client().create_bucket(Bucket=BUCKET)
            give_way(server.process.pid, args.server_nice)
            args.server = server.process.pid
            os.environ.update(server.environment, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
            context = torch.multiprocessing.get_context("spawn")
            ranks = [context.Process(target=measure, args=(r, args, folder)) for r in range(args.ranks)]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
            if any(process.exitcode for process in ranks):
                sys.exit("a rank failed; see its message above")
        finally:
            server.end()
        result = json.loads((Path(folder) / "result.json").read_text())
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes (gloo, one thread each); default 2")
    parser.add_argument("--pairs", type=int, default=9, help="pairs of checkpoints; default 9")
    parser.add_argument("--hidden", type=int, default=512, help="hidden size; default 512")
    parser.add_argument("--layers", type=int, default=6, help="decoder layers; default 6")
    parser.add_argument("--rows", type=int, default=4, help="sequences of 64 tokens in a step; default 4")
    parser.add_argument("--plain-steps", type=int, default=4, help="steps without a checkpoint per pair; default 4")
    parser.add_argument("--server-nice", type=int, default=0, help="how much the server gives way, 0 to 19; default 0")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


def give_way(process: int, niceness: int) -> None:
    """Lower the priority of a process: of each of its threads, from which later ones inherit it."""
    for thread in psutil.Process(process).threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, niceness)


def measure(rank: int, args: argparse.Namespace, folder: str) -> None:
    """One rank: all pairs; rank 0 writes the result, whose times are its own."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", args.ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=args.ranks)
    training = Training(args, rank)
    writer = CheckpointWriter(
        open_storage(f"s3://{BUCKET}/ours"), rename=to_hf_name, model_dtype=torch.bfloat16, model_files={}
    )
    # The first of each takes memory that later ones use again, and is not counted.
    training.ours(writer, "warm-up")
    training.torch("warm-up")
    pairs, plain = [], []
    for number in range(args.pairs):
        plain += [training.step() for _ in range(args.plain_steps)]
        ours_first = number % 2 == 0
        torch_seconds = 0.0 if ours_first else training.torch(f"pair-{number}")
        server_before = processor_seconds(args.server)
        start, gaps, written = training.ours(writer, f"pair-{number}")
        server = processor_seconds(args.server) - server_before
        if ours_first:
            torch_seconds = training.torch(f"pair-{number}")
        excess = [gap - statistics.median(plain) for gap in gaps]
        pairs.append(Pair(excess[0], start, sum(excess), written, server, torch_seconds))
    if rank == 0:
        (Path(folder) / "result.json").write_text(json.dumps(summary(args, training, pairs, plain)))
    dist.barrier()
    dist.destroy_process_group()


def processor_seconds(process: int) -> float:
    """What a process has used so far."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


class Training:
    """A model in training whose steps and checkpoints are timed."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        config = DecoderConfig(
            vocab_size=8192,
            hidden_size=args.hidden,
            intermediate_size=args.hidden * 8 // 3 // 16 * 16,
            num_layers=args.layers,
            num_heads=8,
            num_kv_heads=8,
            head_dim=args.hidden // 8,
        )
        mesh = make_mesh(args.ranks)
        self.model = build_model(config, ParallelSettings(), mesh)
        fill_initial(self.model, seed=0)
        self.optimizer = build_optimizer(self.model, OptimizerSettings())
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._step = TrainStep(self.model, self.optimizer, mesh, batch_rows=args.rows, micro_batch=8, num_sources=1)
        rows = self._step.rank_rows
        self._ids = np.random.default_rng(rank).integers(0, config.vocab_size, (rows, 65), dtype=np.uint16)
        self._finished = 0
        self._num_ranks = args.ranks
        self._end = time.perf_counter()

    def step(self) -> float:
        """Train one step; seconds since the end of the one before."""
        source = np.zeros(len(self._ids), dtype=np.uint16)
        self._step(self._ids, None, source, finished_steps=self._finished, learning_rate=1e-4)
        self._finished += 1
        before, self._end = self._end, time.perf_counter()
        return self._end - before

    def ours(self, writer: CheckpointWriter, prefix: str) -> tuple[float, list[float], float]:
        """Checkpoint, then steps until it is written; seconds of `start`, gaps of the steps, seconds until the end."""
        self._settle()
        begin = time.perf_counter()
        start = writer.start(self._finished, prefix, self.model, self.optimizer)
        gaps = []
        has_written, all_have = False, torch.zeros(())
        while all_have < self._num_ranks:
            gaps.append(self.step())
            has_written = has_written or bool(writer.poll())
            all_have = torch.tensor(float(has_written))
            dist.all_reduce(all_have)
        return start, gaps, time.perf_counter() - begin

    def torch(self, prefix: str) -> float:
        """Seconds of a checkpoint by torch."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        self._settle()
        begin = time.perf_counter()
        dcp.save({"model": model, "optimizer": optimizer}, storage_writer=S3Writer(f"torch/{prefix}"))
        seconds = time.perf_counter() - begin
        self._settle()
        return seconds

    def _settle(self) -> None:
        """Let the ranks meet, so that none waits for another inside of what is timed."""
        dist.barrier()
        self._end = time.perf_counter()


class KeptOpen(io.BytesIO):
    """A stream whose bytes outlive `close`."""

    def close(self) -> None:
        """Nothing."""


class S3Files(FileSystemBase):
    """What torch's writer asks of a file system, straight on boto3."""

    def __init__(self) -> None:
        self.client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, max_pool_connections=32))

    @contextlib.contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase, None, None]:
        assert mode == "wb"
        stream = KeptOpen()  # torch closes it at the end, this after the upload
        yield stream
        stream.seek(0)
        self.client.upload_fileobj(stream, BUCKET, str(path))  # multipart, ten parts at a time
        super(KeptOpen, stream).close()

    def concat_path(self, path: Any, suffix: str) -> str:
        return f"{path}/{suffix}"

    def rename(self, path: Any, new_path: Any) -> None:
        self.client.copy_object(Bucket=BUCKET, Key=str(new_path), CopySource={"Bucket": BUCKET, "Key": str(path)})
        self.rm_file(path)

    def init_path(self, path: Any) -> str:
        return str(path)

    def mkdir(self, path: Any) -> None:
        """A bucket has no folders."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:  # noqa: ARG003 - torch names it
        return True

    def exists(self, path: Any) -> bool:
        return bool(self.client.list_objects_v2(Bucket=BUCKET, Prefix=str(path), MaxKeys=1).get("Contents"))

    def rm_file(self, path: Any) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=str(path))


class S3Writer(FileSystemWriter):
    """torch's writer on `S3Files`, as its `FsspecWriter` is on fsspec."""

    def __init__(self, path: str) -> None:
        super().__init__(path, sync_files=False)
        self.fs = S3Files()
        self.path = path


def summary(args: argparse.Namespace, training: Training, pairs: list[Pair], plain: list[float]) -> dict[str, Any]:
    """The numbers, and on what they were taken."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "ranks": args.ranks,
        "server_nice": args.server_nice,
        "parameters": training.num_parameters,
        "median_step_seconds": statistics.median(plain),
        "pairs": [asdict(pair) for pair in pairs],
        "median_ratio": statistics.median(pair.gap / pair.torch for pair in pairs),
        "median": {name: statistics.median(getattr(pair, name) for pair in pairs) for name in Pair.__annotations__},
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['parameters'] / 1e6:.1f} M parameters ({result['parameters'] * 12 / 2**20:.0f} MiB of weights and"
        f" moments), {result['ranks']} ranks, torch {result['torch']}, {result['machine']};"
        f" median step {result['median_step_seconds']:.3f} s"
    )
    names = list(Pair.__annotations__)
    print("  ".join(f"{name:>8}" for name in ["pair", *names, "ratio"]))
    for label, pair in [*enumerate(result["pairs"], start=1), ("median", result["median"])]:
        ratio = result["median_ratio"] if label == "median" else pair["gap"] / pair["torch"]
        print("  ".join([f"{label:>8}", *(f"{pair[name]:8.3f}" for name in names), f"{ratio:8.1%}"]))


if __name__ == "__main__":
    main()
