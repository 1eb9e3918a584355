"""Kernel regression of a student on a teacher, in closed form and by descent (Busbridge et al. 2025, App. C.1).

The target is f* = Σ α_i φ_i over orthonormal φ_i. A teacher learns f* within span φ_1 … φ_m and ‖g‖ ≤ T, a student
learns the teacher within span φ_1 … φ_n and ‖h‖ ≤ D, both from unlimited data. Errors are distances from f*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def _shrunk(alpha: Vector, size: int, radius: float) -> Vector:
    """The nearest point to α within the first `size` coordinates and the ball of `radius` (Eq 16, 20)."""
    out = np.zeros_like(alpha)
    out[:size] = alpha[:size]
    norm = float(np.linalg.norm(out))
    return out if norm <= radius else out * (radius / norm)


def teacher(alpha: Vector, m: int, T: float) -> Vector:
    """Coefficients of g*, Eq 16."""
    return _shrunk(alpha, m, T)


def student(alpha: Vector, m: int, n: int, T: float, D: float) -> Vector:
    """Coefficients of h*, Eq 20: what of the teacher lies within the student's reach."""
    return _shrunk(teacher(alpha, m, T), n, D)


def teacher_error(alpha: Vector, m: int, T: float) -> float:
    """e_teacher of Eq 17."""
    kept = float(np.sum(alpha[:m] ** 2))
    C = min(1.0, T / np.sqrt(kept)) if kept else 1.0
    return float(np.sqrt((C - 1.0) ** 2 * kept + np.sum(alpha[m:] ** 2)))


def student_error(alpha: Vector, m: int, n: int, T: float, D: float) -> float:
    """e_student of Eq 22."""
    k = min(m, n)
    in_teacher, shared = float(np.sum(alpha[:m] ** 2)), float(np.sum(alpha[:k] ** 2))
    C = min(1.0, T / np.sqrt(in_teacher)) if in_teacher else 1.0
    Q = min(1.0, D / (C * np.sqrt(shared))) if shared else 1.0
    return float(np.sqrt((C * Q - 1.0) ** 2 * shared + np.sum(alpha[k:] ** 2)))


def plateau_end(alpha: Vector, n: int, T: float, D: float) -> int | None:
    """The teacher size m ≥ n above which the student's error rises; None where it does not up to the last size.

    For m ≥ n the student's norm is Q·C·‖α_{≤n}‖ = D as long as the teacher leaves it at least D to copy:
    T ‖α_{≤n}‖ / ‖α_{≤m}‖ ≥ D. Beyond, the student cannot even use its own radius.
    """
    norms = np.sqrt(np.cumsum(alpha**2))
    rises = np.flatnonzero((T * norms[n - 1] < D * norms) & (np.arange(1, len(alpha) + 1) > n))
    return int(rises[0]) if len(rises) else None


def by_descent(target: Vector, features: NDArray[np.float64], radius: float, steps: int = 60) -> Vector:
    """Coefficients within the ball that fit the target's values best, by projected gradient descent from zero.

    `features` is (points, size), the basis on the points of the data; `target` is (points,). Nothing of the closed form
    is used.
    """
    coefficients = np.zeros(features.shape[1])
    step = 0.5  # of what would be Newton's for orthonormal features: a descent that has a way to go
    for _ in range(steps):
        coefficients -= step * (features.T @ (features @ coefficients - target))
        norm = float(np.linalg.norm(coefficients))
        if norm > radius:
            coefficients *= radius / norm
    return coefficients


def cosines(points: int, size: int) -> NDArray[np.float64]:
    """φ_i(x) = √2 cos(π i x) at the midpoints of [0, 1], orthonormal under their mean, scaled so that it is a sum."""
    x = (np.arange(points) + 0.5) / points
    return np.sqrt(2.0 / points) * np.cos(np.pi * np.outer(x, np.arange(1, size + 1)))
