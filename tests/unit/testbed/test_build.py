"""What is built, and what makes it be built anew."""

from __future__ import annotations

import dataclasses

import pytest
from testbed import build
from testbed.errors import TestbedError


def test_versions_come_from_the_pins():
    versions = {each.name: each.version for each in build.COMPONENTS}
    assert versions["kubernetes"] == "v1.34.4"
    assert all(version.startswith("v") for version in versions.values())


def test_each_module_pins_each_sum():
    for each in build.COMPONENTS:
        assert (each.folder / "go.sum").exists() == (each.module is not None)


def test_another_pin_or_another_flag_is_another_program(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MODULES", tmp_path)
    (tmp_path / "etcd").mkdir()
    pins = tmp_path / "etcd" / "go.mod"
    pins.write_text("require go.etcd.io/etcd/server/v3 v3.6.5\n")
    component = build.component("etcd")
    first = component.output
    assert first == component.output
    assert first.name.startswith("etcd-v3.6.5-")
    assert dataclasses.replace(component, tags="x").output != first
    pins.write_text("require go.etcd.io/etcd/server/v3 v3.6.6\n")
    assert component.output.name.startswith("etcd-v3.6.6-")


def test_a_module_that_is_not_pinned_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MODULES", tmp_path)
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd" / "go.mod").write_text("module x\n")
    with pytest.raises(TestbedError, match=r"requires no go.etcd.io/etcd/server/v3; add it"):
        _ = build.component("etcd").version


def test_progress_is_said_once_a_rate_means_something(monkeypatch):
    said: list[str] = []
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(build.time, "monotonic", lambda: float(next(clock)))
    progress = build._Progress(said.append)
    progress.expect(200)
    for _ in range(60):
        progress.compiled()
    assert said[0].strip().startswith("50 of 200 packages, about 5.")
