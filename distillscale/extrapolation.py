"""How well a fit extrapolates: a second fit without the largest runs, scored on them. It changes no coefficient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np

from .fit import fit
from .fitted import Fit
from .forms import form_named
from .runs import RunTable

__all__ = ["LARGEST_SHARE", "largest_runs", "scored_on_largest"]

LARGEST_SHARE: Final = 0.22
"""Share of the runs, largest by compute, that is held out where no rule is given."""


def largest_runs(table: RunTable, kind: str) -> str:
    """The rule that holds out the largest runs of a kind by compute, 6 · params · tokens.

    Runs that tie with the smallest of them stay in the fit, so that the rule never splits equals.
    """
    compute = table.number("compute")[table.kind == kind]
    limit = float(np.quantile(compute, 1.0 - LARGEST_SHARE, method="lower"))
    above = compute[compute > limit]
    if len(above):  # between two runs, so that the rule as printed takes the same rows
        limit = math.sqrt(limit * above.min())
    return f"compute>{limit:.4g}"


def scored_on_largest(found: Fit, table: RunTable, **settings: Any) -> Fit:
    """`found`, a fit to every row, with `held_out` from a second fit that has not seen the largest runs.

    Where that second fit is not usable `held_out` stays None and a warning says why.
    """
    rule = largest_runs(table, "distillation" if form_named(found.form).distils else "supervised")
    if not table.where(rule).any():
        return replace(found, warnings=(*found.warnings, "all runs have the same compute: nothing larger to score on"))
    part = fit(table, found.form, hold_out=rule, **settings)
    if part.held_out is None or not part.usable:
        why = part.reason or part.outcome.value
        return replace(found, warnings=(*found.warnings, f"extrapolation not scored: without the largest runs, {why}"))
    return replace(found, held_out=part.held_out)
