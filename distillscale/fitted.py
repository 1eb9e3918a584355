"""What a fit is once it is done: a law, its evidence and how both are written down; nothing here estimates anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FitError
from .forms import form_named
from .laws import DistillationLaw, SupervisedLaw
from .lawset import LawSet, Residual, draws_law
from .outcome import Outcome
from .search import Certificate

__all__ = ["Ends", "Fit", "HeldOut"]

Array = NDArray[np.float64]
Ends = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """How a law fitted without these rows predicts them: rmse in nats, the largest |L̂ − L|/L."""

    rows: int
    rmse: float
    max_relative_error: float
    rule: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A law fitted to runs and the evidence for it. `law` is None only where the table is hopeless.

    `intervals` are 90 % percentile intervals of the bootstrap, None where there is none. `draws` holds the joint
    draws by coefficient name (constants too), the supervised stage of a distillation fit as `supervised.E` and so on.
    """

    law: SupervisedLaw | DistillationLaw | None
    form: str
    rows: int
    outcome: Outcome
    reason: str
    objective: str
    delta: float | None
    bounds: Mapping[str, Ends] = field(default_factory=dict[str, Ends])
    coefficients: Mapping[str, float] = field(default_factory=dict[str, float])
    certificate: Certificate | None = None
    identified: Mapping[str, bool] = field(default_factory=dict[str, bool])
    weak_directions: tuple[str, ...] = ()
    intervals: Mapping[str, Ends | None] = field(default_factory=dict[str, Ends | None])
    draws: Mapping[str, Array] = field(default_factory=dict[str, Array])
    cluster: str = ""
    clusters: int = 0
    bootstrap: int = 0
    """Resamples asked for; `failed_draws` of them did not converge and are not in `draws`."""
    failed_draws: int = 0
    seed: int = 0
    held_out: HeldOut | None = None
    residual_sd: float | None = None
    """Of log(measured/law), see `Prepared.residual_sd`."""
    regime: Mapping[str, Ends] = field(default_factory=dict[str, Ends])
    warnings: tuple[str, ...] = ()
    source: str = ""
    supervised_residual_sd: float | None = None
    """Of the supervised law that was given, where its set knows it."""
    supervised_fit: Fit | None = None
    """The first stage of a distillation fit that took its supervised law from the table."""

    @property
    def usable(self) -> bool:
        """Whether the law may be planned with."""
        return self.law is not None and self.outcome.usable

    def require(self) -> Fit:
        """The fit itself, or a FitError with cause and remedy."""
        if not self.usable:
            because = f" ({self.reason})" if self.reason else ""
            raise FitError(f"{self.form} fit of {self.rows} runs is not usable{because}: {self.outcome.value}")
        return self

    def to_lawset(self, name: str) -> LawSet:
        """The law with its range, residual error, draws and provenance, for planning."""
        law = self.require().law
        assert law is not None
        form = form_named(self.form).lawset_form
        first = self.supervised_fit
        residual = Residual(supervised=self.residual_sd)
        if isinstance(law, DistillationLaw):
            residual = Residual(
                supervised=first.residual_sd if first else self.supervised_residual_sd, distillation=self.residual_sd
            )
        caveats = [] if self.outcome is Outcome.CONVERGED else [f"{self.outcome.value} ({self.reason})"]
        return LawSet(
            name=name,
            form=form,
            law=law,
            paper="",
            table=f"{self.form} law fitted to {self.rows} runs of {self.source}",
            regime=dict(self.regime),
            caveats=(*caveats, *self.warnings),
            residual=residual,
            draws=draws_law(form, law, self.draws, name) if self.draws else None,
            provenance={
                "law": self.form,
                "source": self.source,
                "rows": self.rows,
                "objective": self.objective,
                "delta": self.delta,
                "bounds": {key: list(ends) for key, ends in self.bounds.items()},
                "cluster": self.cluster,
                "clusters": self.clusters,
                "bootstrap": self.bootstrap,
                "draws": self.bootstrap - self.failed_draws if self.draws else 0,
                "seed": self.seed,
                "version": _version(),
                "evidence": self._evidence(),
            },
        )

    def _evidence(self) -> dict[str, Any]:
        """What a report of the law says about the fit beside its numbers."""
        kept = ("outcome", "certificate", "identified", "weak_directions", "intervals", "held_out")
        return {name: value for name, value in self.to_json().items() if name in kept}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an interval that could not be estimated is null."""
        held_out = None if self.held_out is None else asdict(self.held_out)
        return {
            "law": self.form,
            "rows": self.rows,
            "objective": self.objective,
            "delta": self.delta,
            "bounds": {name: [low, _finite(high)] for name, (low, high) in self.bounds.items()},
            "coefficients": _plain(self.coefficients),
            "supervised": _plain(self.supervised_fit.coefficients) if self.supervised_fit else None,
            "intervals": {name: None if ends is None else list(ends) for name, ends in self.intervals.items()},
            "outcome": self.outcome.value,
            "reason": self.reason,
            "usable": self.usable,
            "certificate": None if self.certificate is None else _plain(asdict(self.certificate)),
            "identified": dict(self.identified),
            "weak_directions": list(self.weak_directions),
            "residual_sd": self.residual_sd,
            "bootstrap": self.bootstrap,
            "failed_draws": self.failed_draws,
            "cluster": self.cluster,
            "clusters": self.clusters,
            "seed": self.seed,
            "held_out": held_out,
            "warnings": list(self.warnings),
        }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _plain(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers that JSON can write: one that ran out of range is null."""
    return {name: _finite(value) for name, value in numbers.items()}


def _version() -> str:
    try:
        return version("distillscale")
    except PackageNotFoundError:
        return "unknown"
