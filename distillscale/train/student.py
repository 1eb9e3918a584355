"""One model in training: weights, AdamW and the step they are at; files, data and clocks are others' business.

The optimiser follows Busbridge et al. 2025, §4.1: AdamW under µP (simple), weight decay decoupled from the learning
rate, gradients clipped to a global norm, the schedule multiplying every group's peak rate.

Shape suffixes: B sequences of a micro-batch, T context, D d_model, N = B·T tokens, V vocabulary.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..spec import RunSpec
from .logits import Targets
from .loss import target_loss
from .machine import autocast
from .model import Transformer
from .mup import param_groups
from .schedule import lr_factor

__all__ = ["Micro", "Moved", "Student", "build"]

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Micro(NamedTuple):
    """What one forward pass sees, on the device."""

    tokens_BT: Tensor
    labels_N: Tensor


class Moved(NamedTuple):
    """One optimiser step, before it moved the weights."""

    loss: float
    """What was trained on (Eq 7), nats a token."""
    next_token: float
    """Cross-entropy on the data."""
    divergence: float
    """From the teacher; 0 without one."""
    grad_norm: float
    """Before clipping."""
    lr: float
    """At the base width."""

    @property
    def finite(self) -> bool:
        """A step that is not finite is never applied."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def build(spec: RunSpec, vocab: int, device: torch.device) -> Transformer:
    """The spec's model with its first weights, drawn from the spec's seed."""
    model = Transformer(
        spec.arch(vocab),
        parametrisation=cast("Any", spec.parametrisation),
        base_width=spec.base_width,
        rope_base=spec.rope_base,
    )
    model.init_weights(spec.seed)
    return model.to(device)


class Student:
    """A model, its optimiser and its position; `accumulate` as often as there are micro-batches, then `update`."""

    def __init__(self, spec: RunSpec, model: Transformer, precision: str) -> None:
        self.spec, self.model, self.precision, self.step = spec, model, precision, 0
        self.device = next(model.parameters()).device
        self.forward = cast("Callable[[Tensor], Tensor]", torch.compile(model) if spec.compile else model)
        self.optimiser = torch.optim.AdamW(
            param_groups(model, lr=spec.lr, weight_decay=spec.weight_decay),
            betas=(spec.beta1, spec.beta2),
            eps=spec.eps,
            fused=True,
        )
        self._passes = spec.sequences // spec.micro_sequences
        self._seen: list[Tensor] = []

    def accumulate(self, micro: Micro, targets: Targets | None) -> None:
        """Forward and backward of one micro-batch, weighed so that all of a batch's average to its mean (Eq 7)."""
        spec = self.spec
        with autocast(self.device, self.precision):
            loss, parts = target_loss(
                self.forward(micro.tokens_BT).flatten(0, 1),
                self.model.output_weight,
                targets,
                micro.labels_N,
                lam=0.0 if targets is None else spec.lam,
                tau=spec.tau,
                z_weight=spec.z_weight,
                divergence=cast("Any", spec.divergence),
            )
        (loss / self._passes).backward()
        self._seen.append(torch.cat((loss.detach().double()[None], parts.sums / max(parts.tokens, 1))))

    def update(self) -> Moved:
        """Clip and step; where the loss or its gradient is not finite, the weights stay as they were."""
        spec = self.spec
        factor = lr_factor(spec, self.step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), spec.clip)
        loss, next_token, divergence, entropy, _ = torch.stack(self._seen).mean(0).tolist()
        self._seen.clear()
        if spec.divergence == "forward":
            divergence -= entropy
        moved = Moved(loss, next_token, divergence, float(norm), factor * spec.lr)
        if moved.finite:
            for group in self.optimiser.param_groups:
                group["lr"] = factor * group["peak_lr"]
            self.optimiser.step()
            self.step += 1
        self.optimiser.zero_grad(set_to_none=True)
        return moved

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that the next step depends on, beside the spec and the data."""
        moments: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            for moment, value in self.optimiser.state.get(parameter, {}).items():
                moments[f"{name}.{moment}"] = value
        return {"model": dict(self.model.named_parameters()), "optimizer": moments}

    def restore(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Become what `tensors` was saved from; a name or shape that does not fit is named."""
        load_weights(self.model, tensors["model"])
        saved, wanted = tensors["optimizer"], dict(self.model.named_parameters())
        names = {f"{name}.{moment}" for name in wanted for moment in _MOMENTS}
        if step and (strange := sorted(names.symmetric_difference(saved))):
            raise InputError(f"the checkpoint's optimiser differs in {strange[0]!r}; it is of another run")
        for name, parameter in wanted.items() if step else ():
            self.optimiser.state[parameter] = {
                "step": saved[f"{name}.step"].clone(),
                "exp_avg": saved[f"{name}.exp_avg"].to(self.device, copy=True),
                "exp_avg_sq": saved[f"{name}.exp_avg_sq"].to(self.device, copy=True),
            }
        self.step = step


def load_weights(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model, all of them and nothing else."""
    wanted = dict(model.named_parameters())
    if strange := sorted(set(wanted).symmetric_difference(saved)):
        raise InputError(f"weights and model differ in {strange[0]!r}; they are of another shape of model")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if saved[name].shape != parameter.shape:
                raise InputError(
                    f"weight {name!r} has shape {tuple(saved[name].shape)}, the model's is {tuple(parameter.shape)}; "
                    "they are of another size of model"
                )
            parameter.copy_(saved[name])
