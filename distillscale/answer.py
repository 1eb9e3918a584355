"""What a planner answers: values and their JSON keys; nothing is computed here but shares, hours and money."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .breakeven import BreakEven
from .cost import LogitStore, Scenario
from .hardware import Compute
from .problem import Question

__all__ = ["Distilled", "Flops", "Plan", "Supervised", "Target", "Teacher", "Verdict"]

Verdict = Literal["distill", "supervised", "toss-up"]


class Teacher(NamedTuple):
    """N_T non-embedding parameters, D_T tokens, L_T nats per token."""

    params: float
    tokens: float
    loss: float


class Flops(NamedTuple):
    """Total FLOPs of a plan by purpose, as charged to this student (Eq 9)."""

    student: float
    logits: float
    teacher: float
    total: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Distilled:
    """The distillation side of a plan."""

    student_loss: float
    params: float
    tokens: float
    teacher: Teacher
    flops: Flops

    @property
    def shares(self) -> dict[str, float]:
        """What part of the FLOPs goes to the student, the teacher's forward passes, the teacher's training."""
        return {name: getattr(self.flops, name) / self.flops.total for name in ("student", "logits", "teacher")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    """The supervised side: the same student trained on text alone with the same total FLOPs."""

    loss: float
    tokens: float
    flops: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What each side costs at least to reach a wanted loss; None where it cannot."""

    loss: float
    distillation_flops: float | None
    supervised_flops: float | None
    token_ratio: float | None
    """Student tokens, distilled over supervised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The answer to one question. Losses in nats per token, intervals 90 %, `gain_nats` = supervised − distilled."""

    law: str
    scenario: Scenario
    budget_flops: float
    verdict: Verdict
    probability: float | None
    """P(gain > 0) over draws of the law and residual errors; None where the law has neither."""
    gain_nats: float
    gain_interval: tuple[float, float] | None
    student_interval: tuple[float, float] | None
    supervised_interval: tuple[float, float] | None
    distillation: Distilled
    supervised: Supervised
    practical: Distilled | None
    """The best plan with a teacher of at most 15T tokens, where the optimum wants more."""
    break_even: BreakEven | None
    target: Target | None
    logit_storage: tuple[LogitStore, ...]
    compute: Compute
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    question: Question = field(compare=False, repr=False)
    """What was asked, with the law."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the documented keys."""
        out: dict[str, Any] = {"law": self.law, "scenario": self.scenario.name, "budget_flops": self.budget_flops}
        out |= {"verdict": self.verdict, "probability": self.probability, "gain_nats": self.gain_nats}
        for name in ("gain_interval", "student_interval", "supervised_interval"):
            ends: tuple[float, float] | None = getattr(self, name)
            out[name] = None if ends is None else list(ends)
        out["distillation"] = self._side(self.distillation)
        out["supervised"] = {name: getattr(self.supervised, name) for name in ("loss", "tokens", "flops")}
        out["practical"] = None if self.practical is None else self._side(self.practical)
        out["break_even"] = None if self.break_even is None else self.break_even.to_json()
        out["target"] = None if self.target is None else _fields(self.target)
        out["logit_storage"] = [_fields(store) for store in self.logit_storage]
        hardware = ("device", "peak_flops", "mfu", "usd_per_hour", "watts", "precision")
        out["hardware"] = {name: getattr(self.compute, name) for name in hardware}
        out |= {"reasons": list(self.reasons), "warnings": list(self.warnings)}
        return out | {"asked": self.question.to_json() | {"seed": self.seed}}

    def _side(self, side: Distilled) -> dict[str, Any]:
        return {
            "student_loss": side.student_loss,
            "student": {"params": side.params, "tokens": side.tokens},
            "teacher": side.teacher._asdict(),
            "flops": side.flops._asdict(),
            "shares": side.shares,
            "gpu_hours": self.compute.hours(side.flops.total),
            "usd": self.compute.usd(side.flops.total),
            "kwh": self.compute.kwh(side.flops.total),
        }


def _fields(value: Target | LogitStore) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
