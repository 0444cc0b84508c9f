"""The testbed's fixtures, for every test that stands on a real cluster."""

from testbed.fixtures import (
    machine,
    namespace,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_runtest_setup,
    testbed,
)

__all__ = [
    "machine",
    "namespace",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_runtest_setup",
    "testbed",
]
