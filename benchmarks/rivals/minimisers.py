"""How the literature fits these laws, with SciPy; objectives in lean NumPy, so that nothing but the method is slow.

θ = (log A, log B, log E, α, β) for L̂ = E + A/N^α + B/D^β, Σ Huber_δ(log L̂ − log L) over the rows; n, d, y are
log N, log D, log L.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize
from scipy.special import huber, logsumexp

Array = NDArray[np.float64]

DELTA = 1e-3


class Sample(NamedTuple):
    """CPU seconds of one start or refit, how many were run, and the objectives reached."""

    each: float
    count: int
    values: Array
    theta: Array
    """Of the last one."""


def objective(theta: Array, n: Array, d: Array, y: Array) -> float:
    a, b, e, alpha, beta = theta
    return huber_sum(np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e) - y)


def objective_as_described(theta: Array, n: Array, d: Array, y: Array) -> float:
    """The same number by the functions that SciPy has for it, a log-sum-exp over three rows and a Huber loss."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    return huber(DELTA, logsumexp(terms, axis=0) - y).sum()


def with_gradient(theta: Array, n: Array, d: Array, y: Array) -> tuple[float, Array]:
    a, b, e, alpha, beta = theta
    size, data, floor = np.exp(a - alpha * n), np.exp(b - beta * d), np.exp(e)
    total = size + data + floor
    residual = np.log(total) - y
    pull = np.clip(residual, -DELTA, DELTA) / total
    size, data = pull * size, pull * data
    return huber_sum(residual), np.array([size.sum(), data.sum(), floor * pull.sum(), -(size @ n), -(data @ d)])


def huber_sum(residual: Array) -> float:
    size = np.abs(residual)
    return float(np.where(size < DELTA, 0.5 * size * size, DELTA * (size - 0.5 * DELTA)).sum())


def hoffmann_grid() -> list[tuple[float, ...]]:
    """4,500 starts: α, β ∈ {0, 0.5 … 2}, log E ∈ {−1, −0.5 … 1}, log A, log B ∈ {0, 5 … 25}."""
    powers, floors, scales = np.arange(0, 2.1, 0.5), np.arange(-1, 1.1, 0.5), np.arange(0, 26, 5.0)
    return list(itertools.product(scales, scales, floors, powers, powers))


def grid_search(rows: tuple[Array, Array, Array], every: int, fun: Any = objective) -> Sample:
    """L-BFGS-B with finite differences from every so-many-th cell of the grid."""
    starts = hoffmann_grid()[::every]
    start = time.process_time()
    found = [minimize(fun, x, args=rows, method="L-BFGS-B") for x in starts]
    spent = time.process_time() - start
    best = min(found, key=lambda r: r.fun)
    return Sample(spent / len(starts), len(starts), np.array([r.fun for r in found]), best.x)


def polished(theta: Array, rows: tuple[Array, Array, Array]) -> float:
    """The objective at the minimum nearest to `theta`, to the last digits."""
    return float(minimize(with_gradient, theta, args=rows, jac=True, method="BFGS", options={"gtol": 1e-13}).fun)


def bootstrap(rows: tuple[Array, Array, Array], theta: Array, count: int, seed: int, *, gradient: bool) -> Sample:
    """BFGS from the optimum on rows drawn with replacement, with finite differences or the exact gradient."""
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(rows[0]), (count, len(rows[0])))
    fun = with_gradient if gradient else objective
    start = time.process_time()
    found = [minimize(fun, theta, args=tuple(x[at] for x in rows), jac=gradient, method="BFGS") for at in draws]
    spent = time.process_time() - start
    return Sample(spent / count, count, np.array([r.fun for r in found]), found[-1].x)


def student_residual(x: Array, n: Array, d: Array, y: Array, t: Array, supervised: Array) -> Array:
    """log L̂_S − log L_S of Eq 8 with the gate in its exponential limit; t = log L_T, supervised = log L̃_S.

    x = (log A', log B', α', β', γ', c0, log d_eff, log f1).
    """
    a, b, alpha, beta, gamma, c0, log_d, log_f = x
    log_gate = -np.exp((t - supervised - log_d) * np.exp(-log_f))
    return np.log(np.exp(t) + np.exp(log_gate - c0 * t + gamma * np.logaddexp(a - alpha * n, b - beta * d))) - y


def student_bootstrap(columns: tuple[Array, ...], labels: NDArray[np.intp], x: Array, count: int, seed: int) -> Sample:
    """`least_squares` with its Huber loss and 2-point Jacobian from the optimum, on clusters drawn with replacement."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == g) for g in range(int(labels.max()) + 1)]
    picks = rng.integers(0, len(members), (count, len(members)))
    samples = [np.concatenate([members[g] for g in pick]) for pick in picks]
    start = time.process_time()
    found = [
        least_squares(student_residual, x, args=tuple(c[at] for c in columns), loss="huber", f_scale=DELTA)
        for at in samples
    ]
    spent = time.process_time() - start
    return Sample(spent / count, count, np.array([huber_sum(r.fun) for r in found]), found[-1].x)
