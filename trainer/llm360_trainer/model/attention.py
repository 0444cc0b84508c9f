"""Causal attention by one of several kernels, over whole sequences or inside each packed document.

    sdpa     PyTorch's own choice for the device; runs everywhere
    cudnn    cuDNN's kernel through the same call                       half precision on CUDA
    flash    the package flash-attn                                     half precision on CUDA
    varlen   PyTorch's kernels for documents laid end to end            half precision on CUDA
    flex     FlexAttention: skips the blocks that the mask leaves out   compiled; gradients on CUDA alone

All compute the same function; they differ in speed and in the order of sums. A row of a training set may hold several
documents, each ended by one token; with a mask of documents no position sees another document than its own.

Shape suffixes: B sequences, T tokens of a sequence, H query heads, K key and value heads, D dimensions of a head.
"""
# ruff: noqa: N803, N806 (names end in a tensor's shape)

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Backend = Literal["sdpa", "cudnn", "flash", "varlen", "flex"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class Spans(NamedTuple):
    """Documents as flash-attn and PyTorch's varlen take them: where each begins in the rows laid end to end."""

    starts: Tensor
    """int32 [documents + 1], the first 0, the last B·T."""


Mask = Tensor | BlockMask | Spans | None
"""What a backend is told of who sees whom; None: every position sees itself and those before it."""


def documents_of(ids_BT: Tensor, end_id: int) -> Tensor:
    """Number of each token's document in its row, from 0, int32 [B, T].

    Args:
        ids_BT: Token ids.
        end_id: The id that ends a document; it is the last token of that document.
    """
    ends_BT = (ids_BT == end_id).int()
    return ends_BT.cumsum(1, dtype=torch.int32) - ends_BT


def attention_mask(backend: Backend, documents_BT: Tensor | None, length: int, device: torch.device) -> Mask:
    """The mask of a micro batch, made once for all layers.

    Args:
        backend: The kernel that will read it.
        documents_BT: From `documents_of`; None: a row is one document.
        length: T.
        device: Of the queries.
    """
    if documents_BT is None:
        return _causal_blocks(length, device) if backend == "flex" else None
    if backend == "flex":
        return _document_blocks(documents_BT)
    if backend in ("flash", "varlen"):
        return Spans(_span_starts(documents_BT))
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same_BTT & causal_TT)[:, None]


def attend(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask: Mask, scale: float, backend: Backend) -> Tensor:
    """What each position gathers from itself and those before it that it may see, [B, T, H, D].

    Args:
        q_BTHD: Queries.
        k_BTKD: Keys; K divides H.
        v_BTKD: Values.
        mask: From `attention_mask` for the same backend.
        scale: Factor on the scores.
        backend: The kernel; `unavailable` says whether it can be used.
    """
    if backend == "flash":
        return _flash(q_BTHD, k_BTKD, v_BTKD, mask, scale)
    if backend == "varlen" and mask is not None:
        assert isinstance(mask, Spans)
        return _varlen(q_BTHD, k_BTKD, v_BTKD, mask, scale)
    q_BHTD, k_BKTD, v_BKTD = (x.transpose(1, 2) for x in (q_BTHD, k_BTKD, v_BTKD))
    is_grouped = q_BHTD.shape[1] != k_BKTD.shape[1]
    if backend == "flex":
        assert isinstance(mask, BlockMask)
        run = flex_attention if torch.compiler.is_compiling() or q_BTHD.device.type == "cpu" else _compiled_flex()
        flexed_BHTD: Tensor = run(q_BHTD, k_BKTD, v_BKTD, block_mask=mask, scale=scale, enable_gqa=is_grouped)
        return flexed_BHTD.transpose(1, 2)
    assert mask is None or isinstance(mask, Tensor)
    options: dict[str, Any] = {"scale": scale, "enable_gqa": is_grouped, "attn_mask": mask, "is_causal": mask is None}
    if backend == "cudnn":
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return functional.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, **options).transpose(1, 2)
    return functional.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, **options).transpose(1, 2)


def unavailable(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend cannot train here, or None where it can."""
    if backend == "sdpa":
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, found {device.type}"
    if backend == "flex":
        return None
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it needs bf16, found {dtype}".replace("torch.", "")
    if backend == "flash" and (problem := _flash_problem()) is not None:
        return problem
    if backend == "cudnn" and not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch has no cuDNN"
    return None


def kernel_operations(backend: Backend) -> tuple[Any, ...]:
    """The operations that a backend which can be used brings, as dispatch modes see them; aten's are not among them."""
    if backend == "flex":
        return (torch.ops.higher_order.flex_attention,)
    if backend == "varlen":
        from torch.nn.attention import varlen  # noqa: F401 (registers it)

        return (torch.ops.torch_attn._varlen_attn.default,)
    if backend == "flash":
        import flash_attn  # noqa: F401 (registers them)

        names = ("_flash_attn_forward", "_flash_attn_varlen_forward")
        found = (getattr(torch.ops.flash_attn, name, None) for name in names)  # older versions register none
        return tuple(operation.default for operation in found if operation is not None)
    return ()


@cache
def _flash_problem() -> str | None:
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed; in a checkout of llm360: pip install '.[cuda]'"
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:  # built for another torch, say
        return f"the package flash-attn is installed, but does not import: {error}"
    return None


def _flash(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask: Mask, scale: float) -> Tensor:
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    options = {
        "causal": True,
        "softmax_scale": scale,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if mask is None:
        whole_BTHD: Tensor = flash_attn_func(q_BTHD, k_BTKD, v_BTKD, **options)
        return whole_BTHD
    assert isinstance(mask, Spans)
    length = q_BTHD.shape[1]
    joined: Tensor = flash_attn_varlen_func(
        *(x.flatten(0, 1) for x in (q_BTHD, k_BTKD, v_BTKD)),
        cu_seqlens_q=mask.starts,
        cu_seqlens_k=mask.starts,
        max_seqlen_q=length,
        max_seqlen_k=length,
        **options,
    )
    return joined.view_as(q_BTHD)


def _varlen(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask: Spans, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    length, groups = q_BTHD.shape[1], q_BTHD.shape[2] // k_BTKD.shape[2]
    # torch 2.11 takes as many heads of keys as of queries only.
    k_BTHD, v_BTHD = (x.repeat_interleave(groups, dim=2) if groups > 1 else x for x in (k_BTKD, v_BTKD))
    joined = varlen_attn(
        q_BTHD.flatten(0, 1),
        k_BTHD.flatten(0, 1),
        v_BTHD.flatten(0, 1),
        mask.starts,
        mask.starts,
        length,
        length,
        scale=scale,
        window_size=(-1, 0),  # all before, none behind
    )
    assert isinstance(joined, Tensor)
    return joined.view_as(q_BTHD)


def _span_starts(documents_BT: Tensor) -> Tensor:
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts = begins_BT.flatten().nonzero().flatten().int()
    return torch.cat([starts, starts.new_tensor([documents_BT.numel()])])


@cache
def _causal_blocks(length: int, device: torch.device) -> BlockMask:
    return create_block_mask(_is_before, None, None, length, length, device=str(device))


def _document_blocks(documents_BT: Tensor) -> BlockMask:
    def may_see(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _is_before(b, h, q, k) & (documents_BT[b, q] == documents_BT[b, k])

    rows, length = documents_BT.shape
    on_gpu = documents_BT.device.type == "cuda"  # compiled, the whole mask is never held
    return create_block_mask(may_see, rows, None, length, length, device=str(documents_BT.device), _compile=on_gpu)


def _is_before(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return q >= k


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)
