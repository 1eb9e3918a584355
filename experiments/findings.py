"""What each experiment found, computed from its committed table: a figure, and the lines that its README quotes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from analysis import Mean, Row, by, mean, merged, paired, plain, pooled, rows, run_table, seed_spread

from distillscale import DistillationLaw, RunTable, SupervisedLaw, compare, fit
from distillscale.chart import Axis, Chart, Figure, Mark, Series
from distillscale.extrapolation import largest_runs
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
    return float(np.sqrt(np.mean(_residuals(law, table) ** 2)))


def _residuals(law: SupervisedLaw | DistillationLaw, table: RunTable) -> np.ndarray:
    if isinstance(law, DistillationLaw):
        return np.log(law.loss(table.params, table.tokens, table.teacher_loss) / table.loss)
    return np.log(law.loss(table.params, table.tokens) / table.loss)


def _size(N: float) -> str:
    return f"N = {format_count(N)}"


def _points(name: str, x: list[float], values: list[Mean], style: str = "line") -> Series:
    """Means with their intervals."""
    bands = all(v.low is not None for v in values)
    return Series(
        name=name, x=tuple(x), y=tuple(v.value for v in values), style=style,
        low=tuple(v.low for v in values) if bands else (), high=tuple(v.high for v in values) if bands else (),
    )  # fmt: skip


def supervised_law() -> Found:
    """Eq 1 and Chinchilla's form on the same runs, in sample and on the largest two cells."""
    runs = [row for row in rows("supervised-law") if row["kind"] == "supervised"]
    table = run_table(runs)
    spreads = seed_spread(runs)
    sizes = {row["params"] for row in runs}
    lines = [f"{len(runs)} runs, {len(sizes)} sizes, seed spread {pooled(spreads.values()):.4f} nats"]
    for ends in ((0, 7e5), (7e5, 3e6), (3e6, 1e9)):
        part = [s for (_, D, _), s in spreads.items() if ends[0] <= D < ends[1]]
        if part:
            lines.append(f"seed spread from {format_count(ends[0])} tokens: {pooled(part):.4f} nats ({len(part)} cells)")
    cells = sorted(by(runs, lambda r: r["params"] * r["tokens"]), reverse=True)
    rule = f"compute>{6 * np.sqrt(cells[1] * cells[2]):.6g}"
    for form in ("supervised", "chinchilla"):
        found = fit(table, form, cluster="curve", bootstrap=200)
        law = found.require().law
        assert isinstance(law, SupervisedLaw)
        held = fit(table, form, hold_out=rule)
        lines.append(
            f"{form}: rms of log loss {100 * rmse(law, table):.2f} %, "
            + ", ".join(f"{k} {v:.4g}" for k, v in found.coefficients.items())
            + (f", γ 90 %: {found.intervals['gamma']}" if form == "supervised" else "")
        )
        if held.held_out:
            lines.append(
                f"{form} without the two largest cells: off by at most {100 * held.held_out.max_relative_error:.2f} % "
                f"on {held.held_out.rows} runs"
            )
    law = fit(table, "supervised").law
    assert isinstance(law, SupervisedLaw)
    series: list[Series] = []
    for N, mine in by(sorted(runs, key=lambda r: r["params"]), lambda r: r["params"]).items():
        D = np.geomspace(min(r["tokens"] for r in mine), max(r["tokens"] for r in mine), 40)
        series.append(Series.of(_size(N), D, law.loss(N, D)))
        series.append(Series.of(_size(N), [r["tokens"] for r in mine], [r["loss"] for r in mine], "points"))
    chart = Chart(
        name="supervised-law", title="Loss over tokens, by size", x=TOKENS, y=LOSS, series=tuple(series),
        caption="points: runs; lines: Eq 1 fitted to all of them",
    )  # fmt: skip
    return Found(Figure(name="supervised-law", title="Eq 1 on small transformers", charts=(chart,)), lines)


def _both_laws() -> tuple[list[Row], list[Row], RunTable]:
    every = [row for row in merged("supervised-law", "distillation-law").values() if plain(row)]
    supervised = [row for row in every if row["kind"] == "supervised"]
    students = [row for row in every if row["kind"] == "distillation"]
    return supervised, students, run_table(every)


def distillation_law() -> Found:
    """Eq 8 on all students, the gain by the teacher's lead, and the rival forms on held-out runs."""
    _, students, table = _both_laws()
    mine = table.of_kind("distillation")
    found = fit(table, "distillation", cluster="teacher", bootstrap=200)
    law = found.require().law
    assert isinstance(law, DistillationLaw)
    alone = law.supervised.loss(mine.params, mine.tokens)
    lead, gain = alone - mine.teacher_loss, alone - mine.loss
    off = _residuals(law, mine)
    lines = [
        f"{len(students)} students of {len({r['teacher'] for r in students})} teachers",
        f"Eq 8: rms of log loss {100 * rmse(law, mine):.2f} %, largest {100 * np.max(np.abs(off)):.2f} %",
        "Eq 8: " + ", ".join(f"{k} {v:.4g}" for k, v in found.coefficients.items()),
        f"students below their teacher's loss: {int(np.sum(mine.loss < mine.teacher_loss))}",
        f"gain at a lead of at least 0.15 nats: {int(np.sum(gain[lead >= 0.15] > 0))} of {int(np.sum(lead >= 0.15))} "
        f"cells, up to {gain.max():.3f} nats",
        f"gain where the teacher is no better than the student alone: {mean(gain[lead <= 0])}",
    ]
    for low, high in ((-9, 0.0), (0.0, 0.15), (0.15, 9)):
        part = (lead > low) & (lead <= high)
        if part.any():
            lines.append(
                f"residuals at a lead of {low} to {high} nats: mean {100 * off[part].mean():+.2f} %, "
                f"rms {100 * np.sqrt(np.mean(off[part] ** 2)):.2f} % of {int(part.sum())}"
            )
    for rule in (None, largest_runs(table, "distillation")):
        for one in compare(table, hold_out=rule) if rule else []:
            shown = "none" if one.held_out_rmse is None else f"{one.held_out_rmse:.4f} nats"
            lines.append(f"{one.law}: {shown} on {one.held_out_rows} held-out runs ({rule}), AIC {one.aic:.0f}")
    groups = {
        format_count(D): np.abs(np.log(mine.tokens / D)) < 0.2 for D in (5e5, 1e6, 2e6, 4e6)
    }
    series = [Series.of(f"{name} tokens", lead[at], gain[at], "points") for name, at in groups.items()]
    gains = Chart(
        name="gain", title="What a teacher is worth", x=Axis(label="teacher's lead L̃_S − L_T", unit="nats/token"),
        y=Axis(label="gain L̃_S − L_S", unit="nats/token"), series=tuple(series), marks=(Mark(label="", x=None, y=0.0),),
        caption="L̃_S is Eq 1 of the same runs; above 0 distillation wins at equal student tokens",
    )  # fmt: skip
    series = [
        Series.of(_size(N), lead[at], 100 * off[at], "points") for N in np.unique(mine.params) for at in [mine.params == N]
    ]
    misses = Chart(
        name="residuals", title="What Eq 8 misses", x=gains.x, y=Axis(label="(law − measured)/measured", unit="%"),
        series=tuple(series), marks=(Mark(label="", x=None, y=0.0),),
    )  # fmt: skip
    return Found(
        Figure(name="distillation-law", title="Eq 8 on small students", charts=(gains, misses), columns=2), lines
    )


def capacity_gap() -> Found:
    """One student under a ladder of teachers; is the strongest worse than the best?"""
    runs = [row for row in rows("capacity-gap") if row["kind"] == "distillation"]
    lines: list[str] = []
    series: list[Series] = []
    for D, mine in sorted(by(runs, lambda r: r["tokens"]).items()):
        ladder = dict(sorted(by(mine, lambda r: r["teacher_loss"]).items(), reverse=True))
        means = [mean(r["loss"] for r in students) for students in ladder.values()]
        series.append(_points(f"{format_count(D)} tokens", list(ladder), means))
        for L_T, value in zip(ladder, means, strict=True):
            lines.append(f"{format_count(D)}: teacher {L_T:.3f} → student {value.value:.4f} ({value.count} seeds)")
        lines.append(f"{format_count(D)}: strongest − best teacher, cross-fitted: {_cross_fitted(ladder)}")
    chart = Chart(
        name="capacity-gap", title="One student of 9k parameters", x=TEACHER, y=LOSS, series=tuple(series),
        caption="means over seeds with 90 % intervals",
    )  # fmt: skip
    return Found(Figure(name="capacity-gap", title="Is there a capacity gap?", charts=(chart,)), lines)


def _cross_fitted(ladder: dict[float, list[Row]]) -> Mean:
    """Strongest − best, the best chosen on the other half of the seeds: choosing on the same seeds would flatter it."""
    strongest = ladder[min(ladder)]
    seeds = sorted({row["seed"] for row in strongest})
    differences: list[float] = []
    for half in (0, 1):
        chosen = [s for i, s in enumerate(seeds) if i % 2 == half]
        best = min(ladder.values(), key=lambda runs: np.mean([r["loss"] for r in runs if r["seed"] in chosen]))
        of = {r["seed"]: r["loss"] for r in best}
        differences += [r["loss"] - of[r["seed"]] for r in strongest if r["seed"] not in chosen]
    return mean(differences)


def learning_rate() -> Found:
    """Loss over rates at both ends of the sizes."""
    runs = rows("learning-rate")
    series: list[Series] = []
    lines: list[str] = []
    for (N, D), mine in by(runs, lambda r: (r["params"], r["tokens"])).items():
        mine = sorted(mine, key=lambda r: r["lr"])
        name = f"{_size(N)}, {format_count(D)} tokens"
        series.append(Series.of(name, [r["lr"] for r in mine], [r["loss"] for r in mine]))
        best = min(mine, key=lambda r: r["loss"])
        at = next(r for r in mine if r["lr"] == 0.01)
        lines.append(f"{name}: best rate {best['lr']:g}, 0.01 costs {at['loss'] - best['loss']:.4f} nats")
    chart = Chart(
        name="learning-rate", title="Loss over the learning rate", x=Axis(label="learning rate", scale="log"), y=LOSS,
        series=tuple(series),
    )  # fmt: skip
    return Found(Figure(name="learning-rate", title="One learning rate for all", charts=(chart,)), lines)


def _against(experiment: str, label: Callable[[Row], str]) -> tuple[list[str], dict[str, tuple[Mean, list[Row]]]]:
    """Every kind of student against plain distillation by the same teacher, and against no teacher."""
    runs = [row for row in rows(experiment) if row["tokens"] < 1.5e6]
    alone = [row for row in runs if row["kind"] == "supervised"]
    groups = by((r for r in runs if r["kind"] == "distillation"), label)
    lines, out = [], {}
    for name, mine in groups.items():
        gain = paired(alone, mine)
        out[name] = (gain, mine)
        lines.append(f"{name}: gain over no teacher {gain}")
    return lines, out


def truncation() -> Found:
    """The gain that each kind of kept targets leaves."""

    def label(row: Row) -> str:
        kept = "" if row["classes"] is None else f" {row['classes']:.0f}"
        return f"{row['targets']}{kept}" + ("" if row["lam"] == 1 else f", λ {row['lam']:g}")

    lines, groups = _against("truncation", label)
    full = groups["online"][1]
    lines += [f"{name}: costs {paired(mine, full)}" for name, (_, mine) in groups.items() if name != "online"]
    series = []
    for kind in ("topk", "biased-topk", "sampled"):
        for lam in ("", ", λ 0.7"):
            kept = [(k, groups[f"{kind} {k}{lam}"][1]) for k in (4, 16, 64) if f"{kind} {k}{lam}" in groups]
            if kept:
                values = [paired(mine, full) for _, mine in kept]
                series.append(_points(kind + lam, [float(k) for k, _ in kept], values))
    chart = Chart(
        name="truncation", title="What keeping part of the distribution costs", y=Axis(label="cost", unit="nats/token"),
        x=Axis(label="classes kept or draws, of 512", scale="log"), series=tuple(series),
        marks=(
            Mark(label="full distribution", x=None, y=0.0),
            Mark(label="no teacher", x=None, y=groups["online"][0].value),
        ),
    )  # fmt: skip
    return Found(Figure(name="truncation", title="Sparse targets", charts=(chart,)), lines)


def mixing() -> Found:
    """The gain over λ under three teachers, and over τ."""

    def label(row: Row) -> str:
        return f"N_T = {format_count(row['teacher_params'])}, λ {row['lam']:g}, τ {row['tau']:g}"

    lines, _ = _against("mixing", label)
    runs = [row for row in rows("mixing") if row["kind"] == "distillation"]
    alone = [row for row in rows("mixing") if row["kind"] == "supervised" and row["tokens"] < 1.5e6]
    series: list[Series] = []
    for N, mine in sorted(by((r for r in runs if r["tau"] == 1), lambda r: r["teacher_params"]).items()):
        grid = dict(sorted(by(mine, lambda r: r["lam"]).items()))
        series.append(_points(f"teacher of {format_count(N)}", list(grid), [paired(alone, g) for g in grid.values()]))
    lam = Chart(
        name="lambda", title="A student of 40k, 1M tokens", x=Axis(label="λ, the share of the teacher"),
        y=Axis(label="gain over no teacher", unit="nats/token"), series=tuple(series),
        marks=(Mark(label="no teacher", x=None, y=0.0),),
    )  # fmt: skip
    strongest = [row for row in runs if row["lam"] == 1 and row["teacher_params"] > 5e5]
    warm = dict(sorted(by(strongest, lambda r: r["tau"]).items()))
    tau = Chart(
        name="tau", title="Under the strongest teacher, λ = 1", x=Axis(label="τ", scale="log"), y=lam.y,
        series=(_points("gain", list(warm), [paired(alone, g) for g in warm.values()]),),
    )  # fmt: skip
    return Found(Figure(name="mixing", title="Mixing and temperature", charts=(lam, tau), columns=2), lines)


FINDINGS: Final[dict[str, Callable[[], Found]]] = {
    "supervised-law": supervised_law,
    "distillation-law": distillation_law,
    "capacity-gap": capacity_gap,
    "learning-rate": learning_rate,
    "truncation": truncation,
    "mixing": mixing,
}
