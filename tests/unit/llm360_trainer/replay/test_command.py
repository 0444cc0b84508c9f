"""`llm360 replay`: what its command line refuses at once."""

from __future__ import annotations

import pytest

from llm360.cli import main


def test_an_address_with_a_password_is_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(("replay", "https://reader:hush@127.0.0.1:9/run")) == 2
    assert capsys.readouterr().err == (
        "llm360: error: https://127.0.0.1:9/run is given with a name and password, but a replay's workers open the"
        " release by its address without them; leave them away if it can be read so, or copy it to a folder or a bucket"
        " and replay the copy\n"
    )
