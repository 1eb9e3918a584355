"""Coordinates in which the data determine a law well; nothing here sees a loss.

A, B, α, β, γ and the floor E trade off along long curved valleys: the data see the height and the slopes of log L
near the middle of the table, and its bends hardly at all. The *local* coordinates are those of that picture. With n
and d the logarithms centred on the table,

    x(n, d) = γ log(A e^(−αn) + B e^(−βd)) = h + (1/ω) · log( P e^(−ω ε_N n/P) + Q e^(−ω ε_D d/Q) )

has height h and slopes ε_N, ε_D in the middle; P = 1 − Q = 1/(1 + e^(−λ)) is the share of the size term there and
ω = 1/γ. The places of (A, B, alpha, beta, gamma) hold (h, λ, ε_N, ε_D, ω), where

    log A = ω h + log P,   log B = ω h + log Q,   α = ω ε_N/P,   β = ω ε_D/Q,   γ = 1/ω.

With a free floor, log L = log(E + e^x) itself is what has a height ℓ and slopes η in the middle, and e^x takes up the
share p = 1 − q = 1/(1 + e^(−π)) of L. The places of (E, A, alpha, beta) then hold (ℓ, π, η_N, η_D), where

    log E = ℓ + log q,   h = ℓ + log p,   ε_N = η_N/p,   ε_D = η_D/p.

An exponent that is fixed or bounded by the caller keeps its natural place (`kept`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Local"]

Array = NDArray[np.float64]


def _shares(logit: Array) -> tuple[Array, Array]:
    return 1.0 / (1.0 + np.exp(-logit)), 1.0 / (1.0 + np.exp(logit))


@dataclass(frozen=True, slots=True)
class Local:
    """The change of coordinates of full vectors: (A, B, alpha, beta, gamma) at `bracket`, a free E at `floor`."""

    bracket: tuple[int, int, int, int, int]
    floor: int | None
    kept: frozenset[int] = frozenset()
    """Places of alpha and beta that hold themselves."""

    def to_natural(self, local: Array) -> Array:
        """Natural full vectors (m, all) of local ones."""
        return self._open_bracket(self._lift(local))

    def from_natural(self, natural: Array) -> Array:
        """Local full vectors (m, all) of natural ones."""
        out = natural.copy()
        a, b, alpha, beta, gamma = (natural[:, j] for j in self.bracket)
        P, Q = _shares(a - b)
        height, slopes = gamma * np.logaddexp(a, b), np.stack([gamma * alpha * P, gamma * beta * Q])
        if self.floor is not None:
            e = natural[:, self.floor]
            p, _ = _shares(height - e)
            out[:, self.floor] = np.logaddexp(e, height)
            height, slopes = height - e, slopes * p
        out[:, list(self.bracket)] = np.column_stack([height, a - b, *slopes, 1.0 / gamma])
        return self._keep(out, natural)

    def _keep(self, out: Array, given: Array) -> Array:
        for place in self.kept:
            out[:, place] = given[:, place]
        return out

    def jacobian(self, local: Array) -> Array:
        """∂ natural/∂ local, shape (m, all, all)."""
        out = self._bracket_slopes(self._lift(local))
        return out if self.floor is None else out @ self._floor_slopes(local)

    def chain(self, local: Array, gradient: Array, hessian: Array) -> tuple[Array, Array]:
        """Gradient (m, all) and Hessian (m, all, all) in local coordinates of those in natural ones."""
        lifted = self._lift(local)
        gradient, hessian = _carry(
            self._bracket_slopes(lifted), gradient, hessian, list(self.bracket), self._bracket_bends(lifted, gradient)
        )
        if self.floor is None:
            return gradient, hessian
        h, _, eps_N, eps_D, _ = self.bracket
        places = [self.floor, h, eps_N, eps_D]
        return _carry(self._floor_slopes(local), gradient, hessian, places, self._floor_bends(local, gradient))

    def _lift(self, local: Array) -> Array:
        """(h, ε) of (ℓ, π, η), where there is a floor."""
        if self.floor is None:
            return local
        out = local.copy()
        h, _, eps_N, eps_D, _ = self.bracket
        level, pi = local[:, self.floor], local[:, h]
        p, q = _shares(pi)
        out[:, self.floor], out[:, h] = level + np.log(q), level + np.log(p)
        out[:, eps_N], out[:, eps_D] = local[:, eps_N] / p, local[:, eps_D] / p
        return self._keep(out, local)

    def _open_bracket(self, lifted: Array) -> Array:
        out = lifted.copy()
        h, lam, eps_N, eps_D, omega = (lifted[:, j] for j in self.bracket)
        P, Q = _shares(lam)
        values = [omega * h + np.log(P), omega * h + np.log(Q), omega * eps_N / P, omega * eps_D / Q, 1.0 / omega]
        out[:, list(self.bracket)] = np.column_stack(values)
        return self._keep(out, lifted)

    def _bracket_slopes(self, lifted: Array) -> Array:
        h, lam, eps_N, eps_D, omega = (lifted[:, j] for j in self.bracket)
        P, Q = _shares(lam)
        zero = np.zeros_like(h)
        rows = [  # of (A, B, alpha, beta, gamma); columns (h, λ, ε_N, ε_D, ω)
            [omega, Q, zero, zero, h],
            [omega, -P, zero, zero, h],
            [zero, -omega * eps_N * Q / P, omega / P, zero, eps_N / P],
            [zero, omega * eps_D * P / Q, zero, omega / Q, eps_D / Q],
            [zero, zero, zero, zero, -1.0 / omega**2],
        ]
        return self._embedded(rows, list(self.bracket), lifted.shape)

    def _bracket_bends(self, lifted: Array, g: Array) -> Array:
        """Σ_k g_k ∂²(A, B, alpha, beta, gamma)_k over (h, λ, ε_N, ε_D, ω), shape (m, 5, 5)."""
        _, lam, eps_N, eps_D, omega = (lifted[:, j] for j in self.bracket)
        P, Q = _shares(lam)
        gA, gB, ga, gb, gg = (0.0 * g[:, j] if j in self.kept else g[:, j] for j in self.bracket)
        bend = np.zeros((len(g), 5, 5))
        bend[:, 0, 4] = gA + gB
        bend[:, 1, 1] = -(gA + gB) * P * Q + ga * omega * eps_N * Q / P + gb * omega * eps_D * P / Q
        bend[:, 1, 2] = -ga * omega * Q / P
        bend[:, 1, 3] = gb * omega * P / Q
        bend[:, 1, 4] = -ga * eps_N * Q / P + gb * eps_D * P / Q
        bend[:, 2, 4] = ga / P
        bend[:, 3, 4] = gb / Q
        bend[:, 4, 4] = 2.0 * gg / omega**3
        return bend + np.triu(bend, 1).transpose(0, 2, 1)

    def _floor_slopes(self, local: Array) -> Array:
        assert self.floor is not None
        h, _, eps_N, eps_D, _ = self.bracket
        p, q = _shares(local[:, h])
        zero, one = np.zeros_like(p), np.ones_like(p)
        rows = [  # of (log E, h, ε_N, ε_D); columns (ℓ, π, η_N, η_D)
            [one, -p, zero, zero],
            [one, q, zero, zero],
            [zero, -local[:, eps_N] * q / p, 1.0 / p, zero],
            [zero, -local[:, eps_D] * q / p, zero, 1.0 / p],
        ]
        return self._embedded(rows, [self.floor, h, eps_N, eps_D], local.shape)

    def _floor_bends(self, local: Array, g: Array) -> Array:
        """Σ_k g_k ∂²(log E, h, ε_N, ε_D)_k over (ℓ, π, η_N, η_D), shape (m, 4, 4)."""
        assert self.floor is not None
        h, _, eps_N, eps_D, _ = self.bracket
        p, q = _shares(local[:, h])
        bend = np.zeros((len(g), 4, 4))
        g_N, g_D = (0.0 * g[:, j] if j in self.kept else g[:, j] for j in (eps_N, eps_D))
        bend[:, 1, 1] = -(g[:, self.floor] + g[:, h]) * p * q + (g_N * local[:, eps_N] + g_D * local[:, eps_D]) * q / p
        bend[:, 1, 2] = -g_N * q / p
        bend[:, 1, 3] = -g_D * q / p
        return bend + np.triu(bend, 1).transpose(0, 2, 1)

    def _embedded(self, rows: list[list[Array]], places: list[int], shape: tuple[int, ...]) -> Array:
        """The identity of size (all, all) with `rows` in the given places, but for those kept, shape (m, all, all)."""
        m, size = shape
        out = np.zeros((m, size, size))
        diagonal, at = np.arange(size), np.array(places)
        out[:, at[:, None], at] = np.array(rows).transpose(2, 0, 1)
        for place in {*range(size)} - {*places} | self.kept:
            out[:, place, :] = diagonal == place
        return out


def _carry(J: Array, gradient: Array, hessian: Array, places: list[int], bend: Array) -> tuple[Array, Array]:
    """g J and Jᵀ H J + bend."""
    out = J.transpose(0, 2, 1) @ hessian @ J
    at = np.array(places)
    out[:, at[:, None], at] += bend
    return (gradient[:, None, :] @ J)[:, 0], out
