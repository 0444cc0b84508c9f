"""What torch is told where the same input must give the same bits."""

import os

import pytest
import torch
from torch._inductor import config as inductor
from torch.utils import deterministic

from llm360_trainer.parallel import set_deterministic


@pytest.fixture
def restored(monkeypatch):
    """Leaves torch as it was."""
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", deterministic.fill_uninitialized_memory)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    threads = torch.get_num_threads()
    with inductor.patch(deterministic=False):
        yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("restored")
def test_nothing_is_chosen_by_timing():
    set_deterministic(num_threads=1)
    assert torch.are_deterministic_algorithms_enabled()
    assert inductor.deterministic, "the compiler times no variants"
    assert torch.get_num_threads() == 1
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8", "what the machine's owner set stays"
