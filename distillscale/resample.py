"""Bootstrap over clusters: which rows belong together, and refits of resampled tables; it decides no outcome.

Runs that share a teacher share its luck, so rows are resampled by cluster, with replacement. Each resample is refitted
from the optimum of the whole table; a short pass under a wider Huber threshold first keeps it from staying in a kink
of the old objective.

With few clusters, refits scatter too little: a fit to G clusters bends towards them. Of the cluster means, a fit with
hat matrix H = X (XᵀX)⁻¹ Xᵀ takes up p_G = tr(Z (ZᵀZ)⁻¹ Zᵀ H) degrees of freedom, with Z the indicators of clusters:
all p where every row is a cluster, and about half of them where a table has every size under every teacher. Every draw
is therefore moved away from the optimum,

    θ* = θ̂ + √(G/(G − p_G)) (θ_b − θ̂),

the factor that makes a sum of squared cluster means unbiased in ordinary least squares, which is the small-sample
factor of cluster-robust covariances (Cameron and Miller 2015) with the degrees of freedom counted between clusters.
With 240 rows it is 1.01. What it buys is measured in tests/test_coverage.py; a further factor t/z overshoots there,
since refits of an objective as steep as Huber's already scatter a little too much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .estimate import Prepared
from .laws import SupervisedLaw
from .newton import minimise
from .objective import Problem
from .runs import RunTable
from .search import descend

__all__ = ["LEAST_FREEDOM", "Clusters", "Draws", "clusters_of", "factor", "resample", "taken_up"]

Array = NDArray[np.float64]

_WIDER: Final = 3.0  # times δ, the first pass of a refit
_MOST_WIDE: Final = 3e-2
# Resamples of an objective steeper than this are refitted at this δ: the difference is far below their scatter.
_LEAST_DELTA: Final = 1e-4
_TOLERANCE: Final = 1e-9
_STEPS: Final = 100  # a few resamples need many, and cost only themselves
# Clusters left over below which a spread between them means nothing.
LEAST_FREEDOM: Final = 3.0
_LARGEST: Final = 1e290  # a draw's A or B beyond it is no number to write down
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


def taken_up(prepared: Prepared, theta: Array, clusters: Clusters) -> float:
    """p_G = tr(P_Z H), the degrees of freedom between clusters that the fit at `theta` (p,) takes up."""
    slopes = prepared.problem.slopes(theta)
    slopes = slopes / (np.linalg.norm(slopes, axis=0) + 1e-300)
    sums = np.zeros((clusters.count, slopes.shape[1]))
    np.add.at(sums, clusters.labels, slopes)
    between = (sums.T / np.bincount(clusters.labels)) @ sums
    values, vectors = np.linalg.eigh(slopes.T @ slopes)
    seen = values > 1e-12 * values[-1]
    turned = vectors[:, seen].T @ between @ vectors[:, seen]
    return float(np.sum(np.diagonal(turned) / values[seen]))


def factor(clusters: int, taken: float) -> float:
    """√(G/(G − p_G))."""
    return math.sqrt(clusters / max(clusters - taken, 1.0))


def resample(
    prepared: Prepared,
    theta: Array,
    weights: Array,
    clusters: Clusters,
    supervised: SupervisedLaw | None = None,
    table: RunTable | None = None,
) -> Draws:
    """Refit every row of `weights` (draws, rows) from the optimum `theta` (p,).

    `supervised` with coefficients of shape (draws,) gives each resample its own L̃_S for the runs of `table`.
    """
    free = list(prepared.problem.free)
    problem = prepared.problem.with_delta(max(prepared.problem.delta, _LEAST_DELTA))
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
    found[~good] = theta
    good &= np.sum(weights > 0, axis=1) > len(theta)
    slopes = [k for k, j in enumerate(free) if prepared.form.shape.names[j] in ("alpha", "beta")]
    good &= ~_stuck(found, theta, upper, slopes)
    stretch = factor(clusters.count, taken_up(prepared, theta, clusters))
    moved = np.clip(theta + stretch * (found - theta), lower, upper)
    values = prepared.coefficients(moved)
    good &= np.maximum(values["A"], values["B"]) < _LARGEST
    return Draws(moved[good], good, int(np.sum(~good)))


def _refit(problem: Problem, theta: Array, lower: Array, upper: Array) -> tuple[Array, NDArray[np.bool_]]:
    start = np.tile(theta, (len(problem.weights), 1))
    if (wider := _WIDER * problem.delta) < _MOST_WIDE:
        wide = problem.with_delta(wider)
        start = minimise(wide.evaluate, start, lower, upper, tolerance=1e-4, max_steps=6, damping=1e-6).theta
    found = descend(problem, start, lower, upper, tolerance=_TOLERANCE, max_steps=_STEPS, damping=1e-6)
    return found.theta, found.converged


def _stuck(found: Array, theta: Array, upper: Array, slopes: list[int]) -> NDArray[np.bool_]:
    """Resamples without a finite law, or with a slope that ran away where the whole table's did not."""
    away = (found[:, slopes] >= upper[slopes]) & (theta[slopes] < upper[slopes])
    return np.any(away, axis=1) | ~np.all(np.isfinite(found), axis=1)
