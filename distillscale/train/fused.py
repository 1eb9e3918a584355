"""Norm, heads, attention and gate with gradients written by hand; knows tensors, not the model.

On a CPU a small transformer spends more on passes over memory than its products warrant. Each function here does in
few passes, in place where it may, what autograd does in many; each has a plain twin of the same signature, which
other devices and compilers use, and the tests hold the two together.

Shape suffixes: N tokens (any leading axes flattened), D d_model, F outputs of a product; B batch, T time, H heads of
queries, K heads of keys (and of values), A = H + K, C = H + 2K, E d_head, P = E/2.
"""

# torch's functions are partly untyped, and so is what a context carries from forward to backward:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingParameterType=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = [
    "SHORT",
    "attention",
    "attention_plain",
    "gate",
    "gate_plain",
    "heads",
    "heads_plain",
    "keep_freed_memory",
    "normed_linear",
    "normed_linear_plain",
    "pays",
    "rms_norm",
    "rms_norm_plain",
    "rotate",
    "rotate_plain",
    "rotations",
]

SHORT = 256
"""Longest sequence whose attention probabilities are kept for the backward pass, B·H·T² numbers at most."""
_ROWS = 64


def pays(x: Tensor) -> bool:
    """Whether the hand-written gradients are worth using: in fp32 or fp64 on a CPU, eagerly, without autocast."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return False
    return not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))


def rms_norm(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """x / √(mean x² + eps) · gain, over the last axis."""
    return _RMSNorm.apply(x, gain_D, eps) if pays(x) else rms_norm_plain(x, gain_D, eps)  # pyright: ignore


def rms_norm_plain(x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], gain_D.to(x.dtype), eps)  # autocast leaves gains in fp32


class _RMSNorm(torch.autograd.Function):
    """With u = x r, r = 1/√(mean x² + eps):  dx = r (g dy − u · mean(g dy u)),  dg = Σ dy u."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        D = x.shape[-1]
        x_ND = x.reshape(-1, D)
        inverse_N1 = _row_means(x_ND.square()).add_(eps).rsqrt_()
        unit_ND = x_ND * inverse_N1
        ctx.save_for_backward(unit_ND, inverse_N1, gain_D)
        return (unit_ND * gain_D).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        unit_ND, inverse_N1, gain_D = ctx.saved_tensors
        dy_ND = dy.reshape(unit_ND.shape)
        product_ND = dy_ND * unit_ND
        dgain_D = product_ND.sum(0)
        mean_N1 = torch.mv(product_ND, gain_D).div_(-unit_ND.shape[1]).unsqueeze(1)
        dx_ND = torch.mul(dy_ND, gain_D, out=product_ND).addcmul_(unit_ND, mean_N1).mul_(inverse_N1)
        return dx_ND.view(dy.shape), dgain_D, None


def normed_linear(x: Tensor, gain_D: Tensor, weight_FD: Tensor, eps: float) -> Tensor:
    """rms_norm(x) · weightᵀ."""
    if pays(x):
        return _NormedLinear.apply(x, gain_D, weight_FD, eps)  # pyright: ignore
    return normed_linear_plain(x, gain_D, weight_FD, eps)


def normed_linear_plain(x: Tensor, gain_D: Tensor, weight_FD: Tensor, eps: float) -> Tensor:
    return F.linear(rms_norm_plain(x, gain_D, eps), weight_FD)


class _NormedLinear(torch.autograd.Function):
    """With u as above and V = weight · gain, y = u Vᵀ: the gain is a pass over the weight instead of the tokens.

    dV = dyᵀ u,  dweight = dV · gain,  dg = Σ dV · weight,  dx = r (du − u · mean(du u)) of du = dy V.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, weight_FD: Tensor, eps: float) -> Tensor:
        x_ND = x.reshape(-1, x.shape[-1])
        square_ND = x_ND.square()
        inverse_N1 = _row_means(square_ND).add_(eps).rsqrt_()
        unit_ND = torch.mul(x_ND, inverse_N1, out=square_ND)
        scaled_FD = weight_FD * gain_D
        ctx.save_for_backward(unit_ND, inverse_N1, gain_D, weight_FD, scaled_FD)
        return (unit_ND @ scaled_FD.T).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        unit_ND, inverse_N1, gain_D, weight_FD, scaled_FD = ctx.saved_tensors
        dy_NF = dy.reshape(-1, dy.shape[-1])
        dunit_ND = dy_NF @ scaled_FD
        mean_N1 = _row_means(dunit_ND * unit_ND).neg_()
        dx_ND = dunit_ND.addcmul_(unit_ND, mean_N1).mul_(inverse_N1)
        dscaled_FD = dy_NF.T @ unit_ND
        dgain_D = (dscaled_FD * weight_FD).sum(0)
        return dx_ND.view(*dy.shape[:-1], -1), dgain_D, dscaled_FD.mul_(gain_D), None


def gate(packed: Tensor) -> Tensor:
    """silu(left half) · right half of the last axis."""
    return _Gate.apply(packed) if pays(packed) else gate_plain(packed)  # pyright: ignore


def gate_plain(packed: Tensor) -> Tensor:
    left, right = packed.chunk(2, dim=-1)
    return F.silu(left) * right


class _Gate(torch.autograd.Function):
    """Both gradients are written straight into the halves of one tensor."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor) -> Tensor:
        left, right = packed.chunk(2, dim=-1)
        silu = F.silu(left)
        ctx.save_for_backward(packed, silu)
        return silu * right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        packed, silu = ctx.saved_tensors
        left, right = packed.chunk(2, dim=-1)
        grad = torch.empty_like(packed)
        dleft, dright = grad.chunk(2, dim=-1)
        torch.mul(dy, silu, out=dright)
        torch.ops.aten.silu_backward.grad_input(dy * right, left, grad_input=dleft)
        return grad


def heads(
    qkv_BTCE: Tensor, query_gain_E: Tensor, key_gain_E: Tensor, turns_TAP2: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, T, E) and keys (B, K, T, E), normed per head and rotated, and values as they are.

    `turns_TAP2` are cosine and sine of `rotations`, for each pair of neighbouring coordinates. The number of
    heads is told by the shapes: A = H + K and C = H + 2K.
    """
    if pays(qkv_BTCE):
        return _Heads.apply(qkv_BTCE, query_gain_E, key_gain_E, turns_TAP2, eps)  # pyright: ignore
    return heads_plain(qkv_BTCE, query_gain_E, key_gain_E, turns_TAP2, eps)


def heads_plain(
    qkv_BTCE: Tensor, query_gain_E: Tensor, key_gain_E: Tensor, turns_TAP2: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    A, C = turns_TAP2.shape[1], qkv_BTCE.shape[2]
    K = C - A
    q_BTHE, k_BTKE, v_BTKE = qkv_BTCE.split((A - K, K, K), dim=2)
    q_BTHE = rotate_plain(rms_norm_plain(q_BTHE, query_gain_E, eps), turns_TAP2[:, : A - K])
    k_BTKE = rotate_plain(rms_norm_plain(k_BTKE, key_gain_E, eps), turns_TAP2[:, :K])
    return q_BTHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2)


class _Heads(torch.autograd.Function):
    """The norm's gradient as above, around a rotation whose gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, qkv_BTCE: Tensor, query_gain_E, key_gain_E, turns_TAP2: Tensor, eps: float):
        A, K = turns_TAP2.shape[1], qkv_BTCE.shape[2] - turns_TAP2.shape[1]
        qk_BTAE = qkv_BTCE[:, :, :A]
        gain_AE = torch.cat((query_gain_E.expand(A - K, -1), key_gain_E.expand(K, -1)))
        square_BTAE = qk_BTAE.square()
        inverse_BTA1 = _row_means(square_BTAE).add_(eps).rsqrt_()
        unit_BTAE = torch.mul(qk_BTAE, inverse_BTA1, out=square_BTAE)
        ctx.save_for_backward(unit_BTAE, inverse_BTA1, gain_AE, turns_TAP2)
        gained_BATP = _pairs(unit_BTAE * gain_AE).transpose(1, 2)
        turns_ATP = torch.view_as_complex(turns_TAP2).transpose(0, 1)
        B, T, _, E = unit_BTAE.shape
        # Each head's rows one after the other, as the products of attention want them.
        q_BHTE, k_BKTE = unit_BTAE.new_empty(B, A - K, T, E), unit_BTAE.new_empty(B, K, T, E)
        torch.mul(gained_BATP[:, : A - K], turns_ATP[: A - K], out=_pairs(q_BHTE))
        torch.mul(gained_BATP[:, A - K :], turns_ATP[A - K :], out=_pairs(k_BKTE))
        return q_BHTE, k_BKTE, qkv_BTCE[:, :, A:].transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_BHTE: Tensor, dk_BKTE: Tensor, dv_BKTE: Tensor):
        unit_BTAE, inverse_BTA1, gain_AE, turns_TAP2 = ctx.saved_tensors
        B, T, A, E = unit_BTAE.shape
        H, K = dq_BHTE.shape[1], dk_BKTE.shape[1]
        back_TAP = torch.view_as_complex(turns_TAP2).conj().resolve_conj()
        dy_BTAE = torch.empty_like(unit_BTAE)
        dy_BTAP = _pairs(dy_BTAE)
        torch.mul(_pairs(dq_BHTE.transpose(1, 2)), back_TAP[:, :H], out=dy_BTAP[:, :, :H])
        torch.mul(_pairs(dk_BKTE.transpose(1, 2)), back_TAP[:, H:], out=dy_BTAP[:, :, H:])
        product_BTAE = dy_BTAE * unit_BTAE
        dgain_AE = product_BTAE.view(B * T, A * E).sum(0).view(A, E)
        mean_BTA1 = _row_means(product_BTAE.mul_(gain_AE)).neg_()
        dqkv_BTCE = dy_BTAE.new_empty(B, T, A + K, E)
        dy_BTAE.mul_(gain_AE).addcmul_(unit_BTAE, mean_BTA1)
        torch.mul(dy_BTAE, inverse_BTA1, out=dqkv_BTCE[:, :, :A])
        dqkv_BTCE[:, :, A:] = dv_BKTE.transpose(1, 2)
        return dqkv_BTCE, dgain_AE[:H].sum(0), dgain_AE[H:].sum(0), None, None


def attention(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ, causal) v for each head; K < H heads of keys serve groups of queries."""
    H, T, K = q_BHTE.shape[1], q_BHTE.shape[2], k_BKTE.shape[1]
    if H == K and T <= SHORT and q_BHTE.requires_grad and pays(q_BHTE):
        return _Attention.apply(q_BHTE, k_BKTE, v_BKTE, scale)  # pyright: ignore
    return attention_plain(q_BHTE, k_BKTE, v_BKTE, scale)


def attention_plain(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, scale: float) -> Tensor:
    grouped = q_BHTE.shape[1] != k_BKTE.shape[1]
    return F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, is_causal=True, scale=scale, enable_gqa=grouped)


class _Attention(torch.autograd.Function):
    """`_ROWS` queries at a time against the keys before them; their probabilities are kept, not computed again.

    With P the probabilities of some queries:  dV = Pᵀ dO,  dS = softmax'(P, dO Vᵀ),  dQ = s dS K,  dK = s dSᵀ Q.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, scale: float) -> Tensor:
        B, H, T, E = q_BHTE.shape
        q, k, v = (x.reshape(B * H, T, E) for x in (q_BHTE, k_BHTE, v_BHTE))
        out_BTHE = q.new_empty(B, T, H, E)
        later = q.new_full((_ROWS, _ROWS), -torch.inf).triu_(1)
        nothing, kept = q.new_empty(()), list[Tensor]()
        for start in range(0, T, _ROWS):
            end = min(start + _ROWS, T)
            score = torch.baddbmm(nothing, q[:, start:end], k[:, :end].transpose(1, 2), beta=0, alpha=scale)
            score[:, :, start:].add_(later[: end - start, : end - start])
            kept.append(torch.softmax(score, -1))
            mixed = torch.bmm(kept[-1], v[:, :end]).view(B, H, end - start, E)
            out_BTHE[:, start:end] = mixed.transpose(1, 2)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.scale = scale
        return out_BTHE.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BHTE: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        dout, nothing = dout_BHTE.reshape(q.shape), q.new_empty(())
        dq, dk, dv = torch.empty_like(q), nothing, nothing
        for index in reversed(range(len(kept))):  # the last rows see every key, so theirs are the first to be written
            probability, start = kept[index], index * _ROWS
            end = min(start + _ROWS, q.shape[1])
            rows = dout[:, start:end]
            dscore = torch.bmm(rows, v[:, :end].transpose(1, 2))
            dscore = torch.ops.aten._softmax_backward_data(dscore, probability, -1, probability.dtype)
            dq[:, start:end] = torch.baddbmm(nothing, dscore, k[:, :end], beta=0, alpha=ctx.scale)
            dkeys = torch.baddbmm(nothing, dscore.transpose(1, 2), q[:, start:end], beta=0, alpha=ctx.scale)
            dvalues = torch.bmm(probability.transpose(1, 2), rows)
            if end == q.shape[1]:
                dk, dv = dkeys, dvalues
            else:  # not in place: into a part of a tensor a batched product goes matrix by matrix
                dk[:, :end].add_(dkeys)
                dv[:, :end].add_(dvalues)
        return dq.view(dout_BHTE.shape), dk.view(dout_BHTE.shape), dv.view(dout_BHTE.shape), None


def rotations(length: int, d_head: int, base: float, dtype: torch.dtype) -> Tensor:
    """Cosine and sine of position · base^(−2p/E), real (T, P, 2), from float64; rotary positions (Su et al. 2021)."""
    exact = torch.float64
    frequency_P = base ** (-torch.arange(0, d_head, 2, dtype=exact, device="cpu") / d_head)
    angle_TP = torch.outer(torch.arange(length, dtype=exact, device="cpu"), frequency_P)
    return torch.stack((angle_TP.cos(), angle_TP.sin()), dim=-1).to(dtype)


def rotate(x_BTHE: Tensor, turns_TAP2: Tensor) -> Tensor:
    """Each pair of neighbouring coordinates turned by the angle of its position; in fp32 at least."""
    turns_THP2 = turns_TAP2[:, : x_BTHE.shape[2]]
    if pays(x_BTHE):  # one product of complex numbers is the quickest here, but compilers cannot make one
        return torch.view_as_real(_pairs(x_BTHE) * torch.view_as_complex(turns_THP2)).flatten(-2)
    return rotate_plain(x_BTHE, turns_THP2)


def rotate_plain(x_BTHE: Tensor, turns_THP2: Tensor) -> Tensor:
    wide = x_BTHE if x_BTHE.dtype == torch.float64 else x_BTHE.float()
    left, right = wide.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turns_THP2.unbind(-1)
    return torch.stack((left * cos - right * sin, right * cos + left * sin), dim=-1).flatten(-2).type_as(x_BTHE)


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _row_means(x: Tensor) -> Tensor:
    """Mean over the last axis, kept; as a matrix-vector product, which is the fastest reduction of short rows."""
    E = x.shape[-1]
    return torch.mv(x.view(-1, E), x.new_full((E,), 1.0 / E)).view(*x.shape[:-1], 1)


def keep_freed_memory() -> bool:
    """Ask glibc to keep what is freed for the next step instead of giving it back; True where it listens.

    By default every large tensor is mapped anew and zeroed by the kernel, 7 % of a step's time. The process then keeps
    its peak until it ends, which a training process does anyway.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    mmap_threshold, trim_threshold, gigabyte = -3, -1, 1 << 30
    return all([bool(mallopt(mmap_threshold, gigabyte)), bool(mallopt(trim_threshold, 2 * gigabyte - 1))])
