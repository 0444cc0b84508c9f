"""`llm360 presets`: list and compare the presets, show what each states and what follows from it at any step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from llm360.cli import output
from llm360.cli.arguments import add_command, add_output
from llm360.errors import InputError
from llm360.facts import PresetFacts, preset_facts
from llm360.facts.page import presets_page
from llm360.spec import preset_names, preset_text
from llm360.spec.layers import preset_description, preset_layer
from llm360.spec.sources import preset_legend, preset_sources

EXAMPLES = """\
examples:
  llm360 presets list
  llm360 presets show amber-7b                     as written, each number with its source, and what follows
  llm360 presets show amber-7b -o json             what follows, its values and the source of each
  llm360 presets show amber-7b --at 2000           what holds after 2,000 finished steps
  llm360 presets show crystalcoder-7b --at 86 --stage 2
  llm360 presets diff amber-7b pythia-6.9b         where they differ
  llm360 spec resolve amber-7b                     with the built-in values under it
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    listing = add_command(commands, "list", "list the presets", "examples:\n  llm360 presets list -o json\n")
    showing = add_command(commands, "show", "show what a preset states and what follows from it", EXAMPLES)
    comparing = add_command(commands, "diff", "show where two presets differ", EXAMPLES)
    reference = add_command(commands, "reference", "print the page of all presets in Markdown", EXAMPLES)
    for command in (listing, showing, comparing):
        add_output(command)
    showing.add_argument("name", metavar="PRESET")
    showing.add_argument(
        "--at", type=int, metavar="STEP", help="what holds after so many finished optimizer steps, 0 to the last"
    )
    showing.add_argument(
        "--stage", metavar="STAGE", help="with --at: the stage whose steps are counted, by number from 1 or by name"
    )
    comparing.add_argument("one", metavar="PRESET")
    comparing.add_argument("other", metavar="PRESET")
    listing.set_defaults(run=run_list)
    showing.set_defaults(run=run_show)
    comparing.set_defaults(run=run_diff)
    reference.set_defaults(run=run_reference)


def run_list(args: argparse.Namespace) -> int:
    """One line per preset."""
    descriptions = {name: preset_description(name) for name in preset_names()}
    if args.output == "json":
        print(json.dumps([{"name": name, "description": text} for name, text in descriptions.items()], indent=2))
        return 0
    width = max(map(len, descriptions))
    for name, text in descriptions.items():
        print(f"{name:{width}}  {text}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """The preset and what follows from it, or what holds at one of its steps.

    Raises:
        InputError: there is no such preset, stage or step.
    """
    facts = preset_facts(args.name)
    if args.at is not None:
        return _show_step(facts, args)
    if args.stage is not None:
        raise InputError("--stage says which steps --at counts and has no meaning alone; add --at STEP")
    if args.output == "json":
        stated = {
            "description": preset_description(args.name),
            "spec": preset_layer(args.name),
            "sources": preset_sources(args.name),
            "legend": preset_legend(args.name),
        }
        print(json.dumps({"preset": args.name, **totals(facts), **stated}, indent=2))
        return 0
    print(preset_text(args.name), end="")
    print("\n# What follows from these numbers:")
    for line in _summary(facts):
        print(f"#   {line}")
    return 0


def _show_step(facts: PresetFacts, args: argparse.Namespace) -> int:
    step = asdict(facts.at(args.at, args.stage))
    if args.output == "json":
        print(json.dumps({"preset": facts.name, **step}, indent=2))
        return 0
    width = max(map(len, step))
    for name, value in step.items():
        print(f"{name.replace('_', ' '):{width}}  {_text(value)}")
    return 0


def run_diff(args: argparse.Namespace) -> int:
    """Every value of the complete specifications, and everything that follows, in which two presets differ.

    Raises:
        InputError: there is no such preset.
    """
    one, other = (dict(_values(preset_facts(name))) for name in (args.one, args.other))
    paths = [*one, *(path for path in other if path not in one)]
    rows = [(path, one.get(path), other.get(path)) for path in paths if one.get(path) != other.get(path)]
    if args.output == "json":
        print(json.dumps({path: {args.one: left, args.other: right} for path, left, right in rows}, indent=2))
        return 0
    table = [("", args.one, args.other), *((path, _text(left), _text(right)) for path, left, right in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    for path, left, right in table:
        print(f"{path:{widths[0]}}  {left:{widths[1]}}  {right}")
    return 0


def run_reference(_args: argparse.Namespace) -> int:
    """The page `docs/presets.md`."""
    output.write_exact(presets_page().encode())
    return 0


def totals(facts: PresetFacts) -> dict[str, Any]:
    """What follows from a preset, in JSON types; null where it follows from data that is yet to be made."""
    return {
        "parameters": facts.parameters,
        "total_steps": facts.total_steps,
        "total_tokens": facts.total_tokens,
        "checkpoints": facts.checkpoints,
        "stages": [
            {
                "name": stage.name,
                "steps": stage.num_steps,
                "tokens": stage.tokens,
                "batch": stage.batch_size,
                "checkpoints": stage.checkpoints,
            }
            for stage in facts.stages or ()
        ],
    }


def _summary(facts: PresetFacts) -> Iterator[str]:
    for name, value in totals(facts).items():
        if name != "stages":
            yield f"{name.replace('_', ' '):14}{_text(value)}"
    for stage in facts.stages or ():
        yield (
            f"{stage.name:14}{stage.num_steps:,} steps of {stage.batch_size:,} sequences, {stage.tokens:,} tokens,"
            f" {stage.checkpoints:,} checkpoints"
        )
    if facts.stages is None:
        yield "steps, tokens and checkpoints follow from the data that the recipe makes"


def _values(facts: PresetFacts) -> Iterator[tuple[str, Any]]:
    """What follows, then every scalar of the complete specification, by its path."""
    yield from ((name, value) for name, value in totals(facts).items() if name != "stages")
    document = facts.run.document()["spec"]
    left_out = {"preset", "storage"}
    yield from _leaves({key: member for key, member in document.items() if key not in left_out}, "")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _leaves(member, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(member, dict) for member in value):
        for index, member in enumerate(value):
            yield from _leaves(member, f"{path}[{index}]")
    else:
        yield path, value


def _text(value: Any) -> str:
    """A value for a person: grouped digits, `-` for what is not there."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
