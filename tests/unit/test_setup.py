"""What scripts/setup.sh promises of the environment in which everything runs."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["torch", "ray", "pandas", "pyarrow"])
def test_heavy_packages_are_compiled(package):
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.origin
    assert Path(importlib.util.cache_from_source(spec.origin)).exists(), "every process would compile it again"
