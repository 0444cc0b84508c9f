"""One causal decoder that spans Llama, GPT-NeoX and CrystalCoder by configuration.

Parallelism is no concern of this file: `llm360_trainer.parallel` shards a finished module from outside.
A parameter's name is its identity (first values, checkpoints): renaming one breaks every run made before.

Shape suffixes:
    B  sequences                       T  tokens of a sequence
    C  hidden size                     F  intermediate size
    H  query heads                     K  key and value heads
    D  dimensions of a head            R  rotated dimensions of a head
    V  vocabulary
"""
# ruff: noqa: N803, N806 (names end in a tensor's shape)

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm360_trainer.model.attention import Backend, Mask, attend, attention_mask
from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.loss import weighted_cross_entropy

Rotation = tuple[Tensor, Tensor]
"""cos[T, 1, R] and sin[T, 1, R], fp32."""


class Decoder(nn.Module):
    """Token ids in; logits, or the loss against labels, out.

    Build it under `torch.device("meta")` and let `llm360_trainer.parallel` shard and fill it: then no process
    ever holds all of it.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = _norm(config)
        self.head: nn.Linear | None = None
        if not config.tied_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.output_bias)

    def set_attention(self, backend: Backend) -> None:
        """Choose the kernel of all layers; what is computed stays the same."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend

    def forward(self, input_ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Logits[B, T, V] of the token after each position, in the parameters' compute dtype.

        Args:
            input_ids_BT: int64 token ids.
            documents_BT: Number of each token's document (`documents_of`), which it sees alone; None: a row is one.

        Raises:
            ValueError: More tokens than `max_position_embeddings`.
        """
        weight_VC, bias_V = self._output()
        return (
            functional.linear(self._hidden(input_ids_BT, documents_BT), weight_VC, bias_V)
            * self.config.output_logits_scale
        )

    def loss(
        self, input_ids_BT: Tensor, labels_BT: Tensor, weights_BT: Tensor, documents_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weighted cross entropy, without ever holding all logits.

        Args:
            input_ids_BT: int64 token ids.
            labels_BT: int64 id of the token that follows each position.
            weights_BT: fp32 weight of each prediction; 0 for what does not count.
            documents_BT: Number of each token's document (`documents_of`), which it sees alone; None: a row is one.

        Returns:
            The weighted sum (fp32 scalar, differentiable), and each prediction's loss in nats (fp32 [B, T], constant).

        Raises:
            ValueError: More tokens than `max_position_embeddings`.
        """
        weight_VC, bias_V = self._output()
        total, losses_N = weighted_cross_entropy(
            self._hidden(input_ids_BT, documents_BT).flatten(0, 1),
            weight_VC,
            bias_V,
            labels_BT.flatten(),
            weights_BT.flatten(),
            self.config.output_logits_scale,
        )
        return total, losses_N.view(labels_BT.shape)

    def _hidden(self, input_ids_BT: Tensor, documents_BT: Tensor | None) -> Tensor:
        length = input_ids_BT.shape[1]
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_position_embeddings "
                f"({self.config.max_position_embeddings}); use shorter rows or raise it"
            )
        rotation = rotation_table(self.config, length, input_ids_BT.device)
        mask = attention_mask(self._attention(), documents_BT, length, input_ids_BT.device)
        x_BTC = self.embed(input_ids_BT)
        if self.config.embeddings_scale != 1.0:
            x_BTC = x_BTC * self.config.embeddings_scale
        for layer in self.layers:
            x_BTC = layer(x_BTC, rotation, mask)
        normed_BTC: Tensor = self.norm(x_BTC)
        return normed_BTC

    def _attention(self) -> Backend:
        first = self.layers[0]
        assert isinstance(first, Block)
        return first.self_attn.backend

    def _output(self) -> tuple[Tensor, Tensor | None]:
        if self.head is None:
            return self.embed.weight, None
        return self.head.weight, self.head.bias


class Block(nn.Module):
    """Attention and MLP around the residual stream."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.parallel_residual = config.residual == "parallel"
        self.input_layernorm = _norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp: nn.Module = SwiGLU(config) if config.mlp == "swiglu" else GELU(config)

    def forward(self, x_BTC: Tensor, rotation: Rotation, mask: Mask = None) -> Tensor:
        """The residual stream after this block, [B, T, C]."""
        attended_BTC: Tensor = self.self_attn(self.input_layernorm(x_BTC), rotation, mask)
        if self.parallel_residual:
            parallel_BTC: Tensor = x_BTC + attended_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
            return parallel_BTC
        x_BTC = x_BTC + attended_BTC
        serial_BTC: Tensor = x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        return serial_BTC


class Attention(nn.Module):
    """Causal attention with rotary positions; fewer key than query heads are shared in equal groups."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        query_size, key_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        self.scale = 1 / config.head_dim if config.attention_scale == "d" else config.head_dim**-0.5
        self.backend: Backend = "sdpa"

    def forward(self, x_BTC: Tensor, rotation: Rotation, mask: Mask = None) -> Tensor:
        """What each position gathers from itself and those before it, [B, T, C]."""
        heads = (*x_BTC.shape[:2], -1, self.config.head_dim)
        q_BTHD = rotate(self.q_proj(x_BTC).view(heads), rotation, self.config.rotary_layout)
        k_BTKD = rotate(self.k_proj(x_BTC).view(heads), rotation, self.config.rotary_layout)
        v_BTKD = self.v_proj(x_BTC).view(heads)
        attended_BTHD = self.attend(q_BTHD, k_BTKD, v_BTKD, mask)
        output_BTC: Tensor = self.o_proj(attended_BTHD.flatten(2))
        return output_BTC

    def attend(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, mask: Mask) -> Tensor:
        """The kernel alone, [B, T, H, D]."""
        return attend(q_BTHD, k_BTKD, v_BTKD, mask, self.scale, self.backend)


class SwiGLU(nn.Module):
    """Gated MLP of Llama: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        output_BTC: Tensor = self.down_proj(functional.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
        return output_BTC


class GELU(nn.Module):
    """Plain MLP of GPT-NeoX: down(gelu(up(x)))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.mlp == "gelu_tanh" else "none"
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        output_BTC: Tensor = self.down_proj(functional.gelu(self.up_proj(x_BTC), approximate=self.approximate))
        return output_BTC


def rotation_table(config: DecoderConfig, length: int, device: torch.device) -> Rotation:
    """Angles of rotary positions, arXiv:2104.09864 equation 34: position · base^(−2i/R).

    Computed in fp32 in the order of operations that `transformers` uses, so that exported models give the
    same logits at every length.
    """
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.int64, device=device).float() / config.rotary_dim
    frequencies = 1.0 / config.rotary_base**exponents
    angles = torch.arange(length, device=device).float()[:, None] * frequencies
    angles_TR = angles.repeat(1, 2) if config.rotary_layout == "half" else angles.repeat_interleave(2, dim=1)
    return angles_TR.cos()[:, None, :], angles_TR.sin()[:, None, :]


def rotate(x_BTHD: Tensor, rotation: Rotation, layout: str) -> Tensor:
    """Turn the first R dimensions of each head by its position's angles, in fp32; the others pass through."""
    cos_T1R, sin_T1R = rotation
    turned_dim = cos_T1R.shape[-1]
    x_BTHR, rest_BTHD = x_BTHD[..., :turned_dim].float(), x_BTHD[..., turned_dim:]
    if layout == "half":
        first, second = x_BTHR.chunk(2, dim=-1)
        quarter_turned_BTHR = torch.cat([-second, first], dim=-1)
    else:
        quarter_turned_BTHR = torch.stack([-x_BTHR[..., 1::2], x_BTHR[..., 0::2]], dim=-1).flatten(-2)
    turned_BTHR = (x_BTHR * cos_T1R + quarter_turned_BTHR * sin_T1R).type_as(x_BTHD)
    return torch.cat([turned_BTHR, rest_BTHD], dim=-1) if rest_BTHD.shape[-1] else turned_BTHR


def _norm(config: DecoderConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
    return nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
