"""How fast checkpoints are evaluated: our model in the harness against the harness's Hugging Face backend.

A release of one checkpoint with first values is made in a temporary folder, exported, and both models answer the very
same tasks with the same batch size, threads and dtype, in alternating pairs. Data sets are made up here, of the
schema and the shots of the published evaluations (tests/synthetic/eval_data.py).

    ratio      their CPU seconds (on a GPU: wall seconds) / ours for the whole of a task, prompts included; goal: 1.5
    answers    the largest difference of any log-likelihood between the two
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from synthetic import eval_data
from synthetic.small import small_release

from llm360.release.create import open_release
from llm360.storage import Storage, open_storage
from llm360_trainer.cli.evaluate import quiet
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.data import TaskData
from llm360_trainer.evaluate.harness import set_shots
from llm360_trainer.evaluate.mirror import DataName, write_dataset
from llm360_trainer.evaluate.model import DecoderLM
from llm360_trainer.evaluate.run import load_tasks
from llm360_trainer.evaluate.tasks import parse_tasks
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.opened import open_checkpoint
from llm360_trainer.prepare.tokenize import train_tokenizer

TASKS = "arc_challenge:25,hellaswag:10,mmlu_astronomy:5,truthfulqa_mc2:0,wikitext:0"
SIZES = {
    "vocabSize": 4096, "hiddenSize": 128, "intermediateSize": 344, "numLayers": 4, "numHeads": 4,
    "maxPositionEmbeddings": 2048,
}  # fmt: skip
EXAMPLES = """\
examples:
  python tests/benchmarks/evaluate.py
  python tests/benchmarks/evaluate.py --samples 100 --pairs 5 --json result.json
  python tests/benchmarks/evaluate.py --device cuda --dtype bfloat16 --hidden 4096 --layers 32 --batch-size 16
"""


def main() -> None:
    args = parse_arguments()
    quiet()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="llm360-bench-", dir=args.folder) as folder:
        ours, theirs = both_models(Path(folder), args)
        data = TaskData(fill(open_storage(f"{folder}/mirror"), args.samples))
        tasks = load_tasks(parse_tasks(args.tasks), data, allow_code=False)
        results = {}
        for request, loaded in tasks.items():
            set_shots(loaded.tasks, request)
            results[str(request)] = measure(ours, theirs, loaded.tasks, args)
    print(describe(results, args))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


def both_models(folder: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    """Our model of a release, and theirs of the same checkpoint's exported folder."""
    sizes = SIZES | {"hiddenSize": args.hidden, "numLayers": args.layers, "intermediateSize": args.hidden * 8 // 3}
    texts = [sample["page"] for sample in eval_data.documents(range(20))] + [
        str(sample) for sample in eval_data.arc(range(99))
    ]
    fields = [f"model.{name}={value}" for name, value in sizes.items()]
    release = small_release(folder, "amber-tiny", *fields, tokenizer=train_tokenizer(texts, 400))
    history = open_release(release.storage).history()
    dtype = getattr(torch, args.dtype)
    opened = open_checkpoint(release.storage, history, history.branch[0], dtype=dtype, device=args.device)
    exported = export_checkpoint(release.storage, "init", out=folder / "hf").folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM

        theirs = HFLM(pretrained=str(exported), device=args.device, batch_size=args.batch_size, dtype=args.dtype)
    return DecoderLM(opened, Batches(args.batch_size)), theirs


def fill(mirror: Storage, samples: int) -> Storage:
    """A mirror of as many samples as are asked for."""
    numbers = range(samples)
    many: dict[DataName, Mapping[str, Any]] = {
        DataName(path="allenai/ai2_arc", config="ARC-Challenge"): {
            "train": eval_data.arc(range(1000, 1200)),
            "validation": eval_data.arc(range(3)),
            "test": eval_data.arc(numbers),
        },
        DataName(path="Rowan/hellaswag"): {
            "train": eval_data.hellaswag(range(1000, 1200)),
            "validation": eval_data.hellaswag(numbers),
        },
        DataName(path="cais/mmlu", config="astronomy"): {
            "test": eval_data.mmlu("astronomy", numbers),
            "dev": eval_data.mmlu("astronomy", range(1000, 1005)),
        },
    }
    for name, splits in (eval_data.all_data() | many).items():
        write_dataset(mirror, name, splits)
    return mirror


def measure(ours: Any, theirs: Any, tasks: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Alternating pairs of one task; the first of each is not counted."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    answers: dict[str, list[float]] = {}
    for _ in range(args.pairs + 1):
        for name, model in (("ours", ours), ("theirs", theirs)):
            spent, answers[name] = run(model, tasks, args.device)
            seconds[name].append(spent)
    ratios = [their / our for our, their in zip(seconds["ours"][1:], seconds["theirs"][1:], strict=True)]
    return {
        "requests": len(answers["ours"]),
        "ours_seconds": seconds["ours"][1:],
        "theirs_seconds": seconds["theirs"][1:],
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "answers": max(abs(mine - their) for mine, their in zip(answers["ours"], answers["theirs"], strict=True)),
    }


def run(model: Any, tasks: Mapping[str, Any], device: str) -> tuple[float, list[float]]:
    """Seconds of a task on a model, and its log-likelihoods."""
    from lm_eval.evaluator import evaluate

    random.seed(0)
    np.random.seed(1234)
    for task in tasks["tasks"].values():
        task.set_fewshot_seed(1234)
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    results = evaluate(model, tasks, log_samples=True, bootstrap_iters=0)
    spent = clock() - started
    said = [answer[0] for samples in results["samples"].values() for sample in samples for answer in sample["resps"]]
    return spent, [float(answer[0] if isinstance(answer, list | tuple) else answer) for answer in said]


def describe(results: Mapping[str, Any], args: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    lines = [
        f"hidden {args.hidden}, {args.layers} layers, {args.dtype}, batches of {args.batch_size}, {args.samples}"
        f" samples, {args.pairs} pairs; {device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    ]
    for task, result in results.items():
        per_second = [result["requests"] / statistics.median(result[f"{name}_seconds"]) for name in ("ours", "theirs")]
        lines.append(
            f"{task:20} ratio {result['ratio']:.2f} ({min(result['ratios']):.2f} … {max(result['ratios']):.2f})"
            f"   requests/s {per_second[0]:.1f}, theirs {per_second[1]:.1f}   answers within {result['answers']:.0e}"
        )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", default=TASKS, help="of those whose data is made up (default: %(default)s)")
    add("--samples", type=int, default=24, help="of each task (default: %(default)s)")
    add("--pairs", type=int, default=3, help="that are counted (default: %(default)s)")
    add("--batch-size", type=int, default=16)
    add("--hidden", type=int, default=SIZES["hiddenSize"])
    add("--layers", type=int, default=SIZES["numLayers"])
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--threads", type=int, help="of torch (default: its own choice)")
    add("--folder", type=Path, help="where temporary files go")
    add("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
