"""The best of many starts and the certificate that goes with it; nothing here reads tables or makes laws.

A small Huber threshold makes the objective nearly one of absolute deviations, with a kink at every row. So each start
first descends under a wide threshold, then under narrower ones, and the last stage polishes to rounding error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .forms import Box
from .newton import Minimum, minimise
from .objective import Problem
from .starts import starting_points

__all__ = ["LAD_DELTA", "Certificate", "Optimum", "descend", "scaled_hessian", "search", "stages"]

Array = NDArray[np.float64]

# Least absolute deviations is the limit of Huber_δ/δ; at this δ its optimum is exact to 1e-7 of a log residual a row.
LAD_DELTA: Final = 1e-7
_WIDEST: Final = 3e-2
_AGREE: Final = 1e-6
_HOPELESS: Final = 1.5
_KEPT: Final = 4
_STAGE_STEPS: Final = 20
_LAST_STEPS: Final = 150
_ROUNDS: Final = 3
_CLOSE: Final = 1e-2
_ROUND_STEPS: Final = 40
_LAST_STEPS_LAD: Final = 300  # a kink at every row
# Residuals below this are rounding error and point nowhere.
_ROUNDING: Final = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Evidence that a fit is a minimum, free of the coefficients' units.

    `gradient_norm` is the Euclidean norm over coefficients of the cosine between the clipped residuals and the law's
    derivative in that coefficient, 0 at a minimum; `min_eigenvalue` is the smallest of the Hessian scaled to a unit
    diagonal; both leave out coefficients held at a bound. `starts` reached the last stage or were abandoned on the
    way; `starts_agreeing` ended within 1e-6 (relative) of the best `value`.
    """

    value: float
    gradient_norm: float
    min_eigenvalue: float
    starts: int
    starts_agreeing: int

    @property
    def is_minimum(self) -> bool:
        """Zero gradient and positive curvature to within rounding."""
        return self.gradient_norm < 1e-4 and self.min_eigenvalue > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The best free coefficients (p,), which of them press against a bound (p,), and the certificate."""

    theta: Array
    at_bound: NDArray[np.bool_]
    certificate: Certificate


def stages(delta: float) -> list[float]:
    """Huber thresholds on the way from wide to `delta`, a factor of about three apart; `delta` itself is not in it."""
    if not delta < _WIDEST:
        return []
    count = math.ceil(math.log(_WIDEST / delta) / math.log(3.3))
    return [float(d) for d in np.geomspace(_WIDEST, delta, count + 1)[:-1]]


@np.errstate(all="ignore")  # where nothing can be fitted, numbers may run out of range; the certificate shows it
def search(problem: Problem, box: Box, starts: int) -> Optimum:
    """Minimise from `starts` grid starts; starts that fall far behind are dropped and count as not agreeing."""
    free = list(problem.free)
    lower, upper = box.lower[free], box.upper[free]
    theta = starting_points(problem, box.lower, box.upper, starts)
    tried = len(theta)
    for delta in stages(problem.delta):
        found = minimise(
            problem.with_delta(delta).evaluate, theta, lower, upper, tolerance=1e-5, max_steps=_STAGE_STEPS
        )
        rank = np.argsort(np.argsort(found.value))
        theta = found.theta[(found.value <= _HOPELESS * np.min(found.value) + 1e-20) | (rank < _KEPT)]
    steps = _LAST_STEPS_LAD if problem.delta <= LAD_DELTA else _LAST_STEPS
    found = descend(problem, theta, lower, upper, max_steps=steps, common=True)
    best = int(np.argmin(found.value))
    agreeing = int(np.sum(found.value <= found.value[best] * (1 + _AGREE) + 1e-20))
    return certify(problem, box, found.theta[best], tried, agreeing)


def descend(
    problem: Problem,
    start: Array,
    lower: Array,
    upper: Array,
    *,
    max_steps: int,
    tolerance: float = 1e-13,
    damping: float = 1e-3,
    common: bool = False,
) -> Minimum:
    """Newton from every start; where the exact Hessian gets lost among the kinks, rounds of the majorised one help.

    With `common`, all starts are of one problem, and only those near the lowest value are worth the rounds.
    """
    found = minimise(problem.evaluate, start, lower, upper, tolerance=tolerance, max_steps=max_steps, damping=damping)
    for _ in range(_ROUNDS):
        close = found.value <= np.min(found.value) * (1 + _CLOSE) if common else np.full(len(start), True)
        left = np.flatnonzero(~found.converged & close)
        if not len(left):
            break
        near = _rescue(problem, found.theta[left], left, lower, upper, tolerance, max_steps)
        better = near.value <= found.value[left]
        where = left[better]
        found.theta[where], found.value[where] = near.theta[better], near.value[better]
        found.converged[where] = near.converged[better]
    return found


def _rescue(
    problem: Problem,
    start: Array,
    which: NDArray[np.intp],
    lower: Array,
    upper: Array,
    tolerance: float,
    max_steps: int,
) -> Minimum:
    """A few steps of the majorised problem, then exact ones, for the items `which` alone."""
    majorised = replace(problem, majorised=True)
    rough = minimise(
        lambda theta, items: majorised.evaluate(theta, which[items]),
        start,
        lower,
        upper,
        tolerance=tolerance,
        max_steps=_ROUND_STEPS,
    )
    return minimise(
        lambda theta, items: problem.evaluate(theta, which[items]),
        rough.theta,
        lower,
        upper,
        tolerance=tolerance,
        max_steps=max_steps,
    )


def certify(problem: Problem, box: Box, theta: Array, starts: int, agreeing: int) -> Optimum:
    """The certificate of one point, whether or not it is a minimum."""
    free = list(problem.free)
    lower, upper = box.lower[free], box.upper[free]
    value, gradient, hessian = (x[0] for x in problem.evaluate(theta[None], np.zeros(1, np.intp)))
    at_bound = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
    inside = ~at_bound
    norm, least = 0.0, 1.0
    if inside.any():
        influence = np.clip(problem.residuals(theta[None])[0], -problem.delta, problem.delta)
        length = np.sum(problem.slopes(theta)[:, inside] ** 2, axis=0) + 1e-300
        size = np.sum(problem.weights[0] * influence**2) + len(influence) * _ROUNDING**2
        norm = float(np.linalg.norm(gradient[inside] / np.sqrt(length * size)))
        least = float(np.linalg.eigvalsh(scaled_hessian(hessian[np.ix_(inside, inside)])[0])[0])
    return Optimum(
        theta=theta,
        at_bound=at_bound,
        certificate=Certificate(
            value=float(value), gradient_norm=norm, min_eigenvalue=least, starts=starts, starts_agreeing=agreeing
        ),
    )


def scaled_hessian(hessian: Array) -> tuple[Array, Array]:
    """A matrix (p, p) with its diagonal scaled to ±1, and the scale (p,) that did it."""
    size = np.abs(np.diagonal(hessian))
    scale = 1.0 / np.sqrt(np.maximum(size, 1e-14 * (size.max(initial=0.0) + 1e-300)))
    return hessian * scale[:, None] * scale, scale
