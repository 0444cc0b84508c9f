"""Entry point: finds the command's module, parses, runs it, and turns errors into sentences and exit codes.

`COMMANDS` names a module by its path and that module is imported only when its command is asked for: help
stays fast, and commands that need torch or ray do not burden those that need neither. A command module has

    def configure(parser: argparse.ArgumentParser) -> None

which adds its arguments (or sub-commands) and ends in `parser.set_defaults(run=function)`, where
`function(args: argparse.Namespace) -> int` returns the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from llm360 import __version__
from llm360.cli import output
from llm360.errors import InputError, LLM360Error, nearest

# name: (module, one line of help). In the order in which a newcomer meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("llm360_trainer.cli.run", "train a model as a preset or a file describes it"),
    "status": ("llm360.cli.status", "show where a run stands"),
    "ls": ("llm360.cli.ls", "list a release's checkpoints, attempts and data"),
    "eval": ("llm360_trainer.cli.evaluate", "score checkpoints by lm-evaluation-harness"),
    "report": ("llm360.cli.report", "write a run's report as one HTML page"),
    "compare": ("llm360.cli.compare", "set runs side by side"),
    "metrics": ("llm360.cli.metrics", "write the record of a run's steps for Prometheus, TensorBoard and others"),
    "verify": ("llm360.cli.verify", "check a release's whole history against its bytes"),
    "replay": ("llm360_trainer.cli.replay", "train a checkpoint's last steps anew and compare the bits"),
    "data": ("llm360_trainer.cli.data", "prepare, import, show and verify training data"),
    "analyze": ("llm360_trainer.cli.analyze", "measure what each checkpoint remembers, predicts and forgets"),
    "export": ("llm360_trainer.cli.export", "write a checkpoint in a form that other programs read"),
    "import": ("llm360_trainer.cli.imports", "take in weights of other programs for a run to begin with"),
    "tokenizer": ("llm360_trainer.cli.tokenizer", "train a tokenizer"),
    "spec": ("llm360.cli.spec", "resolve, validate, plan and describe specifications"),
    "preflight": ("llm360.cli.preflight", "check a run's store, data and tokenizer before it is given workers"),
    "presets": ("llm360.cli.presets", "list and show the presets"),
    "gc": ("llm360.cli.gc", "remove litter that no ledger entry names"),
    "prune": ("llm360.cli.prune", "remove a checkpoint's state, recorded in the ledger first"),
    "completion": ("llm360.cli.completion", "print a shell's completion script"),
}

EXAMPLES = """\
examples:
  llm360 run amber-tiny --store runs/amber-tiny    train the small Amber on this machine
  llm360 status runs/amber-tiny                    where it stands
  llm360 verify runs/amber-tiny                    check every link of its history
  llm360 run --help                                what a command takes
"""

EXIT_CODES = """\
exit codes:
  0 done · 1 failed · 2 bad input · 3 a newer attempt owns the run · 4 attempts exhausted
  130 interrupted (Ctrl-C) · 143 ended by SIGTERM · 141 the reader of the output has gone, as in `llm360 … | head`
"""

OPTIONS = ("-h", "--help", "--version")
"""What may stand before a command."""


@dataclass(frozen=True)
class Program:
    """A command line: `llm360`, or its part that kubectl starts.

    Attributes:
        name: As it is typed.
        description: One sentence.
        epilog: Examples and exit codes.
        commands: Name: (module, one line of help).
    """

    name: str
    description: str
    epilog: str
    commands: Mapping[str, tuple[str, str]]


LLM360 = Program(
    "llm360",
    "Pretrain language models so openly that anyone can check how each checkpoint was made.",
    EXAMPLES + "\n" + EXIT_CODES,
    COMMANDS,
)


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one sentence and exits with 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse here what is not known: the program's parser would not know which command has which options."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            if word.startswith("-"):
                self.error(f"there is no option '{word}'{nearest(word, list(self._option_string_actions))}")
            self.error(f"there is one argument too many: '{word}'")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print one sentence to standard error and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}\nTry '{self.prog} --help'.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse has it, except that a help text that cannot be written is not passed over."""
        if message:
            (file or sys.stderr).write(message)


def build_parser(command: str | None, program: Program = LLM360) -> Parser:
    """The whole parser; only `command`'s module is imported, the others show their line of help."""
    parser = Parser(
        prog=program.name,
        description=program.description,
        epilog=program.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llm360 {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, (module, summary) in program.commands.items():
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            importlib.import_module(module).configure(sub)
    return parser


def run(argv: Sequence[str], program: Program = LLM360) -> int:
    """Parse and run one command line; errors that a user can meet are printed, not raised."""
    output.stand_in_for_closed()
    output.accept_any_letter()
    output.tell_notices(program.name)
    try:
        try:
            return _run(argv, program)
        finally:
            sys.stdout.flush()  # while somebody can say that it does not arrive; also behind `--help`, a SystemExit
    except BrokenPipeError:
        # The reader of our output has gone (`llm360 … | head`): no error, and no result that could be told either.
        output.drop()
        return output.PIPE_CLOSED
    except OSError as error:
        with contextlib.suppress(OSError):  # of a standard error that is full, too
            print(f"{program.name}: error: {output.explain(error)}", file=sys.stderr)
        output.drop()
        return 1


def _run(argv: Sequence[str], program: Program) -> int:
    command = next((word for word in argv if not word.startswith("-")), None)
    try:
        refuse_options_before_command(argv, program)
        known = list(program.commands)
        if command is not None and command not in known:
            raise InputError(
                f"there is no command '{command}'{nearest(command, known)}; commands are {', '.join(known)}"
            )
        args = build_parser(command, program).parse_args(argv)
        return int(args.run(args))
    except LLM360Error as error:
        print(f"{program.name}: error: {error.message}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        print(f"{program.name}: error: '{command}' {missing.message}", file=sys.stderr)
        return missing.exit_code
    except KeyboardInterrupt:
        print(f"{program.name}: interrupted", file=sys.stderr)
        return 130


def refuse_options_before_command(argv: Sequence[str], program: Program) -> None:
    """See that what stands before the command is known, before an option's value is taken for the command."""
    for word in itertools.takewhile(lambda word: word.startswith("-") and word not in ("-", "--"), argv):
        name = word.partition("=")[0]
        if not any(option == name or (name.startswith("--") and option.startswith(name)) for option in OPTIONS):
            raise InputError(
                f"there is no option '{name}' before a command{nearest(name, OPTIONS)}; what a command takes stands"
                f" behind its name and in '{program.name} COMMAND --help'"
            )


def missing_package(error: ModuleNotFoundError) -> InputError | None:
    """What is said where a package is missing that an extra brings; None of any other."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRA_OF:
        return None
    return InputError(
        f"needs the package '{package}', which is not installed; install it in a checkout of llm360 with:"
        f" pip install '.[{EXTRA_OF[package]}]'",
        reason="PackageMissing",
    )


# Third-party packages that only an extra brings, by the extra that brings them.
EXTRA_OF = dict.fromkeys(("torch", "ray", "safetensors", "psutil", "tensorboardX", "zstandard"), "trainer")
EXTRA_OF |= dict.fromkeys(("lm_eval", "datasets"), "eval")


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
