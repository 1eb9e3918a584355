"""The two curves behind a plan: loss against teacher loss, loss against budget; the plan itself is the planner's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..answer import Plan
from ..chart import Chart, Mark, Series
from ..problem import Question, worth
from ..units import format_count, format_flops
from .scope import BUDGET, LOSS, TEACHER_LOSS, Scope

__all__ = ["against_budget", "against_teacher_loss"]

Array = NDArray[np.float64]
_POINTS = 81
_DECADES = 2.0
"""Of budgets on either side of the plan's."""


def _scope(question: Question) -> Scope:
    return Scope.of(question.evidence, context=question.context, vocab=question.vocab)


def _chosen(name: str, x: float, y: float, ends: tuple[float, float] | None) -> Series:
    """One point of a plan with its interval."""
    low, high = ((ends[0],), (ends[1],)) if ends else ((), ())
    return Series(name=name, x=(x,), y=(y,), low=low, high=high, style="points")


def against_teacher_loss(answer: Plan) -> Chart:
    """L_S over L_T at the plan's student and student tokens (Eq 8), with the chosen teacher and its interval."""
    question, side = answer.question, answer.distillation
    scope = _scope(question)
    law, N, D = question.evidence.distillation, side.params, float(worth(side.tokens, question.limits))
    alone = answer.supervised.loss
    low = max(law.supervised.E * 1.02, 0.75 * side.teacher.loss)
    L_T = np.linspace(low, max(1.1 * alone, 1.1 * side.teacher.loss), 161)
    L_S = law.loss(N, D, L_T)
    curve = scope.curve("distilled", L_T, L_S, scope.student_values(N, D, teacher_loss=L_T))
    best = float(law.optimal_teacher_loss(N, D))
    loss = float(law.loss(N, D, best))
    told = (
        f"With {format_count(side.tokens)} tokens the student is best under a teacher of {best:.3f} nats "
        f"({loss:.3f} nats); the plan's teacher of {side.teacher.loss:.3f} gives {side.student_loss:.3f}, "
        f"supervised training with the same FLOPs {alone:.3f}."
    )
    return Chart(
        name="loss-against-teacher-loss",
        title="Student loss against teacher loss",
        x=TEACHER_LOSS,
        y=LOSS,
        series=(*curve, _chosen("the plan", side.teacher.loss, side.student_loss, answer.student_interval)),
        marks=(Mark(label="supervised, same FLOPs", x=None, y=alone),),
        caption=f"Eq 8 at the plan's {format_count(N)} student and {format_count(side.tokens)} tokens; a teacher "
        f"further left is better, and past the lowest point too good for this student. {scope.holds}",
        source=f"law {answer.law}",
        told=told,
    )


def against_budget(answer: Plan) -> Chart:
    """L_S* of distillation and of supervised training over total FLOPs, with this budget and the break-even."""
    question, budget = answer.question, answer.budget_flops
    scope = _scope(question)
    C = budget * np.logspace(-_DECADES, _DECADES, _POINTS)
    plans = question.allocate(C)
    distilled = np.where(np.isfinite(plans.student_loss), plans.student_loss, np.nan)
    N = question.student.params
    tokens = question.supervised_tokens(C)
    usable = tokens >= question.limits.student_tokens[0]
    supervised = np.where(usable, question.supervised_loss(C), np.nan)
    inside = scope.student_values(N, plans.student_tokens, teacher_loss=plans.teacher_loss)
    series = [
        *scope.curve("distilled", C, distilled, inside),
        *scope.curve("supervised", C, supervised, scope.student_values(N, tokens, params=N, tokens=tokens)),
        _chosen("distilled", budget, answer.distillation.student_loss, answer.student_interval),
        _chosen("supervised", budget, answer.supervised.loss, answer.supervised_interval),
    ]
    marks = [Mark(label="this budget", x=budget)]
    told = f"At {format_flops(budget)} FLOPs distillation gives {answer.distillation.student_loss:.3f} nats and "
    told += f"supervised training {answer.supervised.loss:.3f}."
    level = None if answer.break_even is None else answer.break_even.budget_flops
    if level is not None:
        told += f" Supervised training catches up at {format_flops(level)} FLOPs."
        if C[0] <= level <= C[-1]:
            marks.append(Mark(label="break-even", x=level))
    elif answer.break_even is not None:
        told += f" Break-even: {answer.break_even.reason}."
    return Chart(
        name="loss-against-budget",
        title="Loss against budget",
        x=BUDGET,
        y=replace(LOSS, label="loss"),
        series=tuple(series),
        marks=tuple(marks),
        caption=f"Each side at its optimum for the same total FLOPs, teacher cost {answer.scenario.name}; bars are "
        f"90 % intervals. {scope.holds}",
        source=f"law {answer.law}",
        told=told,
    )
