"""What float8 does to the loss: a small Amber trained in each precision on the same real text in the same order.

The step is the trainer's own (decoder, FSDP2 over this process alone, AdamW, clipping); the text is the source and the
documentation of Python's standard library, each row read once. On a CPU float8's products are emulated: operands are
rounded to float8 by the same recipe, then multiplied in fp32. So it shows what the rounding does, not the hardware's
own sums, and nothing of speed.

    smoothed   mean loss of the last 50 steps
    gap        smoothed loss less that of bf16 at the same step: the largest after the warm-up, and the last
    fp32       the yardstick: its gap is what bf16's own rounding does
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from step_work import Work, load_work, positive
from tokenizers import Tokenizer
from torch.distributed.device_mesh import DeviceMesh

from llm360_trainer.model import num_parameters
from llm360_trainer.optim import build_optimizer
from llm360_trainer.parallel import ParallelSettings, build_model, fill_initial, fp8_unavailable, make_mesh
from llm360_trainer.prepare.recipes import RECIPES, recipe_tokenizer
from llm360_trainer.prepare.tokenize import END_OF_TEXT
from llm360_trainer.step import TrainStep

EXAMPLES = """\
examples:
  python tests/benchmarks/precision.py --json precision.json
  python tests/benchmarks/precision.py --steps 100 --precision fp8-rowwise
  python tests/benchmarks/precision.py --device cuda --hidden 768 --layers 12 --batch 64 --sequence-length 512
"""
BASE = "bf16"
PRECISIONS = (BASE, "fp32", "fp8-rowwise", "fp8-tensorwise")
RECIPE = "python-stdlib"
SMOOTHED_STEPS = 50
WARMUP_STEPS = 50
LAST_RATE = 0.1  # of the learning rate, at the end of the cosine

Ids = npt.NDArray[np.int64]


def main() -> int:
    """Train in each precision and report."""
    args = parse_arguments()
    device = torch.device(args.device)
    for precision in args.precision:
        recipe = precision.removeprefix("fp8-")
        if recipe != precision and device.type == "cuda" and (problem := fp8_unavailable(recipe, device)):
            print(f"precision.py: error: --precision {precision}: {problem}", file=sys.stderr)
            return 2
    torch.set_num_threads(args.threads)
    work = small_work(args)
    rows = text_rows(work, args.steps * args.batch, args.seed)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = make_mesh(1, device.type)
        curves = {name: train(name, work, rows, mesh, args) for name in dict.fromkeys((BASE, *args.precision))}
    finally:
        dist.destroy_process_group()
    result = {"machine": machine(device), "work": describe(work, args), "runs": compare(curves)}
    if args.json:
        args.json.write_text(json.dumps({**result, "losses": curves}, indent=2) + "\n")
    print("\n".join(lines(result)))
    return 0


def small_work(args: argparse.Namespace) -> Work:
    """Amber's form at the size that the arguments name."""
    work = load_work("amber-7b", small=True, batch=args.batch, sequence_length=args.sequence_length)
    heads = args.hidden // 32
    config = replace(
        work.config,
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 11 // 4 // 16 * 16,  # float8 takes multiples of 16
        num_layers=args.layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=32,
    )
    return replace(work, config=config)


def text_rows(work: Work, count: int, seed: int) -> Ids:
    """ids[count, T + 1]: documents in random order one after another, each with its end, cut into rows."""
    tokenizer = Tokenizer.from_buffer(recipe_tokenizer(RECIPE, work.config.vocab_size))
    end = tokenizer.token_to_id(END_OF_TEXT)
    documents = [text for texts in RECIPES[RECIPE].sources.values() for text in texts()]
    random, length = np.random.default_rng(seed), work.sequence_length + 1
    ids: list[int] = []
    for index in random.permutation(len(documents)):
        ids += [*tokenizer.encode(documents[index], add_special_tokens=False).ids, end]
        if len(ids) >= count * length:
            break
    else:
        print(
            f"precision.py: error: {count:,} rows are asked for, the text has {len(ids) // length:,}; lower --steps,"
            " --batch or --sequence-length",
            file=sys.stderr,
        )
        raise SystemExit(2)
    rows = np.array(ids[: count * length], dtype=np.int64).reshape(count, length)
    return random.permutation(rows)


def train(precision: str, work: Work, rows: Ids, mesh: DeviceMesh, args: argparse.Namespace) -> list[float]:
    """The loss of every step, nats per token."""
    recipe = precision.removeprefix("fp8-")
    settings = ParallelSettings(
        param_dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
        fp8=recipe if recipe != precision else None,
    )
    model = build_model(work.config, settings, mesh)
    fill_initial(model, args.seed)
    step = TrainStep(
        model,
        build_optimizer(model, work.optimizer),
        mesh,
        batch_rows=work.batch_rows,
        micro_batch=work.batch_rows,
        num_sources=1,
    )
    source = np.zeros(work.batch_rows, dtype=np.int64)
    losses: list[float] = []
    started = time.perf_counter()
    for number, batch in enumerate(np.split(rows, args.steps)):
        rate = learning_rate(number, args.steps, args.learning_rate)
        losses.append(step(batch, None, source, finished_steps=number, learning_rate=rate).loss)
        if (number + 1) % 100 == 0:
            seconds = (time.perf_counter() - started) / (number + 1)
            print(
                f"{precision} {number + 1}/{args.steps} loss {losses[-1]:.3f}, {seconds:.2f} s a step", file=sys.stderr
            )
    return losses


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Linear warm-up, then a cosine."""
    if step < WARMUP_STEPS:
        return highest * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return highest * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def smoothed(losses: list[float]) -> npt.NDArray[np.float64]:
    """The mean of each step and those before it, at most `SMOOTHED_STEPS`."""
    sums = np.concatenate(([0.0], np.cumsum(losses)))
    last = np.arange(1, len(losses) + 1)
    first = np.maximum(0, last - SMOOTHED_STEPS)
    return (sums[last] - sums[first]) / (last - first)


def compare(curves: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Each precision's final loss, and its distances from the base."""
    base, found = smoothed(curves[BASE]), {}
    begin = min(WARMUP_STEPS, len(base) - 1)
    for name, losses in curves.items():
        gaps = smoothed(losses) - base
        widest = begin + int(np.argmax(np.abs(gaps[begin:])))
        found[name] = {
            "final_loss": float(smoothed(losses)[-1]),
            "final_gap": float(gaps[-1]),
            "largest_gap": float(gaps[widest]),
            "largest_gap_step": widest + 1,
        }
    return found


def machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "fp8": "in hardware" if device.type == "cuda" else "emulated",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def describe(work: Work, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "parameters": num_parameters(work.config),
        "steps": args.steps,
        "batch_rows": work.batch_rows,
        "sequence_length": work.sequence_length,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The report."""
    work, where = result["work"], result["machine"]
    found = [
        f"{work['parameters']:,} parameters, {work['steps']:,} steps of"
        f" {work['batch_rows']} × {work['sequence_length']} tokens;"
        f" {where['device']}, float8 {where['fp8']}, torch {where['torch']}"
    ]
    for name, run in result["runs"].items():
        found.append(
            f"{name:15} smoothed loss at the end {run['final_loss']:.4f}, from {BASE} {run['final_gap']:+.4f};"
            f" largest gap {run['largest_gap']:+.4f} at step {run['largest_gap_step']}"
        )
    return found


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=positive, default=1000, help="(default: %(default)s)")
    add(
        "--precision",
        action="append",
        choices=PRECISIONS[1:],
        help=f"beside {BASE}; may be given more than once (default: all)",
    )
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default, what in (
        ("hidden", 128, "features, a multiple of 32"),
        ("layers", 4, "blocks"),
        ("vocab", 2048, "tokens of the tokenizer that is trained on the text"),
        ("batch", 8, "sequences of a step"),
        ("sequence-length", 128, "tokens of a sequence"),
        ("seed", 1, "of the first values and of the text's order"),
        ("threads", 1, "threads on a CPU"),
    ):
        add(f"--{name}", type=positive, default=default, help=f"{what} (default: %(default)s)")
    add("--learning-rate", type=float, default=1e-3, help="the highest (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write everything here, every step's loss included")
    args = parser.parse_args()
    args.precision = args.precision or list(PRECISIONS[1:])
    if args.hidden % 32:
        parser.error(f"--hidden {args.hidden}: must be a multiple of 32")
    return args


if __name__ == "__main__":
    sys.exit(main())
