"""`llm360 completion`: a completion script for a shell, written from the commands' own parsers.

The script is static: completing a word starts no Python. `Node` is one command (`llm360 spec resolve`) with the
words that may follow it; the three templates turn the same nodes into a shell's language.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from llm360.cli import main
from llm360.spec import preset_names

EXAMPLES = """\
examples:
  source <(llm360 completion bash)                          for this shell
  llm360 completion bash > ~/.local/share/bash-completion/completions/llm360
  llm360 completion zsh > ~/.zfunc/_llm360                  with ~/.zfunc in fpath, before compinit
  llm360 completion fish > ~/.config/fish/completions/llm360.fish
"""


class Node(NamedTuple):
    """A command and what may follow it.

    Attributes:
        path: The words so far, for example `llm360 spec resolve`.
        commands: Names of sub-commands.
        words: What may stand for an argument; besides these, files.
        options: Options, and the values of those that have a choice.
    """

    path: str
    commands: tuple[str, ...]
    words: tuple[str, ...]
    options: dict[str, tuple[str, ...]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=tuple(TEMPLATES))
    parser.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace) -> int:
    """Print the script."""
    print(TEMPLATES[args.shell](list(nodes())), end="")
    return 0


def nodes(program: main.Program = main.LLM360) -> Iterator[Node]:
    """All commands that this installation has; one whose extra is missing is left out."""
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name, (module, _) in program.commands.items():
        try:
            configure_command = importlib.import_module(module).configure
        except ModuleNotFoundError as error:
            if error.name == module or (error.name or "").split(".")[0] in main.EXTRA_OF:
                continue
            raise
        parsers[name] = argparse.ArgumentParser()
        configure_command(parsers[name])
    yield Node(program.name, tuple(parsers), (), {"--help": (), "--version": ()})
    for name, parser in parsers.items():
        yield from _walk(f"{program.name} {name}", parser)


def _walk(path: str, parser: argparse.ArgumentParser) -> Iterator[Node]:
    commands: dict[str, argparse.ArgumentParser] = {}
    words: list[str] = []
    options: dict[str, tuple[str, ...]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = dict(action.choices)
            continue
        choices = tuple(map(str, action.choices or ()))
        options |= dict.fromkeys(action.option_strings, choices)
        if not action.option_strings:
            words += choices
            words += preset_names() if "PRESET" in str(action.metavar) else ()
            words += [word for word in str(action.metavar).split("|") if word.islower()]  # a word that may be meant
    yield Node(path, tuple(commands), tuple(words), options)
    for name, command in commands.items():
        yield from _walk(f"{path} {name}", command)


def _descents(all_nodes: list[Node]) -> str:
    """All paths but the first, as alternatives of a shell's `case`."""
    return " | ".join(shlex.quote(node.path) for node in all_nodes[1:])


def _follows(node: Node) -> str:
    return " ".join((*node.commands, *node.words, *node.options))


def _choices(all_nodes: list[Node]) -> Iterator[tuple[str, str]]:
    """`llm360 spec schema -o` and its values, for each option that has a choice."""
    for node in all_nodes:
        for option, values in node.options.items():
            if values:
                yield f"{node.path} {option}", " ".join(values)


def bash_script(all_nodes: list[Node]) -> str:
    """Completion for bash; files where nothing else fits."""
    values = "\n".join(f"    {shlex.quote(path)}) words={shlex.quote(text)} ;;" for path, text in _choices(all_nodes))
    follows = "\n".join(f"      {shlex.quote(node.path)}) words={shlex.quote(_follows(node))} ;;" for node in all_nodes)
    return f"""\
# llm360 completion for bash
_llm360() {{
  local path=llm360 words= word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$path $word" in
      {_descents(all_nodes)}) path="$path $word" ;;
    esac
  done
  case "$path ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
    *) case "$path" in
{follows}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _llm360 llm360
"""


def zsh_script(all_nodes: list[Node]) -> str:
    """Completion for zsh."""
    values = "\n".join(f"    {shlex.quote(path)}) candidates=({text}) ;;" for path, text in _choices(all_nodes))
    follows = "\n".join(f"      {shlex.quote(node.path)}) candidates=({_follows(node)}) ;;" for node in all_nodes)
    return f"""\
#compdef llm360
# llm360 completion for zsh
_llm360() {{
  local command_path=llm360 word
  local -a candidates
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$command_path $word" in
      {_descents(all_nodes)}) command_path="$command_path $word" ;;
    esac
  done
  case "$command_path ${{words[CURRENT-1]}}" in
{values}
    *) case "$command_path" in
{follows}
    esac ;;
  esac
  compadd -- $candidates || _files
}}
if [ "$funcstack[1]" = "_llm360" ]; then _llm360; else compdef _llm360 llm360; fi
"""


def fish_script(all_nodes: list[Node]) -> str:
    """Completion for fish."""
    paths = " ".join(shlex.quote(node.path) for node in all_nodes[1:])
    lines = [
        f"complete -c llm360 -n '__llm360_at {node.path}' -a {shlex.quote(' '.join(words))}"
        for node in all_nodes
        if (words := (*node.commands, *node.words))
    ]
    for node in all_nodes:
        for option, values in node.options.items():
            flag = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            choice = f" -x -a {shlex.quote(' '.join(values))}" if values else ""
            lines.append(f"complete -c llm360 -n '__llm360_at {node.path}' {flag}{choice}")
    return f"""\
# llm360 completion for fish
function __llm360_at
    set -l path llm360
    for word in (commandline -opc)[2..-1]
        if contains -- "$path $word" {paths}
            set path "$path $word"
        end
    end
    test "$path" = "$argv"
end
{chr(10).join(lines)}
"""


TEMPLATES = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
