"""What is said of a command line that cannot be understood."""

from __future__ import annotations

import pytest

from llm360.cli import main


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
