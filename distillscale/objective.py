"""Σ w ρ(log L̂ − log L) of a batch of coefficient vectors, with gradient and exact Hessian; it chooses no start.

Both laws have one shape (Eq 44 and Eq 49 of Busbridge et al. 2025):

    log L̂ = log( exp(u) + exp(x) ),     x = s + γ · log( exp(t_A) + exp(t_B) )
    t_A = a − α n,   t_B = b − β d,     n = ln N − mean,   d = ln D − mean

    supervised     u = e = log E                 s = 0
    distillation   u = ln L_T + log floor        s = −c0 ln L_T − exp( (ln L_T − ln L̃_S − κ)/f1 ),   κ = log d_eff

Each of u, t_A, t_B, γ, c0, κ, φ = log f1 is a *channel*: linear in the coefficients, with row features (1, n, d,
ln L_T) that all items of a batch share. So a pass computes first and second derivatives in the few channels row by
row, and one matrix product with the features turns them into the gradient and Hessian in the coefficients. Where γ is
free, these are then carried over to the local coordinates of `coordinates`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .coordinates import Local

__all__ = ["DISTILLATION", "SUPERVISED", "Problem", "Shape"]

Array = NDArray[np.float64]

# Rows × items worked on at once: a temporary of this many float64 stays in the second-level cache.
_CHUNK = 6144
# exp(−exp(z)) is 0 well before this, and exp(z) still a number.
_LARGEST_Z = 60.0
# exp of this is still a number; a trial step may ask for more
_LARGEST_LOG = 600.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The coefficients of a law in fitting order, the channel of each, and its row feature with its sign."""

    names: tuple[str, ...]
    channels: tuple[str, ...]
    features: tuple[str, ...]
    signs: tuple[float, ...]

    def local(self, *, floor: bool, kept: Iterable[str] = ()) -> Local:
        """The local coordinates of this law's bracket, and of its floor E where that is free."""
        A, B, alpha, beta, gamma = (self.names.index(name) for name in ("A", "B", "alpha", "beta", "gamma"))
        places = frozenset(self.names.index(name) for name in kept)
        return Local((A, B, alpha, beta, gamma), self.names.index("E") if floor else None, places)


SUPERVISED: Final = Shape(
    names=("E", "A", "B", "alpha", "beta", "gamma"),
    channels=("u", "A", "B", "A", "B", "gamma"),
    features=("1", "1", "1", "n", "d", "1"),
    signs=(1, 1, 1, -1, -1, 1),
)
DISTILLATION: Final = Shape(
    names=("A", "B", "alpha", "beta", "gamma", "c0", "d_eff", "f1", "floor"),
    channels=("A", "B", "A", "B", "gamma", "c0", "kappa", "phi", "u"),
    features=("1", "1", "n", "d", "1", "t", "1", "1", "1"),
    signs=(1, 1, -1, -1, 1, -1, 1, 1, 1),
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which channels and channel pairs are needed, and where their moments land in the gradient and Hessian."""

    channels: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    gradient: tuple[NDArray[np.intp], NDArray[np.intp], Array]
    hessian: tuple[NDArray[np.intp], NDArray[np.intp], Array]


def _plan(shape: Shape, free: tuple[int, ...]) -> _Plan:
    needed = {shape.channels[j] for j in free}
    channels = tuple(c for c in dict.fromkeys(("u", *shape.channels)) if c in needed)  # pairs begin with u
    pairs = tuple((a, b) for i, a in enumerate(channels) for b in channels[i:])
    monomials = [
        ["".join(sorted((shape.features[i] + shape.features[j]).replace("1", ""))) for j in free] for i in free
    ]
    singles = [shape.features[j].replace("1", "") for j in free]
    columns = tuple(dict.fromkeys(["", *singles, *(m for row in monomials for m in row)]))
    sign = np.array([shape.signs[j] for j in free])
    pair_row = {pair: 1 + len(channels) + k for k, pair in enumerate(pairs)}
    pair_row |= {(b, a): row for (a, b), row in pair_row.items()}
    of = [shape.channels[j] for j in free]
    return _Plan(
        channels,
        pairs,
        columns,
        (np.array([1 + channels.index(c) for c in of]), np.array([columns.index(s) for s in singles]), sign),
        (
            np.array([[pair_row[a, b] for b in of] for a in of]),
            np.array([[columns.index(m) for m in row] for row in monomials]),
            sign[:, None] * sign,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A table prepared for fitting: rows (n,), weights (1 or items, n), one objective.

    `fixed` is a full coefficient vector; the optimiser sees only the `free` ones. In the full vector E, A, B, d_eff, f1
    and floor are logarithms, and A and B are those of centred sizes and tokens (a = log A − α·mean ln N).
    """

    shape: Shape
    y: Array
    n: Array
    d: Array
    fixed: Array
    free: tuple[int, ...]
    delta: float
    weights: Array
    t: Array | None = None
    """ln L_T (n,), distillation only."""
    supervised: Array | None = None
    """ln L̃_S, shape (1 or items, n), distillation only."""
    majorised: bool = False
    """Whether the Hessian takes ρ′(r)/r for ρ″(r): no longer exact, but it knows of rows beyond the threshold too, so
    that steps across many kinks still go down (iteratively reweighted least squares)."""
    local: Local | None = None
    """The coordinates of `fixed` and of the optimiser, where they are not the natural ones."""

    @cached_property
    def plan(self) -> _Plan:
        """Bookkeeping of derivatives, made once."""
        return _plan(self.shape, self.free)

    @cached_property
    def features(self) -> Array:
        """Products of row features, shape (n, columns of the plan)."""
        rows = {"n": self.n, "d": self.d} | ({} if self.t is None else {"t": self.t})
        table = np.ones((len(self.y), len(self.plan.columns)))
        for k, monomial in enumerate(self.plan.columns):
            for letter in monomial:
                table[:, k] *= rows[letter]
        return table

    def with_delta(self, delta: float) -> Problem:
        """The same rows under another Huber threshold."""
        return replace(self, delta=delta)

    def full(self, theta: Array) -> Array:
        """The full natural coefficient vectors (m, all) of free ones (m, p)."""
        out = self._filled(theta)
        return out if self.local is None else self.local.to_natural(out)

    def _filled(self, theta: Array) -> Array:
        out = np.tile(self.fixed, (len(theta), 1))
        out[:, list(self.free)] = theta
        return out

    def evaluate(self, theta: Array, items: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        """Value (m,), gradient (m, p) and Hessian (m, p, p) of the objective at free coefficients theta (m, p)."""
        moments = self._moments(theta, items)
        rows, columns, sign = self.plan.gradient
        gradient = moments[rows, :, columns].T * sign
        rows, columns, sign = self.plan.hessian
        hessian = moments[rows, :, columns].transpose(2, 0, 1) * sign
        if self.local is not None:
            free = np.array(self.free)
            all_gradient = np.zeros((len(theta), len(self.fixed)))
            all_hessian = np.zeros((len(theta), len(self.fixed), len(self.fixed)))
            all_gradient[:, free] = gradient
            all_hessian[:, free[:, None], free] = hessian
            all_gradient, all_hessian = self.local.chain(self._filled(theta), all_gradient, all_hessian)
            gradient, hessian = all_gradient[:, free], all_hessian[:, free[:, None], free]
        return moments[0, :, 0].copy(), gradient, hessian

    def slopes(self, theta: Array) -> Array:
        """∂ log L̂/∂theta of every row at one free vector (p,), shape (n, p)."""
        state = self._channels(self.full(theta[None]), np.zeros(1, np.intp))
        of_x, first = state["p"], self._first(state)
        slopes = {name: of_x * column for name, column in first.items()} | {"u": 1.0 - of_x}
        rows = {"n": self.n, "d": self.d, "1": 1.0} | ({} if self.t is None else {"t": self.t})
        shape = self.shape
        columns = [shape.signs[j] * slopes[shape.channels[j]][0] * rows[shape.features[j]] for j in self.free]
        natural = np.column_stack(columns)
        if self.local is None:
            return natural
        free = list(self.free)
        return natural @ self.local.jacobian(self._filled(theta[None]))[0][np.ix_(free, free)]

    def _gradient(self, moments: Array) -> Array:
        rows, columns, sign = self.plan.gradient
        return moments[rows, :, columns].T * sign

    def _hessian(self, moments: Array) -> Array:
        rows, columns, sign = self.plan.hessian
        return moments[rows, :, columns].transpose(2, 0, 1) * sign

    def residuals(self, theta: Array) -> Array:
        """log L̂ − log L, shape (m, n)."""
        state = self._channels(self.full(theta), np.arange(len(theta)))
        return np.log(state["L"]) - self.y

    def _moments(self, theta: Array, items: NDArray[np.intp]) -> Array:
        full, features = self.full(theta), self.features
        depth = 1 + len(self.plan.channels) + len(self.plan.pairs)
        out = np.empty((depth, len(theta), features.shape[1]))
        size = max(1, _CHUNK // len(self.y))
        stack = np.empty((depth, min(size, len(theta)), len(self.y)))
        for at in range(0, len(theta), size):
            part = stack[:, : min(size, len(theta) - at)]
            chosen = items[at : at + size]
            self._rows(full[at : at + size], chosen, part)
            np.matmul(part, features, out=out[:, at : at + size])
        return out

    def _channels(self, full: Array, items: NDArray[np.intp]) -> dict[str, Array]:
        """L̂ and the first derivatives of x in each channel; the second ones where they are not trivial."""
        column = {name: full[:, j, None] for j, name in enumerate(self.shape.names)}
        gamma = column["gamma"]
        log_capacity = column["A"] - column["alpha"] * self.n
        log_data = column["B"] - column["beta"] * self.d
        if self.local is not None:  # elsewhere the box keeps them in range
            log_capacity = np.clip(log_capacity, -_LARGEST_LOG, _LARGEST_LOG)
            log_data = np.clip(log_data, -_LARGEST_LOG, _LARGEST_LOG)
        capacity = np.exp(log_capacity)
        both = capacity + np.exp(log_data)
        state: dict[str, Array] = {"P": capacity / both, "gamma": gamma}
        if self.t is None and 5 not in self.free and self.fixed[-1] == 1.0:
            x = both
        else:
            log_x = gamma * (log_both := np.log(both))
            state["log_both"] = log_both
            if self.t is not None:
                log_x -= column["c0"] * self.t
                log_x -= self._gate(column, items, state)
            x = np.exp(np.minimum(log_x, _LARGEST_LOG))
        floor = np.exp(column["E"] if self.t is None else self.t + column["floor"])
        state["L"] = floor + x
        state["p"] = x / state["L"]
        return state

    def _gate(self, column: dict[str, Array], items: NDArray[np.intp], state: dict[str, Array]) -> Array:
        """G = exp(z), z = (ln L_T − ln L̃_S − κ)/f1, the exponent of the gate exp(−G)."""
        assert self.t is not None
        assert self.supervised is not None
        supervised = self.supervised if len(self.supervised) == 1 else self.supervised[items]
        inverse = np.exp(-column["f1"])
        z = np.minimum((self.t - supervised - column["d_eff"]) * inverse, _LARGEST_Z)
        state["z"], state["G"], state["1/f1"] = z, np.exp(z), inverse
        return state["G"]

    def _rows(self, full: Array, items: NDArray[np.intp], out: Array) -> None:
        """Fill `out` with the weight of each row in the value, in each channel and in each pair of channels."""
        state = self._channels(full, items)
        weights = self.weights if len(self.weights) == 1 else self.weights[items]
        residual = np.log(state["L"]) - self.y
        p, share = state["p"], 1.0 - state["p"]
        force = np.minimum(np.maximum(residual, -self.delta), self.delta)  # ρ′, clipped at ±δ
        if self.majorised:
            curvature = weights * np.minimum(1.0, self.delta / np.maximum(np.abs(residual), 1e-300))
        else:
            curvature = weights * (force == residual)
        out[0] = weights * force * (residual - 0.5 * force)
        force *= weights
        of_x = force * p
        first = self._first(state)
        for k, name in enumerate(self.plan.channels, 1):
            if name == "u":
                np.multiply(force, share, out=out[k])
            else:
                np.multiply(of_x, first[name], out=out[k])
        spread = force * (p * share)
        outer = curvature * p * p + spread  # weight of x_k x_l; of_x is that of x_kl
        for k, pair in enumerate(self.plan.pairs, 1 + len(self.plan.channels)):
            if pair == ("u", "u"):
                out[k] = curvature * share * share + spread
            elif pair[0] == "u":
                np.multiply(curvature * (p * share) - spread, first[pair[1]], out=out[k])
            else:
                np.multiply(outer * first[pair[0]], first[pair[1]], out=out[k])
                if (second := self._second(pair, state)) is not None:
                    out[k] += of_x * second

    def _first(self, state: dict[str, Array]) -> dict[str, Array]:
        """∂x/∂channel."""
        P = state["P"]
        if "log_both" not in state:
            return {"A": P, "B": 1.0 - P}
        of_A = state["gamma"] * P
        first = {"A": of_A, "B": state["gamma"] - of_A, "gamma": state["log_both"]}
        if "G" in state:
            G = state["G"]
            first |= {"c0": np.ones((1, 1)), "kappa": G * state["1/f1"], "phi": G * state["z"]}
        return first

    def _second(self, pair: tuple[str, str], state: dict[str, Array]) -> Array | None:
        """∂²x/∂channel∂channel, None where it is zero."""
        P, gamma = state["P"], state["gamma"]
        match pair:
            case ("A", "A") | ("B", "B"):
                return gamma * (P - P * P)
            case ("A", "B"):
                return gamma * (P * P - P)
            case ("A", "gamma"):
                return P
            case ("B", "gamma"):
                return 1.0 - P
            case ("kappa", "kappa"):
                return -state["G"] * state["1/f1"] ** 2
            case ("kappa", "phi"):
                return -state["G"] * state["1/f1"] * (1.0 + state["z"])
            case ("phi", "phi"):
                return -state["G"] * state["z"] * (1.0 + state["z"])
            case _:
                return None
