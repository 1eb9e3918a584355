"""Curves in the teacher: U-shape, IsoFLOP students and teachers, fixed ratios, the optimal teacher's loss; no plans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..chart import Axis, Chart, Figure, Mark, Series
from ..units import format_count
from .scope import LOSS, TEACHER_LOSS, Scope, flops_text, size_axis, token_axis

__all__ = ["fixed_ratio", "isoflop_students", "isoflop_teachers", "lowest", "optimal_teacher", "u_shape"]

Array = NDArray[np.float64]


def lowest(name: str, x: Array, y: Array) -> tuple[Series, ...]:
    """The lowest point of a curve, where it is inside the axis."""
    at = int(np.argmin(y))
    return (Series.of(name, [x[at]], [y[at]], "points"),) if 0 < at < len(x) - 1 else ()


def u_shape(scope: Scope) -> Figure:
    """L_S against L_T (Eq 8) for students of fixed M, with the best teacher of each."""
    law, M = scope.evidence.distillation, scope.grid.ratio
    L_T = np.linspace(*scope.grid.losses, 241)
    series: list[Series] = []
    told: list[str] = []
    for N in scope.grid.students:
        name, D = scope.label(N, "student"), M * N
        L_S = law.loss(N, D, L_T)
        series += scope.curve(name, L_T, L_S, scope.student_values(N, D, teacher_loss=L_T))
        best = float(law.optimal_teacher_loss(N, D))
        if scope.grid.losses[0] < best < scope.grid.losses[1]:
            series.append(Series.of(name, [best], [float(law.loss(N, D, best))], "points"))
        told.append(f"{name}: best teacher {best:.3f}, student {float(law.loss(N, D, best)):.3f} nats")
    chart = Chart(
        name="u-shape", title="", x=TEACHER_LOSS, y=LOSS,
        series=tuple(series), told="; ".join(told),
    )  # fmt: skip
    return Figure(
        name="figure-1-u-shape",
        title="Student loss against teacher loss, and its extrapolation",
        charts=(chart,),
        caption=f"Eq 8 for students of {M:.3g} tokens per parameter. Points: the best teacher, L_T*. To its left the "
        f"capacity gap: a better teacher makes the student worse. {scope.holds}",
        source=scope.source("Figure 1 of the paper"),
    )


def isoflop_students(scope: Scope) -> Figure:
    """L_S against N_S at constant student compute C_S = 3 F(N_S) D_S, one chart a teacher."""
    law = scope.evidence.distillation
    charts: list[Chart] = []
    N = scope.axis(scope.grid.sizes)
    for number, teacher in enumerate(scope.teachers(), 1):
        series: list[Series] = []
        told: list[str] = []
        for C in scope.grid.isoflops:
            D = scope.tokens_at(C, N)
            L_S = law.loss(N, D, teacher.loss)
            name = flops_text(C)
            series += scope.curve(name, N, L_S, scope.student_values(N, D, teacher_loss=teacher.loss))
            series += lowest(name, N, L_S)
            told.append(f"{name}: best at {format_count(N[int(np.argmin(L_S))])}, {L_S.min():.3f} nats")
        charts.append(
            Chart(
                name=f"teacher-{number}", title=teacher.title,
                x=size_axis("student size"), y=LOSS, series=tuple(series), told="; ".join(told),
            )
        )  # fmt: skip
    return Figure(
        name="figure-2-isoflop-students",
        title="IsoFLOP curves of students under each teacher",
        charts=tuple(charts),
        columns=3,
        caption=f"Students of constant training compute (the student's own), under teachers of {scope.grid.ratio:.3g} "
        f"tokens per parameter; points are the minima. {scope.holds}",
        source=scope.source("Figures 2 and 38a of the paper"),
    )


def isoflop_teachers(scope: Scope) -> Figure:
    """L_S against N_T at constant teacher compute, one chart a student of fixed M."""
    law, M = scope.evidence.distillation, scope.grid.ratio
    charts: list[Chart] = []
    N_T = scope.axis(scope.grid.teacher_span)
    for number, N in enumerate(scope.grid.students, 1):
        series: list[Series] = []
        alone = float(law.supervised.loss(N, M * N))
        for C in scope.grid.isoflops:
            D_T = scope.tokens_at(C, N_T)
            L_T = law.supervised.loss(N_T, D_T)
            L_S = law.loss(N, M * N, L_T)
            values = scope.student_values(N, M * N, teacher_loss=L_T, teacher_params=N_T, teacher_tokens=D_T)
            series += scope.curve(flops_text(C), N_T, L_S, values)
        charts.append(
            Chart(
                name=f"student-{number}", title=scope.label(N, "student"), x=size_axis("teacher size"), y=LOSS,
                series=tuple(series), marks=(Mark(label="supervised", x=None, y=alone),),
                told=f"without a teacher {alone:.3f} nats",
            )
        )  # fmt: skip
    return Figure(
        name="figure-3-isoflop-teachers",
        title="Students of fixed size and tokens under teachers of constant compute",
        charts=tuple(charts),
        columns=2,
        caption=f"Every student has {M:.3g} tokens per parameter; curves are teachers of constant training compute. "
        f"Below the rule a student gains from its teacher. {scope.holds}",
        source=scope.source("Figures 3 and 38b of the paper"),
    )


def fixed_ratio(scope: Scope) -> Figure:
    """L_S against N_T for teachers of fixed M_T, one chart a student, one curve a ratio M_S."""
    law, M = scope.evidence.distillation, scope.grid.ratio
    charts: list[Chart] = []
    N_T = scope.axis(scope.grid.teacher_span)
    L_T = law.supervised.loss(N_T, M * N_T)
    for number, N in enumerate(scope.grid.small_students, 1):
        series: list[Series] = []
        for M_S in scope.grid.ratios:
            name, L_S = f"M_S = {M_S:g}", law.loss(N, M_S * N, L_T)
            values = scope.student_values(N, M_S * N, teacher_loss=L_T, teacher_params=N_T, teacher_tokens=M * N_T)
            series += scope.curve(name, N_T, L_S, values)
            series += lowest(name, N_T, L_S)
        charts.append(
            Chart(
                name=f"student-{number}", title=scope.label(N, "student"), x=size_axis("teacher size"), y=LOSS,
                series=tuple(series),
            )
        )  # fmt: skip
    return Figure(
        name="figure-4-fixed-ratio",
        title="The U-shape in teacher size",
        charts=tuple(charts),
        columns=3,
        caption=f"Teachers of {M:.3g} tokens per parameter, students of M_S = D_S/N_S tokens per parameter; points are "
        f"the best teachers. {scope.holds}",
        source=scope.source("Figures 4 and 37 of the paper"),
    )


def optimal_teacher(scope: Scope) -> Figure:
    """L_T* against D_S for several students, and against N_S for several token counts."""
    law = scope.evidence.distillation
    D = scope.axis(scope.grid.tokens)
    N = scope.axis((scope.grid.sizes[0], 5 * scope.grid.sizes[1]))
    loss = Axis(label="optimal teacher loss", unit="nats/token", scale="log")

    def series(name: str, x: Array, sizes: Array | float, tokens: Array | float) -> tuple[Series, ...]:
        L_T = law.optimal_teacher_loss(sizes, tokens)
        return scope.curve(name, x, L_T, scope.student_values(sizes, tokens, teacher_loss=L_T))

    over_tokens = [s for N_S in scope.grid.planned for s in series(scope.label(N_S, "student"), D, N_S, D)]
    lengths = np.geomspace(*scope.grid.tokens, 5)
    over_sizes = [s for D_S in lengths for s in series(f"{format_count(D_S)} tokens", N, N, float(D_S))]
    charts = [
        Chart(name="over-tokens", title="Over student tokens", x=token_axis("student data"), y=loss,
              series=tuple(over_tokens)),
        Chart(name="over-sizes", title="Over student size", x=size_axis("student size"), y=loss,
              series=tuple(over_sizes)),
    ]  # fmt: skip
    return Figure(
        name="figure-15-optimal-teacher-loss",
        title="The teacher loss that makes the best student",
        charts=tuple(charts),
        columns=2,
        caption="L_T* = argmin of Eq 8 over L_T. With size it falls as a power law until the student reaches its "
        f"teacher, and faster from there. {scope.holds}",
        source=scope.source("Figure 15 of the paper"),
    )
