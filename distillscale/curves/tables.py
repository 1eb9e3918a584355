"""Tables 3 and 13 of the paper, computed; their words come from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arch import family, forward_flops
from ..chart import Table
from ..cost import SCENARIOS
from .scope import Scope, flops_text

__all__ = ["in_words", "table_3", "table_13"]

_PARTS = ("student training", "teacher inference", "teacher training")
_PAPER_BUDGETS = (1e20, 1e21, 1e25, 1e26)


def in_words(shares: Sequence[float]) -> str:
    """Shares of student, logits and teacher (summing to 1) in a few words."""
    order = sorted(range(3), key=lambda i: -shares[i])
    first, _, third = (shares[i] for i in order)
    names = [_PARTS[i] for i in order]
    if third > 0.4 * first:
        return "all three alike"
    return f"mostly {names[0]}" if first >= 0.6 else f"{names[0]}, then {names[1]}"


def _paper_says(N: float, C: float) -> str | None:
    """The row of the paper's Table 3 that this student and budget belong to."""
    if C <= 1e21:
        return "mostly teacher pretraining" if N <= 3e9 else "mostly standard student training"
    if N <= 3e9:
        return "evenly student training and teacher inference, much less teacher pretraining"
    return "equally student training, teacher inference, teacher pretraining"


def table_3(scope: Scope) -> Table:
    """How the optimum shares the compute where teacher training and inference are both paid."""
    sizes = scope.grid.planned
    budgets = _PAPER_BUDGETS if scope.is_papers else tuple(np.geomspace(*scope.grid.compute, 4))
    found = scope.frontier(sizes, budgets, SCENARIOS["both"])
    cells: list[tuple[str | float | None, ...]] = []
    for row in found.rows():
        N, C = _number(row["student_params"]), _number(row["budget_flops"])
        shares = [row[f"share_{name}"] for name in ("student", "logits", "teacher")]
        known = [float(x) for x in shares if isinstance(x, float)]
        told = [*(f"{x:.0%}" for x in known), in_words(known)] if len(known) == 3 else [None] * 4
        cells.append((scope.label(N), flops_text(C), *told, *([_paper_says(N, C)] if scope.is_papers else [])))
    return Table(
        name="table-3",
        title="Optimal compute allocation trends",
        columns=(
            "student",
            "total compute",
            *_PARTS,
            "allocation",
            *(["the paper's words"] if scope.is_papers else []),
        ),
        cells=tuple(cells),
        caption=f"Teacher training and inference paid for one student. {scope.ranges}",
        source=scope.source("Table 3 of the paper (students ≲ 3B and ≳ 10B at ≲ 1e21 and ≳ 1e25 FLOPs)"),
    )


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value


def table_13(scope: Scope) -> Table:
    """The model family: exact counts beside 2N and the approximation of Eq 59."""
    cells: list[tuple[str | float | None, ...]] = []
    for name, arch in family().items():
        exact, simple, approx = arch.forward_flops_per_token, 2.0 * arch.params, arch.approx_flops_per_token
        counts = (arch.params / 1e9, arch.total_params / 1e9)
        flops = (exact / 1e9, simple / 1e9, simple / exact - 1, approx / 1e9, approx / exact - 1)
        cells.append(
            (
                name,
                *(f"{x:.4g}" for x in counts),
                *(str(x) for x in (arch.layers, arch.d_model, arch.d_ff)),
                f"{flops[0]:.4g}",
                f"{flops[1]:.4g}",
                f"{flops[2]:+.1%}",
                f"{flops[3]:.4g}",
                f"{flops[4]:+.2%}",
                f"{float(forward_flops(arch.params)) / 1e9:.4g}",
            )
        )
    columns = ("name", "N, B", "N total, B", "layers", "d_model", "d_ff", "C_fwd, GFLOPs", "2N", "2N error")
    return Table(
        name="table-13",
        title="The model family",
        columns=(*columns, "approximation", "its error", "F(N)"),
        cells=tuple(cells),
        caption="Forward FLOPs per token. Vocabulary 32,768, context 4,096. `approximation` is Eq 59 of the exact "
        "shape, F(N) its smooth form (Eq 69) that the planner uses. No law is used here.",
        source=scope.source("Table 13 of the paper"),
    )
