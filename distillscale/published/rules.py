"""Rules of thumb in circulation, kept to be shown beside a computed answer; none of them is used to plan."""

from __future__ import annotations

from . import read_toml

__all__ = ["folk_breakeven_flops", "zhang_teacher_params"]


def folk_breakeven_flops(N_S: float) -> float:
    """`folk-breakeven`: "distill below 3e20 · N_S/1e9 FLOPs". Unsupported by the paper, see its caveats."""
    return float(read_toml("folk-breakeven")["coefficients"]["flops_per_billion_params"]) * N_S / 1e9


def zhang_teacher_params(N_S: float) -> float:
    """`zhang2023-ratio`: a teacher of 2.5 times the student's parameters."""
    return float(read_toml("zhang2023-ratio")["coefficients"]["teacher_params_per_student_param"]) * N_S
