"""The completion scripts, run by the shells themselves."""

import shlex
import shutil
import subprocess

import pytest

from llm360.cli import main
from llm360.cli.completion import nodes

# What follows `llm360 …`, when its last word is completed.
CASES = [
    ("eval mir", {"mirror"}),
    ("spec re", {"resolve", "recorded", "reference"}),
    ("spec schema -o ", {"yaml", "json"}),
    ("presets show amber-t", {"amber-tiny"}),
    ("spec resolve --id", {"--identity"}),
    ("compl", {"completion"}),
    ("completion ", {"bash", "zsh", "fish"}),
]

BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_llm360; printf '%s\\n' "${{COMPREPLY[@]}}"
"""

# Outside the line editor, zsh's own functions are replaced by ones that print what they are given.
ZSH = """
compdef() {{ :; }}; _files() {{ :; }}
compadd() {{ shift; print -l -- ${{(M)@:#${{words[CURRENT]}}*}}; }}
source {script}
words=({words}); CURRENT=${{#words}}
_llm360
"""

FISH = """
source {script}
complete -C {line} | string split -f1 \\t
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, in a file."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with (folder / shell).open("w") as stream, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", stream)
            assert main.run(["completion", shell]) == 0
    return folder


def completions(shell, script, line):
    """What a shell offers for the last word of `llm360 <line>`."""
    words = " ".join(shlex.quote(word) for word in ["llm360", *line.split(" ")])
    template = {"bash": BASH, "zsh": ZSH, "fish": FISH}[shell]
    program = template.format(script=script, words=words, line=shlex.quote(f"llm360 {line}"))
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    empty = script.parent / "empty"  # fish offers files beside the words
    empty.mkdir(exist_ok=True)
    result = subprocess.run([shell, *options, "-c", program], cwd=empty, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    return set(result.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "offered"), CASES, ids=[line for line, _ in CASES])
def test_shell_completes(shell, line, offered, scripts):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    found = completions(shell, scripts / shell, line)
    last = line.rsplit(" ", 1)[-1]
    assert {word for word in found if word.startswith(last) and not (last == "" and word.startswith("-"))} == offered


def test_every_command_is_known():
    paths = {node.path for node in nodes()}
    assert {"llm360", "llm360 spec", "llm360 spec resolve", "llm360 presets show", "llm360 completion"} <= paths
