"""A figure as a value: axes, series, marks, what to read off it; not how it is drawn, nor where numbers come from.

Drawn by matplotlib, by the report and by the web planner alike, written as a table of its numbers, and told in words to
those who cannot see it. Gaps in a series are None. Every number is already in the unit of its axis.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import InputError

__all__ = ["Axis", "Chart", "Figure", "Mark", "Series", "Table", "csv_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What is along it, in which unit."""

    label: str
    unit: str = ""
    scale: Literal["linear", "log"] = "linear"

    @property
    def title(self) -> str:
        """`loss, nats/token`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One curve or cloud of points, with a 90 % band where `low` and `high` are given.

    Series of one name are one thing in several pieces (inside the fitted range and outside, a curve and its runs):
    they share a colour and a line of the legend.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    style: Literal["line", "dashed", "points"] = "line"

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y)} | {len(ends) for ends in (self.low, self.high) if ends}
        if len(lengths) > 1 or bool(self.low) != bool(self.high):
            raise InputError(f"series {self.name!r} needs x, y, low and high of one length; got lengths {lengths}")

    @classmethod
    def of(
        cls, name: str, x: Sequence[float], y: Sequence[float], style: Literal["line", "dashed", "points"] = "line"
    ) -> Series:
        """From arrays; what is not finite is a gap."""
        values = tuple(float(v) if math.isfinite(v) else None for v in y)
        return cls(name=name, x=tuple(float(v) for v in x), y=values, style=style)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point with a name, or a rule across the figure where one coordinate is None."""

    label: str
    x: float | None
    y: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure."""

    name: str
    """Of its files and its place in a page."""
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    caption: str = ""
    """What is shown, and the range in which it holds."""
    source: str = ""
    """The paper's figure, or the runs."""
    told: str = ""
    """What one reads off it, in words."""

    def to_json(self) -> dict[str, Any]:
        """Keys as the fields."""
        axes = {"x": _fields(self.x), "y": _fields(self.y)}
        return _fields(self) | axes | {"series": _each(self.series), "marks": _each(self.marks)}

    def to_screen(self) -> dict[str, Any]:
        """The same with the numbers of its series to eight digits, more than a screen shows."""
        out = self.to_json()
        for series in out["series"]:
            for name in ("x", "y", "low", "high"):
                series[name] = [None if v is None else float(f"{v:.8g}") for v in series[name]]
        return out

    def rows(self) -> Iterator[dict[str, Any]]:
        """The numbers as a table: series, style, x, y, low, high."""
        for series in self.series:
            low = series.low or (None,) * len(series.x)
            high = series.high or (None,) * len(series.x)
            for x, y, lowest, highest in zip(series.x, series.y, low, high, strict=True):
                found = {"series": series.name, "style": series.style, "x": x, "y": y, "low": lowest, "high": highest}
                if y is not None:
                    yield found


def _fields(value: Axis | Series | Mark | Chart) -> dict[str, Any]:
    """By name, sharing the numbers: copying them takes as long as computing them."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _each(parts: Sequence[Series | Mark]) -> tuple[dict[str, Any], ...]:
    return tuple(_fields(part) for part in parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Charts side by side under one title; how they share axes and a legend is the drawer's."""

    name: str
    title: str
    charts: tuple[Chart, ...]
    columns: int = 1
    caption: str = ""
    """What is shown, and the range in which it holds."""
    source: str = ""
    """The paper's figure, or the runs."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The numbers of every chart, with its name and the units of its axes."""
        for chart in self.charts:
            for row in chart.rows():
                yield {"chart": chart.name, "x_axis": chart.x.title, "y_axis": chart.y.title} | row


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table as values: text or numbers, None where there is none."""

    name: str
    title: str
    columns: tuple[str, ...]
    cells: tuple[tuple[str | float | None, ...], ...]
    caption: str = ""
    source: str = ""

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping a row."""
        for row in self.cells:
            yield dict(zip(self.columns, row, strict=True))

    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The cells as text for people; whole values and up to four digits of others."""
        return tuple(tuple(_shown(cell) for cell in row) for row in self.cells)


def _shown(cell: str | float | None) -> str:
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:.4g}"


def csv_text(rows: Iterable[dict[str, Any]]) -> str:
    """Rows of one shape as CSV with a header; numbers to ten digits, an empty cell where there is none."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows):
        if not number:
            writer.writerow(row)
        writer.writerow("" if v is None else f"{v:.10g}" if isinstance(v, float) else v for v in row.values())
    return text.getvalue()
