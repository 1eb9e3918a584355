"""Many small smooth minimisations at once, by damped Newton; nothing here knows what is being minimised.

A batch of `b` problems in `p` variables each is one array of shape (b, p). Items that are done leave the batch, so
that late ones cost only themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evaluate", "Minimum", "minimise", "newton_step"]

Array = NDArray[np.float64]
Evaluate = Callable[[Array, NDArray[np.intp]], tuple[Array, Array, Array]]
"""(theta (m, p), items (m,)) → value (m,), gradient (m, p), Hessian (m, p, p); `items` says which of the batch."""

_LEAST_DAMPING, _MOST_DAMPING = 1e-9, 1e12
# A sum of squares this small is rounding error: residuals of 1e-14 in a few hundred rows.
_ZERO = 1e-26


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where each item of the batch ended: theta (b, p), value (b,), converged (b,), Newton steps tried (b,)."""

    theta: Array
    value: Array
    converged: NDArray[np.bool_]
    steps: NDArray[np.intp]


def newton_step(
    gradient: Array, hessian: Array, blocked: NDArray[np.bool_], damping: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Solve (H + damping·|diag H|) step = −gradient over the variables that are not blocked.

    Returns the step (m, p), the decrease −gᵀs − sᵀHs/2 that the quadratic model predicts (m,), and whether the step
    is one of descent (m,). The system is scaled to a unit diagonal first, so that units of the variables are moot.
    """
    size = np.abs(np.einsum("mii->mi", hessian))
    size = np.maximum(size, 1e-12 * size.max(axis=1, keepdims=True) + 1e-300)
    scale = np.where(blocked, 0.0, 1.0 / np.sqrt(size))
    g = gradient * scale
    system = hessian * scale[:, :, None] * scale[:, None, :]
    diagonal = np.einsum("mii->mi", system)  # a view: adding to it adds to the system
    curvature = system.copy()
    diagonal += np.where(blocked, 1.0, damping[:, None])
    try:
        step = np.linalg.solve(system, -g[..., None])[..., 0]
    except np.linalg.LinAlgError:  # exactly singular, as where a column of the table is constant
        diagonal += 1e-6
        step = np.linalg.solve(system, -g[..., None])[..., 0]
    slope: Array = np.einsum("mi,mi->m", g, step)
    predicted: Array = -slope - 0.5 * np.einsum("mi,mij,mj->m", step, curvature, step)
    return np.asarray(step * scale, float), predicted, (slope < 0) & (predicted > 0)


@np.errstate(all="ignore")  # a trial step may overflow: its value compares as no better and it is rejected
def minimise(
    evaluate: Evaluate,
    start: Array,
    lower: Array,
    upper: Array,
    *,
    tolerance: float = 1e-13,
    max_steps: int = 100,
    damping: float = 1e-3,
) -> Minimum:
    """Minimise every item from its row of `start` (b, p) inside the box [lower, upper] (p,).

    An item has converged once the decrease that an (almost) undamped step predicts is below `tolerance` times its
    value. Damping is Levenberg's, raised where a step fails and lowered where the quadratic model was right; variables
    that press against a bound are held there (projected Newton, Bertsekas 1982).
    """
    theta = np.clip(start, lower, upper)
    items = np.arange(len(theta))
    value, gradient, hessian = evaluate(theta, items)
    value = np.where(np.isfinite(value), value, np.inf)
    out = Minimum(theta.copy(), value.copy(), np.zeros(len(theta), bool), np.zeros(len(theta), np.intp))
    mu = np.full(len(theta), damping)
    for steps in range(1, max_steps + 1):
        blocked = ((theta <= lower) & (gradient > 0)) | ((theta >= upper) & (gradient < 0))
        step, predicted, descent = newton_step(gradient, hessian, blocked, mu)
        done = descent & (mu <= 1e-2) & (predicted <= tolerance * np.abs(value) + _ZERO)
        done |= np.all(blocked | (gradient == 0), axis=1) | (value <= _ZERO)
        if stop := bool(np.any(ended := done | (mu >= _MOST_DAMPING))):
            where = items[ended]
            out.theta[where], out.value[where], out.converged[where] = theta[ended], value[ended], done[ended]
            out.steps[where] = steps
        if stop:
            keep = ~ended
            if not np.any(keep):
                return out
            theta, value, gradient, hessian = theta[keep], value[keep], gradient[keep], hessian[keep]
            items, mu, step, predicted, descent = items[keep], mu[keep], step[keep], predicted[keep], descent[keep]
        trial = np.clip(theta + np.where(descent[:, None], step, 0.0), lower, upper)
        new_value, new_gradient, new_hessian = evaluate(trial, items)
        ratio = np.where(descent, (value - new_value) / np.maximum(predicted, 1e-300), -1.0)
        better = ratio > 1e-4
        theta[better], value[better] = trial[better], new_value[better]
        gradient[better], hessian[better] = new_gradient[better], new_hessian[better]
        factor = np.where(ratio > 0.75, 0.1, np.where(ratio > 0.25, 1.0, np.where(better, 3.0, 10.0)))
        mu = np.clip(mu * factor, _LEAST_DAMPING, _MOST_DAMPING)
    out.theta[items], out.value[items], out.steps[items] = theta, value, max_steps
    return out
