"""How sure a prediction can be: draws of the law, residual error, distance from the fitted range. It plans nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .laws import DistillationLaw
from .lawset import LawSet
from .units import format_count

__all__ = [
    "LEVEL",
    "TOSS_UP",
    "Confidence",
    "confidence_of",
    "covered",
    "interval_of",
    "range_warnings",
    "residual_errors",
    "standing_warnings",
]

Array = NDArray[np.float64]

LEVEL = 0.90
"""Every interval of this package is a 90 % interval, from the 5th to the 95th percentile."""

TOSS_UP = 0.01
"""nats; rounding of the published coefficients alone moves losses by 0.007 (see busbridge2025)."""

_RESIDUAL_ONLY_DRAWS = 2000
_EDGE = 1e-9
"""Relative rounding at the ends of a fitted range."""

_NAMES = {
    "params": "parameters",
    "tokens": "tokens",
    "tokens_per_param": "student tokens per parameter",
    "student_params": "student parameters",
    "student_tokens": "student tokens",
    "teacher_params": "teacher parameters",
    "teacher_tokens": "teacher tokens",
    "teacher_loss": "teacher loss",
}


def interval_of(draws: Array) -> tuple[float, float]:
    """The central 90 % of some draws."""
    ranked = np.sort(draws)
    place = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * (len(ranked) - 1)
    low, high = np.interp(place, np.arange(len(ranked)), ranked)  # np.quantile takes 12 ms on its first call
    return float(low), float(high)


def residual_errors(seed: int, count: int, sigmas: Sequence[float | None]) -> Array:
    """exp(σ z) with z standard normal, shape (sigmas, count); 1 where σ is unknown.

    From Python's own generator: loading NumPy's takes longer than drawing these few thousand numbers.
    """
    z = _normals(seed, len(sigmas) * count).reshape(len(sigmas), count)
    return np.exp(np.array([[sigma or 0.0] for sigma in sigmas]) * z)


@lru_cache(maxsize=8)
def _normals(seed: int, count: int) -> Array:
    """The same draws for every plan of a seed; a tenth of a plan's time where many are asked for."""
    gauss = Random(seed).gauss
    z = np.array([gauss(0.0, 1.0) for _ in range(count)])
    z.setflags(write=False)
    return z


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """Joint draws of what a committed plan will measure, each of shape (draws,), in nats per token."""

    student: Array
    supervised: Array

    @property
    def gain(self) -> Array:
        """supervised − distilled."""
        return self.supervised - self.student

    @property
    def probability(self) -> float:
        """P(gain > 0)."""
        return float(np.mean(self.gain > 0))


def confidence_of(
    evidence: LawSet,
    *,
    N_S: float,
    D_S: float,
    D_supervised: float,
    L_T: float,
    teacher: tuple[float, float] | None,
    seed: int = 0,
) -> Confidence | None:
    """Draws of the losses that this very plan will give, or None where the set has neither draws nor residuals.

    Each draw of the law's coefficients meets fresh residual errors exp(σ z) of a student, of a supervised run, and of
    the teacher where its loss is predicted from `teacher` = (N_T, D_T) rather than measured. The plan is held fixed:
    it is what the user commits to, and re-planning under each draw would promise what nobody can choose.
    """
    sigma_S, sigma_sup = evidence.residual.distillation, evidence.residual.supervised
    if evidence.draws is None and sigma_S is None and sigma_sup is None:
        return None
    law = evidence.distillation
    count = evidence.draw_count or _RESIDUAL_ONLY_DRAWS
    noise_S, noise_sup, noise_T = residual_errors(seed, count, (sigma_S, sigma_sup, sigma_sup))
    with_draws = evidence.draws is not None
    if teacher is None:
        L_Ts = np.full(count, L_T)
    else:
        L_Ts = noise_T * (evidence.supervised_draws(*teacher) if with_draws else L_T)
    student = evidence.student_draws(N_S, D_S, L_Ts) if with_draws else law.loss(N_S, D_S, L_Ts)
    supervised = evidence.supervised_draws(N_S, D_supervised) if with_draws else law.supervised.loss(N_S, D_supervised)
    return Confidence(student=student * noise_S, supervised=supervised * noise_sup)


def covered(evidence: LawSet, values: Mapping[str, ArrayLike]) -> NDArray[np.bool_]:
    """Where every quantity lies in the range that the law was fitted in; one without a range counts as inside."""
    inside = np.ones(np.broadcast_shapes(*(np.shape(value) for value in values.values())), bool)
    for name, value in values.items():
        low, high = evidence.regime.get(name, (-np.inf, np.inf))
        value = np.asarray(value, float)
        inside = inside & (low * (1 - _EDGE) <= value) & (value <= high * (1 + _EDGE))
    return inside


def range_warnings(evidence: LawSet, values: Mapping[str, float]) -> list[str]:
    """One sentence for each quantity outside the range the law was fitted in, with the range and the factor."""
    out: list[str] = []
    for name, value in values.items():
        low, high = evidence.regime.get(name, (-np.inf, np.inf))
        if low * (1 - _EDGE) <= value <= high * (1 + _EDGE):
            continue
        show = _nats if name.endswith("loss") else format_count if value >= 1 else "{:.2g}".format
        side, factor = ("above", value / high) if value > high else ("below", low / value)
        how_far = (
            f"{abs(value - (high if value > high else low)):.3f} nats" if name.endswith("loss") else _times(factor)
        )
        out.append(
            f"extrapolation: {_NAMES.get(name, name)} {show(value)} is {how_far} {side} "
            f"the fitted range {show(low)} to {show(high)}"
        )
    return out


def _nats(loss: float) -> str:
    return f"{loss:.3f}"


def _times(factor: float) -> str:
    return f"{factor:.2f} times" if factor < 10 else f"{factor:,.0f} times"


def standing_warnings(evidence: LawSet) -> list[str]:
    """What every output that uses this law says once: its first caveat, and what it lacks."""
    out = [f"law {evidence.name}: {evidence.caveats[0]}"] if evidence.caveats else []
    if not isinstance(evidence.law, DistillationLaw):
        return out
    known = evidence.residual
    if evidence.draws is None:
        out.append(f"law {evidence.name} has no draws: its coefficients are taken as exact in every interval")
    if known.supervised is None and (evidence.draws is not None or known.distillation is not None):
        out.append(
            f"law {evidence.name} has no measured error of its supervised part, which is taken as exact: intervals of "
            "the supervised loss and of the gain are too narrow"
        )
    return out
