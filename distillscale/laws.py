"""The laws: loss in nats per token as a function of sizes and tokens; nothing here knows money or data.

Notation is the paper's (Busbridge et al., ICML 2025): N non-embedding parameters, D tokens, L_T the teacher's
cross-entropy, L̃_S the loss the student would reach if trained supervised on the same D_S tokens. Every method
broadcasts like NumPy and computes in float64; a coefficient may itself be an array, so that a law whose
coefficients have shape (draws, 1) is a set of draws of that law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arch import CONTEXT, VOCAB, flops_elasticity, forward_flops
from .errors import InputError

__all__ = [
    "DataConstrainedLaw",
    "DistillationLaw",
    "DistillationParts",
    "SupervisedLaw",
    "TransferLaw",
    "effective_tokens",
]

Array = NDArray[np.float64]
Index = int | slice | NDArray[np.int64] | tuple[Any, ...]

# Far above the useful range: a teacher this many times worse than the student would be without it.
_WORST_TEACHER = 3.0


def _positive(law: object, *names: str, zero_allowed: tuple[str, ...] = ()) -> None:
    for name in names:
        value = np.asarray(getattr(law, name), float)
        if not np.all(np.isfinite(value)) or np.any(value < 0) or (np.any(value == 0) and name not in zero_allowed):
            least = "zero or positive" if name in zero_allowed else "positive"
            raise InputError(
                f"{type(law).__name__}.{name} must be finite and {least}; got {value.ravel()[0]:g}; "
                "check the coefficient set"
            )


def _log(x: ArrayLike) -> Array:
    if type(x) is float:  # the coefficients, twenty times a plan: NumPy's call takes ten times as long
        return cast("Array", math.log(x))
    return np.log(np.asarray(x, float))


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedLaw:
    """Eq 1:  L(N, D) = E + (A / N^alpha + B / D^beta)^gamma          [nats per token]

    N non-embedding parameters, D training tokens (either may be infinite). Hoffmann et al. is gamma = 1;
    Kaplan et al. is E = 0, beta = 1 (see `kaplan`).
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "E", "A", "B", "alpha", "beta", "gamma", zero_allowed=("E",))

    @classmethod
    def kaplan(cls, *, N_c: float, D_c: float, alpha_N: float, alpha_D: float) -> SupervisedLaw:
        """L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D (Kaplan et al. 2020, Eq 1.5) as a case of Eq 1."""
        alpha = alpha_N / alpha_D
        return cls(E=0.0, A=N_c**alpha, B=D_c, alpha=alpha, beta=1.0, gamma=alpha_D)

    def capacity_term(self, N: ArrayLike) -> Array:
        """A / N^alpha, inside the bracket."""
        return np.exp(_log(self.A) - self.alpha * _log(N))

    def data_term(self, D: ArrayLike) -> Array:
        """B / D^beta, inside the bracket."""
        return np.exp(_log(self.B) - self.beta * _log(D))

    def loss(self, N: ArrayLike, D: ArrayLike) -> Array:
        """Cross-entropy in nats per token, shape of N broadcast with D."""
        return self.E + (self.capacity_term(N) + self.data_term(D)) ** self.gamma

    def floor(self, N: ArrayLike) -> Array:
        """Eq 35: L(N, ∞) = E + (A / N^alpha)^gamma, what no amount of data lowers."""
        return self.loss(N, np.inf)

    def tokens_for(self, N: ArrayLike, loss: ArrayLike) -> Array:
        """D with L(N, D) = loss; infinite where the loss is at or below `floor(N)`."""
        return _invert(self, np.asarray(loss, float), self.capacity_term(N), self.B, self.beta)

    def params_for(self, D: ArrayLike, loss: ArrayLike) -> Array:
        """N with L(N, D) = loss; infinite where even an infinitely large model stays above it."""
        return _invert(self, np.asarray(loss, float), self.data_term(D), self.A, self.alpha)

    def optimum(self, flops: ArrayLike, *, context: float = CONTEXT, vocab: float = VOCAB) -> tuple[Array, Array]:
        """Eq 2: (N*, D*) = argmin L(N, D) at 3 F(N) D = flops, with F of Eq 69 rather than 2N.

        The root of α A/N^α = φ β B/D^β with φ = d log F / d log N. In x = log N the logarithm of left over right falls
        with a slope of at least α + β/3 (φ ≥ 1/3 and grows), which brackets the root around any guess.
        """
        flops = np.asarray(flops, float)

        def tokens(x: Array) -> Array:
            return flops / (3.0 * forward_flops(np.exp(x), context=context, vocab=vocab))

        def excess(x: Array) -> Array:
            N = np.exp(x)
            ratio = (
                _log(self.alpha) + np.log(self.capacity_term(N)) - _log(self.beta) - np.log(self.data_term(tokens(x)))
            )
            return ratio - np.log(flops_elasticity(N, context=context, vocab=vocab))

        guess = 0.5 * np.log(flops / 120.0)  # D = 20N under C = 6ND
        off = excess(guess)
        reach = off / (self.alpha + self.beta / 3.0)
        low, high = np.minimum(guess, guess + reach), np.maximum(guess, guess + reach)
        for _ in range(60):
            x = 0.5 * (low + high)
            above = excess(x) > 0
            low, high = np.where(above, x, low), np.where(above, high, x)
        x = 0.5 * (low + high)
        return np.exp(x), tokens(x)

    def gradient(self, N: ArrayLike, D: ArrayLike) -> dict[str, Array]:
        """∂L/∂x for each argument (`N`, `D`) and each coefficient, each of the broadcast shape."""
        N, D = np.asarray(N, float), np.asarray(D, float)
        a, b = self.capacity_term(N), self.data_term(D)
        s = a + b
        ds = self.gamma * s ** (self.gamma - 1)
        zero = np.zeros_like(s)
        return {
            "N": -ds * self.alpha * a / N + zero,
            "D": -ds * self.beta * b / D + zero,
            "E": 1.0 + zero,
            "A": ds * a / self.A + zero,
            "B": ds * b / self.B + zero,
            "alpha": -ds * a * np.log(N) + zero,
            "beta": -ds * b * np.log(D) + zero,
            "gamma": s**self.gamma * np.log(s),
        }

    def take(self, index: Index) -> SupervisedLaw:
        """The law with every array coefficient indexed (one draw, some draws, or a new axis)."""
        return replace(self, **_taken(self, index))


def _taken(law: SupervisedLaw | DistillationLaw, index: Index) -> dict[str, Any]:
    values: dict[str, Any] = {field.name: getattr(law, field.name) for field in fields(law)}
    return {name: value[index] for name, value in values.items() if isinstance(value, np.ndarray) and value.ndim}


def _invert(law: SupervisedLaw, loss: Array, other_term: Array, scale: float, exponent: float) -> Array:
    """x with E + (scale/x^exponent + other_term)^gamma = loss, infinite where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = np.maximum(loss - law.E, 0.0) ** (1.0 / law.gamma) - other_term
        x = np.exp((_log(scale) - np.log(rest)) / exponent)
    return np.where(rest > 0, x, np.inf)


class DistillationParts(NamedTuple):
    """The terms of Eq 8: student loss = teacher + gate · size_and_data · teacher^(−c0)."""

    teacher: Array
    """floor · L_T, the limit of an unlimited student."""
    gate: Array
    """[1 + (L_T/(L̃_S d1))^(1/f1)]^(−c1 f1) in (0, 1): near 1 under a strong teacher, 0 under a weak one."""
    strength: Array
    """L_T^(−c0): how much a better teacher is harder to follow (the capacity gap)."""
    capacity: Array
    """A'/N_S^α', inside the bracket."""
    data: Array
    """B'/D_S^β', inside the bracket."""
    supervised: Array
    """L̃_S, the same student trained supervised on the same tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationLaw:
    """Eq 8, the loss of a student distilled (λ = 1, τ = 1) from a teacher of loss L_T  [nats per token]

        L_S = L_T + L_T^(−c0) · [1 + (L_T / (L̃_S d1))^(1/f1)]^(−c1 f1) · (A/N_S^alpha + B/D_S^beta)^gamma

    with L̃_S = `supervised.loss(N_S, D_S)`. A, B, alpha, beta, gamma are the distillation (primed) coefficients.
    The data identify c1 and d1 only through `d_eff`; a very large c1 is the gate's exponential limit.
    Known limit: L_S > L_T always, so a student that beats its teacher cannot be described. `floor` below 1, which the
    paper does not have, lifts it: the first term is then floor · L_T.
    """

    supervised: SupervisedLaw
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float
    c0: float
    c1: float
    f1: float
    d1: float
    floor: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, "A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "floor", zero_allowed=("c0",))

    @classmethod
    def from_d_eff(cls, *, d_eff: float, f1: float, c1: float = 1e9, **others: Any) -> DistillationLaw:
        """Build from `d_eff` instead of d1: d1 = d_eff · (c1 f1)^f1; the default c1 is the exponential limit."""
        return cls(f1=f1, c1=c1, d1=d_eff * (c1 * f1) ** f1, **others)

    @property
    def d_eff(self) -> float:
        """d1 · (c1 f1)^(−f1): the gate is exp(−(L_T / (d_eff L̃_S))^(1/f1)) when c1 f1 is large."""
        return self.d1 * (self.c1 * self.f1) ** -self.f1

    def _log_gate(self, log_L_T: Array, log_supervised: Array) -> Array:
        z = (log_L_T - log_supervised - _log(self.d1)) / self.f1
        return -self.c1 * self.f1 * np.logaddexp(0.0, z)

    def parts(self, N_S: ArrayLike, D_S: ArrayLike, L_T: ArrayLike) -> DistillationParts:
        """The terms of Eq 8, for explanations; all of the broadcast shape."""
        L_T = np.asarray(L_T, float)
        supervised = self.supervised.loss(N_S, D_S)
        capacity = np.exp(_log(self.A) - self.alpha * _log(N_S))
        data = np.exp(_log(self.B) - self.beta * _log(D_S))
        gate = np.exp(self._log_gate(_log(L_T), _log(supervised)))
        strength = np.exp(-self.c0 * _log(L_T))
        zero = np.zeros_like(gate + data)
        return DistillationParts(
            self.floor * L_T + zero, gate + zero, strength + zero, capacity + zero, data + zero, supervised + zero
        )

    def loss(self, N_S: ArrayLike, D_S: ArrayLike, L_T: ArrayLike) -> Array:
        """Student cross-entropy in nats per token, evaluated in log space (Eq 49)."""
        L_T = np.asarray(L_T, float)
        log_L_T = _log(L_T)
        capacity = np.exp(_log(self.A) - self.alpha * _log(N_S))
        data = np.exp(_log(self.B) - self.beta * _log(D_S))
        log_gate = self._log_gate(log_L_T, _log(self.supervised.loss(N_S, D_S)))
        return self.floor * L_T + np.exp(log_gate - self.c0 * log_L_T) * (capacity + data) ** self.gamma

    def gradient(self, N_S: ArrayLike, D_S: ArrayLike, L_T: ArrayLike) -> dict[str, Array]:
        """∂L_S/∂x for `N_S`, `D_S`, `L_T`, each coefficient, and `supervised.x` through L̃_S."""
        N_S, D_S, L_T = np.asarray(N_S, float), np.asarray(D_S, float), np.asarray(L_T, float)
        p = self.parts(N_S, D_S, L_T)
        s = p.capacity + p.data
        excess = p.gate * p.strength * s**self.gamma  # L_S − floor · L_T
        z = (np.log(L_T) - np.log(p.supervised) - np.log(self.d1)) / self.f1
        sigma = np.exp(-np.logaddexp(0.0, -z))  # y/(1+y), y = (L_T/(L̃_S d1))^(1/f1)
        of_supervised = excess * self.c1 * sigma / p.supervised  # ∂L_S/∂L̃_S
        sup = self.supervised.gradient(N_S, D_S)
        zero = np.zeros_like(excess)
        grad = {
            "N_S": -excess * self.gamma * self.alpha * p.capacity / (s * N_S) + of_supervised * sup["N"],
            "D_S": -excess * self.gamma * self.beta * p.data / (s * D_S) + of_supervised * sup["D"],
            "L_T": self.floor - excess * (self.c0 + self.c1 * sigma) / L_T,
            "A": excess * self.gamma * p.capacity / (s * self.A),
            "B": excess * self.gamma * p.data / (s * self.B),
            "alpha": -excess * self.gamma * p.capacity / s * np.log(N_S),
            "beta": -excess * self.gamma * p.data / s * np.log(D_S),
            "gamma": excess * np.log(s),
            "c0": -excess * np.log(L_T),
            "c1": -excess * self.f1 * np.logaddexp(0.0, z),
            "f1": excess * self.c1 * (sigma * z - np.logaddexp(0.0, z)),
            "d1": excess * self.c1 * sigma / self.d1,
            "floor": L_T + zero,
        }
        grad |= {f"supervised.{name}": of_supervised * sup[name] for name in ("E", "A", "B", "alpha", "beta", "gamma")}
        return {name: value + zero for name, value in grad.items()}

    def optimal_teacher_loss(self, N_S: ArrayLike, D_S: ArrayLike) -> Array:
        """L_T* = argmin over L_T ≥ E of L_S(N_S, D_S, L_T), the global one (Eq 8 can have two dips in L_T)."""
        N_S, D_S = np.broadcast_arrays(np.asarray(N_S, float), np.asarray(D_S, float))
        along = self.take((..., None))
        high = np.log(_WORST_TEACHER * self.supervised.loss(N_S, D_S))
        low = np.log(np.maximum(self.supervised.E, 1e-3)) + np.zeros_like(high)
        steps = np.linspace(0.0, 1.0, 129)
        for _ in range(6):  # each pass narrows the bracket 64-fold around the lowest point
            grid = low[..., None] + (high - low)[..., None] * steps
            at = np.argmin(along.loss(N_S[..., None], D_S[..., None], np.exp(grid)), axis=-1)[..., None]
            low = np.take_along_axis(grid, np.maximum(at - 1, 0), -1)[..., 0]
            high = np.take_along_axis(grid, np.minimum(at + 1, len(steps) - 1), -1)[..., 0]
        return np.exp(0.5 * (low + high))

    def regime(self, N_S: ArrayLike, D_S: ArrayLike, L_T: ArrayLike) -> NDArray[np.str_]:
        """`capacity-gap` where L_T < L_T*; `weak-teacher` where L_T > L_T* and L_S ≥ L̃_S; else `helped`."""
        best = self.optimal_teacher_loss(N_S, D_S)
        no_help = self.loss(N_S, D_S, L_T) >= self.supervised.loss(N_S, D_S)
        L_T = np.asarray(L_T, float)
        return np.where(best > L_T, "capacity-gap", np.where((best < L_T) & no_help, "weak-teacher", "helped"))

    def take(self, index: Index) -> DistillationLaw:
        """The law with every array coefficient indexed (one draw, some draws, or a new axis)."""
        return replace(self, supervised=self.supervised.take(index), **_taken(self, index))


def effective_tokens(D: ArrayLike, unique: ArrayLike, R_star: float) -> Array:
    """Tokens' worth in fresh tokens of D tokens drawn from `unique` distinct ones.

    D' = U + U R* (1 − e^(−R/R*)), R = D/U − 1 repetitions (Muennighoff et al. 2023); D' = D where D ≤ U.
    """
    D, U = np.asarray(D, float), np.asarray(unique, float)
    R = np.maximum(D / U - 1.0, 0.0)
    return np.minimum(D, U) + np.where(R > 0, U, 0.0) * R_star * -np.expm1(-R / R_star)  # U may be infinite


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConstrainedLaw:
    """L(N, D, U) = base.loss(N', D') with repeated data and excess parameters discounted (Muennighoff 2023).

    U unique tokens; N' = U_N + U_N R_N*(1 − e^(−R_N/R_N*)) with U_N the compute-optimal size for U tokens and
    R_N = N/U_N − 1; D' likewise with R_D*. nats per token.
    """

    base: SupervisedLaw
    R_D: float
    R_N: float

    def __post_init__(self) -> None:
        _positive(self, "R_D", "R_N")

    def optimal_params(self, unique: ArrayLike) -> Array:
        """U_N, compute-optimal under C = 6ND for U tokens: α A / N^α = β B / U^β solved for N."""
        base = self.base
        return (base.alpha * base.A / (base.beta * base.data_term(unique))) ** (1.0 / base.alpha)

    def loss(self, N: ArrayLike, D: ArrayLike, unique: ArrayLike) -> Array:
        """Cross-entropy in nats per token after D tokens of which `unique` are distinct."""
        N_eff = effective_tokens(N, self.optimal_params(np.minimum(unique, D)), self.R_N)
        return self.base.loss(N_eff, effective_tokens(D, unique, self.R_D))


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferLaw:
    """D_T = k · D_F^alpha · N^beta: fine-tuning tokens that pre-training is worth (Hernandez et al. 2021).

    D_F fine-tuning tokens, N parameters; D_T in tokens.
    """

    k: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        _positive(self, "k", "alpha", "beta")

    def transferred_tokens(self, D_F: ArrayLike, N: ArrayLike) -> Array:
        """Effective data transferred, in tokens."""
        return self.k * np.asarray(D_F, float) ** self.alpha * np.asarray(N, float) ** self.beta
