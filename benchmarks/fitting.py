"""Fits and bootstraps: 240 runs of Eq 1 with γ = 1, and 354 distillation runs, against SciPy and packages from PyPI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from report import Line, cpu, faster, no_worse, seconds, times
from rivals import venvs
from rivals.minimisers import (
    bootstrap,
    grid_search,
    hoffmann_grid,
    huber_sum,
    objective_as_described,
    polished,
    student_bootstrap,
    student_residual,
)
from scipy.optimize import least_squares

from distillscale import published
from distillscale.fit import fit
from distillscale.runs import RunTable, read

REFITS, STUDENT_REFITS = 4000, 1000
EVERY, EVERY_DESCRIBED = 19, 37  # of the grid's cells; prime to all of its sides
SAMPLE, STUDENT_SAMPLE = 60, 24
README_GRID, SIDE = 5**5, 3


def lines() -> Iterator[Line]:
    tables = os.environ.get("DISTILLSCALE_TABLES")
    yield from _chinchilla(*(_chinchilla_runs(Path(tables)) if tables else _planted_runs()))
    if tables:
        yield from _distillation(*_student_runs(Path(tables)), at_least=20)
    else:  # on a planted table, with every coefficient well spread, SciPy needs a quarter of the steps: no target
        yield from _distillation(*_planted_students(), at_least=None)


def _chinchilla(table: RunTable, which: str) -> Iterator[Line]:
    rows = (np.log(table.params), np.log(table.tokens), np.log(table.loss))
    found = fit(table)
    assert found.certificate is not None
    theta = np.array([np.log(found.coefficients[k]) for k in ("A", "B", "E")])
    theta = np.append(theta, [found.coefficients[k] for k in ("alpha", "beta")])
    own = cpu(lambda: fit(table), repeats=7)
    starts = len(hoffmann_grid())
    lean = grid_search(rows, EVERY)
    described = grid_search(rows, EVERY_DESCRIBED, objective_as_described)
    best = polished(lean.theta, rows)
    reached = np.mean(lean.values < best * (1 + 1e-3))
    yield faster(
        f"Chinchilla fit, {len(table)} runs, against L-BFGS-B from {starts:,} starts",
        own,
        starts * lean.each,
        2000,
        note=f"CPU seconds; {which}; the grid, with finite differences, is extrapolated from every {EVERY}th start "
        f"({lean.count}; {reached:.0%} of them end within 0.1 % of the optimum). With SciPy's own logsumexp and huber "
        f"in place of lean NumPy {seconds(starts * described.each)}, {times(starts * described.each / own)}",
    )
    yield no_worse(
        "the same, objective above the polished best of the grid",
        f"{found.certificate.value:.12e}",
        f"{best:.12e}",
        found.certificate.value / best - 1,
        1e-8,
        note=f"relative; the grid's best start itself is {lean.values.min() / best - 1:+.1e} above",
    )
    whole = cpu(lambda: fit(table, bootstrap=REFITS), repeats=3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        columns = np.column_stack([table.params, table.tokens, table.loss])
        np.savetxt(path, columns, delimiter=",", header="N,D,loss", comments="", fmt="%.17g")
        yield from _bootstraps(rows, theta, whole, str(path))
        yield _against_chinchilla(own, str(path))


def _bootstraps(rows: tuple[np.ndarray, ...], theta: np.ndarray, whole: float, path: str) -> Iterator[Line]:
    what = f"fit and {REFITS:,} bootstraps against"
    point = ", ".join(repr(float(x)) for x in theta)
    found = venvs.run("by_autograd.py", "autograd==1.9.1", path, f"[{point}]", str(SAMPLE))
    if isinstance(found, str):
        yield Line(what=f"{what} BFGS with autograd", note=found)
    else:
        yield faster(
            f"{what} BFGS with autograd",
            whole,
            REFITS * found["cpu"] / SAMPLE,
            100,
            note=f"CPU seconds; Epoch's way: log-sum-exp, autograd's gradient, one start, here from the optimum; "
            f"extrapolated from {SAMPLE} refits of {seconds(found['cpu'] / SAMPLE)}",
        )
    for gradient, target, words in ((False, 100, "finite differences"), (True, None, "an exact gradient by hand")):
        sample = bootstrap(rows, theta, SAMPLE, 0, gradient=gradient)
        yield faster(
            f"{what} BFGS with {words}",
            whole,
            REFITS * sample.each,
            target,
            note=f"CPU seconds; lean NumPy objective, from the optimum; extrapolated from {SAMPLE} refits of "
            f"{seconds(sample.each)}",
        )
    found = venvs.run("by_simple.py", "simple-scaling-laws==0.2.0", path, str(REFITS), ignore_python=True)
    if isinstance(found, str):
        yield Line(what=f"{what} `simple-scaling-laws` 0.2.0", note=found)
    else:
        yield faster(
            f"{what} `simple-scaling-laws` 0.2.0",
            whole,
            found["cpu"],
            6,
            note=f"CPU seconds; all {REFITS:,} draws were run; it minimises least squares, an easier objective",
        )


def _against_chinchilla(own: float, path: str) -> Line:
    found = venvs.run("by_chinchilla.py", "chinchilla==0.2.0", path, str(SIDE))
    if isinstance(found, str):
        return Line(what="Chinchilla fit against `chinchilla` 0.2.0", note=found)
    return faster(
        f"Chinchilla fit against `chinchilla` 0.2.0, its README's {README_GRID:,} starts",
        own,
        found["cpu"] * README_GRID / SIDE**5,
        note=f"CPU seconds of all its processes, default loss; extrapolated from {SIDE**5} starts of the same ranges "
        f"({seconds(found['cpu'])})",
    )


def _distillation(table: RunTable, which: str, at_least: float | None) -> Iterator[Line]:
    law = published.load_set(published.DEFAULT).supervised
    whole = cpu(lambda: fit(table, "distillation", supervised=law, bootstrap=STUDENT_REFITS), repeats=3)
    found = fit(table, "distillation", supervised=law)
    assert found.certificate is not None
    assert table.teacher_loss is not None
    c = found.coefficients
    x = np.array([np.log(c["A"]), np.log(c["B"]), c["alpha"], c["beta"], c["gamma"], c["c0"]])
    x = np.append(x, np.log([c["d_eff"], c["f1"]]))
    columns = (np.log(table.params), np.log(table.tokens), np.log(table.loss), np.log(table.teacher_loss))
    columns += (np.log(law.loss(table.params, table.tokens)),)
    labels = np.unique(np.round(table.teacher_loss, 3), return_inverse=True)[1]
    sample = student_bootstrap(columns, labels, x, STUDENT_SAMPLE, 0)
    yield faster(
        f"distillation fit, {len(table)} runs, and {STUDENT_REFITS:,} clustered bootstraps against `least_squares`",
        whole,
        STUDENT_REFITS * sample.each,
        at_least,
        note=f"CPU seconds; {which}; 8 coefficients, {labels.max() + 1} teachers; SciPy's Huber loss and 2-point "
        f"Jacobian from the optimum, its refits alone, extrapolated from {STUDENT_SAMPLE} of {seconds(sample.each)}",
    )
    best = least_squares_value(x, columns)
    yield no_worse(
        "the same, objective of the fit above `least_squares` from there",
        f"{found.certificate.value:.12e}",
        f"{best:.12e}",
        found.certificate.value / best - 1,
        1e-8,
        note="relative",
    )


def least_squares_value(x: np.ndarray, columns: tuple[np.ndarray, ...]) -> float:
    """Where SciPy ends on the whole table."""
    found = least_squares(student_residual, x, args=columns, loss="huber", f_scale=1e-3, xtol=1e-14, ftol=1e-14)
    return huber_sum(found.fun)


def _chinchilla_runs(tables: Path) -> tuple[RunTable, str]:
    path, columns = tables / "epoch2024" / "runs.csv", {"params": "Model Size", "flops": "Training FLOP"}
    table = read(path, columns=columns, kind="supervised", tokens_from_flops=True)
    kept = np.sort(np.argsort(table.loss)[:-5])
    return table.select(kept), "Besiroglu et al. 2024's points without the 5 highest losses"


def _student_runs(tables: Path) -> tuple[RunTable, str]:
    table = read(tables / "busbridge2025" / "runs.csv", columns={"tokens": "distill_tokens"})
    return table, "the runs of Busbridge et al. 2025's Fig 1"


def _planted_runs() -> tuple[RunTable, str]:
    rng = np.random.default_rng(0)
    N, C = np.exp(rng.uniform(*np.log([5e7, 1.5e10]), 240)), np.exp(rng.uniform(*np.log([1e18, 3e21]), 240))
    law = published.load_set("besiroglu2024").supervised
    loss = law.loss(N, C / (6 * N)) * np.exp(0.005 * rng.standard_t(3, 240))
    return _planted(N, C / (6 * N), loss, None), "planted, since DISTILLSCALE_TABLES is not set"


def _planted_students() -> tuple[RunTable, str]:
    rng = np.random.default_rng(0)
    sizes, tokens = rng.choice(np.geomspace(1.4e8, 1e10, 6), 354), rng.choice(np.geomspace(4e9, 5e11, 6), 354)
    teachers = np.round(rng.choice(np.linspace(1.85, 2.9, 63), 354), 3)
    law = published.load_set(published.DEFAULT).distillation
    loss = law.loss(sizes, tokens, teachers) * np.exp(0.003 * rng.standard_normal(354))
    return _planted(sizes, tokens, loss, teachers), "planted, since DISTILLSCALE_TABLES is not set"


def _planted(N: np.ndarray, D: np.ndarray, loss: np.ndarray, teachers: np.ndarray | None) -> RunTable:
    kind = np.full(len(N), "supervised" if teachers is None else "distillation")
    return RunTable(params=N, tokens=D, loss=loss, kind=kind, teacher_loss=teachers, source="planted")
