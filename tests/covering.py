"""How often 90 % intervals of predictions hold the planted truth: simulated studies through the public fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from planted import DISTILLATION, SUPERVISED, joined, student_study, supervised_study

from distillscale.fit import fit
from distillscale.runs import RunTable

Array = NDArray[np.float64]

# Predictions asked of every study: three inside its range, three moderately outside (2.7 times the largest size, a
# third of the smallest, twice the tokens under the strongest teacher).
N = np.array([3e8, 8e8, 2e9, 8e9, 7e7, 3e9])
D = np.array([1e10, 2e10, 1e11, 4e11, 7e9, 6e11])
L_T = np.array([2.3, 2.1, 2.2, 2.0, 2.5, 1.9])
INSIDE, OUTSIDE = slice(0, 3), slice(3, 6)


@dataclass(frozen=True)
class Design:
    """One kind of study: how its table is drawn, which form is fitted, what resampling goes by."""

    name: str
    draw: Callable[[np.random.Generator], RunTable]
    law: str
    supervised_known: bool = False
    cluster: str | None = None


def students(teachers: int) -> Callable[[np.random.Generator], RunTable]:
    """Twelve students a teacher: 0.3 % of noise shared by a teacher's students, 0.3 % of each run's own."""
    return lambda rng: student_study(DISTILLATION, rng, noise=0.003, teacher_noise=0.003, teachers=teachers)


def supervised(seeds: int, noise: float = 0.004) -> Callable[[np.random.Generator], RunTable]:
    """A grid of 30 sizes and lengths, each run with `seeds` seeds."""
    return lambda rng: supervised_study(SUPERVISED, rng, noise=noise, seeds=seeds)


def both(teachers: int) -> Callable[[np.random.Generator], RunTable]:
    """Supervised runs and students in one table; both laws are fitted and resampled."""
    return lambda rng: joined(supervised(2, 0.003)(rng), students(teachers)(rng))


DESIGNS = {
    design.name: design
    for design in (
        Design("60 supervised runs", supervised(2), "supervised"),
        Design("90 supervised runs", supervised(3), "supervised"),
        Design("8 teachers", students(8), "distillation", supervised_known=True),
        Design("10 teachers", students(10), "distillation", supervised_known=True),
        Design("12 teachers", students(12), "distillation", supervised_known=True),
        Design("16 teachers", students(16), "distillation", supervised_known=True),
        Design("60 supervised runs, 12 teachers", both(12), "distillation"),
    )
}


@dataclass(frozen=True)
class Coverage:
    """Hits (studies, 6) of the studies that gave intervals, and how many did not."""

    hits: NDArray[np.bool_]
    without: int

    @property
    def inside(self) -> float:
        """Share of intervals that hold the truth, in range."""
        return float(self.hits[:, INSIDE].mean())

    @property
    def outside(self) -> float:
        """The same, moderately extrapolated."""
        return float(self.hits[:, OUTSIDE].mean())


def measure(design: Design, studies: int, *, draws: int = 200, seed: int = 0) -> Coverage:
    """Simulate, fit, resample, and compare the 90 % interval of six predictions with the planted law."""
    rng = np.random.default_rng(seed)
    hits: list[NDArray[np.bool_]] = []
    without = 0
    for study in range(studies):
        known = SUPERVISED if design.supervised_known else None
        found = fit(design.draw(rng), design.law, supervised=known, bootstrap=draws, cluster=design.cluster, seed=study)
        if not found.draws:
            without += 1
            continue
        law = found.to_lawset("study")
        if design.law == "distillation":
            spread, truth = law.student_draws(N[None], D[None], L_T[None]), DISTILLATION.loss(N, D, L_T)
        else:
            spread, truth = law.supervised_draws(N[None], D[None]), SUPERVISED.loss(N, D)
        low, high = np.quantile(spread, [0.05, 0.95], axis=0)
        hits.append((low <= truth) & (truth <= high))
    return Coverage(np.array(hits), without)
