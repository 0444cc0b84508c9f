"""Decoding with a key-value cache: a decoder runs over new tokens alone and remembers the keys of those before.

A slot of the cache is a position of the sequence. So a ragged batch needs no bookkeeping: what padding writes lies
behind the sequence's end, where no query looks, and the tokens that come later overwrite it.

Shape suffixes are the decoder's, and:
    S  slots of the cache              N  new tokens of a sequence
"""
# ruff: noqa: N803, N806 (names end in a tensor's shape)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from llm360_trainer.model.decoder import Attention, Block, Decoder, Rotation, rotate, rotation_table


@dataclass
class Cache:
    """What a decoder remembers of a batch of sequences. `extend` fills it; make it by `empty`.

    Attributes:
        keys: Per layer, [B, K, S, D] in the decoder's dtype, rotated.
        values: Per layer, [B, K, S, D] in the decoder's dtype.
        lengths: How many tokens of each sequence are remembered, [B].
        rotation: Of all S positions.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]
    rotation: Rotation

    @classmethod
    def empty(cls, decoder: Decoder, num_sequences: int, num_slots: int) -> Cache:
        """Room for `num_slots` tokens of each of `num_sequences`, where the decoder is.

        Raises:
            ValueError: More slots than `max_position_embeddings`.
        """
        config, weight = decoder.config, decoder.embed.weight
        if num_slots > config.max_position_embeddings:
            raise ValueError(
                f"{num_slots} tokens are more than max_position_embeddings ({config.max_position_embeddings}); "
                "decode fewer or give a shorter prompt"
            )
        shape = (num_sequences, config.num_kv_heads, num_slots, config.head_dim)
        return cls(
            keys=[weight.new_zeros(shape) for _ in decoder.layers],
            values=[weight.new_zeros(shape) for _ in decoder.layers],
            lengths=[0] * num_sequences,
            rotation=rotation_table(config, num_slots, weight.device),
        )

    def select(self, sequences: Sequence[int]) -> Cache:
        """A copy that goes on from these sequences, in this order; one may be taken several times (a shared prefix)."""
        rows = torch.tensor(sequences, dtype=torch.int64, device=self.keys[0].device)
        return Cache(
            keys=[keys_BKSD[rows] for keys_BKSD in self.keys],
            values=[values_BKSD[rows] for values_BKSD in self.values],
            lengths=[self.lengths[sequence] for sequence in sequences],
            rotation=self.rotation,
        )

    @property
    def num_slots(self) -> int:
        """Tokens of a sequence that there is room for."""
        return self.keys[0].shape[2]


@torch.inference_mode()
def extend(decoder: Decoder, cache: Cache, input_ids_BN: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Run the decoder over the next tokens of each sequence, and remember them.

    Args:
        decoder: On one device, not sharded.
        cache: Of the tokens before; its lengths grow.
        input_ids_BN: int64 ids, each sequence's from the left; what follows its count is padding of any valid id.
        counts: How many of the N tokens each sequence has, [B]; None: all.

    Returns:
        The final hidden states[B, N, C]; those of padding mean nothing. `logits` makes scores of them.

    Raises:
        ValueError: The cache has no room left for N more tokens.
    """
    num_new = input_ids_BN.shape[1]
    longest = max(cache.lengths) + num_new
    if longest > cache.num_slots:
        raise ValueError(f"the cache has room for {cache.num_slots} tokens of a sequence, {longest} are needed")
    place = _place(cache, num_new, input_ids_BN.device)
    x_BNC = decoder.embed(input_ids_BN)
    if decoder.config.embeddings_scale != 1.0:
        x_BNC = x_BNC * decoder.config.embeddings_scale
    for layer, keys_BKSD, values_BKSD in zip(decoder.layers, cache.keys, cache.values, strict=True):
        assert isinstance(layer, Block)
        x_BNC = _block(layer, x_BNC, place, keys_BKSD, values_BKSD)
    cache.lengths = [
        length + count for length, count in zip(cache.lengths, counts or [num_new] * len(cache.lengths), strict=True)
    ]
    hidden_BNC: Tensor = decoder.norm(x_BNC)
    return hidden_BNC


@torch.inference_mode()
def logits(decoder: Decoder, hidden: Tensor) -> Tensor:
    """Scores[..., V] of the token after each of the final hidden states[..., C], in the decoder's dtype."""
    head = decoder.head
    weight_VC, bias_V = (decoder.embed.weight, None) if head is None else (head.weight, head.bias)
    return functional.linear(hidden, weight_VC, bias_V) * decoder.config.output_logits_scale


@torch.inference_mode()
def greedy(
    decoder: Decoder, prompts: Sequence[Sequence[int]], num_tokens: int, end_id: int | None = None
) -> list[list[int]]:
    """The likeliest next token, again and again: what follows each prompt.

    Args:
        decoder: On one device, not sharded.
        prompts: Token ids, at least one each; lengths may differ.
        num_tokens: How many to decode at most, at least 1.
        end_id: A sequence that gives this token ends with it; None: none does.

    Returns:
        Per prompt, `num_tokens` ids or fewer.

    Raises:
        ValueError: An empty prompt, or more tokens than `max_position_embeddings`.
    """
    counts = [len(prompt) for prompt in prompts]
    if not all(counts):
        raise ValueError(f"prompt {counts.index(0)} is empty; give each at least one token")
    device = decoder.embed.weight.device
    longest = max(counts)
    padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
    # The last token that is decoded is never read back.
    cache = Cache.empty(decoder, len(prompts), longest + num_tokens - 1)
    hidden_BNC = extend(decoder, cache, torch.tensor(padded, dtype=torch.int64, device=device), counts)
    last_B = torch.tensor(counts, device=device) - 1
    hidden_BC = hidden_BNC[torch.arange(len(prompts), device=device), last_B]
    decoded = [logits(decoder, hidden_BC).argmax(dim=-1)]
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for _ in range(num_tokens - 1):
        if end_id is not None:
            ended_B |= decoded[-1] == end_id
            if bool(ended_B.all()):
                break
        hidden_BNC = extend(decoder, cache, decoded[-1][:, None])
        decoded.append(logits(decoder, hidden_BNC[:, 0]).argmax(dim=-1))
    return [_until(row, end_id) for row in torch.stack(decoded, dim=1).tolist()]


@dataclass(frozen=True)
class _Place:
    """Where new tokens stand.

    Attributes:
        rotation: Of the new tokens' positions: cos and sin, [N, 1, R] or [B, N, 1, R].
        slots: The slots that they fill: a slice where all sequences have the same, else index[B, N].
        num_seen: Slots up to the last one that any query may see.
        visible: Which slots each query sees, [B or 1, 1, N, S]; None: all `num_seen`, or by `causal` up to its own.
        causal: The new tokens are the first: the plain causal attention serves.
    """

    rotation: Rotation
    slots: slice | Tensor
    num_seen: int
    visible: Tensor | None
    causal: bool


def _place(cache: Cache, num_new: int, device: torch.device) -> _Place:
    cos_S1R, sin_S1R = cache.rotation
    start, longest = min(cache.lengths), max(cache.lengths)
    if start == longest:
        slots = slice(start, start + num_new)
        visible = None
        if start and num_new > 1:
            positions_N = torch.arange(start, start + num_new, device=device)
            visible = (torch.arange(start + num_new, device=device) <= positions_N[:, None])[None, None]
        rotation = (cos_S1R[slots], sin_S1R[slots])
        return _Place(rotation, slots, start + num_new, visible, causal=start == 0)
    starts_B = torch.tensor(cache.lengths, device=device)
    positions_BN = starts_B[:, None] + torch.arange(num_new, device=device)
    slots_S = torch.arange(longest + num_new, device=device)
    visible = (slots_S <= positions_BN[..., None])[:, None]
    rotation = (cos_S1R[positions_BN], sin_S1R[positions_BN])
    return _Place(rotation, positions_BN, longest + num_new, visible, causal=False)


def _block(block: Block, x_BNC: Tensor, place: _Place, keys_BKSD: Tensor, values_BKSD: Tensor) -> Tensor:
    """`Block.forward` for new tokens alone, [B, N, C]."""
    attended_BNC = _attend(block.self_attn, block.input_layernorm(x_BNC), place, keys_BKSD, values_BKSD)
    if block.parallel_residual:
        parallel_BNC: Tensor = x_BNC + attended_BNC + block.mlp(block.post_attention_layernorm(x_BNC))
        return parallel_BNC
    x_BNC = x_BNC + attended_BNC
    serial_BNC: Tensor = x_BNC + block.mlp(block.post_attention_layernorm(x_BNC))
    return serial_BNC


def _attend(attention: Attention, x_BNC: Tensor, place: _Place, keys_BKSD: Tensor, values_BKSD: Tensor) -> Tensor:
    """`Attention.forward` for new tokens alone, [B, N, C]; their keys and values go into the cache."""
    config = attention.config
    heads = (*x_BNC.shape[:2], -1, config.head_dim)
    q_BNHD = rotate(attention.q_proj(x_BNC).view(heads), place.rotation, config.rotary_layout)
    k_BNKD = rotate(attention.k_proj(x_BNC).view(heads), place.rotation, config.rotary_layout)
    v_BNKD = attention.v_proj(x_BNC).view(heads)
    _remember(keys_BKSD, k_BNKD, place.slots)
    _remember(values_BKSD, v_BNKD, place.slots)
    attended_BHND = functional.scaled_dot_product_attention(
        q_BNHD.transpose(1, 2),
        keys_BKSD[:, :, : place.num_seen],
        values_BKSD[:, :, : place.num_seen],
        attn_mask=place.visible,
        is_causal=place.causal,
        scale=attention.scale,
        enable_gqa=config.num_kv_heads != config.num_heads,
    )
    output_BNC: Tensor = attention.o_proj(attended_BHND.transpose(1, 2).flatten(2))
    return output_BNC


def _remember(cached_BKSD: Tensor, new_BNKD: Tensor, slots: slice | Tensor) -> None:
    if isinstance(slots, slice):
        cached_BKSD[:, :, slots] = new_BNKD.transpose(1, 2)
    else:
        rows_B1 = torch.arange(slots.shape[0], device=slots.device)[:, None]
        cached_BKSD.transpose(1, 2)[rows_B1, slots] = new_BNKD


def _until(ids: list[int], end_id: int | None) -> list[int]:
    return ids if end_id is None or end_id not in ids else ids[: ids.index(end_id) + 1]
