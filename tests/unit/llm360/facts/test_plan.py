"""What follows from a specification for memory and time: sums of shapes, volumes, and the change that would help."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import InputError
from llm360.facts import num_parameters
from llm360.facts.hardware import GIB, GPUS, gpu_named
from llm360.facts.memory import StepShape, step_memory
from llm360.facts.parameters import block_shapes, outer_shapes
from llm360.facts.plan import plan, refusal
from llm360.facts.speed import flops_per_token, step_time, step_traffic
from llm360.spec import load_run, preset_names

AMBER = load_run("amber-7b", require_store=False)
STEP = StepShape(10, 1, 2048, 2, 224, "full")


@pytest.mark.parametrize("name", preset_names())
def test_shapes_are_those_of_all_parameters(name):
    model = load_run(name, require_store=False).spec.model
    count = sum(map(math.prod, [*outer_shapes(model), *model.num_layers * block_shapes(model)]))
    assert count == num_parameters(model)


@given(
    micro_batch=st.integers(1, 16),
    ranks=st.integers(1, 512),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
)
def test_more_work_needs_more_memory_and_more_ranks_less(micro_batch, ranks, checkpointing):
    step = StepShape(micro_batch, 1, 2048, 2, ranks, checkpointing)
    need = step_memory(AMBER.spec.model, step).total
    assert step_memory(AMBER.spec.model, replace(step, micro_batch=micro_batch + 1)).total > need
    if ranks > 1:  # alone a rank gathers nothing
        assert step_memory(AMBER.spec.model, replace(step, shard_ranks=ranks + 64)).total <= need
    assert step_memory(AMBER.spec.model, replace(step, micro_steps=2)).total > need


def test_recomputing_more_never_needs_more():
    needs = [
        step_memory(AMBER.spec.model, replace(STEP, checkpointing=kind)).total for kind in ("none", "selective", "full")
    ]
    assert needs == sorted(needs, reverse=True)


def test_sharded_state_is_sixteen_bytes_a_parameter():
    alone = step_memory(AMBER.spec.model, StepShape(1, 1, 1, 2, 1, "full"))
    assert alone.parameters == 4 * 6_738_415_616
    assert alone.optimizer == 8 * 6_738_415_616
    assert alone.gradients >= 4 * 6_738_415_616


def test_a_rank_sends_the_weights_twice_and_the_gradient_once():
    traffic = step_traffic(AMBER.spec.model, replace(STEP, shard_ranks=8, micro_steps=3), replicas=1)
    assert traffic.gather == pytest.approx(3 * 2 * 2 * 6_738_415_616 * 7 / 8)
    assert traffic.reduce == pytest.approx(4 * 6_738_415_616 * 7 / 8)
    assert traffic.replicate == 0
    kept = step_traffic(AMBER.spec.model, replace(STEP, shard_ranks=8, micro_steps=3, reshard=False), replicas=4)
    assert kept.gather == pytest.approx(2 * 6_738_415_616 * 7 / 8)
    assert kept.replicate == pytest.approx(2 * 4 * 6_738_415_616 / 8 * 3 / 4)


def test_time_is_the_longer_of_arithmetic_and_links():
    gpu = GPUS["h100"]
    step = replace(STEP, checkpointing="none")
    time = step_time(AMBER.spec.model, step, gpu, replicas=1, node_gpus=4, mfu=0.5)
    assert time.compute == pytest.approx(10 * 2048 * flops_per_token(AMBER.spec.model, 2048) / (0.5 * 989e12))
    assert time.total == pytest.approx(max(time.compute, time.communicate) + time.ends)
    inside = step_time(AMBER.spec.model, replace(step, shard_ranks=4), gpu, replicas=1, node_gpus=4, mfu=0.5)
    assert inside.communicate < time.communicate / 8  # NVLink instead of the network
    bound = step_time(AMBER.spec.model, STEP, gpu, replicas=1, node_gpus=4)
    assert bound.compute > time.compute * 0.5  # the peak, but a second forward


def test_float8_speeds_up_the_matrices_of_blocks_alone():
    gpu = GPUS["h200"]
    step = replace(STEP, checkpointing="none")
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008)  # Amber's blocks
    bf16 = step_time(AMBER.spec.model, step, gpu, replicas=1, node_gpus=4).compute
    fp8 = step_time(AMBER.spec.model, replace(step, fp8=True), gpu, replicas=1, node_gpus=4).compute
    assert bf16 - fp8 == pytest.approx(10 * 2048 * 6 * matrices * (1 / 989e12 - 1 / 1979e12))
    again = replace(step, fp8=True, checkpointing="full")
    forward = 10 * 2048 * (2 * matrices / 1979e12 + 4 * 32 * 4096 * 2048 / 989e12)
    assert step_time(AMBER.spec.model, again, gpu, replicas=1, node_gpus=4).compute == pytest.approx(fp8 + forward)
    assert step_traffic(AMBER.spec.model, replace(step, fp8=True), 1) == step_traffic(AMBER.spec.model, step, 1)
    measured = step_time(AMBER.spec.model, replace(step, fp8=True), gpu, replicas=1, node_gpus=4, mfu=0.5)
    assert measured.compute == pytest.approx(10 * 2048 * flops_per_token(AMBER.spec.model, 2048) / (0.5 * 989e12))


def test_sizes_that_float8_refuses_gain_nothing():
    model = load_run("crystalcoder-7b", require_store=False).spec.model  # its MLP is 10,922 wide
    step = StepShape(1, 1, 2048, 2, 8, "none", fp8=True)
    bf16 = step_time(model, replace(step, fp8=False), GPUS["h100"], replicas=1, node_gpus=8).compute
    fp8 = step_time(model, step, GPUS["h100"], replicas=1, node_gpus=8).compute
    assert bf16 - fp8 == pytest.approx(2048 * 6 * 32 * 4 * 4096**2 * (1 / 989e12 - 1 / 1979e12))


def test_a_gpu_without_float8_is_refused():
    run = load_run("amber-7b", ["training.fp8=rowwise"], require_store=False)
    found = plan(run, GPUS["a100-80gb"].memory_bytes)
    assert found.memory.total > plan(AMBER, GPUS["a100-80gb"].memory_bytes).memory.total
    with pytest.raises(InputError, match=r"a100-80gb: it has no float8 units, which training.fp8 needs"):
        found.time(GPUS["a100-80gb"], node_gpus=4)


def test_amber_fits_as_it_was_trained():
    found = plan(AMBER, capacity=GPUS["a100-80gb"].memory_bytes)
    assert (found.fits, found.step.micro_steps, found.setting.gpus) == (True, 1, 224)
    assert refusal(AMBER, found) is None


def test_what_does_not_fit_is_refused_with_changes_that_fit():
    run = load_run("amber-7b", ["parallelism.activationCheckpointing=none"], require_store=False)
    capacity = 70 * GIB
    sentence = refusal(run, plan(run, capacity))
    assert sentence.startswith("a step needs 96.7 GiB of each of 224 ranks, which have 70.0 GiB for it; it would fit")
    for change in sentence.partition("it would fit with ")[2].split(", or with "):
        fixed = load_run("amber-7b", ["parallelism.activationCheckpointing=none", change], require_store=False)
        assert plan(fixed, capacity).fits


def test_gradients_may_be_reduced_in_each_micro_step():
    run = load_run("k2-65b", require_store=False)
    change = "parallelism.reduceGradients=each"
    assert refusal(run, plan(run, 70 * GIB, 64)).endswith(f"it would fit with {change}")
    assert plan(load_run("k2-65b", [change], require_store=False), 70 * GIB, 64).fits


def test_more_gpus_are_named_where_nothing_else_helps():
    run = load_run("k2-65b", require_store=False)
    sentence = refusal(run, plan(run, 70 * GIB, 8))
    number = int(re.search(r"it would fit with parallelism.reduceGradients=each and (\d+) GPUs$", sentence)[1])
    each = ["parallelism.reduceGradients=each"]
    assert plan(load_run("k2-65b", each, require_store=False), 70 * GIB, number).fits
    least = load_run("k2-65b", [*each, "parallelism.microBatch=1"], require_store=False)
    assert not plan(least, 70 * GIB, number // 2).fits


def test_a_measured_budget_is_what_activations_take():
    changes = ["parallelism.activationCheckpointing=measured", "parallelism.activationMemory=20Gi"]
    run = load_run("amber-7b", changes, require_store=False)
    found = plan(run, 70 * GIB)
    assert 20 * GIB < found.memory.activations < 32 * GIB


def test_a_measured_budget_that_does_not_fit_is_refused_with_one_that_does():
    changes = ["parallelism.activationCheckpointing=measured", "parallelism.activationMemory=30Gi"]
    run = load_run("amber-7b", changes, require_store=False)
    sentence = refusal(run, plan(run, 20 * GIB))
    offered = sentence.partition("it would fit with ")[2].split(", or with ")
    assert offered == [
        "parallelism.activationMemory=13Gi",
        "parallelism.activationCheckpointing=full and parallelism.activationMemory=null",
    ]
    for change in offered:
        fixed = load_run("amber-7b", [*changes, *change.split(" and ")], require_store=False)
        assert plan(fixed, 20 * GIB).fits


def test_what_can_never_fit_says_so():
    run = load_run("k2-65b", require_store=False)
    assert "take GPUs with more memory, or a smaller model" in refusal(run, plan(run, GIB))


@pytest.mark.parametrize(("gpus", "words"), [(0, "1 to 2,240 ranks"), (2241, "1 to 2,240 ranks")])
def test_ranks_beyond_the_batch_are_refused(gpus, words):
    with pytest.raises(InputError, match=words):
        plan(AMBER, GIB, gpus)


def test_an_unknown_gpu_is_refused():
    with pytest.raises(InputError, match=r"did you mean 'h100'\?"):
        gpu_named("h10")
