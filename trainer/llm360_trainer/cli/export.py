"""`llm360 export`: a checkpoint in a form that other programs read."""

from __future__ import annotations

import argparse
import json
import sys

from llm360.cli.arguments import add_command, add_output, add_release, local_path
from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.folder import MAX_SHARD_BYTES
from llm360_trainer.prepare.signals import Interruption, exit_code_of

EXAMPLES = """\
examples:
  llm360 export hf runs/amber-tiny --checkpoint ckpt_007                a folder beside you, amber-tiny-ckpt_007
  llm360 export hf s3://bucket/run --checkpoint 96 --out model          step 96 into ./model
  llm360 export hf https://host/run --checkpoint ckpt_359 --dtype float32

The folder opens with transformers: AutoModelForCausalLM.from_pretrained("model"). Amber and K2 are Llama there,
Pythia is GPT-NeoX; CrystalCoder needs its own code from the hub (trust_remote_code=True). Its README.md is a model
card: licence, authors and description that the run states (spec.release), its settings, data, scores and digests.

exit codes:
  0 the folder is there · 1 failed · 2 bad input · 130 interrupted (Ctrl-C) · 143 ended by SIGTERM
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(metavar="FORM", required=True)
    hf = add_command(commands, "hf", "write a checkpoint as a Hugging Face folder", EXAMPLES)
    add = hf.add_argument
    add_release(hf)
    add("--checkpoint", metavar="LABEL|STEP", required=True, help="which one, as `llm360 ls` shows it")
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: as published)")
    add("--out", metavar="DIR", type=local_path, help="the folder (default: named after release and checkpoint)")
    add(
        "--shard-size",
        metavar="BYTES",
        type=int,
        default=MAX_SHARD_BYTES,
        help="largest file of weights (default: %(default)s)",
    )
    add_output(hf)
    hf.set_defaults(run=run_hf)


def run_hf(args: argparse.Namespace) -> int:
    """Export, and say where the folder is.

    Raises:
        InputError: see `export_checkpoint`.
    """
    if args.shard_size < 1:
        raise InputError(f"--shard-size {args.shard_size}: a file has at least 1 byte; {MAX_SHARD_BYTES} is usual")
    storage = open_storage(args.uri)
    try:
        with Interruption():
            done = export_checkpoint(
                storage, args.checkpoint, out=args.out, dtype=args.dtype, max_shard_bytes=args.shard_size
            )
    except KeyboardInterrupt as interrupt:
        print("llm360: interrupted; nothing was written, run it again", file=sys.stderr)
        return exit_code_of(interrupt)
    if args.output == "json":
        facts = {
            "folder": str(done.folder),
            "form": done.form,
            "dtype": done.dtype,
            "step": done.step,
            "files": done.num_files,
            "model_digest": done.model_digest,
        }
        print(json.dumps(facts, indent=2))
    else:
        print(f"{done.folder}: step {done.step} as {done.form}, {done.dtype}, {done.num_files} files of weights")
    return 0
