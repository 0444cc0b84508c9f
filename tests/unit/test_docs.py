"""The pages and the program agree: links lead somewhere, commands and their options exist, examples parse."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm360.cli.kube.main import PLUGIN
from llm360.cli.main import LLM360, Program, build_parser
from llm360.errors import LLM360Error
from llm360.spec import documents, load_run

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "helm/**/*.md", "tests/testbed/*.md") for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
SECTIONS = {
    *("preset", "model", "tokenizer", "data", "training", "parallelism", "checkpoints", "recovery"),
    *("evaluation", "storage", "cluster", "release", "suspend"),
}
PROGRAMS = {("llm360",): LLM360, ("kubectl", "llm360"): PLUGIN}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{name(path)} links to {target}, which does not exist"
        assert not anchor or anchor in anchors(there.read_text()), f"{name(path)} links to {target}: no such heading"


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command in lines of shell: no comments or redirections, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\$\(|\|", re.sub(r"(^|\s)#.*", "", line)):
            with contextlib.suppress(ValueError):  # a quotation that the split cut through
                words = shlex.split(re.sub(r"\d?>+\s*\S+|[<)]", " ", part))
                yield [word for word in words if not re.fullmatch(r"\$|…|[A-Z_]+=\S*", word)]


def split_program(words: list[str]) -> tuple[Program, list[str]] | None:
    """The program of this project that the words start, and its arguments; None for any other."""
    for start, program in PROGRAMS.items():
        if tuple(words[: len(start)]) == start:
            return program, words[len(start) :]
    return None


def check(program: Program, arguments: list[str]) -> None:
    """Parse the arguments; fails with the parser's sentence."""
    said, code = io.StringIO(), None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            command = next((word for word in arguments if not word.startswith("-")), None)
            build_parser(command, program).parse_args(arguments)
        except SystemExit as end:
            code = end.code
    assert not code, f"{program.name} {shlex.join(arguments)}: {said.getvalue().strip()}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_in_blocks_parse(path: Path) -> None:
    for language, block in FENCE.findall(path.read_text()):
        if language in ("sh", "bash", "shell", "console"):
            for words in commands_of(block):
                if found := split_program(words):
                    check(*found)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_in_sentences_exist(path: Path) -> None:
    """Named with fewer arguments than they need, so only the command's and the options' names can be checked."""
    for code in INLINE.findall(FENCE.sub("", path.read_text())):
        if found := split_program(code.split()):
            program, words = found
            parser: argparse.ArgumentParser = build_parser(words[0] if words else None, program)
            for word in words:
                children = subcommands(parser)
                if children and not word.startswith("-") and word not in ("…", "COMMAND"):
                    for choice in re.split(r"[|,]", word):
                        assert choice in children, f"{name(path)}: `{code}`: there is no '{choice}'"
                    parser = children[re.split(r"[|,]", word)[0]]
                elif word.startswith("--"):
                    flag = re.split(r"[=\[\],.]", word)[0]
                    assert flag in parser._option_string_actions, f"{name(path)}: `{code}`: there is no {flag}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    children = subcommands(parser)
    yield from (leaf for child in children.values() for leaf in leaves(child))
    if not children:
        yield parser


@pytest.mark.parametrize(
    ("program", "command"), [(program, command) for program in PROGRAMS.values() for command in program.commands]
)
def test_help_has_examples_that_parse(program: Program, command: str) -> None:
    for parser in leaves(subcommands(build_parser(command, program))[command]):
        epilog = parser.epilog or ""
        assert "example" in epilog, f"{parser.prog} --help has no examples"
        lines = [re.split(r"\s{2,}", line.strip())[0] for line in re.sub(r"\\\n\s*", "", epilog).splitlines()]
        examples = [found for words in commands_of("\n".join(lines)) if (found := split_program(words))]
        assert examples, f"{parser.prog} --help has no examples"
        for example in examples:
            check(*example)


def sections_of(text: str) -> Iterator[dict[str, Any]]:
    """Each `spec`, whole or in part, that a page shows as YAML."""
    blocks = [block for language, block in FENCE.findall(text) if language == "yaml"]
    for block in blocks + re.findall(r"<<'YAML'\n(.*?)\nYAML", text, re.DOTALL):
        for part in block.replace("sha256:…", f"sha256:{'0' * 64}").split("\n---\n"):
            document = documents.parse(part, "a page")
            if isinstance(document, dict) and document.get("kind", "LLM360Run") == "LLM360Run":
                section = document.get("spec", document)
                if section and section.keys() <= SECTIONS:
                    yield section


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_specifications_shown_are_valid(path: Path, tmp_path: Path) -> None:
    """Laid over a preset, since pages show what matters only: the large one for GPUs, the small one for CPUs."""
    for section in sections_of(path.read_text()):
        presets = [section["preset"]] if "preset" in section else ["amber-7b", "amber-tiny"]
        problems = [problem_of(section | {"preset": preset}, tmp_path / "run.json") for preset in presets]
        assert not all(problems), f"{name(path)}: {section}: {problems}"


def problem_of(section: dict[str, Any], file: Path) -> str:
    """What is wrong with the `spec`; nothing where it is valid."""
    head = {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run", "metadata": {"name": "shown"}}
    file.write_text(json.dumps(head | {"spec": section}))
    try:
        load_run(str(file), require_store=False)
    except LLM360Error as error:
        return error.message
    return ""


def test_make_targets_named_exist() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        for target in re.findall(r"(?:`|^|\$ |&& )make ([a-z][\w-]*)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{name(path)} names `make {target}`, which the Makefile has not"


def test_every_page_is_found_from_the_first() -> None:
    """A page that no other links to is read by nobody."""
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        targets = LINK.findall(path.read_text())
        waiting += [(path.parent / target.partition("#")[0]).resolve() for target in targets if ":" not in target]
    assert [name(page) for page in PAGES if page not in reached] == []
