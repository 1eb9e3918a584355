"""Train or distill: the optimal plan, the verdict and how sure it is; it prints nothing and fits nothing.

`plan` answers one question in full, `frontier` many in numbers only. Both use `allocate` (Eq 10); the supervised side
needs no search, since the student is given: D = C / (3 F(N_S)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .allocate import Allocation, Limits, allocate
from .answer import Distilled, Flops, Plan, Supervised, Target, Teacher, Verdict
from .arch import CONTEXT, VOCAB, Arch, forward_flops
from .breakeven import BreakEven, break_even_of
from .confidence import TOSS_UP, Confidence, confidence_of, covered, interval_of, range_warnings, standing_warnings
from .cost import TRAINING_PASSES, Scenario, bill, logit_stores
from .errors import InfeasibleError, InputError
from .hardware import Compute, compute
from .laws import DistillationLaw
from .lawset import LawSet
from .problem import Question, Student, as_evidence, as_student, worth
from .reasons import reasons_for
from .units import format_count, format_flops

__all__ = ["PRACTICAL_TEACHER_TOKENS", "Frontier", "frontier", "plan", "verdict_of"]

Array = NDArray[np.float64]

PRACTICAL_TEACHER_TOKENS = 15e12
"""Where the optimum asks for more teacher tokens than this, the plan with at most this many is given beside it:
about what the longest published training runs of dense models saw by 2024 (Llama 3, arXiv 2407.21783)."""

_LARGEST_BUDGET = 1e32
"""FLOPs; beyond it no bound on tokens leaves anything to buy."""


def plan(
    law: LawSet | DistillationLaw | str,
    student: float | Arch | Student,
    budget: float | None,
    scenario: Scenario,
    *,
    target_loss: float | None = None,
    limits: Limits | None = None,
    context: float = CONTEXT,
    vocab: float = VOCAB,
    hardware: Compute | None = None,
    seed: int = 0,
    break_even: BreakEven | None = None,
) -> Plan:
    """The best distillation of `student` for `budget` total FLOPs, beside supervised training with the same FLOPs.

    `law` is a published name, a path to a law file, a LawSet or a bare DistillationLaw (then without intervals). With
    `target_loss` in place of `budget` the budget is the least that reaches this loss in either way. `break_even` is
    that of the same question where it is known already: half of a plan's time, and no budget changes it. Raises
    InfeasibleError where the budget trains nothing within the limits, or nothing reaches the target.
    """
    limits = limits or Limits()
    question = Question.of(law, student, scenario, limits, context=context, vocab=vocab)
    if (budget is None) == (target_loss is None):
        raise InputError(
            f"give either a budget or a target loss; got {'neither' if budget is None else 'both'}; "
            "a budget asks for the lowest loss, a target for the lowest cost"
        )
    target = None if target_loss is None else _target(question, target_loss)
    if target is not None:
        budget = min(x for x in (target.distillation_flops, target.supervised_flops) if x is not None)
    assert budget is not None
    if not 0 < budget < np.inf:
        raise InputError(f"budget must be positive and finite FLOPs; got {budget!r}; write it as 1e21")
    supervised, distilled = _supervised(question, budget), _distilled(question, budget)
    if distilled is None or supervised.tokens < limits.student_tokens[0]:
        raise InfeasibleError(_too_small(question, budget))
    confidence = _confidence(question, distilled, supervised, seed)
    gain = supervised.loss - distilled.student_loss
    width = Arch.nearest(distilled.teacher.params).d_model
    answer = Plan(
        law=question.evidence.name,
        scenario=scenario,
        budget_flops=budget,
        verdict=verdict_of(gain),
        probability=None if confidence is None else confidence.probability,
        gain_nats=gain,
        gain_interval=None if confidence is None else interval_of(confidence.gain),
        student_interval=None if confidence is None else interval_of(confidence.student),
        supervised_interval=None if confidence is None else interval_of(confidence.supervised),
        distillation=distilled,
        supervised=supervised,
        practical=_practical(question, budget, distilled),
        break_even=break_even_of(question, seed=None) if break_even is None else replace(break_even, interval=None),
        target=target,
        logit_storage=tuple(logit_stores(distilled.tokens, int(vocab), width)),
        compute=hardware or compute(),
        reasons=(),
        warnings=tuple(_warnings(question, distilled, supervised, confidence)),
        question=question,
        seed=seed,
    )
    return replace(answer, reasons=tuple(reasons_for(answer, question)))


def verdict_of(gain_nats: float) -> Verdict:
    """`distill` or `supervised`, `toss-up` where |gain| < 0.01 nats."""
    if abs(gain_nats) < TOSS_UP:
        return "toss-up"
    return "distill" if gain_nats > 0 else "supervised"


def _supervised(question: Question, budget: float) -> Supervised:
    tokens = float(question.supervised_tokens(budget))
    flops = TRAINING_PASSES * question.student.flops * tokens
    return Supervised(loss=float(question.supervised_loss(budget)), tokens=tokens, flops=flops)


def _distilled(question: Question, budget: float, limits: Limits | None = None) -> Distilled | None:
    """The best distillation at one budget; None where the budget buys none within the limits."""
    found = question.allocate(budget, limits)
    if not np.isfinite(found.student_loss):
        return None
    F_T = forward_flops(found.teacher_params, context=question.context, vocab=question.vocab)
    scenario = question.scenario
    costs = bill(
        question.student.flops, found.student_tokens, F_T, found.teacher_tokens, scenario.logits, scenario.pretraining
    )
    return Distilled(
        student_loss=float(found.student_loss),
        params=question.student.params,
        tokens=float(found.student_tokens),
        teacher=Teacher(float(found.teacher_params), float(found.teacher_tokens), float(found.teacher_loss)),
        flops=Flops(*(float(x) for x in costs)),
    )


def _practical(question: Question, budget: float, best: Distilled) -> Distilled | None:
    low, high = question.limits.teacher_tokens
    if best.teacher.tokens <= PRACTICAL_TEACHER_TOKENS or low > PRACTICAL_TEACHER_TOKENS:
        return None
    limits = replace(question.limits, teacher_tokens=(low, min(high, PRACTICAL_TEACHER_TOKENS)))
    return _distilled(question, budget, limits)


def _confidence(question: Question, distilled: Distilled, supervised: Supervised, seed: int) -> Confidence | None:
    limits, teacher = question.limits, distilled.teacher
    trained_here = question.scenario.pretraining > 0  # repeats count only where the teacher's data are ours
    teacher_tokens = float(worth(teacher.tokens, limits)) if trained_here else teacher.tokens
    return confidence_of(
        question.evidence,
        N_S=question.student.params,
        D_S=float(worth(distilled.tokens, limits)),
        D_supervised=float(worth(supervised.tokens, limits)),
        L_T=teacher.loss,
        teacher=(teacher.params, teacher_tokens),
        seed=seed,
    )


def _warnings(
    question: Question, distilled: Distilled, supervised: Supervised, confidence: Confidence | None
) -> list[str]:
    evidence, teacher = question.evidence, distilled.teacher
    values = {
        "student_params": distilled.params,
        "student_tokens": distilled.tokens,
        "tokens_per_param": distilled.tokens / distilled.params,
        "teacher_params": teacher.params,
        "teacher_tokens": teacher.tokens,
        "teacher_loss": teacher.loss,
    }
    out = standing_warnings(evidence) + range_warnings(evidence, values)
    out += [f"supervised side: {w}" for w in range_warnings(evidence, {"student_tokens": supervised.tokens})]
    D_S = worth(distilled.tokens, question.limits)
    if teacher.loss > EQ8_BLIND * evidence.supervised.loss(distilled.params, D_S):
        out.append(
            f"the teacher's loss {teacher.loss:.3f} is above {EQ8_BLIND:g} of what the student reaches alone: Eq 8 "
            "always keeps the student above its teacher, while real students beat such teachers by up to 0.03 nats"
        )
    unique = question.limits.unique_tokens
    if unique is not None and (epochs := max(distilled.tokens, supervised.tokens) / unique) > 4:
        out.append(
            f"{epochs:.0f} epochs over {format_count(unique)} unique tokens: beyond 4 the worth of repeats follows "
            "Muennighoff et al. 2023, which was measured for supervised training only"
        )
    if confidence is None:
        out.append(f"law {evidence.name} has neither draws nor residual errors, so there are no intervals")
    return out


EQ8_BLIND = 0.9
"""L_T/L̃_S above which Eq 8 cannot describe students that beat their teacher (design fact, see the law's caveats)."""


def _too_small(question: Question, budget: float) -> str:
    low = question.limits.student_tokens[0]
    least = TRAINING_PASSES * question.student.flops * low
    why = f"{format_count(low)} tokens of the student alone take {format_flops(least)} FLOPs"
    if budget >= least:
        why += ", and the cheapest teacher within the limits takes more than what is left"
    return (
        f"budget {format_flops(budget)} FLOPs is too small to train anything: {why}; "
        "raise the budget, take a smaller student, or loosen the limits"
    )


def _target(question: Question, loss: float) -> Target:
    if not 0 < loss < np.inf:
        raise InputError(f"target loss must be positive and finite nats per token; got {loss!r}; write it as 2.2")
    lowest = TRAINING_PASSES * question.student.flops * question.limits.student_tokens[0]
    easy = float(question.supervised_loss(lowest))
    if loss >= easy:
        raise InputError(
            f"target loss {loss:g} is reached before anything is trained: supervised training is at {easy:.3f} nats "
            f"after {format_count(question.limits.student_tokens[0])} tokens, where the law begins; give a lower target"
        )
    distil = _cheapest(question.distilled_loss, loss, lowest)
    alone = _cheapest(question.supervised_loss, loss, lowest)
    if distil is None and alone is None:
        floor = float(question.evidence.supervised.floor(question.student.params))
        best = float(question.distilled_loss(_LARGEST_BUDGET))
        raise InfeasibleError(
            f"target loss {loss:g} is out of reach for a {format_count(question.student.params)} student: supervised "
            f"training ends at {floor:.3f}, distillation at {best:.3f} nats; take a larger student or a higher target"
        )
    ratio = None
    if distil is not None and alone is not None:
        ratio = float(question.allocate(distil).student_tokens / question.supervised_tokens(alone))
    return Target(loss=loss, distillation_flops=distil, supervised_flops=alone, token_ratio=ratio)


def _cheapest(loss_at: Callable[[Array], Array], loss: float, lowest: float) -> float | None:
    """The least budget with loss_at(budget) ≤ loss, which falls with the budget; None where none of them reaches it."""
    low, high = lowest, _LARGEST_BUDGET
    for _ in range(9):  # each pass narrows the bracket 32-fold in log budget, to the last digits
        grid = np.geomspace(low, high, 33)
        reached = np.flatnonzero(loss_at(grid) <= loss)
        if not len(reached):
            return None
        low, high = grid[max(reached[0] - 1, 0)], grid[reached[0]]
    return float(high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """Optimal plans over students × budgets × scenarios, one row each; infeasible ones hold NaN."""

    columns: Mapping[str, Array | list[str]]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["student_params"])

    def rows(self) -> list[dict[str, float | str | None]]:
        """One mapping a plan; None where there is none."""
        columns = [column if isinstance(column, list) else column.tolist() for column in self.columns.values()]
        return [
            {name: None if value != value else value for name, value in zip(self.columns, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]

    def to_csv(self) -> str:
        """CSV with a header; numbers to 8 digits, empty where there is no plan."""
        lines = [",".join(self.columns)]
        for row in self.rows():
            cells = ("" if v is None else v if isinstance(v, str) else f"{v:.8g}" for v in row.values())
            lines.append(",".join(f'"{cell}"' if "," in cell else cell for cell in cells))
        return "\n".join(lines) + "\n"

    def summary(self) -> dict[str, float | int | None]:
        """How many plans there are, how many of each verdict, and the largest gain in nats."""
        gain = np.asarray(self.columns["gain_nats"], float)
        known = gain[np.isfinite(gain)]
        verdicts = [verdict_of(float(g)) for g in known]
        counts = {name: verdicts.count(name) for name in ("distill", "supervised", "toss-up")}
        largest = float(known.max()) if len(known) else None
        return {"plans": len(self), "infeasible": len(gain) - len(known), **counts, "largest_gain_nats": largest}


def frontier(
    law: LawSet | DistillationLaw | str,
    students: Sequence[float] | Array,
    budgets: Sequence[float] | Array,
    scenarios: Sequence[Scenario],
    *,
    limits: Limits | None = None,
    context: float = CONTEXT,
    vocab: float = VOCAB,
) -> Frontier:
    """`plan` in numbers only for every student (N_S), budget (total FLOPs) and scenario, in that nesting order."""
    evidence, limits = as_evidence(law), limits or Limits()
    sizes = [as_student(float(N), context, vocab) for N in students]
    N, C, which = (
        x.ravel()
        for x in np.meshgrid(
            [s.params for s in sizes], np.asarray(budgets, float), range(len(scenarios)), indexing="ij"
        )
    )
    if not np.all((C > 0) & np.isfinite(C)):
        raise InputError("budgets must be positive and finite FLOPs; write them as 1e19:1e24:50 or 1e21,1e22")
    logits, pretraining = (np.array([getattr(s, name) for s in scenarios])[which] for name in ("logits", "pretraining"))
    found = allocate(evidence.distillation, N, C, logits, pretraining, limits=limits, context=context, vocab=vocab)
    F_S, F_T = (forward_flops(x, context=context, vocab=vocab) for x in (N, found.teacher_params))
    costs = bill(F_S, found.student_tokens, F_T, found.teacher_tokens, logits, pretraining)
    tokens = np.minimum(C / (TRAINING_PASSES * F_S), limits.student_tokens[1])
    supervised = np.where(
        tokens >= limits.student_tokens[0], evidence.supervised.loss(N, worth(tokens, limits)), np.nan
    )
    loss = np.where(np.isfinite(found.student_loss), found.student_loss, np.nan)
    names = [scenario.name for scenario in scenarios]
    return Frontier(
        columns={
            "student_params": N,
            "budget_flops": C,
            "scenario": [names[i] for i in which.tolist()],
            "student_loss": loss,
            "supervised_loss": supervised,
            "gain_nats": supervised - loss,
            "student_tokens": found.student_tokens,
            "teacher_params": found.teacher_params,
            "teacher_tokens": found.teacher_tokens,
            "teacher_loss": found.teacher_loss,
            "share_student": costs.student / costs.total,
            "share_logits": costs.logits / costs.total,
            "share_teacher": costs.teacher / costs.total,
        },
        warnings=tuple(standing_warnings(evidence) + _rows_outside(evidence, N, found)),
    )


def _rows_outside(evidence: LawSet, N: Array, found: Allocation) -> list[str]:
    """How many plans lie outside the fitted range, by quantity."""
    out: list[str] = []
    values = {"student_params": N, "student_tokens": found.student_tokens, "tokens_per_param": found.student_tokens / N}
    for name, column in (values | {"teacher_loss": found.teacher_loss}).items():
        low, high = evidence.regime.get(name, (-np.inf, np.inf))
        if outside := int(np.sum(~covered(evidence, {name: column}) & np.isfinite(column))):
            what = name.replace("_", " ")
            out.append(
                f"extrapolation: {outside} of {len(N)} plans have {what} outside the fitted {low:.4g} to {high:.4g}"
            )
    return out
