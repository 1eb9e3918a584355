"""Compute-optimal distillation as curves: losses, sizes, tokens and shares over budgets, fixed-compute trade-offs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..chart import Axis, Chart, Figure, Series
from ..cost import SCENARIOS, TRAINING_PASSES, Scenario
from .scope import BUDGET, LOSS, TEACHER_LOSS, Scope, flops_text, size_axis, token_axis
from .teaching import lowest
from .versus import PAID

__all__ = ["allocation", "compute_shares", "fixed_compute"]

Array = NDArray[np.float64]
_FIGURE = {"free": 19, "inference": 21, "pretraining": 24, "both": 27}
_QUANTITIES = {
    "student_loss": ("student loss", LOSS),
    "teacher_loss": ("teacher loss", TEACHER_LOSS),
    "student_tokens": ("student tokens", token_axis("student data")),
    "teacher_params": ("teacher size", size_axis("teacher size")),
    "teacher_tokens": ("teacher tokens", token_axis("teacher data")),
}
_NOTE = {
    "free": "All compute is the student's; of the teachers with the optimal loss the one cheapest to train is shown.",
    "inference": "More teacher tokens cost this student nothing, so D_T is at the solver's bound of 1e17 and the "
    "teacher as small as its loss allows.",
    "pretraining": "The teacher is supervised-compute-optimal.",
    "both": "The teacher goes from compute-optimal to overtrained as its forward passes outweigh its training.",
}


def _plans(scope: Scope, scenario: Scenario, C: Array) -> dict[str, Array]:
    """Columns of the frontier, each of shape (students, budgets)."""
    found = scope.frontier(scope.grid.planned, C, scenario).columns
    shape = (len(scope.grid.planned), len(C))
    return {name: np.asarray(column, float).reshape(shape) for name, column in found.items() if name != "scenario"}


def _place(scope: Scope, plans: dict[str, Array], i: int) -> dict[str, Array]:
    """What of a plan must lie in the fitted range."""
    N = scope.grid.planned[i]
    names = ("teacher_loss", "teacher_params", "teacher_tokens")
    values = scope.student_values(N, plans["student_tokens"][i], **{name: plans[name][i] for name in names})
    return {name: np.asarray(value, float) for name, value in values.items()}


def allocation(scenario: str) -> Callable[[Scope], Figure]:
    """The figure of one scenario: L_S*, L_T*, D_S*, N_T*, D_T* over total compute (Eq 10)."""

    def figure(scope: Scope) -> Figure:
        C = scope.axis(scope.grid.compute, 61)
        plans = _plans(scope, SCENARIOS[scenario], C)
        charts: list[Chart] = []
        for column, (title, axis) in _QUANTITIES.items():
            series: list[Series] = []
            for i, N in enumerate(scope.grid.planned):
                series += scope.curve(scope.label(N, "student"), C, plans[column][i], _place(scope, plans, i))
            charts.append(Chart(name=column.replace("_", "-"), title=f"Optimal {title}", x=BUDGET, y=axis,
                                series=tuple(series)))  # fmt: skip
        return Figure(
            name=f"figure-{_FIGURE[scenario]}-optimal-{scenario}",
            title=f"Compute-optimal distillation: {PAID[scenario]}",
            charts=tuple(charts),
            columns=3,
            caption=f"{_NOTE[scenario]} {scope.holds}",
            source=scope.source(
                f"Figure {_FIGURE[scenario]} of the paper, which shows contours over students and compute"
            ),
        )

    return figure


def compute_shares(scope: Scope) -> Figure:
    """What part of the FLOPs trains the student, runs the teacher, trains the teacher."""
    C = scope.axis(scope.grid.compute, 61)
    sizes = scope.grid.planned[:: max(1, len(scope.grid.planned) // 2)][:3]
    some = scope.over(sizes)
    share = Axis(label="share of compute", unit="%")
    charts: list[Chart] = []
    for scenario, shares in SCENARIOS.items():
        plans = _plans(some, shares, C)
        for i, N in enumerate(sizes):
            series: list[Series] = []
            for column, name in _PURPOSES.items():
                series += some.curve(name, C, 100 * plans[column][i], _place(some, plans, i))
            charts.append(
                Chart(
                    name=f"{scenario}-{i + 1}", title=f"{scope.label(N)}, {scenario}", x=BUDGET, y=share,
                    series=tuple(series),
                )
            )  # fmt: skip
    return Figure(
        name="compute-shares",
        title="How the compute is shared in the four scenarios",
        charts=tuple(charts),
        columns=3,
        caption="Rows: " + "; ".join(f"{name}, {PAID[name]}" for name in SCENARIOS) + f". {scope.holds}",
        source=scope.source("App. D.4 of the paper; Table 3 sums it up"),
    )


_PURPOSES = {
    "share_student": "student training",
    "share_logits": "teacher inference",
    "share_teacher": "teacher training",
}


def fixed_compute(scope: Scope) -> Figure:
    """L_S against L_T for teachers of given size whose inference is paid: D_S = C / (3 F(N_S) + F(N_T)) (Eq 27)."""
    law, grid = scope.evidence.distillation, scope.grid
    students = grid.planned[1:] if scope.is_papers else grid.planned[:4]
    L_T = np.linspace(*grid.trade_off_losses, 121)
    charts: list[Chart] = []
    for i, N in enumerate(students):
        for j, C in enumerate(grid.trade_offs):
            series: list[Series] = []
            for N_T in grid.trade_off_sizes:
                D, name = C / (TRAINING_PASSES * scope.forward(N) + scope.forward(N_T)), scope.label(N_T, "teacher")
                L_S = law.loss(N, D, L_T)
                values = scope.student_values(N, D, teacher_loss=L_T, teacher_params=N_T)
                series += scope.curve(name, L_T, L_S, values)
                series += lowest(name, L_T, L_S)
            charts.append(
                Chart(
                    name=f"student-{i + 1}-budget-{j + 1}", title=f"{scope.label(N)}, {flops_text(C)}",
                    x=TEACHER_LOSS, y=LOSS, series=tuple(series),
                )
            )  # fmt: skip
    return Figure(
        name="figure-16-fixed-compute",
        title="Trade-offs between teacher size and teacher loss at fixed compute",
        charts=tuple(charts),
        columns=len(grid.trade_offs),
        caption="A teacher of this size and loss is given and its logits are paid for, so a large one leaves the "
        "student fewer tokens. Points are the best losses of a teacher of that size. Size and loss are varied apart; "
        f"not every pair can be trained. {scope.holds}",
        source=scope.source("Figure 16 of the paper"),
    )
