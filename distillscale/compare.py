"""Which form of law suits a table, judged on held-out larger runs first; it fits through `fit` and knows no formula.

A form that fits the runs one has says little about the larger run one is about to pay for. So every form is fitted to
the smaller runs and scored on the larger ones; AIC and BIC of a fit to all runs only break ties and fill gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .estimate import predict
from .extrapolation import largest_runs
from .fit import Fit, fit
from .forms import form_named
from .laws import SupervisedLaw
from .lawset import LawSet
from .runs import RunTable

__all__ = ["Compared", "compare"]

Array = NDArray[np.float64]

_FORMS: Final = {
    "supervised": ("chinchilla", "supervised", "kaplan"),
    "distillation": ("distillation", "distillation-no-gate", "distillation-free-floor"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One form: its error on the held-out runs (nats, None where there was no law without them), its criteria.

    `aic` and `bic` are of the fit to all runs, with the likelihood that its objective belongs to: Laplace for Huber
    and absolute deviations (δ lies far below the noise), normal for least squares; the scale counts as a coefficient.
    """

    law: str
    held_out_rmse: float | None
    held_out_rows: int
    held_out: str
    aic: float | None
    bic: float | None
    coefficients: Mapping[str, float]
    fit: Fit
    """The fit to all runs."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "law": self.law,
            "held_out_rmse": self.held_out_rmse,
            "held_out_rows": self.held_out_rows,
            "held_out": self.held_out,
            "aic": self.aic,
            "bic": self.bic,
            "coefficients": dict(self.coefficients),
            "usable": self.fit.usable,
            "outcome": self.fit.outcome.value,
            "reason": self.fit.reason,
        }


def compare(
    table: RunTable,
    *,
    kind: str | None = None,
    hold_out: str | None = None,
    supervised: SupervisedLaw | LawSet | None = None,
    objective: str = "huber",
    delta: float = 1e-3,
) -> list[Compared]:
    """The forms for the rows of one kind (students where the table has any), best first.

    Without `hold_out`, the 22 % of the runs with the most compute (6·params·tokens) are held out.
    """
    kind = kind or ("distillation" if np.any(table.kind == "distillation") else "supervised")
    if kind not in _FORMS:
        raise InputError(f"kind must be one of {', '.join(_FORMS)}; got {kind!r}")
    held, rule = _held(table, kind, hold_out)
    settings: dict[str, Any] = {"supervised": supervised, "objective": objective, "delta": delta}
    found = [_compared(name, kind, table, held, rule, settings) for name in _FORMS[kind]]
    return sorted(found, key=_rank)


def _rank(one: Compared) -> tuple[bool, float, float]:
    return (
        not one.fit.usable,
        math.inf if one.held_out_rmse is None else one.held_out_rmse,
        math.inf if one.aic is None else one.aic,
    )


def _held(table: RunTable, kind: str, hold_out: str | None) -> tuple[NDArray[np.bool_], str]:
    """Rows to leave out (of either kind), and the rule in words."""
    mine = table.kind == kind
    if hold_out is None:
        if not mine.any():
            raise InputError(f"{table.source} holds no {kind} runs to compare laws on; check its kind column")
        rule = largest_runs(table, kind)
        return table.where(rule), rule
    held = table.where(hold_out)
    if not held[mine].any() or held[mine].all():
        which = "no" if not held[mine].any() else "every"
        raise InputError(f"hold-out {hold_out!r} takes {which} {kind} run; choose a value inside the table's range")
    return held, hold_out


def _compared(
    name: str, kind: str, table: RunTable, held: NDArray[np.bool_], rule: str, settings: dict[str, Any]
) -> Compared:
    whole = fit(table, name, **settings)
    scored = table.select(held).of_kind(kind)
    rest = table.select(~held)
    rmse = None
    if len(scored) and np.any(rest.kind == kind):
        part = fit(rest, name, **settings)
        if part.law is not None:
            rmse = float(np.sqrt(np.mean((predict(part.law, scored) - scored.loss) ** 2)))
    aic, bic = _criteria(whole, table.of_kind(kind))
    return Compared(
        law=name,
        held_out_rmse=rmse,
        held_out_rows=len(scored),
        held_out=rule,
        aic=aic,
        bic=bic,
        coefficients=whole.coefficients,
        fit=whole,
    )


def _criteria(found: Fit, rows: RunTable) -> tuple[float | None, float | None]:
    """2k − 2 log lik and k log n − 2 log lik of log residuals, at the scale that maximises the likelihood."""
    if found.law is None:
        return None, None
    residual = np.log(predict(found.law, rows) / rows.loss)
    n, k = len(residual), 1 + _free(found)
    if found.objective == "least-squares":
        minus_two = n * (math.log(2 * math.pi * max(float(np.mean(residual**2)), 1e-300)) + 1)
    else:
        minus_two = 2 * n * (math.log(2 * max(float(np.mean(np.abs(residual))), 1e-300)) + 1)
    return 2 * k + minus_two, k * math.log(n) + minus_two


def _free(found: Fit) -> int:
    fixed = {name for name, (low, high) in found.bounds.items() if low == high}
    return len([name for name in form_named(found.form).free if name not in fixed])
