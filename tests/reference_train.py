"""Slow, obvious twins of the training losses: whole logits, plain autograd, formulas as printed (Eq 3 to 7).

Computed in the precision of their inputs; give float64 for the truth, float32 for the error of doing it naively.
Nothing here calls the package. Shapes: N tokens, V vocabulary, D width, K classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Dense(NamedTuple):
    """Eq 7 and its parts, mean over the counted tokens, nats."""

    loss: Tensor
    ntp: Tensor
    kd: Tensor
    entropy: Tensor
    z: Tensor


def divergence_rows(log_p: Tensor, log_q: Tensor, kind: str) -> Tensor:
    """Per token: −Σ p log q (forward, Eq 6), KL(q‖p) (reverse), Jensen–Shannon (jsd)."""
    p, q = log_p.exp(), log_q.exp()
    if kind == "forward":
        return -(p * log_q).sum(-1)
    if kind == "reverse":
        return (q * (log_q - log_p)).sum(-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((p * (log_p - log_m)).sum(-1) + (q * (log_q - log_m)).sum(-1)) / 2


def dense_loss(
    hidden: Tensor,
    weight: Tensor,
    log_p: Tensor | None,
    labels: Tensor,
    *,
    lam: float,
    tau: float = 1.0,
    z_weight: float = 0.0,
    divergence: str = "forward",
) -> Dense:
    """Eq 7 where the teacher's log p (N, V) at temperature `tau` is at hand; None: no teacher."""
    counted = labels != -100
    logits = (hidden @ weight.T)[counted]
    ntp = F.cross_entropy(logits, labels[counted])
    z = logits.logsumexp(-1).square().mean()
    kd = entropy = torch.zeros_like(ntp)
    if log_p is not None:
        log_p = log_p[counted]
        kd = divergence_rows(log_p, (logits / tau).log_softmax(-1), divergence).mean()
        entropy = torch.special.entr(log_p.exp()).sum(-1).mean()
    return Dense((1 - lam) * ntp + lam * tau**2 * kd + z_weight * z, ntp, kd, entropy, z)


def teacher_logprobs(hidden: Tensor, weight: Tensor, tau: float) -> Tensor:
    """log softmax of the teacher's logits over `tau` (N, V)."""
    return (hidden @ weight.T / tau).log_softmax(-1)


def top_k_tail_rows(log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
    """Per token −Σ p log q over the k largest p and everything else as one class."""
    ids = log_p.topk(k).indices
    inside = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, ids, True)
    value = -(log_p.exp() * log_q).where(inside, 0).sum(-1)
    if k < log_p.shape[-1]:
        p_tail = log_p.exp().masked_fill(inside, 0).sum(-1)
        value = value - p_tail * log_q.masked_fill(inside, -math.inf).logsumexp(-1)
    return value


def renormalised_top_k_rows(log_p: Tensor, log_q: Tensor, k: int) -> Tensor:
    """Per token −Σ p̃ log q, p̃ = p over the k largest, scaled to one (Eq 55)."""
    best = log_p.topk(k)
    return -(best.values.softmax(-1) * log_q.gather(-1, best.indices)).sum(-1)


def sampled_rows(ids: Tensor, weights: Tensor, log_q: Tensor) -> Tensor:
    """Per token −Σ w log q at the drawn ids."""
    return -(weights * log_q.gather(-1, ids)).sum(-1)
