"""Answers to read questions, by the library alone: the command line's JSON, and what a page shows beside it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import asking, tell
from ..answer import Plan
from ..breakeven import BreakEven, break_even
from ..chart import Chart, Mark, Series
from ..cost import Scenario
from ..curves.answer import against_budget, against_teacher_loss
from ..errors import InputError
from ..lawset import LawSet
from ..plan import frontier, plan, verdict_of
from ..predict import predict
from ..problem import Student
from ..teachers import OwnedTeacher, RankedTeacher, rank_teachers, teachers_from
from .commands import commands_for
from .fields import read_fields, student_from
from .laws import LawBook

if TYPE_CHECKING:
    from ..allocate import Limits
    from ..hardware import Compute

__all__ = ["Answers"]

MOST_PLANS = 4_000
"""Of one frontier over HTTP, so that none holds up others for long."""


class _Recent:
    """The latest results by what they depend on; values are never changed, so threads may share them."""

    def __init__(self, most: int) -> None:
        self._most, self._kept, self._lock = most, OrderedDict[Hashable, Any](), threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


class Answers:
    """One question each; fields as in `fields.FIELDS`, keys as under `--json`."""

    def __init__(self, laws: LawBook) -> None:
        self.laws = laws
        self._break_evens = _Recent(256)

    def predict(self, body: object) -> dict[str, Any]:
        """`distillscale predict --json`."""
        values = read_fields("predict", body)
        _needs(values, "tokens")
        teacher = values["teacher_params"]
        if teacher is not None:
            teacher = asking.count_from(teacher, "--teacher-params", values["vocab"], values["total_params"])
        return predict(
            self.laws.find(values["law"]),
            student_from(values),
            values["tokens"],
            teacher_loss=values["teacher_loss"],
            teacher_params=teacher,
            teacher_tokens=values["teacher_tokens"],
            seed=values["seed"],
        ).to_json()

    def plan(self, body: object) -> dict[str, Any]:
        """`distillscale plan --json`."""
        return _Asked(read_fields("plan", body), self.laws).plan().to_json()

    def break_even(self, body: object) -> dict[str, Any]:
        """`distillscale break-even --json`."""
        values = read_fields("break-even", body)
        law, student = self.laws.find(values["law"]), student_from(values)
        scenario = asking.scenario_from(values["teacher"], values)
        limits = asking.limits_from(values, vocab=values["vocab"], total_params=values["total_params"])
        return break_even(
            law,
            student,
            scenario,
            limits=limits,
            tolerance=values["tolerance"],
            seed=values["seed"],
            **asking.shape_from(values["context"], values["vocab"]),
        ).to_json()

    def teachers(self, body: object) -> list[dict[str, Any]]:
        """`distillscale teachers --json`."""
        values = read_fields("teachers", body)
        hardware, flops = asking.hardware_from(values), None
        if values["budget"] is not None:
            flops, hardware = asking.budget_from(values["budget"], hardware)
        if (values["tokens"] is None) == (flops is None):
            raise InputError("give either --tokens or --budget" + ("" if flops is None else ", not both"))
        ranked = rank_teachers(
            self.laws.find(values["law"]),
            student_from(values),
            owned_from(values) or [],
            tokens=values["tokens"],
            budget=flops,
            scenario=Scenario(1.0 if values["logits_share"] is None else values["logits_share"], 0.0),
            hardware=hardware,
            seed=values["seed"],
            **asking.shape_from(values["context"], values["vocab"]),
        )
        return [teacher.to_json() for teacher in ranked]

    def frontier(self, body: object) -> dict[str, Any]:
        """`distillscale frontier --json`."""
        values = read_fields("frontier", body)
        _needs(values, "students", "budgets", "scenarios")
        vocab, total = values["vocab"], values["total_params"]
        limits = asking.limits_from(values, vocab=vocab, total_params=total)
        sizes = asking.range_from(
            _joined(values["students"]), "--students", lambda x: asking.count_from(x, "--students", vocab, total)
        )
        grid = asking.range_from(_joined(values["budgets"]), "--budgets", lambda x: asking.flops_from(x, "--budgets"))
        names = [name.strip() for name in _joined(values["scenarios"]).split(",")]
        if (plans := len(sizes) * len(grid) * len(names)) > MOST_PLANS:
            raise InputError(
                f"a frontier over HTTP has at most {MOST_PLANS:,} plans; got {plans:,}; "
                "take fewer students or budgets, or the command line"
            )
        found = frontier(
            self.laws.find(values["law"]),
            sizes,
            grid,
            [Scenario.named(name, values["share_students"]) for name in names],
            limits=limits,
            **asking.shape_from(values["context"], vocab),
        )
        return {"rows": found.rows(), "warnings": list(found.warnings)}

    def answer(self, body: object) -> dict[str, Any]:
        """The plan and everything a page shows with it: words, tables, figures, owned teachers, commands to copy."""
        values = read_fields("answer", body)
        owned = owned_from(values)
        asked = _Asked(values, self.laws)
        even = self._break_even(asked, values["law"])
        found = asked.plan(even)
        ranked = None if owned is None else asked.ranked(owned, found.budget_flops)
        charts = (
            _with_teachers(against_teacher_loss(found), ranked or []),
            against_budget(found),
        )
        return {
            "plan": found.to_json(),
            "break_even": even.to_json(),
            "told": _told(found, even),
            "teachers": None if ranked is None else _teachers_told(ranked, found),
            "charts": [chart.to_screen() for chart in charts],
            "commands": commands_for(values, asked.law.name, found, asked.student, asked.scenario, asked.limits),
        }

    def _break_even(self, asked: _Asked, law: str) -> BreakEven:
        """It does not depend on the budget, which is what people drag."""
        key = (law, asked.student, asked.scenario, asked.limits, *asked.shape.values(), asked.seed)
        return self._break_evens.get(
            key,
            lambda: break_even(
                asked.law, asked.student, asked.scenario, limits=asked.limits, seed=asked.seed, **asked.shape
            ),
        )


class _Asked:
    """The values behind a question about a plan, read as the command line reads them."""

    law: LawSet
    student: Student
    hardware: Compute
    scenario: Scenario
    limits: Limits

    def __init__(self, values: Mapping[str, Any], laws: LawBook) -> None:
        left = dict(values)
        self.hardware = asking.hardware_from(left)
        self.scenario = asking.scenario_from(values["teacher"], left)
        self.limits = asking.limits_from(left, vocab=values["vocab"], total_params=values["total_params"])
        self.student, self.law = student_from(values), laws.find(values["law"])
        self.target, self.seed = values["target_loss"], values["seed"]
        self.shape = asking.shape_from(values["context"], values["vocab"])
        self.flops: float | None = None
        if values["budget"] is not None:
            self.flops, self.hardware = asking.budget_from(values["budget"], self.hardware)
        elif self.target is None:
            raise InputError(
                "--budget is missing; give a budget such as 1e21, or --target-loss for the cheapest plan to it"
            )

    def plan(self, even: BreakEven | None = None) -> Plan:
        return plan(
            self.law,
            self.student,
            self.flops,
            self.scenario,
            target_loss=self.target,
            limits=self.limits,
            hardware=self.hardware,
            seed=self.seed,
            break_even=even,
            **self.shape,
        )

    def ranked(self, owned: list[OwnedTeacher], budget: float) -> list[RankedTeacher]:
        """The teachers one owns exist, so at most their forward passes are paid for."""
        return rank_teachers(
            self.law,
            self.student,
            owned,
            budget=budget,
            scenario=Scenario(self.scenario.logits, 0.0),
            limits=self.limits,
            hardware=self.hardware,
            seed=self.seed,
            **self.shape,
        )


def _needs(values: Mapping[str, Any], *names: str) -> None:
    if missing := [name for name in names if values[name] is None]:
        raise InputError(f"{missing[0]} is missing; the question needs {', '.join(names)}")


def _joined(values: list[str | float]) -> str:
    return ",".join(str(value) for value in values)


def owned_from(values: Mapping[str, Any]) -> list[OwnedTeacher] | None:
    """The teachers of a question; None where it has none."""
    if not values["owned"]:
        return None
    shape = asking.shape_from(values["context"], values["vocab"])
    vocab = shape["vocab"] if values["total_params"] else None
    return teachers_from({"teacher": values["owned"]}, "owned", total_params_vocab=vocab)


def _told(found: Plan, even: BreakEven) -> dict[str, Any]:
    head, rows = tell.plan_table(found)
    return {
        "headline": tell.HEADLINES[found.verdict],
        "gain": tell.gain_told(found.gain_nats, found.gain_interval, found.probability),
        "head": head,
        "rows": rows,
        "bill": tell.priced(found),
        "break_even": tell.break_even_rows(even),
        "break_even_notes": [even.reason, *(w for w in even.warnings if w not in found.warnings)],
    }


def _teachers_told(ranked: list[RankedTeacher], found: Plan) -> dict[str, Any]:
    """The ranking, and what it says about the best of them at equal FLOPs."""
    head, rows = tell.teacher_table(ranked)
    best = ranked[0]
    return {
        "ranked": [teacher.to_json() for teacher in ranked],
        "verdict": verdict_of(best.gain_at_equal_flops),
        "headline": tell.HEADLINES[verdict_of(best.gain_at_equal_flops)],
        "gain": tell.gain_told(best.gain_at_equal_flops, best.interval_at_equal_flops, best.probability_at_equal_flops),
        "head": [name.replace("\n", " ") for name in head],
        "rows": rows,
        "warnings": [w for w in tell.teacher_warnings(ranked) if w not in found.warnings],
    }


def _with_teachers(chart: Chart, ranked: list[RankedTeacher]) -> Chart:
    """Owned teachers on the curve's figure; each point is on the tokens that this teacher leaves."""
    if not ranked:
        return chart
    points = Series.of("your teachers", [t.loss for t in ranked], [t.student_loss for t in ranked], "points")
    marks = tuple(Mark(label=t.name, x=t.loss, y=t.student_loss) for t in ranked)
    note = " Your teachers: each with its student on the tokens that it leaves of the budget."
    return replace(chart, series=(*chart.series, points), marks=(*chart.marks, *marks), caption=chart.caption + note)
