"""AdamW over groups of tensors, as little of it as training needs; knows no model and no schedule.

Loshchilov & Hutter 2019 (arXiv:1711.05101), with torch's fused kernel. torch's own `Optimizer` class is left out
because making one imports the compiler, two seconds of every process that trains; a test holds the two equal exactly.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

__all__ = ["AdamW"]


class _Group:
    """Tensors with one learning rate and one decay."""

    def __init__(self, params: Sequence[nn.Parameter], peak_lr: float, weight_decay: float) -> None:
        self.params, self.peak_lr, self.weight_decay = list(params), peak_lr, weight_decay
        self.exp_avg = [torch.zeros_like(p) for p in self.params]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.params]
        self.steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self.params]


class AdamW:
    """Moments of every tensor in `groups` (from `mup.param_groups`); a step moves the tensors by their gradients."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], *, beta1: float, beta2: float, eps: float) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.groups = [_Group(g["params"], g["peak_lr"], g["weight_decay"]) for g in groups]

    def step(self, factor: float) -> None:
        """One step at `factor` times each group's peak learning rate."""
        with torch.no_grad():
            for group in self.groups:
                adamw(
                    list[Tensor](group.params),
                    [p.grad if p.grad is not None else torch.zeros_like(p) for p in group.params],
                    group.exp_avg,
                    group.exp_avg_sq,
                    [],
                    group.steps,
                    fused=True,
                    amsgrad=False,
                    beta1=self.beta1,
                    beta2=self.beta2,
                    lr=factor * group.peak_lr,
                    weight_decay=group.weight_decay,
                    eps=self.eps,
                    maximize=False,
                )

    def tensors(self, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
        """The moments, by the name of their tensor."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            for parameter, first, second in zip(group.params, group.exp_avg, group.exp_avg_sq, strict=True):
                found[f"{names[parameter]}.exp_avg"] = first
                found[f"{names[parameter]}.exp_avg_sq"] = second
        return found

    def at(self, step: int) -> None:
        """Count from `step`, at which the moments that `tensors` gives were taken."""
        for group in self.groups:
            for count in group.steps:
                count.fill_(step)
