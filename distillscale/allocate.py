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
_ZOOMS = ((17, 3), (33, 2), *((65, 1),) * 5)
"""(points, dips) of each zoom into the grid's lowest dips: rivals are told apart before one is left."""
_FLAT = 2e-9
"""nats: zooming ends where the neighbours of the lowest points are no higher. A smooth dip gets there in four rounds;
the sharp end of a path that a limit cuts off takes more."""
_SHARES = {points: np.linspace(0.0, 1.0, points) for points in (_GRID, *(points for points, _ in _ZOOMS))}
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
    repeats: bool  # whether they do for any problem here

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
        return effective_tokens(D_T, self.teacher_unique, REPEAT_WORTH) if self.repeats else D_T

    def student_worth(self, D_S: Array) -> Array:
        unique = self.limits.unique_tokens
        return D_S if unique is None else effective_tokens(D_S, unique, REPEAT_WORTH)


def _clip(x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    return np.minimum(np.maximum(x, low), high)  # a tenth of the overhead of np.clip on the small arrays of one plan


def _balanced_tokens(p: _Problems, law: SupervisedLaw, log_N: Array, guess: Array | None = None) -> Array:
    """log D_T of the first-order condition at each log N_T, clipped to the limits.

    Where no forward pass is paid for (r = 0) and data do not repeat, it is in closed form; where only forward passes
    are (r = ∞), more teacher tokens are free and the limit is the answer; else `_newton_tokens`.
    """
    low, high = np.log(p.limits.teacher_tokens)
    elasticity = flops_elasticity(np.exp(log_N), context=p.context, vocab=p.vocab)
    rest = np.log(law.alpha * law.A / (law.beta * law.B)) - law.alpha * log_N - np.log(elasticity)
    log_D = -rest / law.beta
    if p.repeats or np.any((p.logits > 0) & (p.pretraining > 0)):
        exact = _newton_tokens(p, law.beta, log_N, rest, guess)
        log_D = np.where((p.logits > 0) | p.repeats, exact, log_D)
    return np.where((p.pretraining == 0) & (p.logits > 0), high, _clip(log_D, low, high))


def _newton_tokens(p: _Problems, beta: float, log_N: Array, rest: Array, guess: Array | None) -> Array:
    """log D_T of the first-order condition where teacher training and forward passes are both paid for.

    The unknown is y = log r: the budget and the student's limit give D_T(y) = min(C / (b + a r), cap / r) with
    b = 3 pretraining F_T, a = κ (3 F_S + logits F_T), κ = 3 pretraining/logits, cap = limit/κ, and

        G(y) = rest + β log D'_T − log η − log(1 + r),   rest = log[αA/(βB N^α φ)],   η = d log D'_T / d log D_T

    falls with y (D' = D, η = 1 unless data repeat). Without repeats −G is convex, so Newton's steps come down to the
    root from the bound on its right; with repeats a bracket catches the steps that overshoot.
    """
    F_T = p.forward_flops(np.exp(log_N))
    # Shares of exactly 0 have closed forms elsewhere, or (no logits, data that repeat) need an r far below 1.
    pretraining = np.maximum(p.pretraining, 1e-30)
    logits = np.maximum(p.logits, 1e-12 * pretraining)
    kappa: Array = TRAINING_PASSES * pretraining / logits
    b: Array = TRAINING_PASSES * pretraining * F_T
    a: Array = kappa * (TRAINING_PASSES * p.F_S + p.logits * F_T)
    cap: Array = p.limits.student_tokens[1] / kappa
    known = rest + beta * np.log(p.budget)
    bound: Array = np.minimum(known - beta * np.log(a), rest + beta * np.log(cap)) / (1 + beta)
    if guess is None:  # a small root is where the tangent at r = 0 says, a large one left of the asymptote
        small: Array = np.maximum((known - beta * np.log(b)) / (beta * a / b + 1), 1e-13)
        y = np.asarray(np.where(small < 0.3, np.log(small), bound), float)
    else:
        D: Array = np.exp(guess)
        y = np.log(np.maximum(np.minimum((p.budget / D - b) / a, cap / D), 1e-13))
    low, high = np.full_like(y, -80.0), np.maximum(bound, y) + 60.0 * p.repeats
    D = y
    for _ in range(60):
        r = np.exp(y)
        cost = b + a * r
        D = np.minimum(p.budget / cost, cap / r)
        moves = np.where(r * p.budget <= cap * cost, a * r / cost, 1.0)  # −d log D / dy
        log_worth, log_slope, bend = _log_worth(D, p.teacher_unique) if p.repeats else (np.log(D), 0.0, 0.0)
        slope = np.exp(log_slope)
        G = rest + beta * log_worth - np.log1p(r)
        if p.repeats:
            G = G - log_slope
            low, high = np.where(G > 0, y, low), np.where(G > 0, high, y)
        step = G / ((beta * slope - bend) * moves + r / (1 + r))
        y, old = y + step, y
        if p.repeats:  # a step out of the bracket would run to and fro between its ends: halve it instead
            y = np.where((y > low) & (y < high), y, 0.5 * (low + high))
            moves = 1.0
        else:
            y = _clip(y, low, high)
        if np.max(np.abs((y - old) * moves)) < 1e-5:  # in log D_T, to which the loss is flat here
            break
    return np.log(D)


def _log_worth(D: Array, unique: Array) -> tuple[Array, Array, Array]:
    """log D', log η with η = d log D'/d log D, and d log η/d log D, for D tokens of `unique` distinct ones."""
    log_D, log_worth = np.log(D), np.log(effective_tokens(D, unique, REPEAT_WORTH))
    repeats = np.maximum(D / unique - 1, 0)
    # In logs, since a token repeated ten thousand times is worth less than the smallest float.
    log_slope = np.where(repeats > 0, log_D - log_worth - repeats / REPEAT_WORTH, 0.0)
    bend = np.where(repeats > 0, 1 - D / (unique * REPEAT_WORTH) - np.exp(log_slope), 0.0)
    return log_worth, log_slope, bend


class _Path(NamedTuple):
    """The efficient teachers of each problem: log N_T stays at its low end, then grows, then stays at its high end."""

    low_N: float
    start_D: float
    end_D: float
    rise: Array
    """Length of the first leg (D_T grows at the smallest teacher)."""
    run: float
    """Length of the second leg (N_T grows along the balanced curve)."""
    length: Array

    def log_N(self, t: Array) -> Array:
        return self.low_N + _clip(t - self.rise, 0.0, self.run)

    def log_D(self, t: Array, balanced: Array) -> Array:
        """log D_T at arc position t, given the balanced log D_T at its log N_T."""
        first = self.start_D + t
        last = balanced + (t - self.rise - self.run)
        log_D = np.where(t < self.rise, first, np.where(t > self.rise + self.run, last, balanced))
        return np.minimum(log_D, self.end_D)  # `balanced` may differ from the corner by the tolerance of its search


def _path(p: _Problems, law: SupervisedLaw) -> _Path:
    low_N, high_N = np.log(p.limits.teacher_params)
    low_D, high_D = np.log(p.limits.teacher_tokens)
    ends = np.array([[low_N, high_N]]) + np.zeros_like(p.budget)
    corner = _balanced_tokens(p, law, ends)
    rise = corner[:, :1] - low_D
    run = float(high_N - low_N)
    return _Path(float(low_N), float(low_D), float(high_D), rise, run, rise + run + (high_D - corner[:, 1:]))


def _evaluate(p: _Problems, law: DistillationLaw, log_N: Array, log_D: Array) -> Allocation:
    N_T, D_T = np.exp(log_N), np.exp(log_D)
    D_S = p.student_tokens(p.forward_flops(N_T), D_T)
    affordable = p.limits.student_tokens[0] * (1 - 1e-12) <= D_S
    L_T = law.supervised.loss(N_T, p.teacher_worth(D_T))
    L_S = law.loss(p.N_S, p.student_worth(np.where(affordable, D_S, p.limits.student_tokens[0])), L_T)
    return Allocation(np.where(affordable, L_S, np.inf), D_S, N_T, D_T, L_T)


def _solve(p: _Problems, law: DistillationLaw) -> Allocation:
    sup = law.supervised
    path = _path(p, sup)
    row = np.arange(len(p.budget))[:, None]
    t = path.length * _SHARES[_GRID]
    log_N = path.log_N(t)
    curve = _balanced_tokens(p, sup, log_N)
    found = _evaluate(p, law, log_N, path.log_D(t, curve))
    loss = found.student_loss
    dip = np.ones(loss.shape, bool)
    dip[:, 1:] = loss[:, 1:] <= loss[:, :-1]
    dip[:, :-1] &= loss[:, :-1] <= loss[:, 1:]
    centre = np.argsort(np.where(dip, loss, np.inf), axis=1)[:, : _ZOOMS[0][1]]
    below, above, best = np.maximum(centre - 1, 0), np.minimum(centre + 1, _GRID - 1), centre[:, :1]
    for points, dips in _ZOOMS:  # every bracket holds the point it grew from, so no zoom loses ground
        share = _SHARES[points]
        from_t, to_t, from_D, to_D = t[row, below], t[row, above], curve[row, below], curve[row, above]
        t = (from_t[..., None] + (to_t - from_t)[..., None] * share).reshape(len(row), -1)
        guess = (from_D[..., None] + (to_D - from_D)[..., None] * share).reshape(len(row), -1)
        log_N = path.log_N(t)
        curve = _balanced_tokens(p, sup, log_N, guess)
        found = _evaluate(p, law, log_N, path.log_D(t, curve))
        loss = found.student_loss.reshape(len(row), -1, points)
        lowest, kept = loss.min(axis=2), max(1, dips - 1)
        which = np.argsort(lowest, axis=1)[:, :kept] if lowest.shape[1] > 1 else np.zeros((len(row), 1), int)
        at = np.argmin(loss[row, which], axis=2)
        below = which * points + np.maximum(at - 1, 0)
        above = which * points + np.minimum(at + 1, points - 1)
        best = which * points + at
        if dips == 1 and _flat(loss.reshape(len(row), -1), row, below, best, above):
            break
    return Allocation(*(np.broadcast_to(x, t.shape)[row, best] for x in found))


def _flat(
    loss: Array, row: NDArray[np.intp], below: NDArray[np.intp], best: NDArray[np.intp], above: NDArray[np.intp]
) -> bool:
    """Whether every lowest point is within `_FLAT` of both neighbours; an infeasible problem asks for no more zooms."""
    lowest = loss[row, best]
    with np.errstate(invalid="ignore"):  # inf − inf where nothing is feasible
        rise = np.maximum(loss[row, below], loss[row, above]) - lowest
    return bool(np.all((rise <= _FLAT) | np.isinf(lowest)))


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
    fields = np.broadcast_arrays(N_S, F_S, np.asarray(budget, float), logits, pretraining)
    shape = fields[0].shape
    columns = [np.array(x, float).reshape(-1, 1) for x in fields]
    unique = np.inf if limits.unique_tokens is None else limits.unique_tokens
    teacher_unique = np.where(columns[4] > 0, unique, np.inf)
    # Problems of one kind in one block: where both shares are paid, the balance takes a search instead of a formula.
    order = np.lexsort((columns[4][:, 0] > 0, columns[3][:, 0] > 0))
    N_S, F_S, C, logits, pretraining, teacher_unique = (x[order] for x in (*columns, teacher_unique))
    repeats = not np.isinf(teacher_unique).all()
    p = _Problems(N_S, F_S, C, logits, pretraining, context, vocab, limits, teacher_unique, bool(repeats))
    count = len(p.budget)
    blocks = [_solve(p.block(slice(i, i + _BLOCK)), law) for i in range(0, count, _BLOCK)]
    back = np.argsort(order, kind="stable")
    columns = [np.concatenate([getattr(b, name)[:, 0] for b in blocks])[back] for name in Allocation._fields]
    feasible = np.isfinite(columns[0])
    columns[1:] = [np.where(feasible, x, np.nan) for x in columns[1:]]
    return Allocation(*(x.reshape(shape) for x in columns))
