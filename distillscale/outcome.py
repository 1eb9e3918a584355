"""How a fit can end, and which tables cannot be fitted at all; nothing here minimises."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .forms import Form

__all__ = ["Finding", "Outcome", "hopeless"]

Array = NDArray[np.float64]


class Outcome(StrEnum):
    """The end of a fit: the value is the cause and the remedy, `usable` whether the law may be used."""

    CONVERGED = "converged"
    AT_LIMIT = (
        "converged with a term that the data do not ask for: a coefficient ended at the edge of its range without harm "
        "inside the table; do not extrapolate through that term"
    )
    AT_GIVEN_BOUND = "converged against a bound that was asked for; widen it to see what the data say alone"
    THIN = (
        "converged on hardly more runs than coefficients: an interpolation with no measure of its own error; "
        "add runs before trusting it"
    )
    TOO_FEW_ROWS = "there are no more runs than coefficients; add runs or fit a form with fewer coefficients"
    ONE_SIZE = "the runs hold too few model sizes to tell the size term; add runs of other sizes"
    ONE_TOKEN_COUNT = "the runs hold too few token counts to tell the data term; add runs of other lengths"
    ONE_TEACHER = "the runs hold too few teacher losses to tell the teacher's effect; add runs under other teachers"
    CONSTANT_LOSS = "the losses are all alike, so there is nothing to explain; check the loss column"
    COLLINEAR = (
        "tokens are one power of params in every run, so the size and data terms cannot be told apart; "
        "add runs at another number of tokens per parameter"
    )
    MIXED_UNITS = "one column spans units, such as millions beside ones; write every count in full, or as 125M"
    EXPLAINS_LITTLE = (
        "the law explains less than half of the spread of the losses; check the columns, the units and the form"
    )
    AT_BOUND = "an essential coefficient ended on its bound; widen the bound, add runs, or fit a simpler form"
    UNIDENTIFIED = "the runs leave a direction of the coefficients undetermined; vary sizes, tokens and teachers more"
    STARTS_DISAGREE = "no two starts ended in the same minimum; add runs, raise delta, or fit a simpler form"
    NOT_A_MINIMUM = "the search ended where the objective is not minimal; raise delta or fit a simpler form"

    @property
    def usable(self) -> bool:
        """Whether a law came out that may be planned with (perhaps under a warning)."""
        return self in (Outcome.CONVERGED, Outcome.AT_LIMIT, Outcome.AT_GIVEN_BOUND, Outcome.THIN)


class Finding(NamedTuple):
    """An outcome and what in this table led to it."""

    outcome: Outcome
    reason: str


# Sizes closer than this factor are one size, losses closer than this one loss.
_ONE_SIZE, _ONE_LOSS = 0.02, 1e-4
_ONE_RATIO = 0.02
_UNIT_GAP = np.log(1e3) - 1e-6


def _distinct(log_values: Array, apart: float) -> int:
    """How many values are left when those within `apart` of the one below are merged."""
    return 1 + int(np.sum(np.diff(np.sort(log_values)) > apart))


def hopeless(form: Form, free: int, n: Array, d: Array, y: Array, t: Array | None) -> Finding | None:
    """What makes a table (log sizes, tokens, losses, teacher losses) unfit for this form, None where nothing does.

    With a free floor E, two sizes are as few as one: E + A/N1^α and E + A/N2^α are two numbers for three unknowns.
    """
    rows = len(y)
    for what, column in (("params", n), ("tokens", d)):
        gaps = np.diff(np.sort(column))
        if len(gaps) and gaps.max() >= _UNIT_GAP:
            low = np.sort(column)[int(np.argmax(gaps))]
            high = low + gaps.max()
            return Finding(
                Outcome.MIXED_UNITS,
                f"{what} jumps from {np.exp(low):.3g} to {np.exp(high):.3g} with nothing between",
            )
    if rows <= free:
        return Finding(Outcome.TOO_FEW_ROWS, f"{rows} runs for {free} coefficients")
    if np.ptp(y) < _ONE_LOSS:
        return Finding(Outcome.CONSTANT_LOSS, f"every loss is {np.exp(y[0]):.5g}")
    needed = 3 if "E" in form.free else 2
    for what, column, outcome in (("params", n, Outcome.ONE_SIZE), ("tokens", d, Outcome.ONE_TOKEN_COUNT)):
        if (count := _distinct(column, _ONE_SIZE)) < needed:
            values = f"{count} value{'s' * (count > 1)} of {what} ({np.exp(column.min()):.3g}"
            values += f" to {np.exp(column.max()):.3g})" if count > 1 else ")"
            return Finding(outcome, f"{values}; a {form.name} law needs at least {needed}")
    slope = np.cov(n, d)[0, 1] / np.var(n, ddof=1)
    if np.std(d - d.mean() - slope * (n - n.mean())) < _ONE_RATIO:
        ratio = float(np.exp(np.median(d - n)))
        return Finding(
            Outcome.COLLINEAR, f"every run has about {ratio:.3g}·params^{slope - 1:.2g} tokens per parameter"
        )
    if t is not None and (teachers := _distinct(t, 1e-3)) < 3:
        return Finding(Outcome.ONE_TEACHER, f"{teachers} teacher loss{'es' * (teachers > 1)}; at least 3 are needed")
    return None
