"""Where to start: coefficients from a coarse grid of exponents, the rest solved linearly; it minimises nothing.

Variable projection: given every coefficient but A and B, the law says that

    T = ((L − u)/strength)^(1/γ) = A/N^α + B/D^β

with u = E or L_T and strength = 1 or the teacher factor of Eq 8, so A and B follow from a weighted linear 2 × 2 system.
Each grid cell is then scored by the wide Huber objective, and the best cells that are not neighbours are the starts.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .objective import Problem

__all__ = ["starting_points"]

Array = NDArray[np.float64]

_WIDE: Final = 3e-2
_ROWS: Final = 400  # more rows do not make a coarse grid finer
_EXPONENTS: Final = np.geomspace(0.05, 1.4, 8)  # of the loss, γα and γβ
_EXPONENTS_COARSE: Final = np.geomspace(0.1, 0.7, 4)
_FLOORS: Final = (0.02, 0.4, 0.65, 0.8, 0.9, 0.97)  # E as a share of the lowest loss
_GAMMAS: Final = (0.1, 0.3, 0.6, 1.0, 1.6)
_C0: Final = (0.5, 2.0, 4.0)
_D_EFF: Final = (0.85, 0.95, 1.1)
_F1: Final = (0.05, 0.12, 0.3)


@np.errstate(all="ignore")  # a cell far from any data may overflow: it scores infinitely badly
def starting_points(problem: Problem, lower: Array, upper: Array, count: int) -> Array:
    """At most `count` starts, free coefficients (count, p), best first, each inside the box (full vectors)."""
    order = np.argsort(problem.y)
    rows = order[:: max(1, math.ceil(len(order) / _ROWS))]
    box = _natural_box(problem, lower, upper)
    axes = _outer_axes(problem, box)
    scores: list[Array] = []
    vectors: list[Array] = []
    places: list[NDArray[np.intp]] = []
    for place in np.ndindex(*(len(axis) for axis in axes.values())):
        values = {name: float(axis[k]) for (name, axis), k in zip(axes.items(), place, strict=True)}
        cell = _cells(problem, rows, values, box)
        if cell is None:
            continue
        score, vector, inner = cell
        scores.append(score)
        vectors.append(vector)
        places.append(np.column_stack([np.broadcast_to(np.array(place), (len(inner), len(place))), inner]))
    if not scores:
        return np.clip(problem.fixed, lower, upper)[None, list(problem.free)]
    chosen = _spread(np.concatenate(scores), np.concatenate(places), count)
    return np.clip(np.nan_to_num(np.concatenate(vectors)[chosen]), lower, upper)[:, list(problem.free)]


def _natural_box(problem: Problem, lower: Array, upper: Array) -> dict[str, tuple[float, float]]:
    """Bounds by coefficient; in local coordinates only γ (and E) keep theirs, the grid being inside the others."""
    box = {name: (lower[j], upper[j]) for j, name in enumerate(problem.shape.names)}
    if problem.local is not None:
        low, high = box["gamma"]
        kept = {problem.shape.names[j] for j in problem.local.kept}
        box |= dict.fromkeys({"A", "B", "alpha", "beta"} - kept, (0.0, math.inf)) | {"gamma": (1.0 / high, 1.0 / low)}
        if problem.local.floor is not None:
            box["E"] = (-math.inf, math.inf)
    return box


def _axis(values: tuple[float, ...] | Array, ends: tuple[float, float]) -> Array:
    """Grid values inside the bounds (their clipped values where none is)."""
    values = np.asarray(values, float)
    inside = values[(values >= ends[0]) & (values <= ends[1])]
    return inside if len(inside) else np.unique(np.clip(values, *ends))[:1]


def _outer_axes(problem: Problem, box: dict[str, tuple[float, float]]) -> dict[str, Array]:
    axes = {"gamma": _axis(_GAMMAS, box["gamma"])}
    if problem.t is None:
        floors = np.log(_FLOORS) + float(np.min(problem.y))
        return axes | {"E": _axis(floors, box["E"])}
    return axes | {
        "c0": _axis(_C0, box["c0"]),
        "d_eff": _axis(np.log(_D_EFF), box["d_eff"]),
        "f1": _axis(np.log(_F1), box["f1"]),
        "floor": _axis((0.0,), box["floor"]),
    }


def _cells(
    problem: Problem, rows: NDArray[np.intp], values: dict[str, float], box: dict[str, tuple[float, float]]
) -> tuple[Array, Array, NDArray[np.intp]] | None:
    """All (α, β) of one outer cell: score (cells,), full vectors (cells, all), grid positions (cells, 2)."""
    y, n, d = problem.y[rows], problem.n[rows], problem.d[rows]
    gamma = values["gamma"]
    loss = np.exp(y)
    if problem.t is None:
        floor, strength = np.full_like(loss, math.exp(values["E"])), np.ones_like(loss)
    else:
        assert problem.supervised is not None
        t = problem.t[rows]
        z = np.minimum((t - problem.supervised[0, rows] - values["d_eff"]) / math.exp(values["f1"]), 3.0)
        floor, strength = np.exp(t + values["floor"]), np.exp(-values["c0"] * t - np.exp(z))
    excess = loss - floor
    if np.count_nonzero(excess > 0) < 3:
        return None
    T = (np.maximum(excess, 1e-9) / strength) ** (1.0 / gamma)
    weight = np.where(excess > 0, (gamma * excess / (T * loss)) ** 2, 0.0)
    grid = _EXPONENTS if problem.t is None else _EXPONENTS_COARSE
    alpha, beta = _axis(grid / gamma, box["alpha"]), _axis(grid / gamma, box["beta"])
    P, Q = np.exp(-np.multiply.outer(alpha, n)), np.exp(-np.multiply.outer(beta, d))
    A, B = _linear(P, Q, weight, T)
    both = A[..., None] * P[:, None] + B[..., None] * Q
    residual = np.abs(np.log(floor + strength * both**gamma) - y)
    clipped = np.minimum(residual, _WIDE)
    score = (clipped * (residual - 0.5 * clipped)).sum(-1).ravel()
    inner = np.indices((len(alpha), len(beta))).reshape(2, -1).T
    filled = values | {"A": np.log(A).ravel(), "B": np.log(B).ravel()}
    filled |= {"alpha": alpha[inner[:, 0]], "beta": beta[inner[:, 1]]}
    columns = np.column_stack([np.broadcast_to(filled[name], len(inner)) for name in problem.shape.names])
    return score, columns if problem.local is None else problem.local.from_natural(columns), inner


def _linear(P: Array, Q: Array, weight: Array, T: Array) -> tuple[Array, Array]:
    """A, B > 0 (i, j) minimising Σ w (A P_i + B Q_j − T)²; where one would be negative, the other alone."""
    PP, QQ = (P * P) @ weight, (Q * Q) @ weight
    PQ, PT, QT = (P * weight) @ Q.T, P @ (weight * T), Q @ (weight * T)
    PP, QQ, PT, QT = PP[:, None], QQ[None, :], PT[:, None], QT[None, :]
    det = np.maximum(PP * QQ - PQ * PQ, 1e-12 * PP * QQ)
    A, B = (QQ * PT - PQ * QT) / det, (PP * QT - PQ * PT) / det
    alone_A, alone_B = PT / PP + 0 * A, QT / QQ + 0 * B
    only_A, only_B = B <= 0, A <= 0
    A, B = np.where(only_A, alone_A, A), np.where(only_B, alone_B, B)
    return np.where(only_B, 0.02 * alone_A, A), np.where(only_A, 0.02 * alone_B, B)


def _spread(scores: Array, places: NDArray[np.intp], count: int) -> list[int]:
    """The best cells such that no two are neighbours on the grid."""
    scores = np.where(np.isfinite(scores), scores, np.inf)
    open_cells = np.isfinite(scores)
    chosen: list[int] = []
    for index in np.argsort(scores)[: 40 * count]:
        if open_cells[index]:
            chosen.append(int(index))
            open_cells &= np.max(np.abs(places - places[index]), axis=1) > 1
        if len(chosen) == count:
            break
    return chosen or [int(np.argmin(scores))]
