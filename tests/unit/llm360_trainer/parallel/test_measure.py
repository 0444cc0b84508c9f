"""What is chosen by measurement: results that fit their budget and change no bit; a kernel that all ranks share."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from llm360_trainer.parallel import (
    ParallelSettings,
    build_model,
    choose_attention,
    fill_initial,
    with_measured_recomputation,
)
from llm360_trainer.parallel.measure import fastest
from llm360_trainer.parallel.recompute import OperationCost, choose_kept

CPU = torch.device("cpu")


@st.composite
def costs(draw):
    numbers = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 100), st.integers(1, 3)), max_size=8))
    return [OperationCost((index, ()), seconds, size, count) for index, (seconds, size, count) in enumerate(numbers)]


@given(costs(), st.integers(-10, 900))
def test_what_is_kept_fits_the_budget(found, budget):
    kept = choose_kept(found, budget)
    assert sum(cost.size * cost.count for cost in found if cost.key in kept) <= max(0, budget)
    # What is left out would not have fitted beside what is dearer.
    for cost in found:
        dearer = sum(c.size * c.count for c in found if c.key in kept and c.seconds_per_byte >= cost.seconds_per_byte)
        assert cost.key in kept or dearer + cost.size * cost.count > budget


def loss_and_gradients(model, ids):
    total, _ = model.loss(ids[:, :-1], ids[:, 1:], torch.ones(ids[:, 1:].shape))
    total.backward()
    return total, [parameter.grad.full_tensor() for parameter in model.parameters()]


@pytest.mark.parametrize("budget", [0, 3e5, 1e9])
def test_measured_recomputation_changes_no_bit(config, mesh, budget):
    ids = torch.randint(0, 61, (2, 33), generator=torch.Generator().manual_seed(1))
    settings = with_measured_recomputation(
        ParallelSettings(activation_checkpointing="measured"), config, 2, 32, budget, CPU
    )
    assert bool(settings.kept) == (budget > 0)
    results = []
    for changed in (ParallelSettings(), settings):
        model = build_model(config, changed, mesh)
        fill_initial(model, seed=5)
        results.append(loss_and_gradients(model, ids))
    (total, gradients), (again, same) = results
    assert torch.equal(total, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_a_larger_budget_recomputes_fewer_products(config, mesh):
    ids = torch.randint(0, 61, (2, 33), generator=torch.Generator().manual_seed(1))
    counts = []
    for budget in (0, 1e9):
        settings = ParallelSettings(activation_checkpointing="measured")
        model = build_model(config, with_measured_recomputation(settings, config, 2, 32, budget, CPU), mesh)
        fill_initial(model, seed=5)
        total, _ = model.loss(ids[:, :-1], ids[:, 1:], torch.ones(ids[:, 1:].shape))
        with FlopCounterMode(display=False) as counter:
            total.backward()
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.8 * counts[0]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_prefetching_changes_nothing(config, mesh, prefetch):
    ids = torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(1))
    results = []
    for settings in (ParallelSettings(), ParallelSettings(prefetch=prefetch)):
        model = build_model(replace(config, num_layers=4), settings, mesh)
        fill_initial(model, seed=5)
        results.append(loss_and_gradients(model, ids))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_a_cpu_has_one_kernel(config):
    assert choose_attention(config, 2, 16, torch.bfloat16, CPU, in_documents=True) == "sdpa"


def test_the_fastest_kernel_wins():
    assert fastest({"sdpa": 2.0, "cudnn": 1.0, "flex": float("inf")}) == "cudnn"
