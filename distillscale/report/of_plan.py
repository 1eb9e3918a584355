"""What a report says of a plan: verdict, bill, curves, reasons; the plan is made again and held against its file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from shlex import quote
from typing import Any, cast

from .. import __version__, tell
from ..allocate import Limits
from ..answer import Plan
from ..chart import Table
from ..cost import SCENARIOS, Scenario
from ..curves.answer import against_budget, against_teacher_loss
from ..errors import InputError
from ..hardware import Compute
from ..lawset import LawSet
from ..plan import plan
from ..problem import Student
from ..published import DEFAULT
from ..units import format_bytes, format_count, format_flops, format_money
from .of_law import MADE_BY, about_law, evidence_blocks, fingerprint
from .page import Code, Facts, Points, Report, Section, Text, one_chart, section

__all__ = ["asked_again", "plan_report"]

_SAME = 1e-6
"""Relative; the same law in the same version gives the same numbers."""


def asked_again(data: Mapping[str, Any], evidence: LawSet, where: str) -> Plan:
    """The plan of `plan --json`, computed again with the law that it was made with."""
    try:
        asked: Mapping[str, Any] = data["asked"]
        given, theirs = asked["student"], dict(asked["law"])
        limits: dict[str, Any] = dict(asked["limits"])
        unique = limits.pop("unique_tokens")
        scenario, hardware = Scenario(**asked["scenario"]), Compute(**data["hardware"])
        target = None if data["target"] is None else float(data["target"]["loss"])
        budget = None if target is not None else float(data["budget_flops"])
        student = Student(params=float(given["params"]), flops=float(given["flops"]), name=str(given["name"]))
        context, vocab, seed = float(asked["context"]), float(asked["vocab"]), int(asked["seed"])
        bounds = Limits(unique_tokens=unique, **{name: tuple(ends) for name, ends in limits.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{where} is no whole output of `distillscale plan --json` ({type(error).__name__}: {error}); make it again"
        ) from None
    answer = plan(
        evidence, student, budget, scenario, target_loss=target, limits=bounds, context=context, vocab=vocab,
        hardware=hardware, seed=seed,
    )  # fmt: skip
    _same_law(theirs, answer, where)
    return answer


def _same_law(theirs: Mapping[str, Any], answer: Plan, where: str) -> None:
    """Refuse another law than the one that made the plan."""
    mine: Mapping[str, Any] = answer.question.to_json()["law"]
    for table in ("coefficients", "supervised"):
        old = cast("Mapping[str, Any]", theirs.get(table) or {})
        new = cast("Mapping[str, Any]", mine[table] or {})
        for name in sorted({*old, *new}):
            if not _close(old.get(name), new.get(name)):
                raise InputError(
                    f"{where} was made with another law than {answer.law!r}: {name} is {old.get(name)!r} there and "
                    f"{new.get(name)!r} here; name its law file with --law"
                )


def _close(a: object, b: object) -> bool:
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return a is None and b is None
    return math.isclose(a, b, rel_tol=_SAME, abs_tol=_SAME)


_COMPARED = (
    ("student loss", ("distillation", "student_loss")),
    ("supervised loss", ("supervised", "loss")),
    ("gain", ("gain_nats",)),
    ("P(gain > 0)", ("probability",)),
    ("FLOPs", ("distillation", "flops", "total")),
    ("teacher parameters", ("distillation", "teacher", "params")),
)


def _changes(data: Mapping[str, Any], answer: Plan) -> tuple[str, ...]:
    """Numbers of the file that this version computes otherwise."""
    out: list[str] = []
    fresh = answer.to_json()
    for what, path in _COMPARED:
        old, new = _at(data, path), _at(fresh, path)
        if not _close(old, new):
            out.append(f"{what} is {new!r} in this report and {old!r} in the plan file: another version made that")
    return tuple(out)


def _at(data: Mapping[str, Any], path: tuple[str, ...]) -> object:
    found: Any = data
    for key in path:
        found = cast("Mapping[str, Any]", found).get(key) if isinstance(found, Mapping) else None
    return found


def plan_report(data: Mapping[str, Any], evidence: LawSet, given: str, law: str) -> Report:
    """The plan in `data` (`plan --json`) as a report; `given` names its file and `law` its law."""
    answer = asked_again(data, evidence, given)
    side = answer.distillation
    gain = tell.gain_told(answer.gain_nats, answer.gain_interval, answer.probability)
    head, rows = tell.plan_table(answer)
    compared = Table(name="plan", title="", columns=head, cells=tuple(rows), caption=tell.priced(answer))
    teacher = f"teacher of {format_count(side.teacher.params)} parameters ({side.teacher.loss:.3f} nats)"
    split = f"{format_count(side.tokens)} student tokens under a {teacher}"
    other = f"{format_count(answer.supervised.tokens)} tokens without one"
    lead = f"{tell.HEADLINES[answer.verdict]}. {gain[0].upper()}{gain[1:]}."
    headline, *_ = tell.HEADLINES[answer.verdict].split(":")
    proof: Mapping[str, Any] = evidence.provenance.get("evidence") or {}
    parts = [
        section(
            "Answer",
            Text(lead, lead=True),
            Text(f"The best distillation: {split}. The alternative: {other}."),
            compared,
        ),
        section("Warnings", Points((*_changes(data, answer), *answer.warnings), alert=True)),
        section("Why", Points(answer.reasons)),
        section("Figures", one_chart(against_teacher_loss(answer)), one_chart(against_budget(answer))),
        _bill(answer),
        _break_even(answer),
        about_law(evidence),
        section("Certificate and held-out score", *(evidence_blocks(proof) if proof else ())),
        section("Reproduce", *_reproduce(answer, given, law)),
    ]
    return Report(
        title=f"{headline}: a {_who(answer)} for {format_flops(answer.budget_flops)} FLOPs",
        subtitle=_question(answer),
        sections=tuple(part for part in parts if part is not None),
        made_by=MADE_BY,
    )


def _who(answer: Plan) -> str:
    name = answer.question.student.name
    return f"{format_count(answer.distillation.params)} student" + (f" ({name})" if name else "")


def _question(answer: Plan) -> str:
    scenario = answer.scenario
    paid = f"{scenario.logits:.0%} of the teacher's forward passes and {scenario.pretraining:.0%} of its training paid"
    money = answer.compute.usd(answer.budget_flops)
    budget = f"{format_flops(answer.budget_flops)} FLOPs" + ("" if money is None else f" ({format_money(money)})")
    if answer.target is not None:
        return f"Question: what is the cheapest way to {answer.target.loss:g} nats for a {_who(answer)}, {paid}?"
    return f"Question: train or distill a {_who(answer)} with {budget}, {paid}?"


def _bill(answer: Plan) -> Section | None:
    """FLOPs, hours, money and energy by purpose, and what storing the teacher's outputs would cost."""
    hardware, flops = answer.compute, answer.distillation.flops
    parts = {
        "student training": flops.student, "teacher inference": flops.logits, "teacher training": flops.teacher,
        "distillation in all": flops.total, "supervised training": answer.supervised.flops,
    }  # fmt: skip

    def row(what: str, spent: float) -> tuple[str, ...]:
        usd, kwh = hardware.usd(spent), hardware.kwh(spent)
        return (
            what, format_flops(spent), format_count(hardware.hours(spent)), "–" if usd is None else format_money(usd),
            "–" if kwh is None else format_count(kwh),
        )  # fmt: skip

    bill = Table(
        name="bill", title="", columns=("", "FLOPs", f"{hardware.device} hours", "USD", "kWh"),
        cells=tuple(row(what, spent) for what, spent in parts.items()),
        caption=f"{tell.priced(answer)} Energy is that of the devices at full power.",
    )  # fmt: skip
    stores = Table(
        name="logits", title="Keeping the teacher's outputs instead of recomputing them",
        columns=("what is kept", "bytes a token", "in all", "USD a month", "caveat"),
        cells=tuple(
            (store.kind, f"{store.bytes_per_token:,.0f}", format_bytes(store.total_bytes),
             format_money(store.usd_per_month), store.caveat)
            for store in answer.logit_storage
        ),
    )  # fmt: skip
    return section("The bill", bill, stores)


def _break_even(answer: Plan) -> Section | None:
    found = answer.break_even
    if found is None:
        return None
    caveats = tuple(f"popular rule: {caveat}" for caveat in tell.rule_caveats())
    return section(
        "Break-even", Facts(tuple((a, b) for a, b in tell.break_even_rows(found))), Points((found.reason, *caveats))
    )


def _reproduce(answer: Plan, given: str, law: str) -> tuple[Code | Facts, ...]:
    facts = (
        ("law", f"{answer.law}, fingerprint {fingerprint(answer.question.evidence)}"),
        ("version", __version__),
        ("seed of the draws", str(answer.seed)),
    )
    return (
        Code(f"{command_of(answer, law)} --json > {quote(given)}\ndistillscale report {quote(given)}"
             f"{_law_option(law)} --out report.html", "bash"),
        Facts(facts),
    )  # fmt: skip


def _law_option(law: str) -> str:
    return "" if law == DEFAULT else f" --law {quote(law)}"


def command_of(answer: Plan, law: str) -> str:
    """The command line that asks this plan; a shape that was read from a file is named by it."""
    question, student, hardware = answer.question, answer.question.student, answer.compute
    words = ["distillscale", "plan", "--student", student.name or f"{student.params:.12g}"]
    words += (
        ["--target-loss", f"{answer.target.loss:.12g}"]
        if answer.target
        else ["--budget", f"{answer.budget_flops:.12g}"]
    )
    if answer.scenario.name in SCENARIOS:
        words += ["--teacher", answer.scenario.name]
    else:
        shares = answer.scenario
        words += ["--logits-share", f"{shares.logits:.12g}", "--pretraining-share", f"{shares.pretraining:.12g}"]
    words += _limit_words(question.limits)
    words += ["--context", f"{question.context:.12g}", "--vocab", f"{question.vocab:.12g}"] if not student.name else []
    words += [
        "--device",
        hardware.device,
        "--peak-flops",
        f"{hardware.peak_flops:.12g}",
        "--mfu",
        f"{hardware.mfu:.12g}",
    ]
    words += [] if hardware.usd_per_hour is None else ["--price", f"{hardware.usd_per_hour:.12g}"]
    words += ["--seed", str(answer.seed)] if answer.seed else []
    return " ".join(quote(word) for word in words) + _law_option(law)


def _limit_words(limits: Limits) -> list[str]:
    """Options of the limits that are not the planner's own."""
    default, words = Limits(), list[str]()
    for name in ("teacher_params", "teacher_tokens", "student_tokens"):
        (low, high), most = getattr(limits, name), getattr(default, name)[1]
        option = name.replace("_", "-")
        if low == high:
            words += [f"--{option}", f"{low:.12g}"]
        elif high != most:
            words += [f"--max-{option}", f"{high:.12g}"]
    if limits.unique_tokens is not None:
        words += ["--unique-tokens", f"{limits.unique_tokens:.12g}"]
    return words
