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
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from ..schedule import lr_factor
from ..spec import RunSpec
from .checkpoint import read_folder
from .logits import Targets
from .loss import target_loss
from .machine import autocast
from .model import Transformer
from .mup import param_groups
from .notation import import_model
from .optimiser import AdamW

__all__ = ["Micro", "Moved", "Student", "build", "copy_into", "load_start"]


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


def build(spec: RunSpec, vocab: int, device: torch.device, start: Transformer | None = None) -> Transformer:
    """The spec's model with its first weights: drawn from the spec's seed, or those of `start`."""
    if start is not None:
        return _like(start, spec, vocab).to(device)
    model = Transformer(
        spec.arch(vocab),
        parametrisation=cast("Any", spec.parametrisation),
        base_width=spec.base_width,
        rope_base=spec.rope_base,
    )
    model.init_weights(spec.seed)
    return model.to(device)


def _like(start: Transformer, spec: RunSpec, vocab: int) -> Transformer:
    """A copy of `start`, which must have the spec's shape; rotary base and norms are its own."""
    wanted, settings = asdict(spec.arch(vocab)), start.settings()
    wanted["parametrisation"] = spec.parametrisation
    found = settings["arch"] | {"context": spec.context, "parametrisation": settings["parametrisation"]}
    for name, value in wanted.items():
        if found[name] != value:
            raise InputError(
                f"the model to start from has {name} {found[name]!r}, the spec's is {value!r}; write the model's shape "
                "into the spec"
            )
    model = Transformer.from_settings(settings | {"arch": settings["arch"] | {"context": spec.context}})
    copy_into(dict(model.named_parameters()), dict(start.named_parameters()), "the model to start from")
    return model


def load_start(path: Path) -> Transformer:
    """The model of one of our runs, or of a Hugging Face folder that is a Llama or a Qwen3."""
    home = next((h for h in (path, path / "model") if (h / "checkpoint.json").is_file()), None)
    if home is None:
        return import_model(path)
    model = Transformer.from_settings(read_folder(home, "restore it from a copy")["state"]["model"])
    copy_into(dict(model.named_parameters()), load_file(home / "model.safetensors"), f"the model in {str(home)!r}")
    return model


class Student:
    """A model, its optimiser and its position; `accumulate` as often as there are micro-batches, then `update`."""

    def __init__(self, spec: RunSpec, model: Transformer, precision: str) -> None:
        self.spec, self.model, self.precision, self.step = spec, model, precision, 0
        self.device = next(model.parameters()).device
        self.forward = cast("Callable[[Tensor], Tensor]", torch.compile(model) if spec.compile else model)
        groups = param_groups(model, lr=spec.lr, weight_decay=spec.weight_decay)
        self.optimiser = AdamW(groups, beta1=spec.beta1, beta2=spec.beta2, eps=spec.eps)
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
            self.optimiser.step(factor)
            self.step += 1
        self.model.zero_grad(set_to_none=True)
        return moved

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that the next step depends on, beside the spec and the data."""
        named = dict(self.model.named_parameters())
        return {"model": {**named}, "optimizer": self.optimiser.tensors({p: name for name, p in named.items()})}

    def restore(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Become what `tensors` was saved from; a name or shape that does not fit is named."""
        mine = self.tensors()
        for part in mine:
            copy_into(mine[part], tensors.get(part, {}), part)
        self.optimiser.at(step)
        self.step = step


def copy_into(wanted: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into others, all of them and nothing else."""
    if strange := sorted(set(wanted).symmetric_difference(saved)):
        raise InputError(f"{what} and its file differ in {strange[0]!r}; the file is of another shape of model")
    with torch.no_grad():
        for name, tensor in wanted.items():
            if saved[name].shape != tensor.shape:
                raise InputError(
                    f"{what}: {name!r} has shape {tuple(tensor.shape)}, its file {tuple(saved[name].shape)}; the file "
                    "is of another size of model"
                )
            tensor.copy_(saved[name])
