"""Distillation against supervised training over tokens and compute, and where they break even; it allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..allocate import Limits
from ..breakeven import BreakEven, break_even_of
from ..chart import Chart, Figure, Mark, Series, Table
from ..cost import SCENARIOS, Scenario
from ..published.rules import folk_breakeven_flops
from ..units import format_count, format_flops
from .scope import BUDGET, Scope, TeacherAt, gain_axis, size_axis, token_axis

__all__ = [
    "PAID",
    "break_even_budgets",
    "break_even_table",
    "difference_over_compute",
    "difference_over_tokens",
    "optimal_difference",
]

PAID = {
    "free": "teacher free (best case)",
    "inference": "teacher inference paid",
    "pretraining": "teacher pretraining paid",
    "both": "pretraining and inference paid",
}
_ZERO = Mark(label="equal", x=None, y=0.0)


def _caught_up(scope: Scope, N: float, scenario: Scenario, limits: Limits | None = None) -> BreakEven:
    """The break-even of one student, without its interval."""
    return break_even_of(scope.question(N, scenario, limits), seed=None)


def _given(teacher: TeacherAt, bounds: Limits) -> Limits:
    """This very teacher and no other."""
    N, D = teacher.params, teacher.tokens
    return Limits(teacher_params=(N, N), teacher_tokens=(D, D), student_tokens=bounds.student_tokens)


def _given_teachers(scope: Scope, over: str) -> tuple[Chart, ...]:
    """One chart a teacher: L_S − L̃_S of students at equal tokens, over their tokens or their compute."""
    law, grid = scope.evidence.distillation, scope.grid
    charts: list[Chart] = []
    for number, teacher in enumerate(scope.teachers(), 1):
        series: list[Series] = []
        told: list[str] = []
        for N in grid.students:
            name = scope.label(N, "student")
            x = scope.axis(grid.tokens if over == "tokens" else grid.student_flops)
            D = x if over == "tokens" else scope.tokens_at(x, N)
            y = law.loss(N, D, teacher.loss) - law.supervised.loss(N, D)
            series += scope.curve(name, x, y, scope.student_values(N, D, teacher_loss=teacher.loss))
            budget = _caught_up(scope, N, Scenario(), _given(teacher, scope.grid.limits)).budget_flops
            if budget is None:
                continue
            at = budget if over == "compute" else float(scope.tokens_at(budget, N))
            if x[0] <= at <= x[-1]:
                series.append(Series.of(name, [at], [0.0], "points"))
                told.append(f"{name}: supervised training catches up at {format_count(at)} {over}")
        axis = token_axis("student data") if over == "tokens" else replace(BUDGET, label="student compute")
        charts.append(
            Chart(
                name=f"teacher-{number}", title=teacher.title, x=axis, y=gain_axis(),
                series=tuple(series), marks=(_ZERO,), told="; ".join(told),
            )
        )  # fmt: skip
    return tuple(charts)


def difference_over_tokens(scope: Scope) -> Figure:
    """Students of a given teacher minus the same students trained supervised, at equal tokens."""
    return Figure(
        name="figure-6-given-teacher-over-tokens",
        title="Distillation minus supervised training over tokens, for given teachers",
        charts=_given_teachers(scope, "tokens"),
        columns=3,
        caption="Equal student tokens, the teacher free. Below zero distillation is better; points are where "
        f"supervised training catches up. {scope.holds}",
        source=scope.source("Figure 6 of the paper, which shows it as colours over students and tokens"),
    )


def difference_over_compute(scope: Scope) -> Figure:
    """The same over student compute C_S."""
    return Figure(
        name="figure-14-given-teacher-over-compute",
        title="Distillation minus supervised training over student compute, for given teachers",
        charts=_given_teachers(scope, "compute"),
        columns=3,
        caption="Equal student compute C_S = 3 F(N_S) D_S, the teacher free. Below zero distillation is better. "
        f"{scope.holds}",
        source=scope.source("Figure 14 of the paper"),
    )


def optimal_difference(scope: Scope) -> Figure:
    """Each side at its optimum for the same total FLOPs, in the four scenarios of Table 2."""
    C, students = scope.axis(scope.grid.compute), scope.grid.planned
    names = list(SCENARIOS)
    found = scope.frontier(students, C, *SCENARIOS.values()).columns
    shape = (len(students), len(C), len(names))
    at = {key: np.asarray(found[key], float).reshape(shape) for key in _NEEDED}
    charts: list[Chart] = []
    for k, scenario in enumerate(names):
        series: list[Series] = []
        told: list[str] = []
        for i, N in enumerate(students):
            name = scope.label(N, "student")
            cell = {key: column[i, :, k] for key, column in at.items()}
            values = scope.student_values(N, cell["student_tokens"], teacher_loss=cell["teacher_loss"])
            series += scope.curve(name, C, -cell["gain_nats"], values)
            budget = _caught_up(scope, N, SCENARIOS[scenario]).budget_flops
            if budget is not None and C[0] <= budget <= C[-1]:
                series.append(Series.of(name, [budget], [0.0], "points"))
                told.append(f"{name}: level at {format_flops(budget)} FLOPs")
        charts.append(
            Chart(
                name=scenario, title=PAID[scenario], x=BUDGET, y=gain_axis(), series=tuple(series), marks=(_ZERO,),
                told="; ".join(told),
            )
        )  # fmt: skip
    return Figure(
        name="optimal-difference-over-compute",
        title="Compute-optimal distillation minus supervised training",
        charts=tuple(charts),
        columns=2,
        caption="Both sides spend the same total FLOPs (Eq 9), distillation on the optimal teacher (Eq 10). Under 0.01 "
        f"nats the law cannot tell them apart. {scope.holds}",
        source=scope.source("Figures 8 and 17 of the paper show this difference"),
    )


_NEEDED = ("gain_nats", "student_tokens", "teacher_loss")


def break_even_table(scope: Scope) -> Table:
    """Student tokens at which supervised training overtakes students of a given, free teacher."""
    students = tuple(dict.fromkeys((*scope.grid.small_students, *scope.grid.students)))
    cells: list[tuple[str | float | None, ...]] = []
    for teacher in scope.teachers():
        row: list[str | float | None] = [teacher.name, f"{teacher.loss:.3f}"]
        for N in students:
            found = _caught_up(scope, N, Scenario(), _given(teacher, scope.grid.limits))
            budget = found.budget_flops
            row.append(_tokens(scope, N, budget) if budget is not None else _never(scope, found))
        cells.append(tuple(row))
    return Table(
        name="given-teacher-break-even",
        title="Student tokens at which supervised training catches up with a given teacher's students",
        columns=("teacher", "L_T", *(scope.label(N, "student") for N in students)),
        cells=tuple(cells),
        caption=f"Teachers of {scope.grid.ratio:.3g} tokens per parameter, free of charge; the last crossing between "
        f"one token per parameter and 1e17 tokens. {scope.ranges}",
        source=scope.source("the crossings of the paper's Figures 6 and 14"),
    )


def _tokens(scope: Scope, N: float, budget: float) -> str:
    return format_count(float(scope.tokens_at(budget, N)))


def _never(scope: Scope, found: BreakEven) -> str:
    if found.behind_until_flops is not None:
        return f"distilled from {_tokens(scope, found.student_params, found.behind_until_flops)}"
    return "supervised always" if found.largest_gain_nats <= 0 else "distilled always"


def break_even_budgets(scope: Scope) -> Figure | Table:
    """The break-even budget over student size where the teacher's inference is paid, beside the rule in circulation.

    Where there is none at any size, a table says why.
    """
    sizes = np.geomspace(*scope.grid.sizes, 13)
    paid, free = ([_caught_up(scope, float(N), SCENARIOS[name]) for N in sizes] for name in ("inference", "free"))
    if all(one.budget_flops is None for one in paid):
        return _no_break_even(scope, paid)
    curves = {
        "inference paid: level": [one.budget_flops for one in paid],
        "inference paid: gain under 0.01 nats": [one.negligible_from_flops for one in paid],
        "teacher free: gain under 0.01 nats": [one.negligible_from_flops for one in free],
        "popular rule (unsupported)": [folk_breakeven_flops(float(N)) for N in sizes],
    }
    series: list[Series] = []
    for name, budgets in curves.items():
        y = np.array([np.nan if budget is None else budget for budget in budgets])
        tokens = scope.tokens_at(y, sizes)
        series += scope.curve(name, sizes, y, scope.student_values(sizes, np.where(np.isfinite(y), tokens, 0.0)))
    none = [f"{format_count(one.student_params)}: {one.reason}" for one in paid if one.budget_flops is None]
    chart = Chart(
        name="break-even", title="", x=size_axis("student size"), y=BUDGET, series=tuple(series), told="; ".join(none),
    )  # fmt: skip
    return Figure(
        name="break-even",
        title=_CAUGHT_UP,
        charts=(chart,),
        caption="The last crossing of the two curves, each at its optimum for the same total FLOPs, and the budget "
        "from which the gain stays under 0.01 nats, which is all that can be said where the teacher is free. "
        f"{scope.holds}",
        source=scope.source("the crossings of the paper's Figures 8 and 17; the paper prints no table of them"),
    )


_CAUGHT_UP = "The budget at which supervised training catches up"


def _no_break_even(scope: Scope, found: Sequence[BreakEven]) -> Table:
    """Why there is none, by size."""
    return Table(
        name="break-even",
        title=_CAUGHT_UP,
        columns=("student", "break-even"),
        cells=tuple((format_count(one.student_params), one.reason) for one in found),
        caption=f"Teacher inference paid. {scope.ranges}",
        source=scope.source("the crossings of the paper's Figures 8 and 17"),
    )
