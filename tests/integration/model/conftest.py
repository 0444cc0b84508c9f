import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_SECONDS = 300


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Train with a number of processes and return what each experiment gave, by its name."""

    def train(processes, *experiments):
        folder = tmp_path_factory.mktemp(f"world{processes}")
        ranks = [
            subprocess.Popen(
                [sys.executable, Path(__file__).with_name("rank.py"), str(rank), str(processes), folder, *experiments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(processes)
        ]
        try:
            codes = [rank.wait(DEADLINE_SECONDS) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
        assert codes == [0] * processes
        return {name: json.loads((folder / f"{name}.json").read_text()) for name in experiments}

    return train
