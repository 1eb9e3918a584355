"""What every question shares: law and evidence, student, scenario, worth of repeated data. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import published
from .allocate import REPEAT_WORTH, Allocation, Limits, allocate
from .arch import CONTEXT, VOCAB, Arch, forward_flops
from .cost import TRAINING_PASSES, Scenario
from .errors import InputError
from .laws import DistillationLaw, SupervisedLaw, effective_tokens
from .lawset import LawSet, coefficients_of

__all__ = ["Question", "Student", "as_evidence", "as_student", "worth"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A student by what the laws and the bill need: N_S and its forward FLOPs per token."""

    params: float
    flops: float
    name: str = ""

    @classmethod
    def of_size(cls, params: float, *, context: float = CONTEXT, vocab: float = VOCAB) -> Student:
        """N_S non-embedding parameters in the paper's proportions: F(N_S) of Eq 69."""
        if not np.isfinite(params) or params <= 0:
            raise InputError(f"student parameters must be positive and finite; got {params!r}; write 300M, 1.5B or 3e9")
        return cls(params=float(params), flops=float(forward_flops(params, context=context, vocab=vocab)))

    @classmethod
    def of_arch(cls, arch: Arch, name: str = "") -> Student:
        """An exact shape: its own non-embedding parameters and forward FLOPs per token."""
        return cls(params=float(arch.params), flops=float(arch.forward_flops_per_token), name=name)


def as_student(student: float | Arch | Student, context: float = CONTEXT, vocab: float = VOCAB) -> Student:
    """A `Student` from a count of non-embedding parameters, an exact shape, or itself."""
    if isinstance(student, Student):
        return student
    if isinstance(student, Arch):
        return Student.of_arch(student)
    return Student.of_size(student, context=context, vocab=vocab)


def as_evidence(law: LawSet | DistillationLaw | SupervisedLaw | str) -> LawSet:
    """A law with its evidence, from a published name, a path to a law file, a bare law (no evidence), or itself."""
    if isinstance(law, LawSet):
        return law
    if isinstance(law, str):
        return published.load_set(law)
    return LawSet(name="custom", form="distillation" if isinstance(law, DistillationLaw) else "supervised", law=law)


def worth(D: ArrayLike, limits: Limits) -> Array:
    """Tokens in fresh tokens' worth, where the unique data are limited."""
    if limits.unique_tokens is None:
        return np.asarray(D, float)
    return effective_tokens(D, limits.unique_tokens, REPEAT_WORTH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Everything a plan depends on but the budget, with both sides of the comparison as functions of it."""

    evidence: LawSet
    student: Student
    scenario: Scenario
    limits: Limits
    context: float
    vocab: float

    @classmethod
    def of(
        cls,
        law: LawSet | DistillationLaw | str,
        student: float | Arch | Student,
        scenario: Scenario,
        limits: Limits | None = None,
        *,
        context: float = CONTEXT,
        vocab: float = VOCAB,
    ) -> Question:
        """From what a caller has at hand: a law by name, a student by size."""
        return cls(
            evidence=as_evidence(law),
            student=as_student(student, context, vocab),
            scenario=scenario,
            limits=limits or Limits(),
            context=context,
            vocab=vocab,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but the budget, enough to ask again where the law is at hand."""
        law, limits = self.evidence.law, self.limits
        supervised = coefficients_of(law.supervised) if isinstance(law, DistillationLaw) else None
        spans = ("teacher_params", "teacher_tokens", "student_tokens")
        return {
            "law": {"form": self.evidence.form, "coefficients": coefficients_of(law), "supervised": supervised},
            "student": {name: getattr(self.student, name) for name in ("params", "flops", "name")},
            "scenario": {"logits": self.scenario.logits, "pretraining": self.scenario.pretraining},
            "limits": {name: list(getattr(limits, name)) for name in spans} | {"unique_tokens": limits.unique_tokens},
            "context": self.context,
            "vocab": self.vocab,
        }

    def allocate(
        self, budget: ArrayLike, limits: Limits | None = None, pretraining: ArrayLike | None = None
    ) -> Allocation:
        """Eq 10 at these budgets."""
        return allocate(
            self.evidence.distillation,
            self.student.params,
            budget,
            self.scenario.logits,
            self.scenario.pretraining if pretraining is None else pretraining,
            student_flops=self.student.flops,
            limits=limits or self.limits,
            context=self.context,
            vocab=self.vocab,
        )

    def supervised_tokens(self, budget: ArrayLike) -> Array:
        """D = C / (3 F(N_S)), at most the limit on student tokens."""
        tokens = np.asarray(budget, float) / (TRAINING_PASSES * self.student.flops)
        return np.minimum(tokens, self.limits.student_tokens[1])

    def supervised_loss(self, budget: ArrayLike) -> Array:
        """Loss of the same student trained on text alone with these total FLOPs."""
        tokens = worth(self.supervised_tokens(budget), self.limits)
        return self.evidence.supervised.loss(self.student.params, tokens)

    def distilled_loss(self, budget: ArrayLike) -> Array:
        """Loss of the best distillation with these total FLOPs; inf where they buy none."""
        return self.allocate(budget).student_loss
