"""Bootstrap over clusters: which rows belong together, and refits of resampled tables; it decides no outcome.

Runs that share a teacher share its luck, so rows are resampled by cluster, with replacement. Each resample is refitted
from the optimum of the whole table; a short pass under a wider Huber threshold first keeps it from staying in a kink
of the old objective.

With G clusters and p coefficients, refits scatter too little: a fit to G clusters bends towards them, and the plain
cluster bootstrap loses the factor that makes s² = Σ r²/(n − p) unbiased in ordinary least squares. Every draw is
therefore moved away from the optimum,

    θ* = θ̂ + √(G/(G − p)) (θ_b − θ̂),

the usual small-sample factor of cluster-robust covariances (Cameron and Miller 2015) applied to the draws. With
G = 240 it is 1.01. What it buys is measured in tests/test_coverage.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .estimate import Prepared
from .forms import Box
from .laws import SupervisedLaw
from .newton import minimise
from .objective import Problem
from .runs import RunTable

__all__ = ["Clusters", "Draws", "clusters_of", "resample"]

Array = NDArray[np.float64]

_WIDER: Final = 3.0  # times δ, the first pass of a refit
_MOST_WIDE: Final = 3e-2
_TOLERANCE: Final = 1e-9
_BATCH: Final = 1024  # resamples in memory at once


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which rows are resampled together: the name of the rule, and the number of its cluster for each row."""

    name: str
    labels: NDArray[np.intp]
    count: int

    def weights(self, rng: np.random.Generator, draws: int) -> Array:
        """How often each row appears in each resample, shape (draws, rows): multinomial over clusters."""
        counts = rng.multinomial(self.count, np.full(self.count, 1.0 / self.count), size=draws)
        return counts[:, self.labels].astype(float)


@dataclass(frozen=True, slots=True)
class Draws:
    """Refitted free vectors (good, p) moved by the small-sample factor, which resamples they are, how many failed."""

    theta: Array
    kept: NDArray[np.bool_]
    failed: int


def clusters_of(table: RunTable, column: str | None, *, distils: bool) -> Clusters:
    """By the named column; else students by teacher, or by teacher loss to 1e-3; else every row for itself."""
    if column is not None:
        values = table.labels(column)
        if np.any(values == ""):
            raise InputError(
                f"cluster column {column!r} is empty in {np.sum(values == '')} rows; fill it or name another"
            )
        name = column
    elif distils and table.teacher is not None and not np.any(table.teacher == ""):
        values, name = table.teacher, "teacher"
    elif distils:
        assert table.teacher_loss is not None
        values, name = np.round(table.teacher_loss, 3), "teacher_loss rounded to 1e-3"
    else:
        values, name = np.arange(len(table)), "row"
    labels = np.unique(values, return_inverse=True)[1]
    return Clusters(name, labels.astype(np.intp), int(labels.max(initial=-1)) + 1)


def factor(clusters: int, coefficients: int) -> float:
    """√(G/(G − p)), at least one cluster left over."""
    return math.sqrt(clusters / max(clusters - coefficients, 1))


def resample(
    prepared: Prepared,
    theta: Array,
    weights: Array,
    clusters: int,
    supervised: SupervisedLaw | None = None,
    table: RunTable | None = None,
) -> Draws:
    """Refit every row of `weights` (draws, rows) from the optimum `theta` (p,).

    `supervised` with coefficients of shape (draws,) gives each resample its own L̃_S for the runs of `table`.
    """
    problem, free = prepared.problem, list(prepared.problem.free)
    lower, upper = prepared.box.lower[free], prepared.box.upper[free]
    found = np.empty((len(weights), len(theta)))
    good = np.empty(len(weights), bool)
    for at in range(0, len(weights), _BATCH):
        part = slice(at, min(at + _BATCH, len(weights)))
        own = replace(problem, weights=weights[part])
        if supervised is not None:
            assert table is not None
            law = supervised.take((part, None))
            own = replace(own, supervised=np.log(law.loss(table.params, table.tokens)))
        found[part], good[part] = _refit(own, theta, lower, upper)
    good &= np.sum(weights > 0, axis=1) > len(theta)
    good &= ~_stuck(found, theta, prepared.box, free)
    moved = theta + factor(clusters, len(theta)) * (found[good] - theta)
    return Draws(np.clip(moved, lower, upper), good, int(np.sum(~good)))


def _refit(problem: Problem, theta: Array, lower: Array, upper: Array) -> tuple[Array, NDArray[np.bool_]]:
    start = np.tile(theta, (len(problem.weights), 1))
    if (wider := _WIDER * problem.delta) < _MOST_WIDE:
        wide = problem.with_delta(wider)
        start = minimise(wide.evaluate, start, lower, upper, tolerance=1e-4, max_steps=6, damping=1e-6).theta
    found = minimise(problem.evaluate, start, lower, upper, tolerance=_TOLERANCE, max_steps=60, damping=1e-6)
    return found.theta, found.converged


def _stuck(found: Array, theta: Array, box: Box, free: list[int]) -> NDArray[np.bool_]:
    """Resamples that ran into a limit of ours where the whole table did not: their minimum lies elsewhere."""
    lower, upper = box.lower[free], box.upper[free]
    edge = 1e-9 * (1 + np.abs(theta))
    inside = (theta > lower + edge) & (theta < upper - edge)
    return np.any(((found >= upper - edge) | ~np.isfinite(found)) & inside, axis=1)
