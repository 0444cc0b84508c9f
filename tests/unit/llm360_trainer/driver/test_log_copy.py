"""The copy of the driver's lines: whole, beside the original, and never in its way."""

import os
import subprocess
import sys

import pytest

from llm360_trainer.driver.log_copy import copied_output


@pytest.fixture
def pipe():
    """A pipe's reading end and the path of its writing end, as /proc shows a container's standard output."""
    reading, writing = os.pipe()
    yield reading, f"/proc/self/fd/{writing}"
    for end in (reading, writing):
        os.close(end)


def test_lines_of_both_streams_are_copied_whole(pipe, capsys):
    reading, path = pipe
    with copied_output(path):
        print("step", 41, "loss", 3.25)
        sys.stderr.write("half a ")
        print("from the other stream")
        sys.stderr.write("line\nbegun")
    print("afterwards")
    assert os.read(reading, 1000).decode() == "step 41 loss 3.25\nfrom the other stream\nhalf a line\n"
    assert capsys.readouterr() == ("step 41 loss 3.25\nfrom the other stream\nafterwards\n", "half a line\nbegun")


def test_a_reader_that_stands_still_stops_nothing(pipe, capsys):
    reading, path = pipe
    with copied_output(path):
        for _ in range(3000):
            print("x" * 99)
    assert capsys.readouterr().out.count("\n") == 3000
    assert 0 < len(os.read(reading, 1 << 20)) < 3000 * 100


def test_a_reader_that_is_gone_stops_nothing(capsys):
    reading, writing = os.pipe()
    with copied_output(f"/proc/self/fd/{writing}"):
        os.close(reading)
        print("alone")
    os.close(writing)
    assert capsys.readouterr().out == "alone\n"


@pytest.mark.parametrize("path", [None, "", "/nowhere/at/all"])
def test_without_a_place_nothing_is_copied(path, capsys):
    before = sys.stdout
    with copied_output(path):
        assert sys.stdout is before


def test_another_process_finds_its_lines_on_the_first_ones_output(tmp_path):
    """As on the head: `ray start` stands at process 1, the driver is its grandchild."""
    driver = "import sys\nfrom llm360_trainer.driver.log_copy import copied_output\n"
    driver += "with copied_output(f'/proc/{sys.argv[1]}/fd/1'):\n    print('step=1/2')\n"
    first = f"import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', {driver!r}, str(os.getpid())],"
    first += " stdout=subprocess.DEVNULL, check=True)"
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "step=1/2\n"
