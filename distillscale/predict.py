"""One prediction: what a student reaches alone, and under a teacher; it optimises nothing but the teacher's loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .arch import Arch
from .confidence import confidence_of, interval_of, range_warnings, residual_errors, standing_warnings
from .errors import InputError
from .laws import DistillationLaw
from .lawset import LawSet
from .problem import Student, as_evidence, as_student

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Losses in nats per token; `interval` is the 90 % interval of the student's loss (or of the supervised one
    where the law knows no teacher), None where the law comes without evidence."""

    law: str
    supervised_loss: float
    student_loss: float | None
    teacher_loss: float | None
    optimal_teacher_loss: float | None
    regime: str | None
    interval: tuple[float, float] | None
    supervised_interval: tuple[float, float] | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the documented keys."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("interval", "supervised_interval", "warnings"):
            out[name] = None if out[name] is None else list(out[name])
        return out


def predict(
    law: LawSet | DistillationLaw | str,
    student: float | Arch | Student,
    tokens: float,
    *,
    teacher_loss: float | None = None,
    teacher_params: float | None = None,
    teacher_tokens: float | None = None,
    seed: int = 0,
) -> Prediction:
    """Loss of a student on `tokens` tokens under a teacher of `teacher_loss` nats, or of that size and training length.

    Without a teacher it is the student of the optimal one. A law that knows no teacher gives the supervised loss only.
    """
    evidence, student = as_evidence(law), as_student(student)
    if not (math.isfinite(tokens) and tokens > 0):
        raise InputError(f"tokens must be positive and finite; got {tokens!r}; write 20B or 2e10")
    if (teacher_params is None) != (teacher_tokens is None):
        raise InputError("a teacher by size needs both its parameters and its tokens; got one of them")
    if teacher_loss is not None and teacher_params is not None:
        raise InputError("give the teacher's loss, or its size and tokens, not both")
    if teacher_loss is not None and not (math.isfinite(teacher_loss) and teacher_loss > 0):
        raise InputError(f"teacher loss must be positive and finite nats per token; got {teacher_loss!r}; write 2.1")
    N_S, supervised = student.params, evidence.supervised
    alone = float(supervised.loss(N_S, tokens))
    values = {"student_params": N_S, "params": N_S, "student_tokens": tokens, "tokens": tokens}
    values["tokens_per_param"] = tokens / N_S
    warnings = standing_warnings(evidence)
    if not isinstance(evidence.law, DistillationLaw):
        if teacher_loss is not None or teacher_params is not None:
            evidence.distillation  # noqa: B018 - says that this law knows no teacher
        warnings.append(f"law {evidence.name} knows no teacher: only the supervised loss is predicted")
        ends = _supervised_interval(evidence, N_S, tokens, seed)
        return Prediction(
            law=evidence.name,
            supervised_loss=alone,
            student_loss=None,
            teacher_loss=None,
            optimal_teacher_loss=None,
            regime=None,
            interval=ends,
            supervised_interval=ends,
            warnings=tuple(warnings + range_warnings(evidence, values)),
        )
    law_ = evidence.law
    teacher = None
    best = float(law_.optimal_teacher_loss(N_S, tokens))
    if teacher_params is not None and teacher_tokens is not None:
        teacher = (teacher_params, teacher_tokens)
        teacher_loss = float(supervised.loss(teacher_params, teacher_tokens))
        values |= {"teacher_params": teacher_params, "teacher_tokens": teacher_tokens}
    L_T = best if teacher_loss is None else teacher_loss
    sure = confidence_of(evidence, N_S=N_S, D_S=tokens, D_supervised=tokens, L_T=L_T, teacher=teacher, seed=seed)
    return Prediction(
        law=evidence.name,
        supervised_loss=alone,
        student_loss=float(law_.loss(N_S, tokens, L_T)),
        teacher_loss=L_T,
        optimal_teacher_loss=best,
        regime=str(law_.regime(N_S, tokens, L_T)),
        interval=None if sure is None else interval_of(sure.student),
        supervised_interval=None if sure is None else interval_of(sure.supervised),
        warnings=tuple(warnings + range_warnings(evidence, values | {"teacher_loss": L_T})),
    )


def _supervised_interval(evidence: LawSet, N: float, D: float, seed: int) -> tuple[float, float] | None:
    sigma = evidence.residual.supervised
    if evidence.draws is None and sigma is None:
        return None
    loss = evidence.supervised_draws(N, D) if evidence.draws is not None else evidence.supervised.loss(N, D)
    return interval_of(loss * residual_errors(seed, evidence.draw_count or 2000, [sigma])[0])
