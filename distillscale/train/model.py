"""The paper's transformer, shaped by an `Arch`; knows no loss, no optimiser and no data.

Decoder-only: pre-norm RMSNorm, QK-norm, rotary positions (base 500k), gated feed-forward, tied embeddings, multi-head
or grouped-query attention (Busbridge et al. 2025, App. H and I). Queries, keys and values are one matrix, gate and up
another: fewer, larger products.

Shape suffixes: B batch, T time, D d_model, V vocabulary, F d_ff, H heads of queries, K heads of keys (and of values),
A = H + K, C = H + 2K, E d_head, P = E/2.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arch import Arch
from ..errors import InputError
from .fused import attention, gate, heads, normed_linear, rms_norm, rotate, rotations
from .mup import BASE_WIDTH, attention_scale, init_weights, readout_multiplier

__all__ = ["NORM_EPS", "ROPE_BASE", "Transformer"]

ROPE_BASE = 500_000.0
NORM_EPS = 1e-6

_UNSUPPORTED: dict[str, object] = {
    "norm_bias": False,
    "norms_per_layer": 2,
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
    "positions": 0,
}


class Transformer(nn.Module):
    """Tokens in, final hidden states out; logits are `hidden @ output_weight.T` under either parametrisation.

    The weights are not drawn until `init_weights`; on the meta device a model of any size costs nothing to build.
    """

    def __init__(
        self,
        arch: Arch,
        *,
        parametrisation: Literal["mup", "standard"] = "mup",
        base_width: int = BASE_WIDTH,
        rope_base: float = ROPE_BASE,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        _check(arch, parametrisation, base_width)
        self.arch, self.parametrisation, self.base_width = arch, parametrisation, base_width
        self.rope_base, self.norm_eps = rope_base, norm_eps
        self.readout = readout_multiplier(arch.d_model, parametrisation, base_width)
        self.embedding = nn.Parameter(torch.empty(arch.vocab, arch.d_model))
        scale = attention_scale(arch.d_head, parametrisation)
        self.layers = nn.ModuleList(Block(arch, scale, norm_eps) for _ in range(arch.layers))
        self.final_norm = nn.Parameter(torch.empty(arch.d_model))
        self.head: nn.Parameter | None = None if arch.tied else nn.Parameter(torch.empty(arch.vocab, arch.d_model))
        self._cached_turns: dict[tuple[object, ...], Tensor] = {}

    @property
    def output_weight(self) -> Tensor:
        """(V, D), the embedding where tied."""
        return self.embedding if self.head is None else self.head

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """hidden_BTD = RMSNorm(residual) · readout multiplier, such that logits = hidden @ output_weight.T."""
        turns_TAP2 = self._turns(tokens_BT)
        x_BTD = F.embedding(tokens_BT, self.embedding)
        for layer in self.layers:
            x_BTD = layer(x_BTD, turns_TAP2)
        return rms_norm(x_BTD, self.final_norm * self.readout, self.norm_eps)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """The whole logits_BTV, for evaluation and tests; training uses the fused losses."""
        return F.linear(hidden_BTD, self.output_weight)

    def trace(self, tokens_BT: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What each residual branch adds, by name, and at last `hidden` as `forward` returns it."""
        turns_TAP2 = self._turns(tokens_BT)
        x_BTD = F.embedding(tokens_BT, self.embedding)
        for index, layer in enumerate(cast("Iterator[Block]", iter(self.layers))):
            attended = layer.attend(x_BTD, turns_TAP2)
            x_BTD = x_BTD + attended
            feed_forward = layer.feed_forward(x_BTD)
            x_BTD = x_BTD + feed_forward
            yield f"attention {index}", attended
            yield f"feed-forward {index}", feed_forward
        yield "hidden", rms_norm(x_BTD, self.final_norm * self.readout, self.norm_eps)

    def init_weights(self, seed: int | torch.Generator) -> None:
        """Draw the weights by the rules of the parametrisation (`mup.rules`); the same seed gives the same weights."""
        init_weights(self, seed)

    def settings(self) -> dict[str, Any]:
        """What `Transformer.from_settings` needs to build the same module, as JSON values."""
        return {
            "arch": asdict(self.arch),
            "parametrisation": self.parametrisation,
            "base_width": self.base_width,
            "rope_base": self.rope_base,
            "norm_eps": self.norm_eps,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Transformer:
        """The module of `settings`; its weights are not drawn."""
        return cls(Arch(**settings["arch"]), **{key: value for key, value in settings.items() if key != "arch"})

    def _turns(self, tokens_BT: Tensor) -> Tensor:
        """The rotations of every position and head (T, A, P, 2), computed once per length, device and precision."""
        length = tokens_BT.shape[1]
        if length > self.arch.context:
            raise InputError(
                f"sequences must have at most Arch.context = {self.arch.context} tokens; got {length}; "
                "cut them or build the model with a longer context"
            )
        weight = self.embedding
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        key = (length, weight.device, dtype)
        if key not in self._cached_turns:
            turns_TP2 = rotations(length, self.arch.d_head, self.rope_base, dtype)
            turns_TAP2 = turns_TP2[:, None].expand(-1, self.arch.heads + self.arch.kv_heads, -1, -1)
            self._cached_turns = {key: turns_TAP2.to(weight.device).contiguous()}
        return self._cached_turns[key]


def _check(arch: Arch, parametrisation: str, base_width: int) -> None:
    for name, only in _UNSUPPORTED.items():
        if getattr(arch, name) != only:
            raise InputError(
                f"Arch.{name} must be {only} in a model trained here; got {getattr(arch, name)}; "
                "use such a model as a teacher from its own folder, or change the shape"
            )
    if arch.d_head % 2:
        raise InputError(f"Arch.d_head must be even for rotary positions; got {arch.d_head}; correct the shape")
    if parametrisation not in ("mup", "standard"):
        raise InputError(f"parametrisation must be mup or standard; got {parametrisation!r}; choose one of them")
    if base_width < 1:
        raise InputError(f"base_width must be a positive whole number; got {base_width!r}; the default is {BASE_WIDTH}")


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual stream."""

    def __init__(self, arch: Arch, attention_scale: float, norm_eps: float) -> None:
        super().__init__()
        d, width, kv_width = arch.d_model, arch.attention_width, arch.kv_heads * arch.d_head
        self.heads, self.kv_heads, self.d_head = arch.heads, arch.kv_heads, arch.d_head
        self.gated, self.qk_norm, self.norm_eps = arch.gated, arch.qk_norm, norm_eps
        self.attention_scale = attention_scale
        self.attention_norm = nn.Parameter(torch.empty(d))
        self.qkv = nn.Parameter(torch.empty(width + 2 * kv_width, d))
        if arch.qk_norm != "none":
            per_head = arch.qk_norm == "head"
            self.query_norm = nn.Parameter(torch.empty(arch.d_head if per_head else width))
            self.key_norm = nn.Parameter(torch.empty(arch.d_head if per_head else kv_width))
        self.out = nn.Parameter(torch.empty(d, width))
        self.ffn_norm = nn.Parameter(torch.empty(d))
        self.up = nn.Parameter(torch.empty((2 if arch.gated else 1) * arch.d_ff, d))
        self.down = nn.Parameter(torch.empty(d, arch.d_ff))

    def forward(self, x_BTD: Tensor, turns_TAP2: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attend(x_BTD, turns_TAP2)
        return x_BTD + self.feed_forward(x_BTD)

    def attend(self, x_BTD: Tensor, turns_TAP2: Tensor) -> Tensor:
        """Causal attention of the normed residual: what it adds to the stream."""
        B, T, _ = x_BTD.shape
        H, K, E = self.heads, self.kv_heads, self.d_head
        qkv_BTCE = normed_linear(x_BTD, self.attention_norm, self.qkv, self.norm_eps).view(B, T, H + 2 * K, E)
        if self.qk_norm == "head":
            q_BHTE, k_BKTE, v_BKTE = heads(qkv_BTCE, self.query_norm, self.key_norm, turns_TAP2, self.norm_eps)
        else:
            q_BTHE, k_BTKE, v_BTKE = qkv_BTCE.split((H, K, K), dim=2)
            if self.qk_norm == "full":
                q_BTHE = rms_norm(q_BTHE.flatten(2), self.query_norm, self.norm_eps).view(B, T, H, E)
                k_BTKE = rms_norm(k_BTKE.flatten(2), self.key_norm, self.norm_eps).view(B, T, K, E)
            q_BHTE, k_BKTE = (rotate(x, turns_TAP2).transpose(1, 2) for x in (q_BTHE, k_BTKE))
            v_BKTE = v_BTKE.transpose(1, 2)
        mixed_BHTE = attention(q_BHTE, k_BKTE, v_BKTE, self.attention_scale)
        return F.linear(mixed_BHTE.transpose(1, 2).reshape(B, T, H * E), self.out)

    def feed_forward(self, x_BTD: Tensor) -> Tensor:
        """down(silu(gate) · up), or down(gelu(up)) without a gate, of the normed residual."""
        up_BTF = normed_linear(x_BTD, self.ffn_norm, self.up, self.norm_eps)
        return F.linear(gate(up_BTF) if self.gated else F.gelu(up_BTF), self.down)
