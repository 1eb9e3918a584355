"""What the experiments' findings share: a figure with its lines, axes, and how far a law is from its runs."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from analysis import Mean

from distillscale import DistillationLaw, RunTable, SupervisedLaw
from distillscale.chart import Axis, Figure, Series
from distillscale.units import format_count

LOSS: Final = Axis(label="loss", unit="nats/token")
TOKENS: Final = Axis(label="tokens", scale="log")
TEACHER: Final = Axis(label="teacher's loss", unit="nats/token")


class Found(NamedTuple):
    """A figure and what it says."""

    figure: Figure
    lines: list[str]


def rmse(law: SupervisedLaw | DistillationLaw, table: RunTable) -> float:
    """Root mean square of log(law/measured)."""
    return float(np.sqrt(np.mean(residuals(law, table) ** 2)))


def residuals(law: SupervisedLaw | DistillationLaw, table: RunTable) -> np.ndarray:
    if isinstance(law, DistillationLaw):
        return np.log(law.loss(table.params, table.tokens, table.teacher_loss) / table.loss)
    return np.log(law.loss(table.params, table.tokens) / table.loss)


def size(N: float) -> str:
    return f"N = {format_count(N)}"


def points(name: str, x: list[float], values: list[Mean], style: str = "line") -> Series:
    """Means with their intervals."""
    bands = all(v.low is not None for v in values)
    return Series(
        name=name, x=tuple(x), y=tuple(v.value for v in values), style=style,
        low=tuple(v.low for v in values) if bands else (), high=tuple(v.high for v in values) if bands else (),
    )  # fmt: skip
