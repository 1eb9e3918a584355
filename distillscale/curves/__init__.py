"""The paper's figures and tables as values, from any law; nothing is drawn, and every number is another module's.

`CATALOGUE` says what there is; `make` computes one of them over a `Scope`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from ..chart import Figure, Table
from ..errors import InputError
from ..laws import DistillationLaw
from . import alone, optimum, tables, teaching, versus
from .scope import Scope

__all__ = ["CATALOGUE", "Entry", "Scope", "chosen"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One figure or table of the paper."""

    name: str
    shows: str
    make: Callable[[Scope], Figure | Table]
    needs_teacher: bool = True
    """It needs a distillation law."""

    def missing(self, scope: Scope) -> str | None:
        """Why this law cannot give it; None where it can."""
        if self.needs_teacher and not isinstance(scope.evidence.law, DistillationLaw):
            return f"law {scope.evidence.name} is a {scope.evidence.form} law, which knows no teacher"
        return None


def _entry(name: str, shows: str, make: Callable[[Scope], Figure | Table], needs_teacher: bool = True) -> Entry:
    return Entry(name=name, shows=shows, make=make, needs_teacher=needs_teacher)


CATALOGUE: tuple[Entry, ...] = (
    _entry("figure-1-u-shape", "student loss against teacher loss, extrapolated", teaching.u_shape),
    _entry("figure-2-isoflop-students", "IsoFLOP curves of students under each teacher", teaching.isoflop_students),
    _entry("figure-3-isoflop-teachers", "students of fixed M under IsoFLOP teachers", teaching.isoflop_teachers),
    _entry("figure-4-fixed-ratio", "the U-shape in teacher size", teaching.fixed_ratio),
    _entry(
        "figure-6-given-teacher-over-tokens", "distilled minus supervised over tokens", versus.difference_over_tokens
    ),
    _entry(
        "figure-14-given-teacher-over-compute",
        "distilled minus supervised over student compute",
        versus.difference_over_compute,
    ),
    _entry("figure-15-optimal-teacher-loss", "the optimal teacher loss", teaching.optimal_teacher),
    _entry("figure-16-fixed-compute", "teacher size against teacher loss at fixed compute", optimum.fixed_compute),
    _entry("figure-19-optimal-free", "optimal sizes, tokens, losses: teacher free", optimum.allocation("free")),
    _entry("figure-21-optimal-inference", "the same: inference paid", optimum.allocation("inference")),
    _entry("figure-24-optimal-pretraining", "the same: pretraining paid", optimum.allocation("pretraining")),
    _entry("figure-27-optimal-both", "the same: both paid", optimum.allocation("both")),
    _entry("figure-36-isoflop-supervised", "IsoFLOP curves of supervised training", alone.isoflop_supervised, False),
    _entry("figure-40-endless-data", "both laws with endless data", alone.endless_data),
    _entry("break-even", "the budget where supervised training catches up", versus.break_even_budgets),
    _entry("compute-shares", "compute shares in the four scenarios", optimum.compute_shares),
    _entry("given-teacher-break-even", "break-even tokens of given teachers", versus.break_even_table),
    _entry(
        "optimal-difference-over-compute",
        "distilled minus supervised, both optimal, in the four scenarios",
        versus.optimal_difference,
    ),
    _entry("supervised-loss", "the supervised law over tokens", alone.supervised_loss, False),
    _entry("table-3", "trends of the optimal allocation", tables.table_3),
    _entry("table-13", "the model family", tables.table_13, False),
)


def chosen(name: str) -> tuple[Entry, ...]:
    """Every entry for `all`, else the one that is called so or begins so (`figure-6`, `table-3`)."""
    if name == "all":
        return CATALOGUE
    exact = [entry for entry in CATALOGUE if entry.name == name or entry.name.startswith(f"{name}-")]
    if len(exact) == 1:
        return tuple(exact)
    names = [entry.name for entry in CATALOGUE]
    near = get_close_matches(name, names, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"{name!r} is not a figure or table of the catalogue; {hint}`distillscale reproduce` lists them")
