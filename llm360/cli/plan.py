"""`llm360 spec plan`: memory per rank and tokens per second before any GPU is asked for."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from typing import Any

from llm360.cli.arguments import add_command, add_output, add_overrides
from llm360.errors import InputError
from llm360.facts.hardware import GIB, GPUS, Gpu, gpu_named
from llm360.facts.plan import Plan, plan, plan_facts, refusal
from llm360.spec import load_run
from llm360.spec.base import quantity_bytes

EXAMPLES = """\
examples:
  llm360 spec plan amber-7b                                         as the preset has it, on H100s
  llm360 spec plan amber-7b --gpus 8 --gpus-per-node 8 --gpu h200   on one node of another kind
  llm360 spec plan run.yaml --set parallelism.microBatch=4 -o json
  llm360 spec plan amber-7b --gpus 64 --mfu 0.5                     with the MFU that tests/benchmarks/step.py measured

Exit code 2 and the change that would help, where a step does not fit. How the numbers come about is written in
docs/explanation/scaling.md.
"""
DEFAULT_RESERVE = 4.0


def configure(commands: Any) -> None:
    """Add the sub-command."""
    parser = add_command(commands, "plan", "predict memory per GPU and tokens per second", EXAMPLES)
    add = parser.add_argument
    add("source", metavar="FILE|PRESET", help="a file, a preset's name, or - for standard input")
    add_overrides(parser)
    add("--gpus", type=int, metavar="N", help="ranks (default: cluster.workers of the specification)")
    add("--gpus-per-node", type=int, metavar="N", help="of them in a node (default: cluster.workers.gpus)")
    add(
        "--gpu", choices=tuple(GPUS), default="h100", help="kind of GPU, of which the data sheet counts (default: h100)"
    )
    add(
        "--reserve",
        type=float,
        default=DEFAULT_RESERVE,
        metavar="GIB",
        help="memory left to CUDA's context, NCCL and the allocator's gaps: an assumption (default: %(default)g)",
    )
    add(
        "--mfu",
        type=float,
        metavar="SHARE",
        help="share (0 to 1) of the bf16 peak that the arithmetic reaches, as measured; default: all of it, which"
        " bounds the speed from above",
    )
    add_output(parser)
    parser.set_defaults(run=run_plan)


def run_plan(args: argparse.Namespace) -> int:
    """Print the plan.

    Raises:
        InputError: a step does not fit, or a number is out of range.
    """
    if args.mfu is not None and not 0 < args.mfu <= 1:
        raise InputError(f"--mfu is {args.mfu:g}; a share above 0 and at most 1 is allowed")
    if args.gpus_per_node is not None and args.gpus_per_node < 1:
        raise InputError(f"--gpus-per-node is {args.gpus_per_node}; at least 1 is allowed, 8 is usual")
    run = load_run(args.source, args.overrides, require_store=False)
    on_gpu = run.spec.cluster.workers.device == "cuda"
    gpu = gpu_named(args.gpu) if on_gpu else None
    if gpu is not None and not 0 <= args.reserve * GIB < gpu.memory_bytes:
        raise InputError(
            f"--reserve is {args.reserve:g} GiB; 0 to {gpu.memory_bytes / GIB:.0f} is allowed for {gpu.name}"
        )
    capacity = (
        quantity_bytes(run.spec.cluster.workers.memory) if gpu is None else int(gpu.memory_bytes - args.reserve * GIB)
    )
    found = plan(run, capacity, args.gpus)
    gpus_per_node = args.gpus_per_node or max(1, run.spec.cluster.workers.gpus)
    facts = plan_facts(found, gpu, gpus_per_node, args.mfu)
    if gpu is not None:
        facts["nodes"] = math.ceil(facts["ranks"] / gpus_per_node)
        facts["gpus_per_node"] = gpus_per_node
    if args.output == "json":
        print(json.dumps(facts, indent=2))
    else:
        print("\n".join(_lines(facts, found, gpu, args.mfu)))
    problem = refusal(run, found)
    if problem is not None:
        raise InputError(problem, reason="DoesNotFit")
    return 0


def _lines(facts: dict[str, Any], found: Plan, gpu: Gpu | None, mfu: float | None) -> Iterator[str]:
    kind = "CPU workers" if gpu is None else f"{gpu.name} ({gpu.source})"
    nodes = f" in {_nodes(facts)}" if gpu is not None else ""
    yield f"{facts['ranks']:,} ranks on {kind}{nodes}, {facts['replicas']:,} copies of the model"
    yield (
        f"{found.batch:,} sequences a step; on a rank {facts['micro_steps']:,} micro steps of {facts['micro_batch']:,},"
        f" activation checkpointing {facts['activation_checkpointing']}"
    )
    yield f"memory of a rank, at its peak ({facts['peak_moment']}):"
    for name, value in facts["memory_bytes"].items():
        yield f"  {name:12}{value / GIB:10.2f} GiB"
    yield f"  {'capacity':12}{facts['capacity_bytes'] / GIB:10.2f} GiB"
    sent = sum(facts["sent_bytes"].values())
    yield f"a rank sends {sent / GIB:.2f} GiB a step"
    if "step_seconds" in facts:
        seconds = facts["step_seconds"]
        what = "at the peak, so at most" if mfu is None else f"at an MFU of {mfu:.1%}"
        yield (
            f"arithmetic {seconds['compute']:.3f} s, communication {seconds['communicate']:.3f} s of which"
            f" {seconds['ends']:.3f} s cannot hide"
        )
        yield f"{what} {facts['tokens_per_second']:,.0f} tokens/s"


def _nodes(facts: dict[str, Any]) -> str:
    nodes, gpus = facts["nodes"], facts["gpus_per_node"]
    if nodes == 1:
        return "1 node"
    return f"{nodes:,} nodes of {gpus}" if nodes * gpus == facts["ranks"] else f"{nodes:,} nodes of up to {gpus}"
