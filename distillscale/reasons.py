"""A plan's reasons in words: what binds, what the teacher should be, what would change the verdict. No new numbers."""

from __future__ import annotations

import numpy as np

from .answer import Plan
from .confidence import TOSS_UP
from .problem import Question, worth
from .units import format_bytes, format_count, format_flops, format_money

__all__ = ["hard_label_advice", "reasons_for"]

_SHARING = np.array(sorted({round(k) for k in np.geomspace(1, 1000, 40)}))
_WORTH_SAYING = 0.005  # nats between a teacher's loss and the best one's


def reasons_for(plan: Plan, question: Question) -> list[str]:
    """Sentences for a reader who must decide, most important first."""
    return [
        _what_binds(plan, question),
        _teacher(plan, question),
        *_bound(plan),
        *_sharing(plan, question),
        *_break_even(plan),
        *_target(plan),
        *_storage(plan),
    ]


def _what_binds(plan: Plan, question: Question) -> str:
    side = plan.distillation
    p = question.evidence.distillation.parts(side.params, worth(side.tokens, question.limits), side.teacher.loss)
    size = float(p.capacity / (p.capacity + p.data))
    binds, remedy = ("size binds", "a larger student") if size > 0.5 else ("tokens bind", "more student tokens")
    return (
        f"of the student's {side.student_loss:.3f} nats {side.teacher.loss:.3f} are its teacher's own loss and "
        f"{side.student_loss - side.teacher.loss:.3f} its own shortfall; there the student's {binds} "
        f"({max(size, 1 - size):.0%} of the bracket in Eq 8), so {remedy} would help most"
    )


def _teacher(plan: Plan, question: Question) -> str:
    side, teacher = plan.distillation, plan.distillation.teacher
    D_S = worth(side.tokens, question.limits)
    best = float(question.evidence.distillation.optimal_teacher_loss(side.params, D_S))
    text = (
        f"teacher: {format_count(teacher.params)} parameters on {format_count(teacher.tokens)} tokens, "
        f"{teacher.loss:.3f} nats"
    )
    if question.scenario.name == "free":
        text += " (when it is free any teacher of this loss does as well; this one is the cheapest to train)"
    if teacher.loss - best > _WORTH_SAYING:
        text += (
            f"; a better one, down to {best:.3f} nats, would teach more but costs more than it brings, and below that "
            "it drowns the student (capacity gap)"
        )
    elif best - teacher.loss > _WORTH_SAYING:
        text += f"; it drowns the student (capacity gap), which would learn more from one of {best:.3f} nats"
    else:
        text += "; that is the best for this student: a stronger one would drown it (capacity gap)"
    return "; ".join([text, *hard_label_advice(teacher.params, side.params)])


def hard_label_advice(teacher_params: float, student_params: float) -> list[str]:
    """When to mix in hard labels, with the evidence of App. G.1 (Fig 51); empty where pure distillation is right."""
    if teacher_params >= 2 * student_params:
        return []
    return [
        "it has under twice the student's parameters: try mixing in hard labels (λ < 1). With teachers of 20 tokens a "
        "parameter pure distillation cost under 0.02 nats when the teacher was twice the student's size, about 0.04 at "
        "equal size and up to 0.3 under a student five times larger (App. G.1)"
    ]


def _bound(plan: Plan) -> list[str]:
    if plan.practical is None:
        return []
    best, other = plan.distillation, plan.practical
    return [
        f"the optimum pushes teacher tokens to {format_count(best.teacher.tokens)}, since they cost little or nothing "
        f"here; with at most 15T: teacher {format_count(other.teacher.params)} on {format_count(other.teacher.tokens)} "
        f"tokens ({other.teacher.loss:.3f} nats), student {format_count(other.tokens)} tokens, "
        f"{other.student_loss:.3f} nats, {other.student_loss - best.student_loss:.3f} worse"
    ]


def _sharing(plan: Plan, question: Question) -> list[str]:
    paid = question.scenario.pretraining
    if paid == 0 or plan.gain_nats >= TOSS_UP:
        return []
    losses = question.allocate(plan.budget_flops, pretraining=paid / _SHARING).student_loss
    wins = np.flatnonzero(plan.supervised.loss - losses >= TOSS_UP)
    if not len(wins):
        return [
            f"sharing the teacher's training does not change this: not even {_SHARING[-1]:.0f} students make it pay"
        ]
    return [
        f"the teacher's training decides it: shared by about {_SHARING[wins[0]]:.0f} such students, "
        f"distillation would gain {TOSS_UP:g} nats"
    ]


def _break_even(plan: Plan) -> list[str]:
    even = plan.break_even
    if even is None:
        return []
    where = f"break-even: {even.reason}"
    if even.negligible_from_flops is not None:
        where += (
            f"; the gain is under {even.tolerance_nats:g} nats from {format_flops(even.negligible_from_flops)} FLOPs"
        )
    says = "distil" if plan.budget_flops < even.folk_rule_flops else "train"
    return [
        where,
        f"the popular rule (distil below 3e20 · N_S/1e9 = {format_flops(even.folk_rule_flops)} FLOPs) says {says}; "
        "it is linear in the student's size, ignores who pays for the teacher, and has no support in the paper",
    ]


def _target(plan: Plan) -> list[str]:
    goal = plan.target
    if goal is None:
        return []
    sides = [("distillation", goal.distillation_flops), ("supervised training", goal.supervised_flops)]
    costs = [
        f"{name} {'cannot reach it' if flops is None else f'takes {format_flops(flops)} FLOPs'}"
        for name, flops in sides
    ]
    text = f"to reach {goal.loss:g} nats {' and '.join(costs)}"
    if goal.distillation_flops and goal.supervised_flops:
        text += (
            f": {goal.distillation_flops / goal.supervised_flops:.2f} of the compute and {goal.token_ratio:.2f} of the "
            "student tokens when distilled"
        )
    return [text]


def _storage(plan: Plan) -> list[str]:
    if plan.scenario.name == "free":
        return []
    recompute = plan.distillation.flops.logits
    hidden = next(store for store in plan.logit_storage if "hidden" in store.kind)
    sampled = next(store for store in plan.logit_storage if "sampled" in store.kind)
    text = "the teacher's outputs are counted as already stored"
    if recompute:
        usd = plan.compute.usd(recompute)
        price = "" if usd is None else f" ({format_money(usd)})"
        text = f"computing the teacher's outputs takes {format_flops(recompute)} FLOPs{price}"
    return [
        f"{text}; keeping them takes {format_bytes(hidden.total_bytes)} as hidden states, exact "
        f"({format_money(hidden.usd_per_month)} a month), or {format_bytes(sampled.total_bytes)} as sampled classes"
    ]
