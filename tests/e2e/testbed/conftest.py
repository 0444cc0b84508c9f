"""The image with which the testbed's own tests look at it from inside."""

from pathlib import Path

import pytest
from testbed.fixtures import Testbed

PROBE = Path(__file__).parent / "probe"


@pytest.fixture(scope="session")
def probe_image(testbed: Testbed) -> str:
    return testbed.load("probe", file=PROBE / "Dockerfile", context=PROBE)
