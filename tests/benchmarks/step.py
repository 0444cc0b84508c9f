"""One training step on one device: tokens per second, MFU, peak memory, and where the time goes.

The step is the trainer's own: its decoder, FSDP2 (over this process alone), AdamW, loss and clipping, on random ids.
Needs torch (2.11 or later) and numpy, nothing else of the project but the folder `trainer/`:

    PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber-7b

A preset's name needs PyYAML to be read; without it give what `llm360 spec resolve amber-7b -o json` printed elsewhere.

    tokens/s   predictions of a step / median seconds of the steps after the warm-up
    MFU        tokens/s · (6N + 12·L·d·s) / peak, all N parameters, no causal halving (llm360_trainer/model/flops.py)
    memory     most bytes that torch's allocator held; on a CPU the process's largest resident size
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from step_breakdown import breakdown
from step_report import describe, describe_peer, one_line
from step_setting import Setting, given_setting, sweep
from step_work import Work, at_least_zero, load_work, positive
from torch.distributed.device_mesh import DeviceMesh

from llm360_trainer.model import (
    BACKENDS,
    Backend,
    DecoderConfig,
    device_peak,
    flops_per_token,
    is_out_of_memory,
    num_parameters,
    unavailable,
)
from llm360_trainer.optim import build_optimizer
from llm360_trainer.parallel import (
    ParallelSettings,
    build_model,
    choose_attention,
    fill,
    fp8_unavailable,
    make_mesh,
    set_deterministic,
    with_measured_recomputation,
)
from llm360_trainer.step import TrainStep

EXAMPLES = """\
examples:
  PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber-7b --compile --checkpointing selective
  PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber.json --compile --sweep --json best.json
  PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber-7b --like best.json --precision fp8-rowwise
  PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber-7b --compile --micro-batch 5 --peer
  PYTHONPATH=trainer python tests/benchmarks/step.py --preset amber-7b --device cpu --steps 3
"""
DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp8-tensorwise": torch.bfloat16,
    "fp8-rowwise": torch.bfloat16,
}
END_OF_DOCUMENT = 0
DOCUMENT_TOKENS = 512  # tokens of a document, on average, with --documents


def main() -> int:
    args = parse_arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("step.py: error: --device cuda: torch finds no CUDA device; --device cpu runs anywhere", file=sys.stderr)
        return 2
    try:
        work = load_work(args.preset, args.small, args.batch, args.sequence_length)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"step.py: error: --preset {args.preset}: {error}", file=sys.stderr)
        return 2
    try:
        chosen = given_setting(vars(args), args.like)
    except (OSError, ValueError) as error:
        print(f"step.py: error: --like {args.like}: {error}", file=sys.stderr)
        return 2
    if args.deterministic:
        set_deterministic(args.threads)
    elif args.threads:
        torch.set_num_threads(args.threads)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        result = run(args, work, chosen, device)
        print(describe(result), flush=True)
        keep(result, args.json)
        if args.peer and "failed" not in result["ours"]:
            result["peer"] = run_peer(args, work, result["ours"]["setting"], device)
            print(describe_peer(result))
            keep(result, args.json)
    finally:
        dist.destroy_process_group()
    return 1 if "failed" in result["ours"] else 0


def keep(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=2) + "\n")


def run(args: argparse.Namespace, work: Work, chosen: Setting, device: torch.device) -> dict[str, Any]:
    """Measure the setting, or all of a sweep and then the best."""
    mesh = make_mesh(1, device.type)
    tried: list[dict[str, Any]] = []
    if args.sweep:
        end = time.monotonic() + (args.sweep_seconds or math.inf)

        def try_out(setting: Setting) -> dict[str, Any]:
            tried.append(attempt(setting, work, mesh, args.steps, args.warmup))
            print(one_line(tried[-1]), file=sys.stderr, flush=True)
            return tried[-1]

        chosen = sweep(
            chosen,
            work.batch_rows,
            device_memory(device),
            try_out,
            lambda: time.monotonic() > end,
            partial(least_memory, work),
        )
    ours = attempt(chosen, work, mesh, args.steps, args.warmup, with_breakdown=True)
    return {"machine": machine(device), "work": describe_work(work), "ours": ours, "tried": tried}


def run_peer(args: argparse.Namespace, work: Work, setting: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Measure Hugging Face's model on the same work."""
    from step_peer import measure_peer

    return measure_peer(
        work.config,
        batch_rows=work.batch_rows,
        sequence_length=work.sequence_length,
        micro_batch=setting["micro_batch"],
        bf16=setting["precision"] != "fp32",
        compiled=setting["compile"],
        device=device,
        steps=args.steps,
        warmup=args.warmup,
    )


def attempt(
    setting: Setting, work: Work, mesh: DeviceMesh, steps: int, warmup: int, *, with_breakdown: bool = False
) -> dict[str, Any]:
    """The numbers of a setting; only why, where it does not run, for want of memory say."""
    problem = cannot(setting, torch.device(mesh.device_type))
    if problem is not None:
        return {"setting": asdict(setting), "failed": problem}
    try:
        return {"setting": asdict(setting), **measure(setting, work, mesh, steps, warmup, with_breakdown)}
    except RuntimeError as error:  # of one setting; the others may run
        if not is_out_of_memory(error):
            traceback.print_exc()
        return {"setting": asdict(setting), "failed": reason(error)}
    finally:
        gc.collect()
        torch._dynamo.reset()
        if mesh.device_type == "cuda":
            torch.cuda.empty_cache()


def reason(error: RuntimeError) -> str:
    """In a line, why a setting failed."""
    if is_out_of_memory(error):
        return "out of memory"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"


def least_memory(work: Work, setting: Setting) -> int:
    """Bytes that a setting needs for certain: weights, moments, gradients, and what every block keeps.

    Of a block without full recomputation only what no compiler makes again counts: the inputs of it and its MLP,
    queries, keys, values, what attention gathered, and the widened features.
    """
    config, c = work.config, 4 if setting.precision == "fp32" else 2
    parameters = num_parameters(config)
    is_split = setting.micro_batch < work.batch_rows
    gradients = 4 * parameters if is_split else 0  # whole, until the last micro step
    states = 12 * parameters + gradients + (0 if setting.reshard else c * parameters)
    features = config.hidden_size
    if setting.checkpointing in ("none", "selective"):
        widening = 2 if config.mlp == "swiglu" else 1
        features += config.hidden_size + 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
        features += widening * config.intermediate_size
    return states + c * setting.micro_batch * work.sequence_length * config.num_layers * features


def cannot(setting: Setting, device: torch.device) -> str | None:
    """Why a setting cannot be run here, or None where it can."""
    if setting.attention != "auto":
        problem = unavailable(setting.attention, device, DTYPES[setting.precision])
        if problem is not None:
            return f"attention {setting.attention}: {problem}"
    if setting.precision.startswith("fp8-"):
        problem = fp8_unavailable(setting.precision.removeprefix("fp8-"), device)
        if problem is not None:
            return f"precision {setting.precision}: {problem}"
    return None


def measure(
    setting: Setting, work: Work, mesh: DeviceMesh, steps: int, warmup: int, with_breakdown: bool
) -> dict[str, Any]:
    """Build the model, warm up, and time every step by itself."""
    device = torch.device(mesh.device_type)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = build_step(setting, work, mesh)
    rows = np.random.default_rng(0).integers(
        0, work.config.vocab_size, (work.batch_rows, work.sequence_length + 1), dtype=np.int64
    )
    if setting.documents:
        rows[np.random.default_rng(1).random(rows.shape) < 1 / DOCUMENT_TOKENS] = END_OF_DOCUMENT
    source = np.zeros(work.batch_rows, dtype=np.int64)
    losses = []

    def one_step() -> None:
        result = step(rows, None, source, finished_steps=len(losses), learning_rate=1e-4)
        losses.append(result.loss)
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds = [timed(one_step) for _ in range(warmup + steps)][warmup:]
    median = statistics.median(seconds)
    tokens_per_second = work.batch_rows * work.sequence_length / median
    memory_bytes, peak = peak_memory(device), device_peak(device_name(device))
    rate = tokens_per_second * flops_per_token(work.config, work.sequence_length)
    profiled = breakdown(one_step, device) if with_breakdown else (None, None)
    return {
        "attention": step.model.layers[0].self_attn.backend,
        "seconds": median,
        "all_seconds": seconds,
        "tokens_per_second": tokens_per_second,
        "model_flops_per_second": rate,
        "mfu": None if peak is None else rate / peak.flops,
        "memory_bytes": memory_bytes,
        "losses": losses,
        "breakdown_seconds": profiled[0],
        "breakdown": profiled[1],
    }


def build_step(setting: Setting, work: Work, mesh: DeviceMesh) -> TrainStep:
    dtype, device = DTYPES[setting.precision], torch.device(mesh.device_type)
    attention = setting.attention
    if attention == "auto":
        attention = chosen_attention(
            work.config, setting.micro_batch, work.sequence_length, dtype, device, setting.documents
        )
    settings = ParallelSettings(
        param_dtype=dtype,
        attention=attention,
        fp8=setting.precision.removeprefix("fp8-") if setting.precision.startswith("fp8-") else None,
        activation_checkpointing=setting.checkpointing,
        compile=setting.compile,
        reshard_after_forward=setting.reshard,
        prefetch=setting.prefetch,
    )
    if setting.checkpointing == "measured":
        budget = setting.activation_gib * 2**30
        settings = with_measured_recomputation(
            settings,
            work.config,
            setting.micro_batch,
            work.sequence_length,
            budget,
            device,
            in_documents=setting.documents,
        )
    model = build_model(work.config, settings, mesh)
    generator = torch.Generator(mesh.device_type).manual_seed(0)

    def values(_name: str, shape: tuple[int, ...]) -> torch.Tensor:
        # Drawn on the device: the trainer's own first values take a minute on the CPU, and speed does not see them.
        if len(shape) == 1:
            return torch.ones(shape, device=mesh.device_type)
        return torch.randn(shape, device=mesh.device_type, generator=generator).mul_(0.02)

    fill(model, values)
    return TrainStep(
        model,
        build_optimizer(model, work.optimizer),
        mesh,
        batch_rows=work.batch_rows,
        micro_batch=setting.micro_batch,
        num_sources=1,
        max_grad_norm=1.0,
        end_of_document=END_OF_DOCUMENT if setting.documents else None,
        keep_gathered=not setting.reshard,
    )


@cache
def chosen_attention(
    config: DecoderConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device, documents: bool
) -> Backend:
    """The fastest kernel, measured once for all settings of a sweep that it may serve."""
    return choose_attention(config, rows, length, dtype, device, in_documents=documents)


def timed(step: Any) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_memory(device: torch.device) -> int:
    """Bytes that the device has for all that computes on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()


def machine(device: torch.device) -> dict[str, Any]:
    peak = device_peak(device_name(device))
    return {
        "device": device_name(device),
        "peak_flops": None if peak is None else peak.flops,
        "peak_source": None if peak is None else peak.source,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def describe_work(work: Work) -> dict[str, Any]:
    return {
        "parameters": num_parameters(work.config),
        "layers": work.config.num_layers,
        "sequence_length": work.sequence_length,
        "batch_rows": work.batch_rows,
        "flops_per_token": flops_per_token(work.config, work.sequence_length),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, yes_or_no = parser.add_argument, argparse.BooleanOptionalAction
    add("--preset", default="amber-7b", metavar="NAME|FILE.json", help="whose model it is (default: %(default)s)")
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--small",
        action=yes_or_no,
        help="the preset's form at a size for CPUs: 2 layers of 64 features (default: on with --device cpu)",
    )
    add("--batch", type=positive, help="sequences of a step (default: the preset's batch by its GPUs; small: 4)")
    add("--sequence-length", type=positive, help="tokens of a sequence (default: the preset's; small: 64)")
    add("--like", type=Path, metavar="FILE", help="take the setting from this result of --json, but for what is given")
    add("--micro-batch", type=positive, help="sequences of a forward and backward (default: 1)")
    add("--precision", choices=tuple(DTYPES), help="(default: bf16)")
    add("--attention", choices=("auto", *BACKENDS), help="its kernel; auto, the default: the fastest one here")
    add(
        "--documents",
        action=yes_or_no,
        help=f"attend inside documents of {DOCUMENT_TOKENS} tokens on average; the cost shows beside a run without",
    )
    add("--compile", action=yes_or_no, help="compile each block with torch.compile")
    add(
        "--checkpointing",
        choices=("none", "selective", "full", "measured"),
        help="what is computed again in backward (default: none); measured keeps what is dear, in --activation-gib",
    )
    add("--activation-gib", type=float, help="memory for what all blocks keep, with --checkpointing measured")
    add(
        "--reshard",
        action=yes_or_no,
        help="free a block's gathered weights after forward, gather them again in backward (default: no)",
    )
    add("--prefetch", type=at_least_zero, help="blocks whose weights are gathered ahead (default: 0, as FSDP2 does)")
    add("--sweep", action="store_true", help="try micro batches, the largest first, with the recomputation that fits")
    add("--sweep-seconds", type=positive, help="try nothing new after so long, and go on with the fastest so far")
    add(
        "--deterministic",
        action="store_true",
        help="deterministic kernels only: what they cost shows beside a run without",
    )
    add("--threads", type=positive, help="threads on a CPU (default: torch's choice)")
    add("--steps", type=positive, default=10, help="steps that are timed (default: %(default)s)")
    add("--warmup", type=positive, default=3, help="steps before them (default: %(default)s)")
    add("--peer", action="store_true", help="time Hugging Face's LlamaForCausalLM on the same work in the same run")
    add("--json", type=Path, metavar="FILE", help="also write everything here")
    args = parser.parse_args()
    if args.small is None:
        args.small = args.device == "cpu"
    return args


if __name__ == "__main__":
    sys.exit(main())
