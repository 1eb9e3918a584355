"""The exact split of a budget between teacher and student (Eq 10); it knows a law and FLOPs, no verdicts or money.

The search is one-dimensional. The teacher matters only through its loss L_T, so for each L_T the best plan buys that
loss in the cheapest way and spends the rest on student tokens, of which more never hurts. At an interior optimum the
cheapest way balances the marginal cost of a larger against a longer-trained teacher (first-order condition):

    α A/N_T^α / (β B/D_T^β) = φ(N_T) (1 + r),    r = logits · D_S / (3 · pretraining · D_T),   φ = d log F / d log N

whose solution D_T(N_T) is unique: the left side over the right grows with D_T. With the bounds on N_T and D_T this is
a monotone path through the (log N_T, log D_T) box, from the weakest teacher to the strongest; the student's loss along
it (it can have two dips, Eq 8) is minimised by a grid and a few zooms, for all problems of a batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arch import CONTEXT, VOCAB, flops_elasticity, forward_flops
from .cost import TRAINING_PASSES
from .errors import InputError
from .laws import DistillationLaw, SupervisedLaw, effective_tokens

__all__ = ["LARGEST", "SMALLEST", "Allocation", "Limits", "allocate"]

Array = NDArray[np.float64]

SMALLEST, LARGEST = 1e6, 1e17
"""Bounds on N_T, D_T and D_S in the paper's own solver (Eq 28)."""

REPEAT_WORTH = 15.387756
"""R_D* of the data-constrained law (Muennighoff et al. 2023); equals muennighoff2023 in `published`, see the tests."""

_GRID = 97
_ROUNDS = ((13, 3), (13, 3), (33, 1), (33, 1), (33, 1))
"""Points and dips followed in each zoom: two rounds tell rival dips apart, three pin the lowest to about 3e-6 in t."""
_BLOCK = 256  # problems a pass: keeps the temporaries inside a core's cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bounds (low, high) on the teacher's parameters and tokens and on the student's tokens.

    `unique_tokens` are the distinct tokens one run can draw from; repeats count less (Muennighoff et al. 2023). They
    bind the student always, and the teacher where its training is paid for here.
    """

    teacher_params: tuple[float, float] = (SMALLEST, LARGEST)
    teacher_tokens: tuple[float, float] = (SMALLEST, LARGEST)
    student_tokens: tuple[float, float] = (SMALLEST, LARGEST)
    unique_tokens: float | None = None

    def __post_init__(self) -> None:
        for name in ("teacher_params", "teacher_tokens", "student_tokens"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= LARGEST:
                raise InputError(
                    f"limits on {name.replace('_', ' ')} must satisfy 0 < low ≤ high ≤ {LARGEST:g}; "
                    f"got {low:g} to {high:g}; swap or widen them"
                )
        if self.unique_tokens is not None and not 0 < self.unique_tokens < np.inf:
            raise InputError(f"unique tokens must be positive and finite; got {self.unique_tokens:g}")


class Allocation(NamedTuple):
    """Optimal plans, one entry a problem; infeasible ones hold NaN (`student_loss` is inf)."""

    student_loss: Array
    student_tokens: Array
    teacher_params: Array
    teacher_tokens: Array
    teacher_loss: Array


class _Problems(NamedTuple):
    """A batch of problems, every field of shape (problems, 1) or (1, 1) so that grids go along the last axis."""

    N_S: Array
    F_S: Array
    budget: Array
    logits: Array
    pretraining: Array
    context: float
    vocab: float
    limits: Limits
    teacher_unique: Array  # inf where repeats of the teacher's data do not matter

    def block(self, rows: slice) -> _Problems:
        per_problem = ("N_S", "F_S", "budget", "logits", "pretraining", "teacher_unique")
        return self._replace(**{name: getattr(self, name)[rows] for name in per_problem})

    def student_tokens(self, F_T: Array, D_T: Array) -> Array:
        """What the budget leaves for the student (Eq 27), at most its limit; below its limit means unaffordable."""
        left = self.budget - TRAINING_PASSES * self.pretraining * F_T * D_T
        return np.minimum(left / (TRAINING_PASSES * self.F_S + self.logits * F_T), self.limits.student_tokens[1])

    def forward_flops(self, N: Array) -> Array:
        return forward_flops(N, context=self.context, vocab=self.vocab)

    def teacher_worth(self, D_T: Array) -> Array:
        return _worth(D_T, self.teacher_unique)


def _worth(D: Array, unique: Array) -> Array:
    return D if np.isinf(unique).all() else effective_tokens(D, unique, REPEAT_WORTH)


def _balanced_tokens(p: _Problems, law: SupervisedLaw, log_N: Array, guess: Array | None = None) -> Array:
    """log D_T of the first-order condition at each log N_T, clipped to the limits.

    Where no forward pass is paid for (r = 0) and data do not repeat, it is in closed form; where only forward passes
    are (r = ∞), more teacher tokens are free and the limit is the answer. Else the unknown is y = log r: the budget
    and the student's limit give D_T(y) = min(C / (b + a r), cap / (κ r)) with κ = 3 pretraining/logits,
    b = 3 pretraining F_T, a = κ (3 F_S + logits F_T), and

        G(y) = log[αA/N^α] − log[βB/D_T^β] − log φ − log(1 + r)

    falls with y. Without repeats −G is convex, so that Newton's steps from the right of the root come down to it.
    """
    low, high = np.log(p.limits.teacher_tokens)
    N = np.exp(log_N)
    elasticity = flops_elasticity(N, context=p.context, vocab=p.vocab)
    rest = np.log(law.alpha * law.A / (law.beta * law.B)) - law.alpha * log_N - np.log(elasticity)
    only_logits = (p.pretraining == 0) & (p.logits > 0)
    repeats = not np.isinf(p.teacher_unique).all()
    if not (repeats or np.any((p.logits > 0) & (p.pretraining > 0))):
        return np.where(only_logits, high, np.clip(-rest / law.beta, low, high))
    F_T = p.forward_flops(N)
    # Shares of exactly 0 have their closed form above; here they only need to keep the arithmetic finite.
    kappa = TRAINING_PASSES * np.maximum(p.pretraining, 1e-12) / np.maximum(p.logits, 1e-12)
    b = TRAINING_PASSES * np.maximum(p.pretraining, 1e-12) * F_T
    a = kappa * (TRAINING_PASSES * p.F_S + p.logits * F_T)
    cap = p.limits.student_tokens[1] / kappa
    known = rest + law.beta * np.log(p.budget)
    right = np.minimum(known - law.beta * np.log(a), rest + law.beta * np.log(cap)) / (1 + law.beta)
    if guess is None:  # a small root is where the tangent at r = 0 says, a large one left of the asymptote
        small = (known - law.beta * np.log(b)) / (law.beta * a / b + 1)
        y = np.where(small < 0.3, np.log(np.maximum(small, 1e-13)), right)
    else:
        D = np.exp(guess)
        y = np.log(np.maximum(np.minimum((p.budget / D - b) / a, cap / D), 1e-13))
    log_D, left, right = rest, np.full_like(y, -60.0), np.maximum(right, y) + (60.0 if repeats else 1.0)
    for _ in range(60):
        r = np.exp(y)
        by_budget, by_cap = p.budget / (b + a * r), cap / r
        D = np.minimum(by_budget, by_cap)
        moves = np.where(by_budget <= by_cap, a * r / (b + a * r), 1.0)  # −d log D / dy
        log_worth, slope, bend = _log_worth(D, p.teacher_unique)
        G = rest + law.beta * log_worth - np.log(slope) - np.log1p(r)
        fall = (law.beta * slope - bend) * moves + r / (1 + r)
        left, right = np.where(G > 0, y, left), np.where(G > 0, right, y)
        newton = y + G / fall
        y, old = np.where((newton >= left) & (newton <= right), newton, 0.5 * (left + right)), y
        log_D = np.log(D)
        if np.max(np.abs((y - old) * moves)) < 1e-8:  # in log D_T
            break
    log_D = np.where((p.logits > 0) | repeats, log_D, -rest / law.beta)
    return np.where(only_logits, high, np.clip(log_D, low, high))


def _log_worth(D: Array, unique: Array) -> tuple[Array, Array, Array]:
    """log D', its slope η = d log D'/d log D and d log η/d log D, for D tokens of `unique` distinct ones."""
    if np.isinf(unique).all():
        return np.log(D), np.ones_like(D), np.zeros_like(D)
    worth = effective_tokens(D, unique, REPEAT_WORTH)
    repeats = np.maximum(D / unique - 1, 0)
    slope = np.where(repeats > 0, D * np.exp(-repeats / REPEAT_WORTH) / worth, 1.0)
    bend = np.where(repeats > 0, 1 - D / (unique * REPEAT_WORTH) - slope, 0.0)
    return np.log(worth), np.maximum(slope, 1e-300), bend


class _Path(NamedTuple):
    """The efficient teachers of each problem: log N_T stays at its low end, then grows, then stays at its high end."""

    low_N: float
    start_D: float
    rise: Array
    """Length of the first leg (D_T grows at the smallest teacher)."""
    run: float
    """Length of the second leg (N_T grows along the balanced curve)."""
    length: Array

    def log_N(self, t: Array) -> Array:
        return self.low_N + np.clip(t - self.rise, 0.0, self.run)

    def log_D(self, t: Array, balanced: Array) -> Array:
        """log D_T at arc position t, given the balanced log D_T at its log N_T."""
        first = self.start_D + t
        last = balanced + (t - self.rise - self.run)
        return np.where(t < self.rise, first, np.where(t > self.rise + self.run, last, balanced))


def _path(p: _Problems, law: SupervisedLaw) -> _Path:
    low_N, high_N = np.log(p.limits.teacher_params)
    low_D, high_D = np.log(p.limits.teacher_tokens)
    ends = np.array([[low_N, high_N]]) + np.zeros_like(p.budget)
    corner = _balanced_tokens(p, law, ends)
    rise = corner[:, :1] - low_D
    run = float(high_N - low_N)
    return _Path(float(low_N), float(low_D), rise, run, rise + run + (high_D - corner[:, 1:]))


def _evaluate(p: _Problems, law: DistillationLaw, log_N: Array, log_D: Array) -> Allocation:
    N_T, D_T = np.exp(log_N), np.exp(log_D)
    D_S = p.student_tokens(p.forward_flops(N_T), D_T)
    affordable = D_S >= p.limits.student_tokens[0] * (1 - 1e-12)
    L_T = law.supervised.loss(N_T, p.teacher_worth(D_T))
    unique = np.inf if p.limits.unique_tokens is None else p.limits.unique_tokens
    L_S = law.loss(p.N_S, _worth(np.where(affordable, D_S, p.limits.student_tokens[0]), np.asarray(unique)), L_T)
    return Allocation(np.where(affordable, L_S, np.inf), D_S, N_T, D_T, L_T)


def _solve(p: _Problems, law: DistillationLaw) -> Allocation:
    sup = law.supervised
    path = _path(p, sup)
    t = path.length * np.linspace(0.0, 1.0, _GRID)
    balanced = _balanced_tokens(p, sup, path.log_N(t))
    found = _evaluate(p, law, path.log_N(t), path.log_D(t, balanced))
    loss = found.student_loss
    padded = np.pad(loss, ((0, 0), (1, 1)), constant_values=np.inf)
    dip = (loss <= padded[:, :-2]) & (loss <= padded[:, 2:])
    centre = np.argsort(np.where(dip, loss, np.inf), axis=1)[:, : _ROUNDS[0][1]]  # (problems, dips)
    lo, hi = np.maximum(centre - 1, 0), np.minimum(centre + 1, _GRID - 1)
    pick = np.take_along_axis
    ends = [(pick(t, i, 1), pick(balanced, i, 1)) for i in (lo, hi)]
    best = Allocation(*(pick(x, centre[:, :1], 1) for x in found))
    for (points, _), (_, dips) in zip(_ROUNDS, (*_ROUNDS[1:], _ROUNDS[-1]), strict=True):
        share = np.linspace(0.0, 1.0, points)
        grid, guess = (a[..., None] + (b - a)[..., None] * share for a, b in zip(*ends, strict=True))
        shape, flat = grid.shape, (grid.shape[0], -1)
        t_flat = grid.reshape(flat)
        log_N = path.log_N(t_flat)
        curve = _balanced_tokens(p, sup, log_N, guess.reshape(flat))
        here = _evaluate(p, law, log_N, path.log_D(t_flat, curve))
        at = np.argmin(here.student_loss, axis=1)[:, None]
        best = _better(best, Allocation(*(pick(x, at, 1) for x in here)))
        loss = here.student_loss.reshape(shape)
        at = np.argmin(loss, axis=2)[..., None]
        first = np.argsort(pick(loss, at, 2)[..., 0], axis=1)[:, :dips]
        ends = [
            tuple(pick(pick(x, i, 2)[..., 0], first, 1) for x in (grid, curve.reshape(shape)))
            for i in (np.maximum(at - 1, 0), np.minimum(at + 1, points - 1))
        ]
    return best


def _better(a: Allocation, b: Allocation) -> Allocation:
    wins = b.student_loss < a.student_loss
    return Allocation(*(np.where(wins, y, x) for x, y in zip(a, b, strict=True)))


def allocate(
    law: DistillationLaw,
    student_params: ArrayLike,
    budget: ArrayLike,
    logits: ArrayLike,
    pretraining: ArrayLike,
    *,
    student_flops: ArrayLike | None = None,
    limits: Limits | None = None,
    context: float = CONTEXT,
    vocab: float = VOCAB,
) -> Allocation:
    """Eq 10 for a batch: argmin of L_S over (N_T, D_T, D_S) at total FLOPs ≤ budget; inputs broadcast.

    `student_flops` are forward FLOPs per token where the student's exact shape is known, else F(N_S) of Eq 69.
    Where the teacher is free the result is its cheapest-to-train member of equal loss. Losses in nats per token,
    accurate to 1e-6; the coefficients of `law` must be scalars.
    """
    limits = limits or Limits()
    N_S = np.asarray(student_params, float)
    F_S = (
        forward_flops(N_S, context=context, vocab=vocab) if student_flops is None else np.asarray(student_flops, float)
    )
    fields = np.broadcast_arrays(N_S, F_S, budget, logits, pretraining)
    shape = fields[0].shape
    columns = [np.array(x, float).reshape(-1, 1) for x in fields]
    unique = np.inf if limits.unique_tokens is None else limits.unique_tokens
    teacher_unique = np.where(columns[4] > 0, unique, np.inf)
    p = _Problems(*columns, context, vocab, limits, teacher_unique)
    count = len(p.budget)
    blocks = [_solve(p.block(slice(i, i + _BLOCK)), law) for i in range(0, count, _BLOCK)]
    columns = [np.concatenate([getattr(b, name)[:, 0] for b in blocks]) for name in Allocation._fields]
    feasible = np.isfinite(columns[0])
    columns[1:] = [np.where(feasible, x, np.nan) for x in columns[1:]]
    return Allocation(*(x.reshape(shape) for x in columns))
