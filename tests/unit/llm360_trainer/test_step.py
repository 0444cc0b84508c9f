"""The step in one process; `tests/integration/model` holds it against itself over several."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from llm360_trainer.model import DecoderConfig
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import ParallelSettings, build_model, fill_initial, make_mesh
from llm360_trainer.step import TrainStep

CONFIG = DecoderConfig(
    vocab_size=61, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8
)
ROWS, TOKENS = 5, 12


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield make_mesh(1)
    dist.destroy_process_group()


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 61, (ROWS, TOKENS + 1)).astype(np.uint16)


@pytest.fixture
def source():
    return np.array([0, 2, 0, 1, 2], dtype=np.uint16)


def make_step(mesh, batch_rows=ROWS, micro_batch=2, max_grad_norm=None, reshard=True, **options):
    model = build_model(CONFIG, ParallelSettings(reshard_after_forward=reshard), mesh)
    fill_initial(model, seed=1)
    return TrainStep(
        model,
        build_optimizer(model, OptimizerSettings()),
        mesh,
        batch_rows=batch_rows,
        micro_batch=micro_batch,
        num_sources=3,
        max_grad_norm=max_grad_norm,
        **options,
    )


@pytest.fixture
def build(mesh):
    return partial(make_step, mesh)


def parameters_of(step):
    return [parameter.full_tensor().clone() for parameter in step.model.parameters()]


def row_losses(step, ids):
    rows = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        return step.model.loss(rows[:, :-1], rows[:, 1:], torch.ones(rows[:, 1:].shape))[1].double()


def test_loss_is_the_sum_over_tokens_by_source(build, ids, source):
    step = build()
    losses = row_losses(step, ids).sum(dim=1)
    result = step(ids, None, source, finished_steps=0, learning_rate=1e-3)
    assert result.finite
    assert result.tokens == ROWS * TOKENS
    assert result.source_tokens == (2 * TOKENS, TOKENS, 2 * TOKENS)
    expected = [losses[[0, 2]].sum().item(), losses[3].item(), losses[[1, 4]].sum().item()]
    assert result.source_loss_sums == pytest.approx(expected, rel=1e-6)
    assert result.loss_sum == pytest.approx(sum(expected), rel=1e-6)
    assert result.loss == pytest.approx(sum(expected) / (ROWS * TOKENS), rel=1e-6)


def test_masked_tokens_do_not_count(build, ids, source):
    mask = np.ones((ROWS, TOKENS), dtype=np.uint8)
    mask[1, 3:] = 0
    mask[4] = 0
    step = build()
    expected = (row_losses(step, ids) * torch.from_numpy(mask)).sum().item()
    changed = ids.copy()
    changed[1, 4:] = 7  # only labels and inputs behind the mask
    changed[4] = 9
    result = step(ids, mask, source, finished_steps=0, learning_rate=1e-3)
    other = build()(changed, mask, source, finished_steps=0, learning_rate=1e-3)
    assert result.tokens == mask.sum() == sum(result.source_tokens)
    assert result.loss_sum == pytest.approx(expected, rel=1e-6)
    assert (other.loss_sum, other.grad_norm) == (result.loss_sum, result.grad_norm)


def test_a_batch_without_real_tokens_is_finite(build, ids, source):
    result = build()(ids, np.zeros((ROWS, TOKENS), dtype=np.uint8), source, finished_steps=0, learning_rate=1e-3)
    assert (result.finite, result.tokens, result.loss, result.grad_norm) == (True, 0, 0.0, 0.0)


def test_missing_rows_weigh_nothing(build, ids, source):
    padded = build(batch_rows=ROWS + 1)
    result = padded(ids, None, source, finished_steps=0, learning_rate=1e-3)
    exact = build()
    expected = exact(ids, None, source, finished_steps=0, learning_rate=1e-3)
    assert result.tokens == expected.tokens
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 8])
def test_micro_batch_changes_rounding_alone(build, ids, source, micro_batch):
    step, whole = build(micro_batch=micro_batch), build(micro_batch=ROWS)
    for finished in range(10):
        rate = {"finished_steps": finished, "learning_rate": 1e-2}
        result, expected = step(ids, None, source, **rate), whole(ids, None, source, **rate)
        assert result.loss == pytest.approx(expected.loss, abs=1e-5)


def test_weights_that_are_kept_over_micro_steps_change_nothing(build, ids, source):
    freed, kept = build(), build(reshard=False, keep_gathered=True)
    for finished in range(3):
        rate = {"finished_steps": finished, "learning_rate": 1e-2}
        assert freed(ids, None, source, **rate) == kept(ids, None, source, **rate)
    assert all(map(torch.equal, parameters_of(freed), parameters_of(kept)))


@pytest.mark.parametrize("keep", [False, True])
def test_weights_that_are_kept_are_gathered_once_a_step(keep, ids, source):
    # Two ranks, of which this is one and the other answers nothing: only what is sent counts.
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        step = make_step(make_mesh(2), batch_rows=2 * ROWS, reshard=not keep, keep_gathered=keep)
        for finished in range(2):
            with CommDebugMode() as traffic:
                step(ids, None, source, finished_steps=finished, learning_rate=0.0)
            # Three micro steps; the weights of each block, and those of embedding, norm and head, which forward never
            # frees.
            blocks = CONFIG.num_layers
            gathers = traffic.get_comm_counts()[torch.ops.c10d._allgather_base_]
            assert gathers == (blocks + 1 if keep else 3 * (2 * blocks + 1))
    finally:
        dist.destroy_process_group()


def test_gradient_norm_is_that_of_the_mean_loss(build, ids, source):
    step = build()
    rows = torch.from_numpy(ids.astype(np.int64))
    model = step.model
    logits = model(rows[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
    expected = math.sqrt(sum(p.grad.full_tensor().double().square().sum().item() for p in model.parameters()))
    model.zero_grad()
    result = step(ids, None, source, finished_steps=0, learning_rate=1e-3)
    assert result.grad_norm == pytest.approx(expected, rel=1e-5)


def test_clipping_scales_the_gradient_to_the_limit(build, ids, source, monkeypatch):
    step = build(max_grad_norm=0.01)
    seen = []

    def look(*_args):
        seen.append(torch.nn.utils.get_total_norm(p.grad.to_local() for p in step.model.parameters()).item())

    monkeypatch.setattr(step.optimizer, "step", look)
    result = step(ids, None, source, finished_steps=0, learning_rate=1e-3)
    assert result.grad_norm > 0.1
    assert seen == [pytest.approx(0.01, rel=1e-5)]


def test_documents_of_a_row_are_apart(build, ids, source):
    """The loss of rows that hold two documents is that of the documents as rows of their own."""
    rows = ids.clip(max=59)
    rows[:, 5] = 60
    result = build(end_of_document=60)(rows, None, source, finished_steps=0, learning_rate=1e-3)
    model = build().model
    inputs, labels = torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
    parts = zip(inputs.split([6, 6], dim=1), labels.split([6, 6], dim=1), strict=True)
    with torch.no_grad():
        expected = sum(model.loss(ids_, labels_, torch.ones(labels_.shape))[0].item() for ids_, labels_ in parts)
    assert result.loss_sum == pytest.approx(expected, rel=1e-5)
    whole = build()(rows, None, source, finished_steps=0, learning_rate=1e-3)
    assert abs(whole.loss_sum - expected) > 1e-3


def test_reducing_in_each_micro_step_changes_rounding_alone(build, ids, source):
    step, each = build(), build(reduce_each=True)
    for finished in range(5):
        rate = {"finished_steps": finished, "learning_rate": 1e-2}
        expected, result = step(ids, None, source, **rate), each(ids, None, source, **rate)
        assert result.loss == pytest.approx(expected.loss, abs=1e-5)
        assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)


def test_flags_come_back_summed(build, ids, source):
    result = build()(ids, None, source, finished_steps=0, learning_rate=0.0, flags=[1.0, 0.0, 2.5])
    assert result.flags == (1.0, 0.0, 2.5)


def test_loss_falls(build, ids, source):
    step = build()
    losses = [step(ids, None, source, finished_steps=n, learning_rate=1e-2).loss for n in range(12)]
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_changes_nothing(build, ids, source, value):
    step = build()
    step(ids, None, source, finished_steps=0, learning_rate=1e-2)
    with torch.no_grad():
        step.model.head.weight.to_local()[3, 3] = value
    before = parameters_of(step)
    moments = [state["exp_avg"].full_tensor().clone() for state in step.optimizer.state.values()]
    result = step(ids, None, source, finished_steps=1, learning_rate=1e-2)
    assert not result.finite
    assert not math.isfinite(result.loss)
    for parameter, kept in zip(step.model.parameters(), before, strict=True):
        assert torch.equal(parameter.full_tensor().nan_to_num(), kept.nan_to_num())
        assert parameter.grad is None
    for state, kept in zip(step.optimizer.state.values(), moments, strict=True):
        assert torch.equal(state["exp_avg"].full_tensor(), kept)


def test_a_gradient_alone_can_be_infinite(build, ids, source):
    step = build()

    # A hook that returns a tensor would replace the output; this one only watches its gradient.
    def spoil(_module, _inputs, output):
        output.register_hook(lambda grad: grad * float("inf"))

    handle = step.model.norm.register_forward_hook(spoil)
    before = parameters_of(step)
    result = step(ids, None, source, finished_steps=0, learning_rate=1e-2)
    handle.remove()
    assert math.isfinite(result.loss)
    assert not result.finite
    assert all(torch.equal(p.full_tensor(), kept) for p, kept in zip(step.model.parameters(), before, strict=True))


def test_a_step_leaves_no_trace_when_skipped(build, ids, source):
    """Skipping a batch gives what never seeing it gives, at the same step number."""
    skipping, plain = build(), build()
    for step in (skipping, plain):
        step(ids, None, source, finished_steps=0, learning_rate=1e-2)
    weight = skipping.model.head.weight.to_local()
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 3] = float("nan")
    assert not skipping(ids, None, source, finished_steps=1, learning_rate=1e-2).finite
    with torch.no_grad():
        weight.copy_(kept)
    for step in (skipping, plain):
        step(ids, None, source, finished_steps=2, learning_rate=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(parameters_of(skipping), parameters_of(plain), strict=True))


def test_wrong_batches_are_refused(build, ids, source):
    step = build()
    rate = {"finished_steps": 0, "learning_rate": 0.0}
    with pytest.raises(ValueError, match="at most 5 rows"):
        step(np.concatenate([ids, ids]), None, np.concatenate([source, source]), **rate)
    with pytest.raises(ValueError, match="5 rows and 4 sources"):
        step(ids, None, source[:4], **rate)
    with pytest.raises(ValueError, match=r"shape \(5, 13\); \(5, 12\) is needed"):
        step(ids, np.ones((5, 13), dtype=np.uint8), source, **rate)
    with pytest.raises(ValueError, match="names source 3, but there are 3"):
        step(ids, None, source + 1, **rate)


@pytest.mark.parametrize(("batch_rows", "micro_batch"), [(0, 1), (4, 0)])
def test_empty_batches_are_refused(build, batch_rows, micro_batch):
    with pytest.raises(ValueError, match="must be at least 1"):
        build(batch_rows=batch_rows, micro_batch=micro_batch)
