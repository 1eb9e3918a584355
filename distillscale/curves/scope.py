"""What the paper's figures are drawn over: sizes, tokens, budgets, teachers of one law; it draws and computes no curve.

For the paper's own laws these are the paper's values; for a law of one's own they follow the range it was fitted in, so
that a team sees its version of the paper and not an extrapolation by four orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..allocate import LARGEST, SMALLEST, Limits
from ..arch import CONTEXT, VOCAB, family_row, forward_flops
from ..chart import Axis, Series
from ..confidence import covered
from ..cost import TRAINING_PASSES, Scenario
from ..errors import InputError
from ..lawset import LawSet
from ..plan import Frontier, frontier
from ..problem import Question, as_evidence
from ..units import format_count, format_flops

__all__ = [
    "BUDGET",
    "LOSS",
    "TEACHER_LOSS",
    "Grid",
    "Scope",
    "TeacherAt",
    "flops_text",
    "gain_axis",
    "size_axis",
    "token_axis",
]

Array = NDArray[np.float64]
Span = tuple[float, float]

RATIO = 20.0
"""M = D/N of the paper's fixed-ratio teachers and students."""
_POINTS = 121
_BEYOND = 3.0
"""How far past a fitted range of sizes an own law is drawn (dashed)."""

LOSS = Axis(label="student loss", unit="nats/token")
TEACHER_LOSS = Axis(label="teacher loss", unit="nats/token")
BUDGET = Axis(label="total compute", unit="FLOPs", scale="log")


def size_axis(label: str) -> Axis:
    """Non-embedding parameters."""
    return Axis(label=label, unit="parameters", scale="log")


def token_axis(label: str) -> Axis:
    """Tokens of data."""
    return Axis(label=label, unit="tokens", scale="log")


def gain_axis() -> Axis:
    """Distilled minus supervised, below zero where distillation is better."""
    return Axis(label="distilled − supervised", unit="nats/token")


class TeacherAt(NamedTuple):
    """A teacher by its loss, with the size and tokens that the supervised law needs for it."""

    name: str
    params: float
    tokens: float
    loss: float

    @property
    def title(self) -> str:
        """Its name with its loss."""
        return self.name if "nats" in self.name else f"{self.name} (L_T = {self.loss:.3f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The values that figures are drawn at; sizes in parameters, tokens, FLOPs, nats."""

    students: tuple[float, ...]
    """Students of fixed M, for curves in the teacher."""
    small_students: tuple[float, ...]
    ratios: tuple[float, ...]
    """M_S of the small students."""
    ratio: float = RATIO
    teacher_sizes: tuple[float, ...]
    """Teachers of fixed M; empty where teachers are spread over losses instead."""
    teacher_span: Span
    sizes: Span
    tokens: Span
    losses: Span
    """Teacher losses along an axis."""
    isoflops: tuple[float, ...]
    """Training FLOPs of one model: C_S, C_T."""
    student_flops: Span
    planned: tuple[float, ...]
    """Students of compute-optimal plans."""
    compute: Span
    """Total FLOPs of plans."""
    trade_offs: tuple[float, ...]
    """Total FLOPs of the fixed-compute trade-offs, and their teachers' sizes and losses."""
    trade_off_sizes: tuple[float, ...]
    trade_off_losses: Span
    limits: Limits = field(default_factory=Limits)
    """Of the planner."""


def _rows(*names: str) -> tuple[float, ...]:
    return tuple(float(family_row(name).params) for name in names)


def paper_grid() -> Grid:
    """Sections 4 and 5 and App. D of the paper."""
    return Grid(
        students=_rows("198M", "546M", "975M", "1.82B"),
        small_students=_rows("143M", "198M", "546M"),
        ratios=(20, 40, 80, 160, 320),
        teacher_sizes=_rows("546M", "975M", "1.82B", "2.72B", "4.82B", "7.75B"),
        teacher_span=(143e6, 13e9),
        sizes=(100e6, 20e9),
        tokens=(1e9, 1e13),
        losses=(1.7, 2.9),
        isoflops=(3e19, 1e20, 3e20, 1e21),
        student_flops=(1e19, 1e22),
        planned=(3e8, 1e9, 3e9, 1e10, 3e10),
        compute=(1e20, 1e26),
        trade_offs=(1e21, 1e22, 1e23, 1e24),
        trade_off_sizes=(1e9, 1e10, 1e11, 1e12),
        trade_off_losses=(1.25, 2.5),
    )


def own_grid(evidence: LawSet, context: float, vocab: float) -> Grid:
    """The same figures over the range that the law was fitted in, and a little beyond."""
    regime = evidence.regime
    low, high = _span(evidence, "student_params", "params")
    few, many = _span(evidence, "student_tokens", "tokens")
    sizes = tuple(_round(x) for x in np.geomspace(low, high, 4))
    ratio = float(np.clip(RATIO, *regime.get("tokens_per_param", (few / high, many / low))))

    def flops(N: float, D: float) -> float:
        return float(TRAINING_PASSES * forward_flops(N, context=context, vocab=vocab)) * D

    lowest, highest = flops(low, few), flops(high, many)
    floor = float(evidence.supervised.E)
    best, worst = regime.get("teacher_loss", (0.0, 0.0))
    reach = 0.25 * (worst - best)
    budgets = tuple(_round(x) for x in lowest * (highest / lowest) ** np.array([0.4, 0.55, 0.7, 0.85]))
    return Grid(
        students=sizes,
        small_students=sizes[:3],
        ratios=tuple(_round(x) for x in ratio * np.array([1, 2, 4, 8, 16])),
        ratio=ratio,
        teacher_sizes=(),
        teacher_span=(low, high * 4 * _BEYOND),
        sizes=(low / _BEYOND, high * _BEYOND),
        tokens=(few, many * 1e2),
        losses=(max(best - reach, floor * 1.01 + 1e-3), worst + reach),
        isoflops=budgets,
        student_flops=(lowest, highest * 10),
        planned=(*sizes, _round(high * _BEYOND)),
        compute=(lowest, highest * 1e3),
        trade_offs=tuple(_round(highest * x) for x in (1, 10, 100, 1000)),
        trade_off_sizes=tuple(_round(high * x) for x in (0.5, 2, 8, 32)),
        limits=_limits(low, few),
        trade_off_losses=(max(best - 2 * reach, floor * 1.01 + 1e-3), worst),
    )


def _limits(size: float, tokens: float) -> Limits:
    """The planner's bounds, wide enough for models as small as these."""
    N, D = min(SMALLEST, size / 10), min(SMALLEST, tokens / 10)
    return Limits(teacher_params=(N, LARGEST), teacher_tokens=(D, LARGEST), student_tokens=(D, LARGEST))


def _span(evidence: LawSet, *names: str) -> Span:
    for name in names:
        if name in evidence.regime:
            return evidence.regime[name]
    raise InputError(
        f"law {evidence.name!r} states its fitted range only in part: regime.{names[0]} is missing; add it to the file"
    )


def _round(x: float) -> float:
    """Two digits, so that labels are what is computed."""
    return float(f"{x:.1e}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """One law and the grid that its figures are drawn over."""

    evidence: LawSet
    grid: Grid
    context: float = CONTEXT
    vocab: float = VOCAB
    is_papers: bool = True
    """The grid is the paper's."""

    @classmethod
    def of(cls, law: LawSet | str, *, context: float = CONTEXT, vocab: float = VOCAB) -> Scope:
        """The paper's grid for published laws of its students, or for one without a range; else the law's own range."""
        evidence = as_evidence(law)
        low, high = evidence.regime.get("student_params", (0.0, np.inf))
        reached = all(low <= N <= high for N in paper_grid().students)
        papers = not evidence.regime or (bool(evidence.paper) and evidence.form == "distillation" and reached)
        grid = paper_grid() if papers else own_grid(evidence, context, vocab)
        return cls(evidence=evidence, grid=grid, context=context, vocab=vocab, is_papers=papers)

    def forward(self, N: ArrayLike) -> Array:
        """F(N), FLOPs per token."""
        return forward_flops(N, context=self.context, vocab=self.vocab)

    def tokens_at(self, flops: ArrayLike, N: ArrayLike) -> Array:
        """D = C / (3 F(N)), training alone."""
        return np.asarray(flops, float) / (TRAINING_PASSES * self.forward(N))

    def frontier(self, sizes: Sequence[float], budgets: Sequence[float] | Array, *scenarios: Scenario) -> Frontier:
        """Optimal plans of these students over budgets and scenarios."""
        grid, shape = self.grid, {"context": self.context, "vocab": self.vocab}
        return frontier(self.evidence, sizes, budgets, scenarios, limits=grid.limits, **shape)

    def question(self, N: float, scenario: Scenario, limits: Limits | None = None) -> Question:
        """One student and who pays for its teacher."""
        shape = {"context": self.context, "vocab": self.vocab}
        return Question.of(self.evidence, N, scenario, limits or self.grid.limits, **shape)

    def teachers(self) -> tuple[TeacherAt, ...]:
        """Teachers of fixed M: the grid's sizes, or sizes whose losses are spread over the fitted range."""
        law, ratio = self.evidence.supervised, self.grid.ratio
        if self.grid.teacher_sizes:
            return tuple(
                TeacherAt(f"{format_count(N)} teacher", N, ratio * N, float(law.loss(N, ratio * N)))
                for N in self.grid.teacher_sizes
            )
        low, high = self.evidence.regime.get("teacher_loss", self.grid.losses)
        out: list[TeacherAt] = []
        for loss in np.linspace(high, low, 6):
            N = self._size_of(float(loss))
            if N is not None:
                out.append(TeacherAt(f"teacher of {loss:.3f} nats", N, ratio * N, float(loss)))
        return tuple(out)

    def _size_of(self, loss: float) -> float | None:
        """N with L(N, M·N) = loss; None where no size reaches it."""
        law, ratio = self.evidence.supervised, self.grid.ratio
        low, high = 0.0, 50.0
        if float(law.loss(np.exp(high), ratio * np.exp(high))) >= loss:
            return None
        for _ in range(80):
            middle = 0.5 * (low + high)
            above = float(law.loss(np.exp(middle), ratio * np.exp(middle))) > loss
            low, high = (middle, high) if above else (low, middle)
        return float(np.exp(high))

    def axis(self, span: Span, points: int = _POINTS) -> Array:
        """Values along a logarithmic axis."""
        return np.geomspace(*span, points)

    def curve(self, name: str, x: Array, y: Array, values: Mapping[str, ArrayLike]) -> tuple[Series, ...]:
        """The curve as a line inside the fitted range of `values` and dashed outside; the pieces meet."""
        inside = np.broadcast_to(covered(self.evidence, values), x.shape)
        solid = np.where(inside, y, np.nan)
        edge = np.zeros_like(inside)
        edge[:-1] |= inside[:-1] & ~inside[1:]
        edge[1:] |= inside[1:] & ~inside[:-1]
        dashed = np.where(~inside | edge, y, np.nan)
        pieces = [Series.of(name, x.tolist(), solid.tolist()), Series.of(name, x.tolist(), dashed.tolist(), "dashed")]
        return tuple(piece for piece in pieces if any(v is not None for v in piece.y))

    def student_values(self, N: ArrayLike, D: ArrayLike, **others: ArrayLike) -> dict[str, ArrayLike]:
        """A student's place in the fitted range, by the names of a regime."""
        ratio = np.asarray(D, float) / np.asarray(N, float)
        return {"student_params": N, "student_tokens": D, "tokens_per_param": ratio, **others}

    def source(self, text: str) -> str:
        """Where a figure comes from: of another law than the paper's it is the counterpart."""
        return text if self.is_papers else f"as {text}"

    @property
    def holds(self) -> str:
        """The range in which a figure of this law holds, for its caption."""
        return self.ranges + (" Lines are inside these ranges, dashes outside." if self.evidence.regime else "")

    @property
    def ranges(self) -> str:
        """The law and the ranges that it was fitted in."""
        name, regime = self.evidence.name, self.evidence.regime
        if not regime:
            return f"Law: {name}, which states no fitted range, so nothing is marked as extrapolated."
        said = [_range(key, text, regime[key]) for key, text in _SAID.items() if key in regime]
        return f"Law: {name}, fitted to {'; '.join(said)}."

    def label(self, N: float, what: str = "") -> str:
        """`546M`, `546M student`."""
        return f"{format_count(N)} {what}".strip()

    def over(self, sizes: Sequence[float]) -> Scope:
        """The same with other students in compute-optimal plans."""
        return replace(self, grid=replace(self.grid, planned=tuple(sizes)))


_SAID = {
    "params": "models",
    "tokens": "tokens",
    "student_params": "students",
    "student_tokens": "student tokens",
    "tokens_per_param": "tokens per parameter",
    "teacher_params": "teachers",
    "teacher_tokens": "teacher tokens",
    "teacher_loss": "teacher loss",
}


def _range(key: str, text: str, ends: Span) -> str:
    show = "{:.3g}".format if key in ("teacher_loss", "tokens_per_param") else format_count
    unit = " nats" if key == "teacher_loss" else ""
    return f"{text} {show(ends[0])} to {show(ends[1])}{unit}"


def flops_text(C: float) -> str:
    """`3e20 FLOPs`, as short as it is exact."""
    text = f"{C:.3g}".replace("e+", "e")
    return f"{text if 'e' in text else format_flops(C)} FLOPs"
