"""Shapes of transformers: parameters, forward FLOPs per token, the paper's family; nothing here knows a law or a price.

Two accounts of the same thing. `Arch` counts one exact shape (Tables 9–12, "Ours (Total)"); `forward_flops(N)` is the
smooth F(N) of Eq 69 that the planner optimises over, and agrees with the exact count to a third of a percent over the
paper's family (Table 13). Source of every equation and table here: Busbridge et al. 2025, App. H.

Conventions: N is non-embedding parameters, norms and biases included. FLOPs are per token of one forward pass; the
backward pass costs twice that (Eq 70). Attention is counted as causal over `context` tokens, half of bidirectional.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .units import parse_count

__all__ = [
    "ASPECT",
    "CONTEXT",
    "FFN_RATIO",
    "OMEGA",
    "VOCAB",
    "Arch",
    "family",
    "family_row",
    "flops_elasticity",
    "forward_flops",
    "params_from_total",
]

Array = NDArray[np.float64]

CONTEXT = 4096
"""Tokens in a training sequence of the paper (App. G)."""
VOCAB = 32_768
"""Vocabulary. The text prints 32,168, but N_total − N, C_fwd and C_approx of Table 13 need 32,768."""
ASPECT = 128
"""ρ_model = d_model / n_layers, the same for every size of the paper's family."""
FFN_RATIO = 8 / 3
"""ρ_ffn = d_ff / d_model of the gated feed-forward layer."""
OMEGA = 12.0
"""ω = 2 + 2/g_size + n_ffn ρ_ffn = 2 + 2 + 3·(8/3), so that N ≈ ω n_layers d_model² (Eq 60, 61)."""

# Heads at every size. The paper states neither heads nor d_head; sixteen, d_head = d_model/16, give N, N_total, 2N and
# Eq 59 of Table 13 in every row to the printed digits and C_fwd within 0.05 %, which heads of 128 do not.
_HEADS = 16
_FFN_MULTIPLE = 128
# Table 13 prints d_ff = 12672 for 10B, the multiple of 128 that the rule gives, but its N, N_total and FLOPs all need
# 12800; we take the row's five other numbers over the one.
_FAMILY_FFN = {37: 12_800}
# fmt: off
_FAMILY_NAMES = (  # from 8 layers to 40
    "103M", "143M", "198M", "266M", "340M", "435M", "546M", "664M", "810M", "975M", "1.15B", "1.35B", "1.59B",
    "1.82B", "2.1B", "2.41B", "2.72B", "3.08B", "3.48B", "3.87B", "4.33B", "4.82B", "5.31B", "5.87B", "6.48B",
    "7.07B", "7.75B", "8.47B", "9.17B", "10B", "10.8B", "11.7B", "12.6B",
)
# fmt: on


def _sigmas(aspect: float, omega: float) -> tuple[float, float]:
    """σ1 = (1/(ρ_model ω²))^(1/3) (Eq 66) and σ2 = (ρ_model/ω)^(1/3) (Eq 68)."""
    return (1.0 / (aspect * omega**2)) ** (1 / 3), (aspect / omega) ** (1 / 3)


def forward_flops(
    N: ArrayLike, *, context: float = CONTEXT, vocab: float = VOCAB, aspect: float = ASPECT, omega: float = OMEGA
) -> Array:
    """Eq 69:  F(N) = 2N (1 + σ1 n_ctx N^(−1/3) + σ2 n_vocab N^(−2/3))          [FLOPs per token, forward]

    N non-embedding parameters of a model with `aspect` = d_model/n_layers. Strictly increasing in N; a training step
    costs 3F. Vectorised, float64.
    """
    attention, logits = _sigmas(aspect, omega)
    width = np.cbrt(np.asarray(N, float))
    return 2.0 * width * (width * (width + attention * context) + logits * vocab)


def flops_elasticity(
    N: ArrayLike, *, context: float = CONTEXT, vocab: float = VOCAB, aspect: float = ASPECT, omega: float = OMEGA
) -> Array:
    """d log F / d log N of `forward_flops`, between 1/3 (all logits) and 1 (all parameters)."""
    attention, logits = _sigmas(aspect, omega)
    shrink = 1.0 / np.cbrt(np.asarray(N, float))
    a, b = attention * context * shrink, logits * vocab * shrink * shrink
    return (1.0 + 2.0 / 3.0 * a + b / 3.0) / (1.0 + a + b)


def params_from_total(
    total: ArrayLike, *, vocab: float = VOCAB, aspect: float = ASPECT, omega: float = OMEGA, tied: bool = True
) -> Array:
    """N of the family member with `total` parameters, embeddings included: N + V (Nρ/ω)^(1/3) = total (Eq 64).

    Untied embeddings count twice. Vectorised, float64.
    """
    total = np.asarray(total, float)
    if np.size(wrong := total[~((total > 0) & np.isfinite(total))]):
        raise InputError(f"total parameters must be positive and finite; got {wrong.flat[0]:g}; write it as 7.2B")
    # With r = N^(1/3) this is r³ + k r = total, whose one real root has a closed form that does not cancel.
    k = _sigmas(aspect, omega)[1] * vocab * (1 if tied else 2)
    if k == 0:
        return total
    scale = math.sqrt(k / 3.0)
    root = 2.0 * scale * np.sinh(np.arcsinh(0.5 * total / scale**3) / 3.0)
    return root**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Arch:
    """One shape of decoder-only transformer, with exact parameter and FLOP counts.

    The defaults are the paper's: pre-norm RMSNorm, QK-norm, gated feed-forward, tied embeddings, no bias. Parallel
    blocks, rotary positions and sliding windows change no parameter count; a window is not credited in the FLOPs,
    which count every layer as attending to all of `context`.
    """

    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv_heads: int
    d_head: int
    vocab: int = VOCAB
    context: int = CONTEXT
    gated: bool = True
    """Three feed-forward matrices, else two (n_ffn)."""
    tied: bool = True
    """The output projection is the embedding, else it has its own V·d_model parameters."""
    qk_norm: Literal["none", "head", "full"] = "head"
    """Gains on queries and keys: d_head each, or the whole width of each (OLMo 2)."""
    norm_bias: bool = False
    """LayerNorm, a gain and a bias, in place of RMSNorm."""
    norms_per_layer: int = 2
    """Norms of width d_model in a layer; four in Gemma 2 and 3."""
    qkv_bias: bool = False
    out_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
    positions: int = 0
    """Learned absolute positions (GPT-2); they count as embedding."""

    def __post_init__(self) -> None:
        for name in ("layers", "d_model", "d_ff", "heads", "kv_heads", "d_head", "vocab", "context"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"Arch.{name} must be a positive whole number; got {value!r}; correct the shape")
        if self.heads % self.kv_heads:
            raise InputError(
                f"Arch.heads must be a multiple of kv_heads; got {self.heads} and {self.kv_heads}; correct the shape"
            )

    @classmethod
    def from_depth(cls, layers: int, *, vocab: int = VOCAB, context: int = CONTEXT, aspect: int = ASPECT) -> Arch:
        """The paper's family, one dial: d_model = 128·layers, d_ff = 8/3 of it rounded up to a multiple of 128.

        Sixteen heads with keys and values of their own, or as many of 8, 4, 2, 1 as leave d_head whole and even (which
        rotary positions need) where another `aspect` does not divide by 32.
        """
        d_model = aspect * layers
        heads = math.gcd(_HEADS, d_model // 2) if d_model % 2 == 0 else 1
        d_ff = -(-8 * d_model // (3 * _FFN_MULTIPLE)) * _FFN_MULTIPLE  # whole-number form of ⌈(8/3)·d / 128⌉·128
        return cls(
            layers=layers,
            d_model=d_model,
            d_ff=d_ff,
            heads=heads,
            kv_heads=heads,
            d_head=d_model // heads,
            vocab=vocab,
            context=context,
        )

    @classmethod
    def nearest(cls, params: float, *, vocab: int = VOCAB, context: int = CONTEXT, aspect: int = ASPECT) -> Arch:
        """The member of `from_depth` whose N is nearest to `params` in ratio; the shallowest has one layer."""
        if not 1 <= params < math.inf:
            raise InputError(f"params must be finite and at least 1; got {params:g}; write it as 300M, 1.5B or 3e9")
        depth = (params / (aspect**2 * OMEGA)) ** (1 / 3)  # Eq 64
        around = range(max(1, math.floor(depth) - 1), math.ceil(depth) + 2)
        members = (cls.from_depth(layers, vocab=vocab, context=context, aspect=aspect) for layers in around)
        return min(members, key=lambda member: abs(math.log(member.params / params)))

    @property
    def attention_width(self) -> int:
        """heads · d_head, which is d_model in the paper's family and in most others."""
        return self.heads * self.d_head

    @property
    def params(self) -> int:
        """N, non-embedding parameters (Tables 9, 10): n_layers (4d² + 3 d d_ff + 2d + 2 d_head) + d in the family."""
        d, width, kv_width = self.d_model, self.attention_width, self.kv_heads * self.d_head
        attention = d * (width + 2 * kv_width) + width * d
        attention += self.qkv_bias * (width + 2 * kv_width) + self.out_bias * d
        attention += {"none": 0, "head": 2 * self.d_head, "full": width + kv_width}[self.qk_norm]
        inputs = 2 if self.gated else 1
        feed_forward = (inputs + 1) * d * self.d_ff + self.mlp_bias * (inputs * self.d_ff + d)
        norm = (2 if self.norm_bias else 1) * d
        return self.layers * (attention + feed_forward + self.norms_per_layer * norm) + norm

    @property
    def embedding_params(self) -> int:
        """V·d_model, twice where untied, plus learned positions."""
        return ((1 if self.tied else 2) * self.vocab + self.positions) * self.d_model

    @property
    def total_params(self) -> int:
        """N_total = N + embeddings."""
        return self.params + self.embedding_params

    @property
    def forward_flops_per_token(self) -> float:
        """C_fwd, "Ours (Total)" of Tables 11 and 12, FLOPs per token of one forward pass."""
        d, width, kv_width = self.d_model, self.attention_width, self.kv_heads * self.d_head
        qkv = 2 * d * (width + 2 * kv_width)
        logits_and_values = 2 * width * self.context
        softmax = 2.5 * self.heads * self.context
        projection = 2 * width * d
        feed_forward = 2 * (3 if self.gated else 2) * d * self.d_ff
        layer = qkv + logits_and_values + softmax + projection + feed_forward
        return 2.0 * d + self.layers * layer + 2.0 * self.vocab * d

    @property
    def approx_flops_per_token(self) -> float:
        """Eq 59: 2N + 2 n_ctx n_layers d + 2 n_vocab d, FLOPs per token forward, with d in attention heads·d_head."""
        attention = 2.0 * self.context * self.layers * self.attention_width
        return 2.0 * self.params + attention + 2.0 * self.vocab * self.d_model

    def weight_bytes(self, bytes_per_param: float = 2.0) -> float:
        """Bytes that the weights fill, by default in bf16."""
        return self.total_params * bytes_per_param


@cache
def family() -> Mapping[str, Arch]:
    """Table 13: the paper's 33 sizes by name, `103M` to `12.6B`, with vocabulary 32,768 and context 4,096."""
    rows: dict[str, Arch] = {}
    for layers, name in enumerate(_FAMILY_NAMES, start=8):
        rule = Arch.from_depth(layers)
        rows[name] = replace(rule, d_ff=_FAMILY_FFN.get(layers, rule.d_ff))
    return MappingProxyType(rows)


def family_row(name: str) -> Arch:
    """The member of `family` called `name`; case does not matter."""
    wanted = name.strip().upper()
    if wanted in family():
        return family()[wanted]
    try:
        count = parse_count(wanted)
    except InputError:
        hint = ""
    else:
        hint = f"nearest is {min(family(), key=lambda row: abs(math.log(family()[row].params / count)))}; "
    raise InputError(f"size {name!r} is not in the family of Table 13; {hint}it has {', '.join(family())}")
