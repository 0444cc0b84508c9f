"""What is chosen by measurement: results that fit their budget and change no bit; a kernel that all ranks share."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from llm360_trainer.model.attention import attend, attention_mask, kernel_operations
from llm360_trainer.parallel import (
    ParallelSettings,
    build_model,
    choose_attention,
    fill_initial,
    measure,
    with_measured_recomputation,
)
from llm360_trainer.parallel.measure import fastest
from llm360_trainer.parallel.recompute import OperationCost, choose_kept, keep, key_of

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


def measured(config, **options):
    settings = ParallelSettings(activation_checkpointing="measured", **options.pop("settings", {}))
    return with_measured_recomputation(settings, config, 2, 32, 1e9, CPU, **options).kept


def test_the_last_product_is_never_kept(config):
    """Nothing in backward needs its result."""
    last = (config.intermediate_size, config.hidden_size)
    assert last not in {shapes[-1] for _, shapes in measured(config) if shapes}
    # Where a matrix that is needed has its sizes, both are kept.
    same = replace(config, intermediate_size=config.hidden_size)
    assert (config.hidden_size, config.hidden_size) in {shapes[-1] for _, shapes in measured(same) if shapes}


@pytest.mark.parametrize("in_documents", [False, True])
def test_what_is_measured_is_the_attention_that_runs(config, in_documents, monkeypatch):
    """A mask of documents lets another kernel run."""
    masks = []

    def mask(*arguments):
        masks.append(attention_mask(*arguments))
        return masks[-1]

    monkeypatch.setattr(measure, "attention_mask", mask)
    assert measured(config, in_documents=in_documents)
    assert [found is not None for found in masks] == [in_documents]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("in_documents", [False, True])
def test_flex_attention_is_measured_as_one_operation_that_recomputation_knows(config, in_documents):
    kept = measured(config, settings={"attention": "flex"}, in_documents=in_documents)
    (operation,) = kernel_operations("flex")
    assert [key for key in kept if key[0] is operation]
    seen = []

    def policy(context, operation, *arguments, **options):
        seen.append((operation, key_of(operation, arguments)))
        return keep(kept)(context, operation, *arguments, **options)

    forward, _ = create_selective_checkpoint_contexts(policy)
    heads = torch.randn(2, 32, 4, config.head_dim)
    mask = attention_mask("flex", None, 32, CPU)
    with forward, torch.no_grad():
        attend(heads, heads, heads, mask, 0.3, "flex")
    assert [key in kept for found, key in seen if found is operation] == [True]


def test_the_number_of_documents_is_no_part_of_an_operation():
    heads = torch.zeros(6, 2, 8)
    (operation,) = kernel_operations("varlen")
    few, many = torch.tensor([0, 6], dtype=torch.int32), torch.tensor([0, 2, 4, 6], dtype=torch.int32)
    assert key_of(operation, (heads, heads, heads, few)) == key_of(operation, (heads, heads, heads, many))


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
