"""Eq 7 and its gradient on a few rows of logits, in place; knows nothing of projections, of averages, of autograd.

With z the student's and t the teacher's logits of one token, q = softmax(z/τ), p = softmax(t/τ), y the next token:

    loss = (1 − λ)·NTP + λ·τ²·KD + λ_z·Z
    NTP  = −log softmax(z)_y                      Z = (log Σ exp z)²                       [Eq 4, 5]
    KD   = −Σ p log q                             forward: KL(p‖q) plus the entropy of p   [Eq 6]
           Σ q log(q/p)                           reverse
           ½ Σ p log(p/m) + ½ Σ q log(q/m)        jsd, m = (p + q)/2
    ∂loss/∂z = (1 − λ)(softmax(z) − e_y) + λτ·g + 2λ_z·log Σ exp z · softmax(z)
           g = q − p                              forward
           q·(ℓ − Σ q ℓ), ℓ = log q/p             reverse
           ½ q·(u − Σ q u), u = log q/m           jsd

Equations of Busbridge et al. 2025. Sums that would cancel are taken of terms of one sign: logits are shifted by their
row's maximum before any product with a probability. Shifted logits are kept in bits, (z − max z)·log₂ e, because 2^x
costs half of what e^x does.

Shapes: R rows, V vocabulary, K classes of a sparse target.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..errors import InputError
from .logits import Classes

__all__ = ["Divergence", "Terms", "Values", "loss_rows"]

Divergence = Literal["forward", "reverse", "jsd"]
LOG2 = math.log(2)
LOG2E = math.log2(math.e)


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What Eq 7 adds up: λ (`lam`), τ (`tau`), λ_z (`z_weight`) and the divergence."""

    lam: float
    tau: float = 1.0
    z_weight: float = 0.0
    divergence: Divergence = "forward"

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise InputError(f"lam (λ), the share of the teacher's term, must lie in [0, 1]; got {self.lam!r}")
        if not 0 < self.tau < math.inf:
            raise InputError(f"tau (τ), the temperature, must be positive and finite; got {self.tau!r}")
        if not 0 <= self.z_weight < math.inf:
            raise InputError(f"z_weight (λ_z) must be at least 0 and finite; got {self.z_weight!r}")
        if self.divergence not in get_args(Divergence):
            raise InputError(f"divergence must be one of {', '.join(get_args(Divergence))}; got {self.divergence!r}")

    @property
    def kd_factor(self) -> float:
        """λτ², the weight of the teacher's term."""
        return self.lam * self.tau**2


class Values(NamedTuple):
    """One number a row: NTP, KD as defined above, the teacher's entropy, Z."""

    ntp: Tensor
    kd: Tensor
    entropy: Tensor
    z: Tensor


def loss_rows(
    z: Tensor, teacher: Tensor | Classes | None, labels: Tensor, terms: Terms, scratch: Tensor, *, gradient: bool
) -> Values:
    """The values of rows `z` (R, V) with next tokens `labels` (R); `z` becomes ∂loss/∂z where `gradient` is asked.

    `teacher` is t/τ (R, V), which is used up, or the classes of a sparse target, or None. `scratch` is (R, V).
    """
    top = z.amax(-1, keepdim=True)
    _to_bits(z, top)
    ntp = z.gather(1, labels[:, None]) * -LOG2
    kd = entropy = share = torch.zeros_like(ntp)
    together: _Whole | _Sparse | None = None  # one softmax serves every term
    apart: Tensor | None = None  # λτ·g
    if teacher is not None and terms.tau == 1 and terms.divergence == "forward":
        together = _side(teacher, scratch)
        together.before(z)
    elif teacher is not None:
        kd, entropy, apart = _apart(z / terms.tau, teacher, terms, scratch, gradient)
    total = z.exp2_().sum(-1, keepdim=True)
    log_total = total.log()
    ntp += log_total
    if together is not None:
        kd, entropy, share = together.after(z, total, log_total)
    log_z = log_total + top
    if gradient:
        z.mul_(((1 - terms.lam) + terms.lam * share + 2 * terms.z_weight * log_z) / total)
        if together is not None:
            together.subtract(z, terms.lam)
        if apart is not None:
            z.add_(apart)
        if terms.lam < 1:
            z.scatter_add_(1, labels[:, None], torch.full_like(ntp, terms.lam - 1))
    return Values(ntp[:, 0], kd[:, 0], entropy[:, 0], log_z[:, 0].square())


def _apart(
    u: Tensor, teacher: Tensor | Classes, terms: Terms, scratch: Tensor, gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """KD, the teacher's entropy and λτ·g for logits `u` = z/τ in bits (used up): a softmax of its own."""
    factor = terms.lam * terms.tau
    if terms.divergence != "forward":
        assert isinstance(teacher, Tensor)  # `loss` refuses the others
        return _symmetric(u, teacher, terms.divergence, factor)
    side = _side(teacher, scratch)
    side.before(u)
    total = u.exp2_().sum(-1, keepdim=True)
    kd, entropy, share = side.after(u, total, total.log())
    if gradient:
        u.mul_(factor * share / total)
        side.subtract(u, factor)
    return kd, entropy, u


def _symmetric(u: Tensor, t: Tensor, divergence: str, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Reverse KL and JSD, which need log p and log q side by side."""
    log_q = u.mul_(LOG2).log_softmax(-1)
    log_p = t.log_softmax(-1)
    ratio = log_q - log_p
    p, q = log_p.exp(), log_q.exp_()
    entropy = -_dot(p, log_p)
    if divergence == "reverse":
        kd = _dot(q, ratio)
        slope = ratio.sub_(kd)
    else:
        slope = LOG2 - softplus(-ratio)  # log q/m; log p/m is this minus log q/p
        mean = _dot(q, slope)
        kd = (mean + _dot(p, slope - ratio)) / 2
        slope.sub_(mean).div_(2)
    return kd, entropy, slope.mul_(q).mul_(factor)


def _side(teacher: Tensor | Classes, scratch: Tensor) -> _Whole | _Sparse:
    return _Whole(teacher, scratch) if isinstance(teacher, Tensor) else _Sparse(teacher)


class _Whole:
    """Forward KL to a whole distribution p = softmax(t): g = q − p."""

    def __init__(self, t: Tensor, scratch: Tensor) -> None:
        self.t, self.p = t, scratch

    def before(self, u: Tensor) -> None:
        """While `u` still holds logits in bits."""
        _to_bits(self.t, self.t.amax(-1, keepdim=True))
        torch.exp2(self.t, out=self.p)
        self.total = self.p.sum(-1, keepdim=True)
        self.entropy = self.total.log() - self._mean(self.t)
        self.mean = self._mean(u)

    def _mean(self, x: Tensor) -> Tensor:
        """Σ p·x in nats, x in bits; `t` is free to hold the terms."""
        return torch.mul(self.p, x, out=self.t).sum(-1, keepdim=True) * (LOG2 / self.total)

    def after(self, e: Tensor, total: Tensor, log_total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KD, the teacher's entropy and how much of q its gradient holds, now that `e` holds 2^u."""
        return log_total - self.mean, self.entropy, torch.ones_like(total)

    def subtract(self, gradient: Tensor, factor: float) -> None:
        """The part of λτ·g that is not a multiple of q."""
        gradient.sub_(self.p.mul_(factor / self.total))


class _Sparse:
    """Forward KL to K classes, and the tail as one more where it counts: g = Σp·q − p, or in the tail q·(1 − p_t/q_t).

    With the tail that is the gradient towards a whole distribution whose tail has the student's own shape.
    """

    def __init__(self, classes: Classes) -> None:
        self.ids, self.mass = classes.ids, classes.mass
        self.tail = None if classes.tail is None else classes.tail[:, None]
        self.entropy = classes.entropy[:, None]

    def before(self, u: Tensor) -> None:
        """While `u` still holds logits in bits."""
        self.mean = _dot(self.mass, u.gather(1, self.ids)) * LOG2
        self.at = self.mass

    def after(self, e: Tensor, total: Tensor, log_total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KD, the teacher's entropy and how much of q its gradient holds, now that `e` holds 2^u."""
        share = self.mass.sum(-1, keepdim=True)
        kd = share * log_total - self.mean
        if self.tail is None:
            return kd, self.entropy, share
        kept = e.gather(1, self.ids)
        rest = e.scatter_(1, self.ids, 0).sum(-1, keepdim=True).clamp_(min=torch.finfo(e.dtype).tiny)
        e.scatter_(1, self.ids, kept)
        kd = kd + self.tail * (log_total - rest.log())
        ratio = self.tail * total / rest  # p_t / q_t
        self.at = self.mass - ratio * kept / total
        return kd, self.entropy, share + self.tail - ratio

    def subtract(self, gradient: Tensor, factor: float) -> None:
        """The part of λτ·g that is not a multiple of q; an id that was drawn twice counts twice."""
        gradient.scatter_add_(1, self.ids, -factor * self.at)


def _to_bits(z: Tensor, top: Tensor) -> None:
    """(z − top)·log₂ e in place, in one pass."""
    torch.add(top * -LOG2E, z, alpha=LOG2E, out=z)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b along each row, (R, 1)."""
    return torch.linalg.vecdot(a, b)[:, None]
