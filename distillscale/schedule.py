"""The learning rate over a run as a multiple of its peak; knows steps and shares, no optimiser and no model.

With S steps, w of warm-up, r the last multiple, and t = 0, 1, … the step about to be made:

    warm-up              s(t) = (t + 1) / w                                              t < w
    constant             s(t) = 1
    cosine               s(t) = r + (1 − r) (1 + cos πx) / 2,   x = (t + 1 − w) / (S − w)
    warm-up, stable,     s(t) = 1 before the last f·S steps, then
    decay (wsd)          s(t) = r + (1 − r) (1 − √x),           x from 1/(f·S) to 1

Linear warm-up and cosine to r = 1/1000 are the paper's (Busbridge et al. 2025, §4.1); the square-root decay is that of
Hägele et al. 2024 (arXiv:2405.18392). A stable phase is the same for every length of run, so that a decay of any length
can branch off one trunk.
"""

from __future__ import annotations

import math

from .errors import InputError
from .spec import RunSpec

__all__ = ["branch_step", "decay_start", "lr_factor"]


def decay_start(spec: RunSpec) -> int:
    """The first step whose learning rate is below the peak again; the number of steps where there is none."""
    if spec.schedule == "constant":
        return spec.steps
    if spec.schedule == "cosine":
        return min(spec.warmup_steps, spec.steps)
    return max(spec.warmup_steps, spec.steps - round(spec.decay_fraction * spec.steps))


def lr_factor(spec: RunSpec, step: int) -> float:
    """s(t) of the table above, in (0, 1]."""
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    start = decay_start(spec)
    if step < start or spec.schedule == "constant":  # a trunk may be asked beyond its own end
        return 1.0
    x = min(1.0, (step + 1 - start) / (spec.steps - start))
    fall = (1 + math.cos(math.pi * x)) / 2 if spec.schedule == "cosine" else 1 - math.sqrt(x)
    return spec.final_lr_ratio + (1 - spec.final_lr_ratio) * fall


# What may differ between a trunk and its decay: how long the run is, and what it keeps.
_FREE = frozenset(("tokens", "schedule", "decay_fraction", "final_lr_ratio", "branch_tokens", "warmup_tokens"))


def branch_step(trunk: RunSpec, branch: RunSpec, kept: list[int]) -> int:
    """The last of the trunk's kept steps from which `branch` continues exactly as if it had run alone.

    Up to that step the two must share every field but their length, and the learning rate of every step.
    """
    ours, theirs = branch.content(), trunk.content()
    for name in sorted((ours.keys() | theirs.keys()) - _FREE):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"trunk differs in {name}: {theirs.get(name)!r} there, {ours.get(name)!r} here; a decay shares "
                "everything with its trunk but tokens and schedule"
            )
    if not kept:
        raise InputError("trunk keeps no branch point; give it branch_tokens and run it again")
    shared = next((t for t in range(branch.steps) if lr_factor(trunk, t) != lr_factor(branch, t)), branch.steps)
    usable = [step for step in kept if step <= min(shared, branch.steps)]
    if not usable:
        raise InputError(
            f"trunk and decay have the same learning rate up to step {shared}, the trunk keeps {_listed(kept)}; "
            "set warmup_tokens alike in both, and branch where the decay begins"
        )
    return usable[-1]


def _listed(steps: list[int]) -> str:
    return ", ".join(str(step) for step in steps)
