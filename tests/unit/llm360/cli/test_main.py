"""What is said of a command line that cannot be understood."""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic.release import eventful_release

from llm360.cli import main, output
from llm360.spec.crd import crd
from llm360.spec.reference import reference_page
from llm360.spec.schema import openapi_schema
from llm360.storage import open_storage


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("verfy x", "there is no command 'verfy' (did you mean 'verify'?)"),
        ("verify x --byte=all --dta", "llm360 verify: error: there is no option '--dta' (did you mean '--data'?)"),
        (
            "presets show amber-7b --att 3",
            "llm360 presets show: error: there is no option '--att' (did you mean '--at'?)",
        ),
        ("verify x --head 9f2c", "--head is '9f2c', which is no digest; write it whole, as sha256:<64 hex digits>"),
        ("--nope", "there is no option '--nope' before a command; what a command takes stands behind its name"),
        ("--vrsion", "there is no option '--vrsion' before a command (did you mean '--version'?)"),
        ("-o json ls x", "there is no option '-o' before a command; what a command takes stands behind its name"),
        ("run -o json amber-tiny --nope", "llm360 run: error: there is no option '-o'"),
        ("verify x y", "llm360 verify: error: there is one argument too many: 'y'"),
        ("run amber-tiny --port 65536", "'65536' is no port; allowed are 0 (any free one) to 65535"),
        ("run amber-tiny --port http", "'http' is no port"),
        ("run amber-tiny --push pushgateway:9091", "'pushgateway:9091' is no URL; write it as http://pushgateway:9091"),
    ],
)
def test_one_sentence_and_exit_code_2(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main.run(words.split())
    except SystemExit as end:  # how argparse ends
        code = end.code
    assert code == 2
    assert sentence in capsys.readouterr().err


def llm360(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """The program as a shell starts it."""
    command = [sys.executable, "-m", "llm360.cli.main", *words]
    return subprocess.run(command, **{"stderr": subprocess.PIPE, "timeout": 60, "check": False} | options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a release."""
    folder = str(tmp_path_factory.mktemp("made") / "tiny")
    eventful_release(open_storage(folder))
    return folder


@pytest.fixture
def broken(whole: str, tmp_path: Path) -> str:
    """Address of a release that does not verify."""
    folder = tmp_path / "broken"
    shutil.copytree(whole, folder)
    next(folder.glob("metrics/*/*")).write_bytes(b"")
    return str(folder)


def test_a_reader_that_has_gone_gets_no_made_up_result(whole: str, broken: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    # At the end, in the middle and where argparse prints.
    for words in (("verify", broken), ("metrics", whole, "--format", "csv"), ("--help",)):
        found = llm360(*words, stdout=writing)
        assert (found.returncode, found.stderr) == (141, b"")
    os.close(writing)


def test_output_that_cannot_be_written_is_one_sentence(whole: str) -> None:
    said = (
        b"llm360: error: the output cannot be written: no space left on device; send it elsewhere, or free some space\n"
    )
    with Path("/dev/full").open("wb") as full:
        for words in (("ls", whole), ("metrics", whole, "--format", "parquet"), ("--help",)):
            found = llm360(*words, stdout=full)
            assert (found.returncode, found.stderr) == (1, said)
        assert llm360("ls", whole, stdout=full, stderr=full).returncode == 1


def test_result_is_kept_where_output_is_fine_or_closed(broken: str) -> None:
    assert llm360("verify", broken, stdout=subprocess.DEVNULL).returncode == 1
    closed = subprocess.run(["sh", "-c", f"{sys.executable} -m llm360.cli.main ls {broken} >&-"], check=False)
    assert closed.returncode == 0


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """A command line with its redirections, `llm360` being the program."""
    line = line.replace("llm360", f"{sys.executable} -m llm360.cli.main", 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "words", ["metrics {} --format csv", "spec resolve amber-tiny -o json", "spec resolve amber-tiny", "spec crd"]
)
def test_a_standard_output_that_is_closed_takes_every_form(words: str, whole: str) -> None:
    found = shell(f"llm360 {words.format(whole)} >&-")
    assert (found.returncode, found.stdout) == (0, b"")
    assert b"Traceback" not in found.stderr


def test_what_a_closed_standard_error_would_take_stays_out_of_the_output() -> None:
    found = shell("llm360 spec resolve amber-tiny 2>&-")
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"identity sha256" not in found.stdout
    assert shell("llm360 ls nowhere 2>&-").stdout == b""


def test_a_notice_that_nobody_can_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    notices = output._Notices("llm360")
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        notices.emit(logging.LogRecord("llm360.storage", logging.WARNING, __file__, 1, "no answer yet", (), None))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_programs_read_is_exact_whatever_letters_a_terminal_has(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}

    def printed(*words: str) -> str:
        found = llm360(*words, stdout=subprocess.PIPE, env=environment)
        assert found.returncode == 0
        return found.stdout.decode()

    resolved = yaml.safe_load(printed("spec", "resolve", "amber-tiny", "--store", "s3://b/ü"))
    assert resolved["spec"]["storage"]["uri"] == "s3://b/ü"
    assert yaml.safe_load(printed("spec", "crd")) == crd()
    assert yaml.safe_load(printed("spec", "schema")) == openapi_schema()
    assert printed("spec", "reference") == reference_page()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_letters_gets_the_others_as_question_marks(encoding: str) -> None:
    found = llm360("--help", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"as in `llm360 ? | head`" in found.stdout


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(13, "Permission denied", "/etc/x"),
            "/etc/x cannot be used: permission denied; check the path",
        ),
        (TimeoutError("timed out"), "the system refuses: timed out"),
        (OSError(28, "No space left on device"), "the output cannot be written: no space left on device"),
    ],
)
def test_the_system_s_refusals_are_sentences(
    error: OSError, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_uri: str) -> None:
        raise error

    monkeypatch.setattr("llm360.cli.ls.open_storage", fail)
    assert main.run(["ls", "x"]) == 1
    assert f"llm360: error: {sentence}" in capsys.readouterr().err


def test_notices_of_a_store_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main.run(["ls", str(tmp_path)])
    logging.getLogger("llm360.storage.http").warning("no answer yet")
    assert "llm360: no answer yet" in capsys.readouterr().err
