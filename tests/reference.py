"""Slow, obvious twins of what the package does cleverly: formulas as printed, optima by looking everywhere.

Nothing here calls the package's own arithmetic: a law is only read for its coefficients. The formulas take floats or
arrays alike. The dense distillation loss is `reference_train`'s, which needs torch, and is loaded when it is asked for.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from distillscale.allocate import Limits
from distillscale.laws import DistillationLaw, SupervisedLaw

R_D = 15.387756  # Muennighoff et al. 2023, R*_D


class ReferencePlan(NamedTuple):
    """A plan and its loss; infinite where nothing is affordable."""

    loss: float
    teacher_params: float
    teacher_tokens: float
    student_tokens: float


NOTHING = ReferencePlan(math.inf, math.nan, math.nan, math.nan)


def supervised_loss(law: SupervisedLaw, N: Any, D: Any) -> Any:
    """Eq 1."""
    return law.E + (law.A / N**law.alpha + law.B / D**law.beta) ** law.gamma


def student_loss(law: DistillationLaw, N_S: Any, D_S: Any, L_T: Any) -> Any:
    """Eq 8 as printed, powers and all; good for floats that neither over- nor underflow."""
    without = supervised_loss(law.supervised, N_S, D_S)
    gate = (1 + (L_T / (without * law.d1)) ** (1 / law.f1)) ** (-law.c1 * law.f1)
    return L_T + gate / L_T**law.c0 * (law.A / N_S**law.alpha + law.B / D_S**law.beta) ** law.gamma


def forward_flops(N: Any, context: float, vocab: float) -> Any:
    """Eq 59 with the width and depth of Eq 64 at aspect 128 and ω = 12."""
    layers, width = (N / (128**2 * 12)) ** (1 / 3), (N * 128 / 12) ** (1 / 3)
    return 2 * N + 2 * context * layers * width + 2 * vocab * width


def worth(D: Any, unique: float | None) -> Any:
    """Muennighoff et al. 2023: D' = U + U R* (1 − e^(−R/R*)) with R = D/U − 1 where D > U, else D."""
    if unique is None:
        return D
    R = np.maximum(D / unique - 1, 0)
    return np.minimum(D, unique) + unique * R_D * (1 - np.exp(-R / R_D))


def brute_force_plan(
    law: DistillationLaw,
    N_S: float,
    F_S: float,
    C: float,
    logits: float,
    pretraining: float,
    limits: Limits,
    context: float,
    vocab: float,
    *,
    points: int = 241,
    dips: int = 4,
) -> ReferencePlan:
    """Eq 10 by a dense grid over (log N_T, log D_T): the best D_T for every N_T, then the best N_T.

    Whatever the teacher costs, the rest of the budget goes to the student's tokens.
    """
    (low_N, high_N), (low_D, high_D) = np.log(limits.teacher_params), np.log(limits.teacher_tokens)
    low_S, high_S = limits.student_tokens
    of_teacher = limits.unique_tokens if pretraining > 0 else None

    def tokens(N_T: Any, D_T: Any) -> Any:
        F_T = forward_flops(N_T, context, vocab)
        return np.minimum((C - 3 * pretraining * F_T * D_T) / (3 * F_S + logits * F_T), high_S)

    def loss(n: Any, d: Any) -> Any:
        N_T, D_T = np.exp(n), np.exp(d)
        D_S = tokens(N_T, D_T)
        enough = low_S * (1 - 1e-12) <= D_S
        L_T = supervised_loss(law.supervised, N_T, worth(D_T, of_teacher))
        found = student_loss(law, N_S, worth(np.where(enough, D_S, low_S), limits.unique_tokens), L_T)
        return np.where(enough, found, np.inf)

    def over_tokens(n: Any) -> tuple[Any, Any]:
        """The least loss at each n over d, and its d: a grid, then zooms to the neighbours of the lowest point."""
        rows = np.arange(len(n))
        low, high = np.full(len(n), low_D), np.full(len(n), high_D)
        for count in (points, *[21] * 8):
            d = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, count)
            found = loss(n[:, None], d)
            at = np.argmin(found, axis=1)
            low, high = d[rows, np.maximum(at - 1, 0)], d[rows, np.minimum(at + 1, count - 1)]
        return found[rows, at], d[rows, at]

    n = np.linspace(low_N, high_N, points)
    profile, _ = over_tokens(n)
    if not np.isfinite(profile).any():
        return NOTHING
    left, right = np.r_[np.inf, profile[:-1]], np.r_[profile[1:], np.inf]
    lowest = [i for i in np.argsort(profile) if profile[i] <= min(left[i], right[i])][:dips]
    best = NOTHING
    for i in lowest:
        low, high = n[max(i - 1, 0)], n[min(i + 1, points - 1)]
        for _ in range(8):
            near = np.linspace(low, high, 21)
            found, d = over_tokens(near)
            at = int(np.argmin(found))
            low, high = near[max(at - 1, 0)], near[min(at + 1, 20)]
            if found[at] < best.loss:
                N_T, D_T = math.exp(near[at]), math.exp(d[at])
                best = ReferencePlan(float(found[at]), N_T, D_T, float(tokens(N_T, D_T)))
    return best


def slsqp_plan(
    law: DistillationLaw,
    N_S: float,
    F_S: float,
    C: float,
    logits: float,
    pretraining: float,
    context: float,
    vocab: float,
    *,
    starts: int = 20,
    seed: int = 0,
) -> ReferencePlan:
    """Eq 28, the paper's own method: SLSQP in the logs of (N_T, D_T, D_S), each in [1e6, 1e17], FLOPs = C."""
    rng = np.random.default_rng(seed)
    low, high = math.log(1e6), math.log(1e17)

    def loss(x: Any) -> float:
        N_T, D_T, D_S = (math.exp(v) for v in x)
        return student_loss(law, N_S, D_S, supervised_loss(law.supervised, N_T, D_T))

    def overspent(x: Any) -> float:
        N_T, D_T, D_S = (math.exp(v) for v in x)
        F_T = forward_flops(N_T, context, vocab)
        return math.log((3 * F_S * D_S + F_T * (logits * D_S + 3 * pretraining * D_T)) / C)

    best = NOTHING
    for _ in range(starts):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Values in x were outside bounds", RuntimeWarning)
            found = minimize(
                loss,
                rng.uniform(low, high, 3),
                method="SLSQP",
                bounds=[(low, high)] * 3,
                constraints={"type": "eq", "fun": overspent},
                options={"maxiter": 200, "ftol": 1e-12},
            )
        if abs(overspent(found.x)) < 1e-9 and found.fun < best.loss:
            best = ReferencePlan(float(found.fun), *(math.exp(v) for v in found.x))
    return best


def __getattr__(name: str) -> Any:
    if name not in ("dense_loss", "teacher_logprobs"):
        raise AttributeError(name)
    import reference_train

    return getattr(reference_train, name)
