"""Runs as points, beside the laws fitted to them: loss, residuals, noise between seeds, gains; nothing is fitted here.

A run is a row of `export.rows_of`. Two runs are twins where all but one thing is equal: the seed, for noise; the
teacher, for gains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chart import Axis, Chart, Figure, Mark, Series
from ..laws import DistillationLaw, SupervisedLaw
from ..units import format_count
from .scope import LOSS, TEACHER_LOSS, size_axis, token_axis

__all__ = [
    "SETTINGS",
    "Gain",
    "Noise",
    "gains",
    "gains_figure",
    "is_student",
    "loss_figure",
    "noise",
    "residual_figure",
    "teacher_figure",
]

Row = Mapping[str, Any]
Array = NDArray[np.float64]
SETTINGS = ("lam", "tau", "divergence", "targets", "classes")
"""What one student is taught by, beside its teacher."""
_RUN_LOSS = Axis(label="loss", unit="nats/token")
_MOST = 8
"""Series of one chart; the rest of many sizes goes into a next one."""


def supervised(rows: Sequence[Row]) -> list[Row]:
    """Rows trained on text alone."""
    return [row for row in rows if row["kind"] == "supervised"]


def is_student(row: Row) -> bool:
    """Whether it had a teacher of known loss."""
    return row["kind"] == "distillation" and row["teacher_loss"] is not None


def students(rows: Sequence[Row]) -> list[Row]:
    """Rows that had a teacher."""
    return [row for row in rows if is_student(row)]


def _by(rows: Sequence[Row], *names: str) -> dict[Any, list[Row]]:
    """Rows by one column, or by several as a tuple, in order."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)].append(row)
    return groups if len(names) > 1 else dict(sorted(groups.items()))


def _span(values: Sequence[float]) -> Array:
    """A logarithmic axis over the values and a little beyond."""
    return np.geomspace(min(values) / 1.15, max(values) * 1.15, 61)


def _points(name: str, rows: Sequence[Row], x: str, y: str = "loss") -> Series:
    return Series.of(name, [float(row[x]) for row in rows], [float(row[y]) for row in rows], "points")


def loss_figure(rows: Sequence[Row], law: SupervisedLaw | None, name: str = "") -> Figure | None:
    """Supervised runs over tokens and over size, with the fitted law through them."""
    runs = supervised(rows)
    if not runs:
        return None
    tokens, params = _span([row["tokens"] for row in runs]), _span([row["params"] for row in runs])
    charts: list[Chart] = []
    for title, by, x, axis, values in (
        ("Over tokens, by size", "params", "tokens", token_axis("data"), tokens),
        ("Over size, by tokens", "tokens", "params", size_axis("model size"), params),
    ):
        series: list[Series] = []
        for value, group in list(_by(runs, by).items())[:_MOST]:
            label = f"{format_count(value)} {'parameters' if by == 'params' else 'tokens'}"
            if law is not None:
                fitted = law.loss(value, values) if by == "params" else law.loss(values, value)
                series.append(Series.of(label, values.tolist(), fitted.tolist()))
            series.append(_points(label, group, x))
        charts.append(Chart(name=f"loss-over-{x}", title=title, x=axis, y=_RUN_LOSS, series=tuple(series)))
    lines = f"Lines: {name or 'the law'} fitted to them." if law is not None else "No law was fitted."
    return Figure(
        name="loss", title="Runs without a teacher", charts=tuple(charts), columns=2,
        caption=f"Points: {len(runs)} runs. {lines}", source="the study's runs",
    )  # fmt: skip


def teacher_figure(rows: Sequence[Row], law: DistillationLaw | None) -> Figure | None:
    """Students over their teachers' loss, one chart a size, one series a length, with the fitted law."""
    runs = students(rows)
    if not runs:
        return None
    losses = [float(row["teacher_loss"]) for row in runs]
    low, high = min(losses), max(losses)
    L_T: Array = np.linspace(low - 0.1 * (high - low) - 0.01, high + 0.1 * (high - low) + 0.01, 61)
    charts: list[Chart] = []
    for number, (N, group) in enumerate(_by(runs, "params").items(), 1):
        series: list[Series] = []
        for D, same in list(_by(group, "tokens").items())[:_MOST]:
            label = f"{format_count(D)} tokens"
            if law is not None:
                series.append(Series.of(label, L_T.tolist(), law.loss(N, D, L_T).tolist()))
            series.append(_points(label, same, "teacher_loss"))
        title = f"{format_count(N)} student"
        charts.append(Chart(name=f"student-{number}", title=title, x=TEACHER_LOSS, y=LOSS, series=tuple(series)))
    lines = "Lines: the distillation law fitted to them." if law is not None else "No distillation law was fitted."
    return Figure(
        name="students", title="Students over their teachers' loss", charts=tuple(charts), columns=min(3, len(charts)),
        caption=f"Points: {len(runs)} students. {lines}", source="the study's runs",
    )  # fmt: skip


def residual_figure(laws: Mapping[str, tuple[Sequence[Row], Sequence[float]]]) -> Figure | None:
    """(measured − law)/law in percent over compute, one chart a law of (rows, predicted losses)."""
    charts: list[Chart] = []
    for name, (rows, predicted) in laws.items():
        pairs = [(row, 100 * (row["loss"] / p - 1)) for row, p in zip(rows, predicted, strict=True)]
        series: list[Series] = []
        for N in sorted({row["params"] for row in rows})[:_MOST]:
            mine = [(row, off) for row, off in pairs if row["params"] == N]
            x = [float(row["flops"] or 6.0 * row["params"] * row["tokens"]) for row, _ in mine]
            series.append(Series.of(f"{format_count(N)} parameters", x, [off for _, off in mine], "points"))
        rms = float(np.sqrt(np.mean([off**2 for _, off in pairs])))
        charts.append(
            Chart(
                name=f"residuals-{name}", title=f"{name}: {rms:.2f} % rms",
                x=Axis(label="training compute", unit="FLOPs", scale="log"),
                y=Axis(label="measured over law", unit="% above"), series=tuple(series),
                marks=(Mark(label="the law", x=None, y=0.0),), told=f"{name} is off by {rms:.2f} % (rms)",
            )
        )  # fmt: skip
    if not charts:
        return None
    return Figure(
        name="residuals", title="Residuals", charts=tuple(charts), columns=min(3, len(charts)),
        caption="How far each run lies from its law; a trend is what the law misses.", source="the study's runs",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Runs that differ in their seed alone."""

    params: float
    tokens: float
    teacher: str | None
    seeds: int
    mean: float
    spread: float
    """Standard deviation (of two or more)."""


def noise(rows: Sequence[Row]) -> list[Noise]:
    """One entry a cell with two seeds or more."""

    out: list[Noise] = []
    for key, group in _by(rows, "params", "tokens", "teacher", "schedule", "lr", *SETTINGS).items():
        losses = [float(row["loss"]) for row in group]
        if len({row["seed"] for row in group}) > 1:
            N, D, teacher, *_ = key
            spread = stdev(losses)
            out.append(Noise(params=N, tokens=D, teacher=teacher, seeds=len(group), mean=fmean(losses), spread=spread))
    return sorted(out, key=lambda one: (one.params, one.tokens))


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A student against the same model trained on text alone for as many tokens."""

    row: Row
    twin: float
    """Mean loss of the twins, over their seeds."""
    nats: float
    """twin − student: above zero where the teacher helped."""


def gains(rows: Sequence[Row]) -> list[Gain]:
    """Every student that has a twin."""
    twins: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in supervised(rows):
        twins[_size(row)].append(float(row["loss"]))
    found = [(row, fmean(twins[_size(row)])) for row in students(rows) if _size(row) in twins]
    return [Gain(row=row, twin=twin, nats=twin - float(row["loss"])) for row, twin in found]


def _size(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("params", "tokens", "schedule", "lr", "batch_tokens"))


def gains_figure(found: Sequence[Gain]) -> Figure | None:
    """Gains over the teachers' loss, by size of the student."""
    if not found:
        return None
    series: list[Series] = []
    for N in sorted({gain.row["params"] for gain in found})[:_MOST]:
        mine = [gain for gain in found if gain.row["params"] == N]
        x = [float(gain.row["teacher_loss"]) for gain in mine]
        series.append(Series.of(f"{format_count(N)} student", x, [gain.nats for gain in mine], "points"))
    helped = sum(gain.nats > 0 for gain in found)
    told = f"{helped} of {len(found)} students end below the same model without a teacher"
    chart = Chart(
        name="gains", title="Gain over the supervised twin", x=TEACHER_LOSS,
        y=Axis(label="supervised − distilled", unit="nats/token"), series=tuple(series),
        marks=(Mark(label="no gain", x=None, y=0.0),), told=told,
    )  # fmt: skip
    return Figure(
        name="gains", title="Gain over the supervised twin", charts=(chart,),
        caption="The same model on as many tokens of text alone (mean over its seeds), minus the student.",
        source="the study's runs",
    )  # fmt: skip
