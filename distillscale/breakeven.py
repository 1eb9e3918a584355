"""The budget above which supervised training is as good as distillation, or why there is none; it knows no money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .allocate import LARGEST, Limits
from .arch import CONTEXT, VOCAB
from .confidence import TOSS_UP, range_warnings, residual_errors, standing_warnings
from .cost import TRAINING_PASSES, Scenario
from .errors import InputError
from .lawset import LawSet
from .problem import Question, Student, worth
from .published.rules import folk_breakeven_flops
from .units import format_count, format_flops

__all__ = ["BreakEven", "break_even", "break_even_of"]

Array = NDArray[np.float64]

_SCAN = 32
_INTERVAL_DRAWS = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakEven:
    """Where the gain of distillation (supervised − distilled, each optimal at the same total FLOPs) ends.

    `budget_flops` is None where there is no such budget, and `reason` says why. `negligible_from_flops` is where the
    gain falls under `tolerance_nats` for good, None where it never reaches it or never falls below. `interval` is the
    90 % interval of the break-even over draws of the law and its residual error; an end is None where the draws there
    have no break-even. `behind_until_flops` is set where distillation is behind below some budget, ahead from there on,
    and never caught up with.
    """

    law: str
    scenario: str
    student_params: float
    budget_flops: float | None
    interval: tuple[float | None, float | None] | None
    tolerance_nats: float
    negligible_from_flops: float | None
    largest_gain_nats: float
    behind_until_flops: float | None
    reason: str
    folk_rule_flops: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the documented keys."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "interval": None if self.interval is None else list(self.interval),
            "warnings": list(self.warnings),
        }


class _Gain:
    """Gain in nats as a function of the budget, each end of the comparison at its own optimum."""

    def __init__(self, question: Question) -> None:
        self.question = question

    def __call__(self, budgets: Array) -> Array:
        return self.question.supervised_loss(budgets) - self.question.distilled_loss(budgets)

    def last_above(self, levels: Sequence[float], budgets: Array, gain: Array) -> list[float | None]:
        """For each level the budget where the gain falls through it for the last time; None where it never does."""
        brackets: dict[float, tuple[Array, Array]] = {}
        for level in levels:
            above = np.flatnonzero(gain > level)
            if len(above) and above[-1] < len(budgets) - 1:
                at = slice(above[-1], above[-1] + 2)
                brackets[level] = np.log(budgets[at]), gain[at]
        # Eight parts of each bracket, then two points close around the straight line's root.
        for shares in (np.arange(1, 8) / 8, None) if brackets else ():
            inside = [_inside(level, *bracket, shares) for level, bracket in brackets.items()]
            found = self(np.exp(np.concatenate(inside))).reshape(len(inside), -1)
            for (level, (ends, values)), x, y in zip(brackets.items(), inside, found, strict=True):
                x, y = np.concatenate([ends[:1], x, ends[1:]]), np.concatenate([values[:1], y, values[1:]])
                last = int(np.flatnonzero(y > level)[-1])
                brackets[level] = x[last : last + 2], y[last : last + 2]
        roots = {level: float(np.exp(_root(level, *bracket))) for level, bracket in brackets.items()}
        return [roots.get(level) for level in levels]

    def last_behind(self, budgets: Array, gain: Array) -> float | None:
        """The budget from which distillation is ahead for good; None where it never is, or always."""
        behind = np.flatnonzero(gain <= 0)
        if not len(behind) or behind[-1] == len(gain) - 1:
            return None
        ends, values = np.log(budgets[behind[-1] :][:2]), gain[behind[-1] :][:2]
        for _ in range(2):  # eight parts of the bracket, then of one of them
            x = ends[0] + (ends[1] - ends[0]) * np.arange(9) / 8
            y = self(np.exp(x))
            last = int(np.flatnonzero(y <= 0)[-1])
            ends, values = x[last : last + 2], y[last : last + 2]
        return float(np.exp(_root(0.0, ends, values) if np.isfinite(values[0]) else ends[1]))

    def interval(self, budgets: Array, seed: int) -> tuple[float | None, float | None] | None:
        """90 % of the break-evens over draws; each draw shifts both laws by one residual error of each kind."""
        question, evidence = self.question, self.question.evidence
        if evidence.draws is None:
            return None
        plans = question.allocate(budgets)
        ok = np.isfinite(plans.student_loss)
        C, D_S, L_T = budgets[ok], plans.student_tokens[ok][None], plans.teacher_loss[ok][None]
        some = evidence.some_draws(_INTERVAL_DRAWS)
        sigmas = (evidence.residual.supervised, evidence.residual.distillation)
        shift = residual_errors(seed, some.draw_count, sigmas)[..., None]
        N_S, D = question.student.params, question.supervised_tokens(C)[None]
        student = some.student_draws(N_S, worth(D_S, question.limits), L_T) * shift[1]
        supervised = some.supervised_draws(N_S, worth(D, question.limits)) * shift[0]
        gain = supervised - student
        ahead = gain > 0
        last = np.where(ahead.any(axis=1), len(C) - 1 - np.argmax(ahead[:, ::-1], axis=1), -1)
        crosses = (last >= 0) & (last < len(C) - 1)
        at = np.where(crosses, last, 0)
        row = np.arange(len(at))
        before, after = gain[row, at], gain[row, at + 1]
        share = np.where(crosses, before / np.where(crosses, before - after, 1.0), 0.0)
        log_C = np.log(C)
        # Below the scan there is no break-even worth a number (0), beyond it none either (inf).
        ends = np.where(
            crosses, np.exp(log_C[at] + share * (log_C[at + 1] - log_C[at])), np.where(last < 0, 0.0, np.inf)
        )
        low, high = np.sort(ends)[[round(0.05 * (len(ends) - 1)), round(0.95 * (len(ends) - 1))]]
        return _number(low), _number(high)


def _root(level: float, ends: Array, values: Array) -> float:
    """Where the straight line through a bracket meets the level."""
    return float(ends[0] + (values[0] - level) / (values[0] - values[1]) * (ends[1] - ends[0]))


def _inside(level: float, ends: Array, values: Array, shares: Array | None) -> Array:
    """Points inside a bracket: at these shares of it, or 2 % of it to either side of the straight line's root."""
    width = ends[1] - ends[0]
    if shares is not None:
        return ends[0] + shares * width
    around = _root(level, ends, values) + 0.02 * width * np.array([-1.0, 1.0])
    return np.minimum(np.maximum(around, ends[0]), ends[1])


def _number(x: float) -> float | None:
    return float(x) if 0 < x < np.inf else None


def break_even(
    law: LawSet | str,
    student: float | Student,
    scenario: Scenario,
    *,
    limits: Limits | None = None,
    context: float = CONTEXT,
    vocab: float = VOCAB,
    tolerance: float = TOSS_UP,
    seed: int = 0,
) -> BreakEven:
    """The total FLOPs from which supervised training of the same student is at least as good as distilling it.

    Scans budgets from one supervised token per parameter up to the solver's bound on student tokens (1e17).
    """
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance must be at least 0 and below 1 nat; got {tolerance:g}; the default is {TOSS_UP}")
    question = Question.of(law, student, scenario, limits, context=context, vocab=vocab)
    return break_even_of(question, tolerance, seed=seed)


def break_even_of(question: Question, tolerance: float = TOSS_UP, *, seed: int | None = 0) -> BreakEven:
    """`break_even` of a question; without a seed it draws no interval."""
    evidence, student, scenario, limits = question.evidence, question.student, question.scenario, question.limits
    gain_at = _Gain(question)
    per_token = TRAINING_PASSES * student.flops
    budgets = np.geomspace(
        per_token * max(student.params, 2 * limits.student_tokens[0]),
        per_token * min(LARGEST, limits.student_tokens[1]),
        _SCAN,
    )
    gain = gain_at(budgets)
    budget, negligible = gain_at.last_above((0.0, tolerance), budgets, gain)
    warnings = standing_warnings(evidence)
    if budget is not None:
        plan = question.allocate(np.array([budget]))
        D_S = float(plan.student_tokens[0])
        values = {"student_params": student.params, "student_tokens": D_S, "tokens_per_param": D_S / student.params}
        warnings += range_warnings(evidence, values | {"teacher_loss": float(plan.teacher_loss[0])})
    else:
        warnings += range_warnings(evidence, {"student_params": student.params})
    turn = gain_at.last_behind(budgets, gain) if budget is None else None
    return BreakEven(
        law=evidence.name,
        scenario=scenario.name,
        student_params=student.params,
        budget_flops=budget,
        interval=None if budget is None or seed is None else gain_at.interval(budgets, seed),
        tolerance_nats=tolerance,
        negligible_from_flops=negligible,
        largest_gain_nats=float(np.max(gain)),
        behind_until_flops=turn,
        reason=_reason(student, scenario, budgets, gain, budget, turn, tolerance),
        folk_rule_flops=folk_breakeven_flops(student.params),
        warnings=tuple(warnings),
    )


def _reason(
    student: Student,
    scenario: Scenario,
    budgets: Array,
    gain: Array,
    budget: float | None,
    turn: float | None,
    tolerance: float,
) -> str:
    what = f"a {format_count(student.params)} student, teacher cost {scenario.name}"
    fewest = budgets[0] / (TRAINING_PASSES * student.flops)
    start = "one token per parameter" if fewest <= 1.0001 * student.params else "the fewest tokens within the limits"
    span = f"from {format_flops(budgets[0])} ({start}) to {format_flops(budgets[-1])} FLOPs"
    peak = int(np.argmax(gain))
    most, at = gain[peak], format_flops(budgets[peak])
    if most <= 0:
        return f"none, because supervised training is at least as good at every budget {span} for {what}"
    if most < tolerance:
        return (
            f"none, because distillation never gains more than {most:.4f} nats, under the tolerance of {tolerance:g}, "
            f"at any budget {span} for {what}"
        )
    best = f"the gain peaks at {most:.3f} nats at {at} FLOPs"
    if turn is not None:
        rest = (
            "" if gain[-1] >= tolerance else f" (at the end by {gain[-1]:.4f} nats, which the law cannot tell from 0)"
        )
        return (
            f"none, because supervised training is ahead up to {format_flops(turn)} FLOPs and distillation from there "
            f"on{rest}, in the range {span} for {what}; {best}"
        )
    if budget is None and gain[-1] < tolerance:
        return (
            f"none, because at the largest budget of the range {span} distillation is still ahead, but by only "
            f"{gain[-1]:.4f} nats, which the law cannot tell from 0, for {what}; {best}"
        )
    if budget is None:
        return f"none, because distillation stays ahead over the whole range {span} for {what}; {best}"
    crossings = int(np.sum((gain[:-1] > 0) & (gain[1:] <= 0)))
    again = f"; the curves cross {crossings} times, this is the last" if crossings > 1 else ""
    return f"supervised training catches up at {format_flops(budget)} FLOPs for {what}; {best}{again}"
