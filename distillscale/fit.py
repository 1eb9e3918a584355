"""Fitting a law to a run table, with its certificate, intervals and outcome; nothing here plans, prices or prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .estimate import OBJECTIVES, FittedLaw, Knowledge, Prepared, as_coefficients, predict, prepare
from .fitted import Ends, Fit, HeldOut
from .forms import Form, form_named
from .laws import DistillationLaw, SupervisedLaw
from .lawset import LawSet
from .outcome import Outcome
from .resample import LEAST_FREEDOM, Clusters, Draws, clusters_of, resample, taken_up
from .runs import RunTable
from .search import Optimum

__all__ = ["Fit", "HeldOut", "Outcome", "bootstrap", "fit"]

Array = NDArray[np.float64]

_LEVEL: Final = 0.90
_MOST_FAILURES: Final = 0.1


def fit(
    table: RunTable,
    law: str = "chinchilla",
    *,
    objective: str = "huber",
    delta: float = 1e-3,
    bounds: Mapping[str, Ends] | None = None,
    supervised: SupervisedLaw | LawSet | None = None,
    bootstrap: int = 0,
    cluster: str | None = None,
    hold_out: str | None = None,
    seed: int = 0,
) -> Fit:
    """Fit one form to the rows of its kind; see `Fit` for what comes back.

    Minimises Σ Huber_δ(log L̂ − log L), the sum (objective `huber`), Σ |log L̂ − log L| (`lad`) or Σ (log L̂ − log L)²
    (`least-squares`). `bounds` {coefficient: (low, high)} narrows the search, low = high fixes. A distillation law
    takes its supervised part from `supervised`, or else from a fit of Eq 1 to the table's supervised rows, and then
    both stages are resampled together. `hold_out`, for example 'loss<2.3', names rows that are left out of the fit
    and scored. `bootstrap` is the number of resamples, `cluster` the column whose values are resampled together.
    """
    form = form_named(law)
    _check(objective, delta, bootstrap)
    settings = _Settings(objective, delta, dict(bounds or {}), bootstrap, cluster, seed)
    rows, held = _split(table, form, hold_out)
    first: _Stage | None = None
    sup_law = supervised.supervised if isinstance(supervised, LawSet) else supervised
    if form.distils and sup_law is None:
        first, sup_law = _first_stage(table, hold_out, settings)
        if sup_law is None:
            assert first is not None
            return _without_law(form, rows, settings, first)
    prepared = prepare(rows, form, objective=objective, delta=delta, bounds=bounds, supervised=sup_law)
    stage = _Stage(rows, prepared, clusters_of(rows, cluster, distils=form.distils))
    found = _assemble(stage, first, settings, held, hold_out, table)
    if isinstance(supervised, LawSet):
        found = replace(found, supervised_residual_sd=supervised.residual.supervised)
    return found


def bootstrap(table: RunTable, law: str = "chinchilla", count: int = 4000, **settings: Any) -> Fit:
    """`fit` with `count` bootstrap resamples."""
    return fit(table, law, bootstrap=count, **settings)


@dataclass(frozen=True, slots=True)
class _Settings:
    objective: str
    delta: float
    bounds: dict[str, Ends]
    bootstrap: int
    cluster: str | None
    seed: int


class _Stage:
    """One fit on the rows of one kind: the search on demand, then its resamples."""

    def __init__(self, rows: RunTable, prepared: Prepared, clusters: Clusters) -> None:
        self.rows, self.prepared, self.clusters = rows, prepared, clusters
        self.optimum: Optimum | None = None
        self.knowledge: Knowledge | None = None
        self.finding = prepared.hopeless()
        if self.finding is None:
            self.optimum = prepared.search()
            self.knowledge = prepared.knowledge(self.optimum)
            self.finding = prepared.judge(self.optimum, self.knowledge)

    @property
    def law(self) -> FittedLaw | None:
        return None if self.optimum is None else self.prepared.law(self.optimum.theta)

    def freedom(self) -> float:
        """Clusters beyond those that the coefficients take up."""
        assert self.optimum is not None
        return self.clusters.count - taken_up(self.prepared, self.optimum.theta, self.clusters)

    def resamples(self, rng: np.random.Generator, count: int, supervised: SupervisedLaw | None = None) -> Draws:
        assert self.optimum is not None
        weights = self.clusters.weights(rng, count)
        return resample(self.prepared, self.optimum.theta, weights, self.clusters, supervised, self.rows)


def _check(objective: str, delta: float, count: int) -> None:
    if objective not in OBJECTIVES:
        raise InputError(f"objective must be one of {', '.join(OBJECTIVES)}; got {objective!r}")
    if not (math.isfinite(delta) and delta > 0):
        raise InputError(f"delta is the Huber threshold of a log residual and must be positive; got {delta!r}")
    if isinstance(count, bool) or count < 0:
        raise InputError(f"bootstrap is a number of resamples and must be 0 or more; got {count!r}")


def _split(table: RunTable, form: Form, hold_out: str | None) -> tuple[RunTable, RunTable | None]:
    """The rows of the form's kind to fit, and those to score."""
    kind = "distillation" if form.distils else "supervised"
    rows = table.of_kind(kind)
    if not len(rows):
        other = f"; its {len(table)} rows are {table.kind[0]} runs" if len(table) else ""
        remedy = "add a teacher_loss column" if form.distils else "fit --law distillation, or read it with that kind"
        raise InputError(f"{table.source} holds no {kind} runs, which a {form.name} law is fitted to{other}; {remedy}")
    if hold_out is None:
        return rows, None
    held = rows.where(hold_out)
    if not held.any() or held.all():
        which = "no row" if not held.any() else "every row"
        raise InputError(f"hold-out {hold_out!r} takes {which} of {len(rows)}; choose a value inside the table's range")
    return rows.select(~held), rows.select(held)


def _first_stage(
    table: RunTable, hold_out: str | None, settings: _Settings
) -> tuple[_Stage | None, SupervisedLaw | None]:
    """Eq 1 fitted to the supervised rows (those not held out)."""
    rows = table.of_kind("supervised")
    if not len(rows):
        raise InputError(
            f"{table.source} holds no supervised runs and no supervised law was given; "
            "add supervised rows or name a law with --supervised"
        )
    if hold_out is not None:
        rows = rows.select(~rows.where(hold_out))
    form = form_named("supervised")
    prepared = prepare(rows, form, objective=settings.objective, delta=settings.delta)
    stage = _Stage(rows, prepared, clusters_of(rows, _own_cluster(rows, settings.cluster), distils=False))
    law = stage.law
    usable = stage.finding is not None and stage.finding.outcome.usable
    return stage, law if usable and isinstance(law, SupervisedLaw) else None


def _own_cluster(rows: RunTable, column: str | None) -> str | None:
    """The cluster column where the supervised rows fill it (a teacher's name is empty there)."""
    if column is None or np.any(rows.labels(column) == ""):
        return None
    return column


def _without_law(form: Form, rows: RunTable, settings: _Settings, first: _Stage) -> Fit:
    """A distillation fit whose supervised stage failed."""
    assert first.finding is not None
    sup = _assemble(first, None, replace(settings, bounds={}, bootstrap=0), None, None, first.rows)
    return Fit(
        law=None,
        form=form.name,
        rows=len(rows),
        outcome=first.finding.outcome,
        reason=f"the supervised rows: {first.finding.reason}",
        objective=settings.objective,
        delta=settings.delta if settings.objective == "huber" else None,
        bounds=settings.bounds,
        seed=settings.seed,
        source=rows.source,
        supervised_fit=sup,
        warnings=rows.warnings,
    )


def _assemble(
    stage: _Stage,
    first: _Stage | None,
    settings: _Settings,
    held: RunTable | None,
    rule: str | None,
    table: RunTable,
) -> Fit:
    """Everything about a fit that has been searched."""
    assert stage.finding is not None
    prepared, form = stage.prepared, stage.prepared.form
    outcome, reason = stage.finding
    sup_fit = None
    if first is not None:
        sup_fit = _assemble(first, None, replace(settings, bounds={}, bootstrap=0), None, None, first.rows)
    base = Fit(
        law=stage.law,
        form=form.name,
        rows=len(stage.rows),
        outcome=outcome,
        reason=reason,
        objective=settings.objective,
        delta=settings.delta if settings.objective == "huber" else None,
        bounds=settings.bounds,
        cluster=stage.clusters.name,
        clusters=stage.clusters.count,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        regime=_regime(stage.rows, distils=form.distils),
        source=table.source,
        supervised_fit=sup_fit,
    )
    if stage.optimum is None or stage.law is None:
        return replace(base, warnings=table.warnings)
    assert stage.knowledge is not None
    coefficients = as_coefficients(form, stage.law, prepared.coefficients(stage.optimum.theta[None]))
    identified = stage.knowledge.identified(form)
    draws, failed, note = _draws(stage, first, settings)
    warnings = list(table.warnings)
    if sup_fit is not None:
        warnings += [f"supervised stage: {w}" for w in sup_fit.warnings if w not in table.warnings]
    if loose := [name for name, known in identified.items() if not known and name not in ("c1", "d1")]:
        verb = "is" if len(loose) == 1 else "are"
        warnings.append(f"{', '.join(loose)} {verb} hardly determined by these runs; trust predictions, not values")
    warnings += [note] if note else []
    implied = {"d_eff"} | {"floor"}.difference(coefficients)  # by c1 and d1; by the form
    return replace(
        base,
        coefficients=coefficients,
        certificate=stage.optimum.certificate,
        identified=identified,
        weak_directions=tuple(stage.knowledge.weak_directions()),
        intervals=_intervals(coefficients, draws, stage.knowledge.on_bound),
        draws={name: column for name, column in draws.items() if name not in implied},
        failed_draws=failed,
        held_out=None if held is None else _score(stage.law, held, rule or ""),
        residual_sd=prepared.residual_sd(stage.optimum.theta),
        warnings=tuple(warnings),
    )


def _draws(stage: _Stage, first: _Stage | None, settings: _Settings) -> tuple[dict[str, Array], int, str]:
    """Joint draws by coefficient, how many resamples failed, and why there are none where there are none."""
    if not settings.bootstrap or stage.finding is None or not stage.finding.outcome.usable:
        return {}, 0, ""
    for one in (stage, first):
        if one is not None and one.freedom() < LEAST_FREEDOM:
            return (
                {},
                0,
                f"no intervals: {one.clusters.count} clusters ({one.clusters.name}) leave no spread to measure beside "
                f"the {one.prepared.form.name} law's coefficients; add runs from other clusters",
            )
    rng = np.random.default_rng(settings.seed)
    out: dict[str, Array] = {}
    kept = np.ones(settings.bootstrap, bool)
    drawn: SupervisedLaw | None = None
    if first is not None:
        sup = first.resamples(rng, settings.bootstrap)
        kept = sup.kept
        values = first.prepared.coefficients(sup.theta)
        drawn = SupervisedLaw(**{name: _where(kept, column) for name, column in values.items()})  # pyright: ignore
        out = {f"supervised.{name}": column for name, column in values.items()}
    found = stage.resamples(rng, settings.bootstrap, drawn)
    both = kept & found.kept
    failed = int(np.sum(~both))
    if failed > _MOST_FAILURES * settings.bootstrap:
        return (
            {},
            failed,
            (
                f"no intervals: {failed} of {settings.bootstrap} resamples have no minimum of their own; "
                "add runs, or fit a form with fewer coefficients"
            ),
        )
    out = {name: column[both[kept]] for name, column in out.items()}
    own = stage.prepared.coefficients(found.theta[both[found.kept]])
    if isinstance(stage.law, DistillationLaw):
        own["c1"] = np.full(len(own["A"]), stage.law.c1)
        own["d1"] = own["d_eff"] * (own["c1"] * own["f1"]) ** own["f1"]
    return own | out, failed, ""


def _where(kept: NDArray[np.bool_], column: Array) -> Array:
    """Values of the kept draws in their places; the failed ones take a kept one's, and are dropped with their draw."""
    out = np.full(len(kept), column[0] if len(column) else 1.0)
    out[kept] = column
    return out


def _intervals(
    coefficients: Mapping[str, float], draws: Mapping[str, Array], on_bound: frozenset[str]
) -> dict[str, Ends | None]:
    """Percentiles of the draws; one that rests on a bound has no interval, however still its draws lie there."""
    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    out: dict[str, Ends | None] = {}
    for name in coefficients:
        if name in draws and name not in {"c1", "d1", *on_bound} and np.ptp(draws[name]) > 0:
            low, high = np.quantile(draws[name], tails)
            out[name] = (float(low), float(high))
        else:
            out[name] = None
    return out


def _score(law: FittedLaw, held: RunTable, rule: str) -> HeldOut:
    error = predict(law, held) - held.loss
    return HeldOut(
        rows=len(held),
        rmse=float(np.sqrt(np.mean(error * error))),
        max_relative_error=float(np.max(np.abs(error) / held.loss)),
        rule=rule,
    )


def _regime(rows: RunTable, *, distils: bool) -> dict[str, Ends]:
    """The ranges a law was fitted in, by the planner's names."""
    columns = {"tokens_per_param": rows.tokens / rows.params}
    if distils:
        assert rows.teacher_loss is not None
        columns |= {"student_params": rows.params, "student_tokens": rows.tokens, "teacher_loss": rows.teacher_loss}
    else:
        columns |= {"params": rows.params, "tokens": rows.tokens, "loss": rows.loss}
    return {name: (float(column.min()), float(column.max())) for name, column in columns.items()}
