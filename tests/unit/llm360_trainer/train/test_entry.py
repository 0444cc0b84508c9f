"""What each process of a run imports when it starts: seconds of every start, and of every recovery."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("process", "without"),
    [
        ("llm360_trainer.driver.recorder", {"torch", "ray.data", "ray.train", "pandas"}),
        ("llm360_trainer.driver.launch", {"torch", "ray.train"}),
        ("llm360_trainer.train.entry", {"torch", "ray.data", "ray.train", "pandas"}),
        ("llm360_trainer.driver.fit", {"torch.distributed.fsdp", "sympy"}),
        ("llm360_trainer.stream.source", {"torch", "ray.train"}),
    ],
)
def test_a_process_starts_without_what_it_does_not_need(process, without):
    lines = f"import sys, {process}; print(*sys.modules, sep='\\n')"
    imported = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert not without & set(imported.stdout.split())
