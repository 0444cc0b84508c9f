"""Every way to run the step, on every device at hand, against the plain decoder in fp32 on a CPU.

Loss and gradients of one step over two micro batches must stay within the bounds that each case states. Where there is
no CUDA device its cases are skipped, and say so. Needs torch (2.11 or later), numpy and pytest, nothing else:

    PYTHONPATH=trainer python -m pytest -c /dev/null --rootdir . -rs tests/gpu
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from llm360_trainer.model import Decoder, DecoderConfig, documents_of, initial_tensor, unavailable
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import (
    ParallelSettings,
    build_model,
    fill,
    fill_initial,
    fp8_unavailable,
    make_mesh,
    with_measured_recomputation,
)
from llm360_trainer.step import TrainStep

CONFIG = DecoderConfig(
    vocab_size=1000, hidden_size=256, intermediate_size=688, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=64
)
ROWS, TOKENS, MICRO_BATCH = 3, 256, 2
END = 7  # ends a document
EXACT = (1e-5, 1e-3)
"""fp32: other orders of sums, and on a GPU other kernels."""
HALF = (2e-3, 0.03)
"""bf16 has 8 bits: 2^-9 of each product, which partly cancel."""
EIGHT = (5e-3, 0.15)
"""float8 e4m3 has 4 bits: 2^-5 of each product."""

PLAIN = ParallelSettings()
BF16 = ParallelSettings(param_dtype=torch.bfloat16)
CASES = {
    "fp32": (PLAIN, EXACT),
    "fp32, weights kept": (replace(PLAIN, reshard_after_forward=False), EXACT),
    "fp32, compiled": (replace(PLAIN, compile=True), EXACT),
    "bf16": (BF16, HALF),
    "bf16, weights kept": (replace(BF16, reshard_after_forward=False), HALF),
    "bf16, full": (replace(BF16, activation_checkpointing="full"), HALF),
    "bf16, measured": (replace(BF16, activation_checkpointing="measured"), HALF),
    "bf16, compiled": (replace(BF16, compile=True), HALF),
    "bf16, compiled, selective": (replace(BF16, compile=True, activation_checkpointing="selective"), HALF),
    "bf16, compiled, measured": (replace(BF16, compile=True, activation_checkpointing="measured"), HALF),
    "cudnn": (replace(BF16, attention="cudnn"), HALF),
    "cudnn, compiled": (replace(BF16, attention="cudnn", compile=True), HALF),
    "flash": (replace(BF16, attention="flash"), HALF),
    "varlen": (replace(BF16, attention="varlen"), HALF),
    "varlen, compiled": (replace(BF16, attention="varlen", compile=True), HALF),
    "varlen, compiled, measured": (
        replace(BF16, attention="varlen", compile=True, activation_checkpointing="measured"),
        HALF,
    ),
    "varlen, selective": (replace(BF16, attention="varlen", activation_checkpointing="selective"), HALF),
    "flex": (replace(BF16, attention="flex"), HALF),
    "flex, compiled": (replace(BF16, attention="flex", compile=True), HALF),
    "flex, measured": (replace(BF16, attention="flex", activation_checkpointing="measured"), HALF),
    "flex, compiled, measured": (
        replace(BF16, attention="flex", compile=True, activation_checkpointing="measured"),
        HALF,
    ),
    "flex, compiled, selective": (
        replace(BF16, attention="flex", compile=True, activation_checkpointing="selective"),
        HALF,
    ),
    "float8 by rows": (replace(BF16, fp8="rowwise"), EIGHT),
    "float8 by rows, compiled": (replace(BF16, fp8="rowwise", compile=True), EIGHT),
    "float8 by tensors": (replace(BF16, fp8="tensorwise"), EIGHT),
    "float8 by tensors, compiled": (replace(BF16, fp8="tensorwise", compile=True), EIGHT),
}
ON_CPU = ("fp32", "fp32, weights kept", "bf16", "bf16, full", "bf16, measured")
"""The others are compiled, which takes a while, or need a GPU; `tests/unit` has their counterparts on a CPU."""
CASES_OF_DOCUMENTS = (
    "fp32",
    "bf16, compiled",
    "cudnn",
    "flash",
    "varlen",
    "varlen, compiled",
    "varlen, compiled, measured",
    "varlen, selective",
    "flex",
    "flex, compiled",
    "flex, compiled, measured",
)


@pytest.fixture(scope="module")
def mesh(request):
    """A mesh of this process alone, on the device that is the parameter."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    dist.init_process_group("nccl" if request.param == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield make_mesh(1, request.param)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def rows():
    rows = np.random.default_rng(0).integers(8, CONFIG.vocab_size, (ROWS, TOKENS + 1))
    rows[:, 100] = END
    return rows


@pytest.fixture(scope="module")
def plain():
    """The decoder without sharding, in fp32 on the CPU."""
    model = Decoder(CONFIG)
    fill(model, lambda name, shape: initial_tensor(name, shape, CONFIG, seed=5))
    return model


def expected(plain, rows, in_documents):
    """Mean loss and gradients of the plain decoder."""
    ids = torch.from_numpy(rows)
    plain.zero_grad()
    weights = torch.full((ROWS, TOKENS), 1 / (ROWS * TOKENS))
    documents = documents_of(ids[:, :-1], END) if in_documents else None
    total, _ = plain.loss(ids[:, :-1], ids[:, 1:], weights, documents)
    total.backward()
    return total.item(), {name: parameter.grad for name, parameter in plain.named_parameters()}


def run_step(settings, mesh, rows, in_documents, monkeypatch):
    """Loss and gradients of the trainer's step, which leaves the weights as they are."""
    device = torch.device(mesh.device_type)
    if settings.activation_checkpointing == "measured":
        settings = with_measured_recomputation(
            settings, CONFIG, MICRO_BATCH, TOKENS, 4e6, device, in_documents=in_documents
        )
    model = build_model(CONFIG, settings, mesh)
    fill_initial(model, seed=5)
    optimizer = build_optimizer(model, OptimizerSettings())
    gradients = {}

    def keep_gradients():
        gradients.update((name, p.grad.full_tensor().cpu()) for name, p in model.named_parameters())

    monkeypatch.setattr(optimizer, "step", keep_gradients)
    step = TrainStep(
        model,
        optimizer,
        mesh,
        batch_rows=ROWS,
        micro_batch=MICRO_BATCH,
        num_sources=1,
        max_grad_norm=None,
        end_of_document=END if in_documents else None,
        keep_gathered=not settings.reshard_after_forward,
    )
    result = step(rows, None, np.zeros(ROWS, dtype=np.int64), finished_steps=0, learning_rate=0.0)
    assert result.finite
    return result, gradients


def unusable(settings, device):
    """Why a case cannot run on a device, or None."""
    if settings.fp8 is not None and (problem := fp8_unavailable(settings.fp8, device)) is not None:
        return f"float8: {problem}"
    if (problem := unavailable(settings.attention, device, settings.param_dtype)) is not None:
        return f"attention by {settings.attention}: {problem}"
    return None


@pytest.mark.parametrize(
    ("mesh", "case", "in_documents"),
    [
        *(("cpu", case, False) for case in ON_CPU),
        ("cpu", "fp32", True),
        *(("cuda", case, False) for case in CASES),
        *(("cuda", case, True) for case in CASES_OF_DOCUMENTS),
    ],
    indirect=["mesh"],
)
# torch provokes it itself and hides it where it would be shown; as an error it cannot be hidden.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_loss_and_gradients_stay_within_bounds(mesh, plain, rows, case, in_documents, monkeypatch):
    settings, (loss_bound, gradient_bound) = CASES[case]
    device = torch.device(mesh.device_type)
    if (problem := unusable(settings, device)) is not None:
        pytest.skip(problem)
    torch._dynamo.reset()
    wanted_loss, wanted = expected(plain, rows, in_documents)
    result, gradients = run_step(settings, mesh, rows, in_documents, monkeypatch)
    errors = {name: ((gradients[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}
    print(f"{case}: loss {result.loss / wanted_loss - 1:+.1e}, gradients {max(errors.values()):.1e}")
    assert result.loss == pytest.approx(wanted_loss, rel=loss_bound)
    norm = sum(gradient.square().sum() for gradient in wanted.values()).sqrt().item()
    assert result.grad_norm == pytest.approx(norm, rel=gradient_bound)
    assert {name: error for name, error in errors.items() if error > gradient_bound} == {}
