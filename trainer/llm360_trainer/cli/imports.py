"""`llm360 import`: weights of other programs, for a run to begin with."""

from __future__ import annotations

import argparse
import json

import yaml

from llm360.cli.arguments import add_command, add_output, local_path
from llm360_trainer.exchange.imports import import_folder
from llm360_trainer.exchange.outputs import open_writable

EXAMPLES = """\
examples:
  llm360 import hf path/to/model --out weights               a Hugging Face folder into ./weights
  llm360 import hf path/to/model --out s3://bucket/weights   into a bucket, for a run on a cluster

What is printed goes below `spec` of a run: its model, which begins with these weights, and its tokenizer. The weights'
digest is part of the run's identity. Known are Llama, GPT-NeoX and CrystalCoder, in safetensors.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(metavar="FORM", required=True)
    hf = add_command(commands, "hf", "take in a Hugging Face folder", EXAMPLES)
    hf.add_argument(
        "path", metavar="PATH", type=local_path, help="the folder: config.json, safetensors, tokenizer.json"
    )
    hf.add_argument("--out", metavar="URI", required=True, help="where the weights go: a folder or s3://bucket/prefix")
    add_output(hf)
    hf.set_defaults(run=run_hf)


def run_hf(args: argparse.Namespace) -> int:
    """Import, and print what a specification says to begin with it.

    Raises:
        InputError: see `open_writable` and `import_folder`.
    """
    spec = import_folder(args.path, open_writable(args.out)).spec()
    print(json.dumps(spec, indent=2) if args.output == "json" else yaml.safe_dump({"spec": spec}, sort_keys=False))
    return 0
