"""What each experiment found, computed from its committed table: a figure, and the lines that its README quotes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from analysis import HERE, Mean, Row, by, mean, merged, paired, plain, pooled, rows, run_table
from demonstrations import kernel_regression, mlp_mapping
from drawing import LOSS, TEACHER, TOKENS, Found, points, residuals, rmse, size

from distillscale import DistillationLaw, RunTable, SupervisedLaw, compare, fit
from distillscale.chart import Axis, Chart, Figure, Mark, Series
from distillscale.cost import TRAINING_PASSES
from distillscale.curves.evidence import noise
from distillscale.extrapolation import largest_runs
from distillscale.units import format_count


def supervised_law() -> Found:
    """Eq 1 and Chinchilla's form on the same runs, in sample and on the largest two cells."""
    runs = [row for row in rows("supervised-law") if row["kind"] == "supervised"]
    table = run_table(runs)
    cells_of_seeds = noise(runs)
    sizes = {row["params"] for row in runs}
    lines = [
        f"{len(runs)} runs, {len(sizes)} sizes, seed spread {pooled(cell.spread for cell in cells_of_seeds):.4f} nats"
    ]
    for ends in ((0, 7e5), (7e5, 3e6), (3e6, 1e9)):
        part = [cell.spread for cell in cells_of_seeds if ends[0] <= cell.tokens < ends[1]]
        if part:
            lines.append(f"seed spread from {format_count(ends[0])} tokens: {pooled(part):.4f} nats")
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
        series.append(Series.of(size(N), D, law.loss(N, D)))
        series.append(Series.of(size(N), [r["tokens"] for r in mine], [r["loss"] for r in mine], "points"))
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
    off = residuals(law, mine)
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
    groups = {format_count(D): np.abs(np.log(mine.tokens / D)) < 0.2 for D in (5e5, 1e6, 2e6, 4e6)}
    series = [Series.of(f"{name} tokens", lead[at], gain[at], "points") for name, at in groups.items()]
    gains = Chart(
        name="gain", title="What a teacher is worth", x=Axis(label="teacher's lead L̃_S − L_T", unit="nats/token"),
        y=Axis(label="gain L̃_S − L_S", unit="nats/token"), series=tuple(series), marks=(Mark(label="", x=None, y=0.0),),
        caption="L̃_S is Eq 1 of the same runs; above 0 distillation wins at equal student tokens",
    )  # fmt: skip
    of_size = {size(N): mine.params == N for N in np.unique(mine.params)}
    series = [Series.of(name, lead[at], 100 * off[at], "points") for name, at in of_size.items()]
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
        series.append(points(f"{format_count(D)} tokens", list(ladder), means))
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
        name = f"{size(N)}, {format_count(D)} tokens"
        series.append(Series.of(name, [r["lr"] for r in mine], [r["loss"] for r in mine]))
        best = min(mine, key=lambda r: r["loss"])
        at = next(r for r in mine if r["lr"] == 0.01)
        lines.append(f"{name}: best rate {best['lr']:g}, 0.01 costs {at['loss'] - best['loss']:.4f} nats")
    # What the shared rate costs at the largest size, spread over the sizes in log N: would the law be another?
    costs = []
    for mine in by((r for r in runs if r["params"] > 5e5), lambda r: r["tokens"]).values():
        costs.append(next(r["loss"] for r in mine if r["lr"] == 0.01) - min(r["loss"] for r in mine))
    alone = [row for row in rows("supervised-law") if row["kind"] == "supervised"]
    least, most = (np.log(end(row["params"] for row in runs)) for end in (min, max))
    for name, cost in (("as run", 0.0), ("corrected", float(np.mean(costs)))):
        moved = [{**r, "loss": float(r["loss"] - cost * (np.log(r["params"]) - least) / (most - least))} for r in alone]
        found = fit(run_table(moved), "supervised")
        assert isinstance(found.law, SupervisedLaw)
        lines.append(
            f"Eq 1 {name} (by {cost:.4f} nats at the largest): rms {100 * rmse(found.law, run_table(moved)):.2f} %, "
            + ", ".join(f"{k} {v:.4g}" for k, v in found.coefficients.items())
        )
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
                series.append(points(kind + lam, [float(k) for k, _ in kept], values))
    chart = Chart(
        name="truncation", title="What keeping part of the distribution costs", y=Axis(label="cost", unit="nats/token"),
        x=Axis(label="classes kept or draws, of 512", scale="log"), series=tuple(series),
        marks=(
            Mark(label="", x=None, y=0.0),
            Mark(label="no teacher", x=None, y=groups["online"][0].value),
        ),
        caption="0: the full distribution; means over three seeds with 90 % intervals",
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
        series.append(points(f"teacher of {format_count(N)}", list(grid), [paired(alone, g) for g in grid.values()]))
    lam = Chart(
        name="lambda", title="A student of 40k, 1M tokens", x=Axis(label="λ, the share of the teacher"),
        y=Axis(label="gain over no teacher", unit="nats/token"), series=tuple(series),
        marks=(Mark(label="no teacher", x=None, y=0.0),),
    )  # fmt: skip
    strongest = [row for row in runs if row["lam"] == 1 and row["teacher_params"] > 5e5]
    warm = dict(sorted(by(strongest, lambda r: r["tau"]).items()))
    tau = Chart(
        name="tau", title="Under the strongest teacher, λ = 1", x=Axis(label="τ", scale="log"), y=lam.y,
        series=(points("gain", list(warm), [paired(alone, g) for g in warm.values()]),),
    )  # fmt: skip
    return Found(Figure(name="mixing", title="Mixing and temperature", charts=(lam, tau), columns=2), lines)


def teacher_loss_only() -> Found:
    """Is anything of the teacher left once its loss is known?"""
    runs = [row for row in rows("teacher-loss-only") if row["kind"] == "distillation"]
    lines: list[str] = []
    charts: list[Chart] = []
    for N, mine in sorted(by(runs, lambda r: r["params"]).items()):
        # L_S = a_seed + b L_T + c log2 N_T: c is what a doubling of the teacher at equal loss does
        seeds = sorted({row["seed"] for row in mine})
        columns = [[float(row["seed"] == s) for s in seeds] for row in mine]
        design = np.column_stack(
            [columns, [row["teacher_loss"] for row in mine], [np.log2(row["teacher_params"]) for row in mine]]
        )
        loss = np.array([row["loss"] for row in mine])
        slopes = np.linalg.lstsq(design, loss, rcond=None)[0]
        # A teacher's students share its peculiarities: teachers, not runs, are what is resampled.
        names = np.array([row["teacher"] for row in mine])
        teachers = {name: np.flatnonzero(names == name) for name in np.unique(names)}
        rng = np.random.default_rng(0)
        drawn = []
        while len(drawn) < 2000:
            chosen = rng.choice(list(teachers), len(teachers))
            at = np.concatenate([teachers[name] for name in chosen])
            if len(set(chosen)) > 2:
                drawn.append(np.linalg.lstsq(design[at], loss[at], rcond=None)[0][-1])
        low, high = np.quantile(drawn, [0.05, 0.95])
        lines.append(
            f"{size(N)}: {len(mine)} runs, per nat of teacher loss {slopes[-2]:+.3f}, per doubling of the teacher at "
            f"equal loss {slopes[-1]:+.4f} ({low:+.4f} to {high:+.4f}, {len(teachers)} teachers resampled)"
        )
        series: list[Series] = []
        for N_T, taught in sorted(by(mine, lambda r: r["teacher_params"]).items()):
            ladder = dict(sorted(by(taught, lambda r: r["teacher_loss"]).items()))
            means = [mean(r["loss"] for r in students) for students in ladder.values()]
            series.append(points(f"teacher of {format_count(N_T)}", list(ladder), means, "points"))
            lines += [f"  {size(N_T)}, L_T {L_T:.4f} → {m.value:.4f}" for L_T, m in zip(ladder, means, strict=True)]
        charts.append(Chart(
            name=f"student-{N:.0f}", title=f"A student of {format_count(N)}, 1M tokens", x=TEACHER, y=LOSS,
            series=tuple(series), caption="means over seeds with 90 % intervals",
        ))  # fmt: skip
    figure = Figure(name="teacher-loss-only", title="Does only the loss matter?", charts=tuple(charts), columns=2)
    return Found(figure, lines)


def break_even() -> Found:
    """Distilled and supervised at equal FLOPs."""
    runs = rows("break-even")
    students = [row for row in runs if row["kind"] == "distillation"]
    teacher = next(row for row in runs if row["id"] == students[0]["teacher"])
    training = teacher["flops"]
    # Of one student by itself: what a run was charged depends on how many shared its teacher's passes.
    logits = training / (TRAINING_PASSES * teacher["tokens"])
    lines: list[str] = []
    charts: list[Chart] = []
    for N, taught in sorted(by(students, lambda r: r["params"]).items()):
        alone = by((r for r in runs if r["kind"] == "supervised" and r["params"] == N), lambda r: r["tokens"])
        curve = {D: mean(r["loss"] for r in mine) for D, mine in sorted(alone.items())}
        cost = {D: float(np.mean([r["flops"] for r in mine])) for D, mine in alone.items()}
        series = [Series.of("supervised", [cost[D] for D in curve], [m.value for m in curve.values()])]
        grid = dict(sorted(by(taught, lambda r: r["tokens"]).items()))
        for name, extra in (("teacher free", lambda r: 0.0), ("logits paid", lambda r: logits * r["tokens"]),
                            ("all of the teacher paid", lambda r: logits * r["tokens"] + training)):  # fmt: skip
            flops = [float(np.mean([r["flops"] + extra(r) for r in mine])) for mine in grid.values()]
            losses = [mean(r["loss"] for r in mine) for mine in grid.values()]
            series.append(Series.of(name, flops, [m.value for m in losses]))
            known = np.log([cost[D] for D in curve])
            for D, C, m in zip(grid, flops, losses, strict=True):
                if known[0] <= np.log(C) <= known[-1]:
                    twin = float(np.interp(np.log(C), known, [v.value for v in curve.values()]))
                    lines.append(
                        f"{size(N)}, {name}, {format_count(D)} tokens, {C:.2e} FLOPs: gain {twin - m.value:+.4f}"
                    )
                else:
                    lines.append(f"{size(N)}, {name}, {format_count(D)} tokens, {C:.2e} FLOPs: beyond the longest twin")
        charts.append(Chart(
            name=f"break-even-{N:.0f}", title=size(N), x=Axis(label="compute", unit="FLOPs", scale="log"), y=LOSS,
            series=tuple(series),
        ))  # fmt: skip
    return Found(Figure(name="break-even", title="Equal compute", charts=tuple(charts), columns=2), lines)


def extrapolation() -> Found:
    """Forecast against what came."""
    with (HERE / "extrapolation" / "forecast.csv").open(encoding="utf-8", newline="") as file:
        forecasts = list(csv.DictReader(file))
    came = {row["id"]: row for row in rows("extrapolation")}
    lines: list[str] = []
    series: list[Series] = []
    for kind in ("supervised", "distillation"):
        mine = [f for f in forecasts if f["kind"] == kind]
        ends = {name: tuple(float(f[name]) for f in mine) for name in ("tokens", "predicted", "low", "high")}
        series.append(Series(name=f"{kind}: forecast", x=ends["tokens"], y=ends["predicted"], low=ends["low"],
                             high=ends["high"]))  # fmt: skip
        seen = [f for f in mine if f["id"] in came]
        losses = [came[f["id"]]["loss"] for f in seen]
        series.append(Series.of(f"{kind}: came", [float(f["tokens"]) for f in seen], losses, "points"))
        for f, loss in zip(seen, losses, strict=True):
            inside = "inside" if float(f["low"]) <= loss <= float(f["high"]) else "outside"
            off = 100 * (float(f["predicted"]) / loss - 1)
            lines.append(
                f"{kind}, N = {format_count(float(f['params']))}, {format_count(float(f['tokens']))} tokens: forecast "
                f"{f['predicted']} ({f['low']} to {f['high']}), came {loss:.5f}: off by {off:+.2f} %, {inside}"
            )
    chart = Chart(name="extrapolation", title="Forecast and outcome", x=TOKENS, y=LOSS, series=tuple(series))
    return Found(Figure(name="extrapolation", title="The largest runs, forecast", charts=(chart,)), lines)


def preset(name: str) -> Found:
    """Both laws on a preset's runs, and what each teacher is worth against the twin without one."""
    runs = rows(name)
    table = run_table(runs)
    students = [row for row in runs if row["kind"] == "distillation"]
    alone = {(row["params"], row["tokens"]): row["loss"] for row in runs if row["kind"] == "supervised"}
    lines = [f"{len(alone)} supervised runs, {len(students)} students, {sum(r['cpu_seconds'] for r in runs):.0f} CPU s"]
    for form in ("supervised", "chinchilla", "distillation"):
        found = fit(table, form)
        if found.law is None:
            lines.append(f"{form}: none, {'; '.join(found.reasons)}")
            continue
        mine = table.of_kind("distillation" if form == "distillation" else "supervised")
        assert isinstance(found.law, SupervisedLaw | DistillationLaw)
        lines.append(
            f"{form}: rms of log loss {100 * rmse(found.law, mine):.2f} %, "
            + ", ".join(f"{k} {v:.4g}" for k, v in found.coefficients.items())
        )
    charts: list[Chart] = []
    for N, taught in sorted(by(students, lambda r: r["params"]).items()):
        series: list[Series] = []
        for D, mine in sorted(by(taught, lambda r: r["tokens"]).items()):
            ladder = sorted(mine, key=lambda r: -r["teacher_loss"])
            gains = [alone[N, D] - row["loss"] for row in ladder]
            series.append(Series.of(f"{format_count(D)} tokens", [row["teacher_loss"] for row in ladder], gains))
            lines += [
                f"{size(N)}, {format_count(D)} tokens, teacher {row['teacher_loss']:.3f}: gain {gain:+.4f}"
                for row, gain in zip(ladder, gains, strict=True)
            ]
        charts.append(Chart(
            name=f"student-{N:.0f}", title=size(N), x=TEACHER, y=Axis(label="gain over the twin", unit="nats/token"),
            series=tuple(series), marks=(Mark(label="", x=None, y=0.0),),
        ))  # fmt: skip
    return Found(Figure(name=name, title="What a teacher is worth", charts=tuple(charts), columns=3), lines)


FINDINGS: Final[dict[str, Callable[[], Found]]] = {
    "supervised-law": supervised_law,
    "distillation-law": distillation_law,
    "capacity-gap": capacity_gap,
    "learning-rate": learning_rate,
    "truncation": truncation,
    "mixing": mixing,
    "teacher-loss-only": teacher_loss_only,
    "break-even": break_even,
    "extrapolation": extrapolation,
    "kernel-regression": kernel_regression,
    "mlp-mapping": mlp_mapping,
    "quick": partial(preset, "quick"),
    "demo": partial(preset, "demo"),
}
