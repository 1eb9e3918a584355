"""A run as an experiment tracker kept it: texts, and series of numbers; where it was kept is not known here.

Of a series a run table takes one number: its last value, that of the greatest step and of these the latest written; or
under the name `min(NAME)` the least of its finite values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Point", "Tracked", "is_derived"]


class Point(NamedTuple):
    """One value of a series; points are compared by step, then by time."""

    step: float
    time: float
    value: float


@dataclass(frozen=True, slots=True)
class Tracked:
    """One run, by the name of its folder."""

    id: str
    texts: dict[str, str] = field(default_factory=dict[str, str])
    series: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])

    def cells(self) -> dict[str, str | None]:
        """The run as a row: its id, its texts, and the last and the least value of every series."""
        row: dict[str, str | None] = {"id": self.id, **self.texts}
        for name, points in self.series.items():
            row[name] = repr(_last(points))
            row[f"min({name})"] = repr(min((p.value for p in points if math.isfinite(p.value)), default=math.nan))
        return row


def _last(points: Sequence[Point]) -> float:
    best = points[0]
    for point in points:  # of equals the one that was written later
        if (point.step, point.time) >= (best.step, best.time):
            best = point
    return best.value


def is_derived(column: str) -> bool:
    """Whether a column is the least value of another."""
    return column.startswith("min(") and column.endswith(")")
