from __future__ import annotations

import math

import pytest

from llm360.report.text import address_of, counted, duration, short_bytes, short_count, short_digest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (999.6, "1.00k"),
        (12_400, "12.4k"),
        (124_000, "124k"),
        (999_600, "1.00M"),
        (2_555_904, "2.56M"),
        (1.26e12, "1.26T"),
        (-1500, "-1.50k"),
    ],
)
def test_short_count(value, text):
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1_300_000_000, "1.21 GiB"), (2**41, "2.00 TiB")],
)
def test_short_bytes(value, text):
    assert short_bytes(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (math.inf, "unknown"),
        (-1, "0s"),
        (7.6, "8s"),
        (59.7, "1m00s"),
        (83, "1m23s"),
        (3600 * 3 + 310, "3h05m"),
        (86400 * 12 + 3600 * 4, "12d04h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_counted():
    assert [counted(n, "attempt") for n in (0, 1, 1200)] == ["0 attempts", "1 attempt", "1,200 attempts"]
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_short_digest():
    assert short_digest("sha256:" + "ab" * 32) == "abababababab"


def test_address_of_a_folder_is_its_path():
    assert address_of("file:///runs/x") == "/runs/x"
    assert address_of("s3://bucket/x") == "s3://bucket/x"


def test_address_of_a_server_is_without_password():
    assert address_of("https://me:secret@host:80/x@y") == "https://host:80/x@y"
    assert address_of("file:///runs/a:b@c") == "/runs/a:b@c"
