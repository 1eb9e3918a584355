"""Answers in words and tables of text, the same on a terminal and in a page; no number is made here, only written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .answer import Distilled, Plan
from .breakeven import BreakEven
from .published import read_toml
from .units import format_count, format_flops, format_money

if TYPE_CHECKING:  # a plan is told without loading what ranks teachers
    from .teachers import RankedTeacher

__all__ = [
    "HEADLINES",
    "break_even_rows",
    "gain_told",
    "plan_table",
    "priced",
    "rule_caveats",
    "teacher_table",
    "teacher_warnings",
]

HEADLINES = {
    "distill": "Distill it",
    "supervised": "Train it supervised",
    "toss-up": "Toss-up: the two differ by less than 0.01 nats",
}
"""What a verdict means for the reader."""

Rows = list[tuple[str, ...]]


def gain_told(gain: float, ends: tuple[float, float] | None, probability: float | None) -> str:
    """`gain +0.024 nats (90 %: -0.016 to +0.065), P(gain > 0) = 0.85`."""
    text = f"gain {gain:+.3f} nats"
    if ends is not None and probability is not None:
        text += f" (90 %: {ends[0]:+.3f} to {ends[1]:+.3f}), P(gain > 0) = {probability:.2f}"
    return text


def plan_table(answer: Plan) -> tuple[tuple[str, ...], Rows]:
    """Head and rows: what is distilled, the same with a teacher on at most 15T tokens, and supervised training."""
    distilled, alone, hardware = answer.distillation, answer.supervised, answer.compute

    def bill(flops: float) -> list[str]:
        return [format_flops(flops), format_count(hardware.hours(flops)), _money(hardware.usd(flops))]

    def span(ends: tuple[float, float] | None) -> str:
        return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"

    def side(plan: Distilled, ends: tuple[float, float] | None) -> list[str]:
        shares = " / ".join(f"{share:.0%}" for share in plan.shares.values())
        teacher = [format_count(plan.teacher.params), format_count(plan.teacher.tokens), f"{plan.teacher.loss:.3f}"]
        loss = [f"{plan.student_loss:.3f}", span(ends), format_count(plan.tokens)]
        return [*loss, *teacher, shares, *bill(plan.flops.total)]

    names = ["student loss, nats/token", "  90 % interval", "student tokens", "teacher parameters", "teacher tokens"]
    names += ["teacher loss", "student/logits/teacher", "FLOPs", f"{hardware.device} hours", "USD"]
    columns = {"distilled": side(distilled, answer.student_interval)}
    if answer.practical is not None:
        columns["teacher ≤ 15T"] = side(answer.practical, None)
    columns["supervised"] = [f"{alone.loss:.3f}", span(answer.supervised_interval), format_count(alone.tokens)]
    columns["supervised"] += ["-"] * 4 + bill(alone.flops)
    head = (f"{format_count(distilled.params)} student", *columns)
    return head, list(zip(names, *columns.values(), strict=True))


def priced(answer: Plan) -> str:
    """What the hours and the money rest on."""
    hardware = answer.compute
    price = "no price known" if hardware.usd_per_hour is None else f"{hardware.usd_per_hour:g} USD/h"
    return f"Bill: {hardware.device}, {hardware.peak_flops:.4g} FLOP/s peak, MFU {hardware.mfu:g}, {price}."


def break_even_rows(found: BreakEven) -> Rows:
    """Where supervised training catches up, and beside it what the popular rule says."""

    def flops(x: float | None) -> str:
        return "none" if x is None else f"{format_flops(x)} FLOPs"

    rows: Rows = [("break-even", flops(found.budget_flops))]
    if found.interval is not None:
        low, high = found.interval
        rows.append(("90 % interval", f"{flops(low)} to {flops(high)}"))
    rows += [
        (f"gain under {found.tolerance_nats:g} nats from", flops(found.negligible_from_flops)),
        ("largest gain", f"{found.largest_gain_nats:+.3f} nats"),
        ("popular rule (unsupported)", flops(found.folk_rule_flops)),
    ]
    return rows


def rule_caveats() -> list[str]:
    """What is wrong with the popular rule."""
    caveats: list[str] = read_toml("folk-breakeven")["caveats"]
    return caveats


def teacher_table(ranked: Sequence[RankedTeacher]) -> tuple[tuple[str, ...], Rows]:
    """Head (a line break where it may be broken) and a row for each teacher."""
    columns = ("teacher", "params", "loss", "student", "gain", "at equal\nFLOPs", "regime", "USD")
    rows = [
        (
            t.name,
            format_count(t.params),
            f"{t.loss:.3f}",
            f"{t.student_loss:.3f}",
            f"{t.gain_nats:+.3f}",
            f"{t.gain_at_equal_flops:+.3f}",
            t.regime,
            _money(t.usd),
        )
        for t in ranked
    ]
    return columns, list[tuple[str, ...]](rows)


def teacher_warnings(ranked: Sequence[RankedTeacher]) -> list[str]:
    """Each warning once, with the teachers it is about where it is not about all."""
    said: dict[str, list[str]] = {}
    for t in ranked:
        for warning in t.warnings:
            said.setdefault(warning, []).append(t.name)
    return [w if len(names) == len(ranked) else f"{', '.join(names)}: {w}" for w, names in said.items()]


def _money(usd: float | None) -> str:
    return "none" if usd is None else format_money(usd)
