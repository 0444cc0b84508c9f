"""What the commands' arguments take."""

import argparse
from pathlib import Path

import pytest

from llm360.cli.arguments import local_path


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/page.html", "s3:/bucket/x", "file:page.html", "https://host/x", "gs:/b/x", ""),
        *("S3:bucket/x", "HTTP:foo", "File:runs/x", "https://me:secret@host/x"),
    ],
)
def test_a_local_path_is_no_address(text):
    with pytest.raises(argparse.ArgumentTypeError, match="give a path on this machine") as error:
        local_path(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["page.html", "/dev/stdout", "runs/a:b/page.html", "12:30.html", "s3.html"])
def test_a_local_path(text):
    assert local_path(text) == Path(text)
