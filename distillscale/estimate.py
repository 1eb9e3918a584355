"""From checked columns to a law at its optimum, and what the data say of each coefficient; no resampling, no files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .forms import NOT_IDENTIFIED, Bounds, Box, Form, box_of
from .laws import DistillationLaw, SupervisedLaw
from .objective import Problem
from .outcome import Finding, Outcome, hopeless
from .runs import RunTable
from .search import LAD_DELTA, Certificate, Optimum, scaled_hessian, search

__all__ = ["OBJECTIVES", "Knowledge", "Prepared", "predict", "prepare"]

Array = NDArray[np.float64]
FittedLaw = SupervisedLaw | DistillationLaw

OBJECTIVES: Final = ("huber", "lad", "least-squares")
_STARTS: Final = 10
_STARTS_DISTILLATION: Final = 16
# Coefficients without which the law has no size or data term; the others may end at a limit without harm.
_ESSENTIAL: Final = frozenset({"A", "B", "alpha", "beta"})
# One standard error of log coefficient above which a coefficient counts as not identified.
_LOOSE: Final = {"A": 1.0, "B": 1.0}
_LOOSE_OTHERS: Final = 0.5
# A law that misses a tenth of its own runs by more than this (in log loss) predicts nothing.
_WORST_ERROR: Final = 0.25
_RANK: Final = 1e-12
_LEAST_SD: Final = 1e-6
_NORMAL_95: Final = 1.6448536269514722


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A table made ready for one form: the optimisation problem, its box and the centring."""

    form: Form
    problem: Problem
    box: Box
    n_mean: float
    d_mean: float
    supervised: SupervisedLaw | None
    objective: str

    def coefficients(self, theta: Array) -> dict[str, Array]:
        """Named coefficients of free vectors (m, p), each (m,)."""
        return self.form.coefficients(self.problem.full(theta), self.n_mean, self.d_mean)

    def law(self, theta: Array) -> FittedLaw:
        """The law at one free vector (p,)."""
        values = {name: float(value[0]) for name, value in self.coefficients(theta[None]).items()}
        return self.form.law(values, self.supervised)

    def hopeless(self) -> Finding | None:
        """Why this table cannot be fitted, None where it can be tried."""
        p = self.problem
        return hopeless(self.form, len(p.free), p.n + self.n_mean, p.d + self.d_mean, p.y, p.t)

    def search(self) -> Optimum:
        """The best of many starts, its certificate in the units of the objective asked for."""
        found = search(self.problem, self.box, _STARTS_DISTILLATION if self.form.distils else _STARTS)
        return replace(found, certificate=replace(found.certificate, value=self.value(found.theta)))

    def value(self, theta: Array) -> float:
        """Σ Huber_δ, Σ |r| or Σ r² at one free vector."""
        residual = self.problem.residuals(theta[None])[0]
        if self.objective == "lad":
            return float(np.abs(residual).sum())
        if self.objective == "least-squares":
            return float((residual * residual).sum())
        clipped = np.clip(residual, -self.problem.delta, self.problem.delta)
        return float((clipped * (residual - 0.5 * clipped)).sum())

    def residual_sd(self, theta: Array) -> float:
        """Standard deviation of log residuals (nats of log loss), from their central 90 %.

        sd = q90(|r|)/1.645 · √(n/(n − p)): the normal law whose 90 % range is that of the residuals. Up to a tenth of
        outliers do not move it, and unlike the median deviation it is honest about the tails that intervals are
        made of; the root allows for the p coefficients that were fitted to the same n rows.
        """
        residual = self.problem.residuals(theta[None])[0]
        n, p = len(residual), len(self.problem.free)
        return float(np.quantile(np.abs(residual), 0.9)) / _NORMAL_95 * math.sqrt(n / max(n - p, 1))

    def knowledge(self, optimum: Optimum) -> Knowledge:
        """Standard errors of the logarithms of the coefficients, from the Gauss–Newton matrix (rows independent)."""
        inside = np.flatnonzero(~optimum.at_bound)
        slopes = self.problem.slopes(optimum.theta)[:, inside]
        scaled, scale = scaled_hessian(slopes.T @ slopes)
        values, vectors = np.linalg.eigh(scaled)
        sd = max(self.residual_sd(optimum.theta), _LEAST_SD)
        known = values > _RANK * values[-1]
        spread = sd / np.sqrt(np.where(known, values, 1.0))
        spread[~known] = 1e6  # a direction that the rows do not see at all
        names, logs = self._log_slopes(optimum.theta)
        root = logs[:, inside] @ (scale[:, None] * vectors * spread)  # covariance of log coefficients = root rootᵀ
        return Knowledge(names, root, bool(known.all()), frozenset(self._names(optimum.at_bound)))

    def _names(self, where: NDArray[np.bool_]) -> list[str]:
        """The coefficients behind these free coordinates (local ones stand for what they would switch off)."""
        names = [self.form.shape.names[j] for j, bound in zip(self.problem.free, where, strict=True) if bound]
        if self.problem.local is None:
            return names
        stands_for = {"A": "E" if self.problem.local.floor is not None else "A", "B": "the balance of A and B"}
        return [stands_for.get(name, name) for name in names]

    def _log_slopes(self, theta: Array) -> tuple[tuple[str, ...], Array]:
        """∂ log(coefficient)/∂theta (names, p) by central differences: the map is smooth and known to all digits."""
        names = self.form.free
        steps = 1e-5 * np.eye(len(theta))

        def logs(at: Array) -> Array:
            values = self.coefficients(at)
            return np.column_stack([np.log(np.maximum(values[name], 1e-12)) for name in names])

        return names, ((logs(theta + steps) - logs(theta - steps)) / 2e-5).T

    def judge(self, optimum: Optimum, knowledge: Knowledge) -> Finding:
        """The outcome of a search that ran."""
        certificate = optimum.certificate
        n, p = len(self.problem.y), len(self.problem.free)
        on_bound = self._names(optimum.at_bound)
        default = [name for name in on_bound if name not in self.box.given]
        spread = float(np.quantile(np.abs(self.problem.y - np.median(self.problem.y)), 0.9))
        error = float(np.quantile(np.abs(self.problem.residuals(optimum.theta[None])[0]), 0.9))
        if not self._is_minimum(certificate):
            reason = (
                f"scaled gradient {certificate.gradient_norm:.1e}, least curvature {certificate.min_eigenvalue:.1e}"
            )
            return Finding(Outcome.NOT_A_MINIMUM, reason)
        if error * math.sqrt(n / max(n - p, 1)) > 0.7 * spread or error > _WORST_ERROR:
            return Finding(Outcome.EXPLAINS_LITTLE, f"90 % of residuals reach {error:.2g}, the log losses {spread:.2g}")
        if essential := [name for name in default if name in _ESSENTIAL]:
            return Finding(Outcome.AT_BOUND, f"{', '.join(essential)} on a bound")
        if not knowledge.full_rank:
            return Finding(Outcome.UNIDENTIFIED, "; ".join(knowledge.weak_directions()) or "singular information")
        if certificate.starts > 1 and certificate.starts_agreeing < 2:
            return Finding(Outcome.STARTS_DISAGREE, f"1 of {certificate.starts} starts reached the best value")
        if n - p < 3:
            return Finding(Outcome.THIN, f"{n} runs for {p} coefficients")
        if default:
            return Finding(Outcome.AT_LIMIT, f"{', '.join(default)} at the edge of its range")
        if on_bound:
            return Finding(Outcome.AT_GIVEN_BOUND, f"{', '.join(on_bound)} on the bound given")
        return Finding(Outcome.CONVERGED, "")

    def _is_minimum(self, certificate: Certificate) -> bool:
        if self.objective != "lad":
            return certificate.is_minimum
        # the sum of absolute deviations has kinks for curvature, so only its slope says where it is least
        return certificate.gradient_norm < 1e-2


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How well the rows determine the coefficients: `root rootᵀ` is the covariance of their logarithms."""

    names: tuple[str, ...]
    root: Array
    full_rank: bool
    on_bound: frozenset[str]

    def identified(self, form: Form) -> dict[str, bool]:
        """Whether each estimated coefficient is known to better than a factor of about two (A, B: of about five)."""
        errors = np.sqrt(np.sum(self.root**2, axis=1))
        out = {
            name: name not in self.on_bound and bool(error < _LOOSE.get(name, _LOOSE_OTHERS))
            for name, error in zip(self.names, errors, strict=True)
        }
        return out | (dict.fromkeys(NOT_IDENTIFIED, False) if form.distils else {})

    def weak_directions(self) -> list[str]:
        """Combinations that the rows leave loose, in words, loosest first."""
        vectors, sizes, _ = np.linalg.svd(self.root, full_matrices=False)
        out: list[str] = []
        for k in np.flatnonzero(sizes > _LOOSE_OTHERS)[:2]:
            move = vectors[:, k] * min(float(sizes[k]), 20.0)
            order = [j for j in np.argsort(-np.abs(move)) if abs(move[j]) > 0.1]
            if not order:
                continue
            sign = np.sign(move[order[0]])
            parts = [f"{self.names[j]} ×{math.exp(sign * move[j]):.3g}" for j in order[:5]]
            out.append(
                f"one standard error moves {', '.join(parts)} together, with hardly any change in predicted losses"
            )
        return out


def prepare(
    table: RunTable,
    form: Form,
    *,
    objective: str = "huber",
    delta: float = 1e-3,
    bounds: Bounds | None = None,
    supervised: SupervisedLaw | None = None,
    weights: Array | None = None,
) -> Prepared:
    """The optimisation problem of one form on the rows of one kind; `supervised` gives L̃_S to a distillation law."""
    n, d, y = np.log(table.params), np.log(table.tokens), np.log(table.loss)
    box = box_of(form, bounds, float(np.exp(y.min(initial=3.0))))
    n_mean = float(n.mean()) if box.centre_n and len(n) else 0.0
    d_mean = float(d.mean()) if box.centre_d and len(d) else 0.0
    t = log_supervised = None
    if form.distils:
        assert table.teacher_loss is not None
        assert supervised is not None
        t = np.log(table.teacher_loss)
        log_supervised = np.log(supervised.loss(table.params, table.tokens))[None]
    problem = Problem(
        shape=form.shape,
        y=y,
        n=n - n_mean,
        d=d - d_mean,
        fixed=box.lower.copy(),
        free=box.free,
        delta={"huber": delta, "lad": LAD_DELTA, "least-squares": math.inf}[objective],
        weights=np.ones((1, len(y))) if weights is None else weights,
        t=t,
        supervised=log_supervised,
        local=box.local,
    )
    return Prepared(
        form=form,
        problem=problem,
        box=box,
        n_mean=n_mean,
        d_mean=d_mean,
        supervised=supervised,
        objective=objective,
    )


def predict(law: FittedLaw, table: RunTable) -> Array:
    """The law's loss of every row (nats per token)."""
    if isinstance(law, SupervisedLaw):
        return law.loss(table.params, table.tokens)
    if table.teacher_loss is None:
        raise InputError(f"{table.source} has no column 'teacher_loss', which a distillation law needs")
    return law.loss(table.params, table.tokens, table.teacher_loss)


def as_coefficients(form: Form, law: FittedLaw, fitted: Mapping[str, Array]) -> dict[str, float]:
    """What is reported: the law's own coefficients, and d_eff beside c1 and d1."""
    values = {name: float(value[0]) for name, value in fitted.items()}
    if isinstance(law, DistillationLaw):
        values |= {"c1": law.c1, "d1": law.d1}
    order = ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "d_eff") if form.distils else form.shape.names
    return {name: values[name] for name in (*order, *(("floor",) if "floor" in form.free else ()))}
