"""Listing and showing presets."""

import json

import pytest

from llm360.cli import main
from llm360.spec import preset_names, preset_text


@pytest.fixture
def llm360(capsys):
    """Runs a command line: exit code, standard output, standard error."""

    def run(*argv):
        code = main.run(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_list_names_and_describes_each(llm360):
    code, out, _ = llm360("presets", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(preset_names())
    entries = json.loads(llm360("presets", "list", "-o", "json")[1])
    assert all(entry["description"] in out for entry in entries)


def test_show_prints_the_file_with_its_sources(llm360):
    assert llm360("presets", "show", "amber-7b")[1] == preset_text("amber-7b")


def test_show_as_json(llm360):
    shown = json.loads(llm360("presets", "show", "amber-7b", "-o", "json")[1])
    assert shown["training"]["batchSize"] == 2240
    assert "recovery" not in shown


def test_mistyped_name(llm360):
    code, out, err = llm360("presets", "show", "amber7b")
    assert (code, out) == (2, "")
    assert "there is no preset 'amber7b' (did you mean 'amber-7b'?)" in err
