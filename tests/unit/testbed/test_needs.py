"""Where the testbed cannot run it says so in one sentence."""

from __future__ import annotations

from collections import namedtuple

import pytest
from testbed import needs
from testbed.errors import TestbedError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def able(monkeypatch, tmp_path):
    """A machine that has all that is needed."""
    monkeypatch.setattr(needs.platform, "system", lambda: "Linux")
    monkeypatch.setattr(needs.os, "geteuid", lambda: 0)
    monkeypatch.setattr(needs, "_has", lambda _: True)
    monkeypatch.setattr(needs, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: Usage(0, 0, 100 << 30))
    monkeypatch.setattr(needs, "MEMORY", 0)


def test_an_able_machine_lacks_nothing():
    assert needs.missing() is None


def test_what_is_lacking_is_named(monkeypatch):
    cases = [
        (needs.platform, "system", lambda: "Darwin", "needs Linux .* this is Darwin"),
        (needs.os, "geteuid", lambda: 1000, "needs root .* sudo"),
        (needs.shutil, "disk_usage", lambda _: Usage(0, 0, 1 << 30), r"GiB of disk at .*; 1 GiB are free"),
        (needs, "MEMORY", 1 << 60, "GiB of memory; this machine has"),
    ]
    for where, name, value, sentence in cases:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            with pytest.raises(TestbedError, match=sentence):
                needs.install(lambda _: None)


def test_packages_that_only_debian_installs_are_named_elsewhere(monkeypatch):
    monkeypatch.setattr(needs, "_has", lambda program: program != "buildah")
    monkeypatch.setattr(needs.shutil, "which", lambda _: None)
    assert "install buildah" in (needs.missing() or "")
