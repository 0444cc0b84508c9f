"""`llm360 presets`: list and show the presets."""

from __future__ import annotations

import argparse
import json

from llm360.cli.arguments import add_command, add_output
from llm360.errors import InputError, nearest
from llm360.spec import load_run, preset_names, preset_text
from llm360.spec.layers import preset_layer

EXAMPLES = """\
examples:
  llm360 presets list
  llm360 presets show amber-7b              as written, with the source of each number
  llm360 presets show amber-7b -o json      its values alone
  llm360 spec resolve amber-7b              with the built-in values under it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = add_command(commands, "list", "list the presets", "examples:\n  llm360 presets list -o json\n")
    showing = add_command(commands, "show", "show what a preset states", EXAMPLES)
    for command in (listing, showing):
        add_output(command)
    showing.add_argument("name", metavar="PRESET")
    listing.set_defaults(run=run_list)
    showing.set_defaults(run=run_show)


def run_list(args: argparse.Namespace) -> int:
    """One line per preset."""
    descriptions = {name: load_run(name, require_store=False).spec.release.description or "" for name in preset_names()}
    if args.output == "json":
        print(json.dumps([{"name": name, "description": text} for name, text in descriptions.items()], indent=2))
        return 0
    width = max(map(len, descriptions))
    for name, text in descriptions.items():
        print(f"{name:{width}}  {text}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """The preset as it is written, or its values as JSON.

    Raises:
        InputError: there is no such preset.
    """
    names = preset_names()
    if args.name not in names:
        raise InputError(f"there is no preset '{args.name}'{nearest(args.name, names)}; presets are {', '.join(names)}")
    if args.output == "json":
        print(json.dumps(preset_layer(args.name), indent=2))
    else:
        print(preset_text(args.name), end="")
    return 0
