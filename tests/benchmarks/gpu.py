"""All that docs/benchmarks.md says of a GPU, measured within a time limit, what matters most first.

Each measurement is a process of its own (`step.py`, or the numerics of `tests/gpu`) that leaves NAME.json and NAME.log
in a folder. What is there already is not measured again, so a run that was cut short goes on where it was. Needs torch
(2.11 or later), numpy and PyYAML; transformers for the peer, torchao for float8, pytest for the numerics.

    best            Amber 7B, every micro batch with the recomputation that fits, the largest first
    peer            that setting and LlamaForCausalLM, in the same run
    fp8-rowwise, fp8-tensorwise, documents, deterministic, eager
                    the best setting with one thing changed
    crystalcoder    CrystalCoder 7B at that setting
    numerics        loss and gradients of every kernel against fp32
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  python tests/benchmarks/gpu.py --out gpu --minutes 9
  python tests/benchmarks/gpu.py --out gpu --minutes 9 --only numerics
  python tests/benchmarks/gpu.py --out gpu --minutes 0      the table of what was measured, with the planner's memory
"""
ROOT = Path(__file__).parents[2]
STEP = ROOT / "tests" / "benchmarks" / "step.py"


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        name: Of its files.
        command: Python's arguments; `{out}` is the folder.
        seconds: With less time left it is not begun.
        needs: The measurement whose result it reads.
    """

    name: str
    command: tuple[str, ...]
    seconds: int
    needs: str | None = None


def measurements(device: str) -> list[Measurement]:
    """All of them, in order."""
    short = ("--device", device, "--steps", "5", "--warmup", "2")

    def step(name: str, *flags: str, preset: str = "amber-7b", seconds: int = 40) -> Measurement:
        command = (str(STEP), "--preset", preset, "--like", "{out}/best.json", "--json", f"{{out}}/{name}.json")
        return Measurement(name, (*command, *short, *flags), seconds, needs="best")

    sweep = (str(STEP), "--preset", "amber-7b", "--compile", "--sweep", "--sweep-seconds", "240", *short)
    numerics = ("-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-rs", "-s")
    return [
        Measurement("best", (*sweep, "--json", "{out}/best.json"), 300),
        step("peer", "--peer", seconds=120),
        step("fp8-rowwise", "--precision", "fp8-rowwise"),
        step("crystalcoder", preset="crystalcoder-7b"),
        step("documents", "--documents"),
        step("fp8-tensorwise", "--precision", "fp8-tensorwise"),
        step("deterministic", "--deterministic"),
        step("eager", "--no-compile"),
        Measurement("numerics", (*numerics, str(ROOT / "tests" / "gpu")), 60),
    ]


def main() -> int:
    args = parse_arguments()
    if args.minutes and (problem := unusable(args.device)):
        print(f"gpu.py: error: {problem}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    failed = False
    for one in measurements(args.device):
        if args.minutes and one.name in (args.only or (one.name,)):
            outcome = measure(one, args.out, end)
            failed |= outcome.startswith("failed")
            print(f"gpu.py: {one.name}: {outcome}", file=sys.stderr, flush=True)
    print("\n".join(table(args.out)))
    return 1 if failed else 0


def unusable(device: str) -> str | None:
    """Why nothing can be measured, or None."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device; run it where there is one, or try it out with --device cpu"
    return None


def measure(one: Measurement, out: Path, end: float) -> str:
    """Run a measurement that is not there yet, and say what came of it."""
    result, left = out / f"{one.name}.json", end - time.monotonic()
    if measured(result) is not None:
        return "is there"
    if one.needs and measured(out / f"{one.needs}.json") is None:
        return f"left out: it needs the result of {one.needs}"
    if left < one.seconds:
        return f"left out: it needs {one.seconds} s, {max(0, left):.0f} s are left"
    started = time.monotonic()
    command = [sys.executable, *(part.format(out=out) for part in one.command)]
    paths = (str(ROOT / "trainer"), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    log = out / f"{one.name}.log"
    try:
        with log.open("w") as file:
            done = subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=left)
    except subprocess.TimeoutExpired:
        return f"failed: not done after {left:.0f} s; see {log}"
    took = f"{time.monotonic() - started:.0f} s"
    if done.returncode:
        last = next((line for line in reversed(log.read_text().splitlines()) if line.strip()), "")
        return f"failed after {took}: {last}"
    if one.name == "numerics":
        result.write_text(json.dumps({"log": log.read_text()}) + "\n")
    return f"done in {took}"


def measured(path: Path) -> dict[str, Any] | None:
    """A result; None where there is none, one that was cut off, or only the reason why there is none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return None if "failed" in found.get("ours", {}) else found


def table(out: Path) -> Iterator[str]:
    """The results that the folder holds, in Markdown."""
    yield "| measurement | setting | tokens/s | MFU | of best | peak memory | planned |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    files = {path.stem: found for path in sorted(out.glob("*.json")) if (found := measured(path)) is not None}
    steps = {name: found for name, found in files.items() if "ours" in found}
    if "best" not in steps:  # which all others stand beside
        return
    for name, found in steps.items():
        tried = [each for each in found["tried"] if "seconds" in each]
        for suffix, ours in (("", found["ours"]), *((" tried", each) for each in tried)):
            setting = ", ".join(f"{key} {value}" for key, value in ours["setting"].items() if value not in (False, 0.0))
            yield (
                f"| {name}{suffix} | {setting} | {ours['tokens_per_second']:,.0f}"
                f" | {'–' if ours['mfu'] is None else format(ours['mfu'], '.1%')}"
                f" | {ours['tokens_per_second'] / steps['best']['ours']['tokens_per_second']:.3f}"
                f" | {ours['memory_bytes'] / 2**30:.1f} GiB | {planned(name, found['work'], ours['setting'])} |"
            )
    if peer := steps.get("peer", {}).get("peer"):
        ratio = peer["seconds"] / steps["peer"]["ours"]["seconds"]
        yield f"\nLlamaForCausalLM: {peer['seconds']:.3f} s, ours {ratio:.2f} × as fast"


def planned(name: str, work: dict[str, Any], setting: dict[str, Any]) -> str:
    """The planner's memory for a setting of a preset at its own size, where the project's core is installed."""
    try:
        from llm360.facts.memory import StepShape, step_memory
        from llm360.spec import load_run
    except ImportError:
        return "–"
    preset = "crystalcoder-7b" if name == "crystalcoder" else "amber-7b"
    model = load_run(preset, [], require_store=False).spec.model
    if work["layers"] != model.num_layers:
        return "–"
    shape = StepShape(
        micro_batch=setting["micro_batch"],
        micro_steps=-(-work["batch_rows"] // setting["micro_batch"]),
        sequence_length=work["sequence_length"],
        compute_bytes=4 if setting["precision"] == "fp32" else 2,
        shard_ranks=1,
        checkpointing=setting["checkpointing"],
        reshard=setting["reshard"],
        activation_bytes=round(setting["activation_gib"] * 2**30),
        fp8=setting["precision"].startswith("fp8"),
    )
    return f"{step_memory(model, shape).total / 2**30:.1f} GiB"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="where results are kept")
    add("--minutes", type=float, default=9.0, help="nothing runs longer than this (default: %(default)s)")
    names = [one.name for one in measurements("cuda")]
    add("--only", action="append", choices=names, help="measure this; may be given more than once (default: all)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: small models, to try this out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
