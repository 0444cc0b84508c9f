"""Attention inside documents against the documents by themselves, and every kernel that a CPU has against another."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import varlen

from llm360_trainer.model import BACKENDS, documents_of, unavailable
from llm360_trainer.model.attention import _flash_problem, attend, attention_mask, kernel_operations

END = 60


@pytest.fixture
def packed(ids):
    """Rows of three documents, of one that ends with the row, and of one that never ends."""
    rows = ids.clamp(max=END - 1)
    rows[0, 4] = rows[0, 9] = rows[1, 16] = END
    return rows


def heads(kv_heads=4, length=17, dtype=torch.float32):
    generator = torch.Generator().manual_seed(8)
    shapes = [(3, length, count, 8) for count in (4, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator, dtype=dtype, requires_grad=True) for shape in shapes]


def test_an_end_belongs_to_its_document(packed):
    documents = documents_of(packed, END)
    assert documents.dtype == torch.int32
    assert documents[0].tolist() == [0] * 5 + [1] * 5 + [2] * 7
    assert documents[1].tolist() == documents[2].tolist() == [0] * 17


def test_documents_do_not_see_each_other(build, config, packed):
    """Each document's logits and gradients are those of the document alone: rotation knows distances only."""
    model = build(config)
    documents = documents_of(packed, END)
    together = model(packed, documents)
    alone = torch.cat([model(part) for part in packed[:1].split([5, 5, 7], dim=1)], dim=1)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[1:], model(packed[1:]), rtol=1e-4, atol=1e-5)
    model.zero_grad()
    together[:1].square().sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone.square().sum().backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-3)


def test_without_the_mask_they_do(build, llama, packed):
    model = build(llama)
    seen, unseen = model(packed), model(packed, documents_of(packed, END))
    assert torch.allclose(seen[0, :5], unseen[0, :5], atol=1e-5)
    assert not torch.allclose(seen[0, 5:], unseen[0, 5:], atol=1e-2)


def test_the_loss_takes_the_mask(build, llama, packed):
    model = build(llama)
    weights = torch.ones(packed[:, 1:].shape)
    documents = documents_of(packed[:, :-1], END)
    _, losses = model.loss(packed[:, :-1], packed[:, 1:], weights, documents)
    logits = model(packed[:, :-1], documents)
    torch.testing.assert_close(
        losses, torch.nn.functional.cross_entropy(logits.transpose(1, 2), packed[:, 1:], reduction="none")
    )


# Without a compiler it computes the same, slowly.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_flex_computes_what_sdpa_does(packed, kv_heads, masked):
    documents = documents_of(packed, END) if masked else None
    results = []
    for backend in ("sdpa", "flex"):
        mask = attention_mask(backend, documents, 17, packed.device)
        inputs = [x.detach() for x in heads(kv_heads)]  # a CPU has no backward of flex
        results.append(attend(*inputs, mask, 0.3, backend))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_spans_are_the_documents_end_to_end(packed):
    mask = attention_mask("flash", documents_of(packed, END), 17, packed.device)
    assert mask.starts.dtype == torch.int32
    assert mask.starts.tolist() == [0, 5, 10, 17, 34, 51]


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_varlen_is_asked_for_what_sdpa_computes(packed, kv_heads, monkeypatch):
    """PyTorch's kernel needs a GPU (tests/gpu); in its place each span goes through sdpa by itself."""
    signature = inspect.signature(varlen.varlen_attn)

    def spans_by_themselves(*args, **kwargs):
        asked = signature.bind(*args, **kwargs).arguments
        assert asked["cu_seq_q"] is asked["cu_seq_k"]
        assert (asked["max_q"], asked["max_k"], asked["window_size"]) == (17, 17, (-1, 0))
        sizes = asked["cu_seq_q"].diff().tolist()
        parts = zip(*(asked[name].split(sizes) for name in ("query", "key", "value")), strict=True)
        return torch.cat([attend(*(x[None] for x in part), None, asked["scale"], "sdpa")[0] for part in parts])

    monkeypatch.setattr(varlen, "varlen_attn", spans_by_themselves)
    documents = documents_of(packed, END)
    results = []
    for backend in ("sdpa", "varlen"):
        mask = attention_mask(backend, documents, 17, packed.device)
        inputs = heads(kv_heads)
        out = attend(*inputs, mask, 0.3, backend)
        results.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_bf16_follows_fp32_inside_documents(build, llama, packed):
    exact = build(replace(llama, num_kv_heads=2))
    half = build(replace(llama, num_kv_heads=2)).bfloat16()
    documents = documents_of(packed, END)
    torch.testing.assert_close(half(packed, documents).float(), exact(packed, documents), rtol=0.05, atol=0.05)


def test_a_cpu_trains_with_sdpa_alone():
    cpu = torch.device("cpu")
    assert unavailable("sdpa", cpu, torch.float32) is None
    for backend in set(BACKENDS) - {"sdpa"}:
        assert unavailable(backend, cpu, torch.bfloat16) == "it needs a CUDA device, found cpu"
    assert unavailable("cudnn", torch.device("cuda"), torch.float32) == "it needs bf16, found float32"
    assert "checkout of llm360: pip install '.[cuda]'" in unavailable("flash", torch.device("cuda"), torch.bfloat16)


def test_a_package_that_does_not_import_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    monkeypatch.syspath_prepend(tmp_path)
    _flash_problem.cache_clear()
    try:
        said = unavailable("flash", torch.device("cuda"), torch.bfloat16)
    finally:
        _flash_problem.cache_clear()
    assert said == "the package flash-attn is installed, but does not import: undefined symbol: _ZN3c10"


def test_kernels_name_their_operations():
    assert kernel_operations("sdpa") == ()
    assert [str(operation) for operation in kernel_operations("varlen")] == ["torch_attn._varlen_attn.default"]
    assert [str(operation) for operation in kernel_operations("flex")] == ["flex_attention"]
