"""One model in training: weights, AdamW and the step they are at; files, data and clocks are others' business.

The optimiser follows Busbridge et al. 2025, §4.1: AdamW under µP (simple), weight decay decoupled from the learning
rate, gradients clipped to a global norm, the schedule multiplying every group's peak rate.

Shape suffixes: B sequences of a micro-batch, T context, D d_model, N = B·T tokens, V vocabulary.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from ..schedule import lr_factor
from ..spec import RunSpec
from .checkpoint import Checkpoint, copy_into, read_folder
from .logits import Targets
from .loss import target_loss
from .machine import autocast
from .model import Transformer
from .mup import param_groups
from .notation import import_model
from .optimiser import AdamW
from .parallel import clip_gradients, is_shard, spread, synchronised, whole
from .world import ALONE, World

__all__ = ["Micro", "Moved", "Student", "build", "load_start"]


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
    """A model, its optimiser and its position; `accumulate` as often as there are micro-batches, then `update`.

    In a world of several processes each accumulates its own sequences of the batch, and all update together.
    """

    def __init__(
        self, spec: RunSpec, model: Transformer, precision: str, world: World = ALONE, *, shard: bool = False
    ) -> None:
        self.spec, self.model, self.precision, self.world, self.step = spec, model, precision, world, 0
        self.forward = spread(model, world, shard=shard, compiled=spec.compile)
        self._named: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.device = next(iter(self._named.values())).device
        groups = param_groups(model, lr=spec.lr, weight_decay=spec.weight_decay)
        self.optimiser = AdamW(groups, beta1=spec.beta1, beta2=spec.beta2, eps=spec.eps)
        share = spec.sequences // world.size
        self.micro_sequences = math.gcd(share, spec.micro_sequences)
        """Of one forward pass here: the spec's, or the most below it that cut this process's share evenly."""
        self._passes = share // self.micro_sequences
        self._seen: list[Tensor] = []

    @property
    def sharded(self) -> bool:
        """This process has a share of each tensor."""
        return any(map(is_shard, self._named.values()))

    def accumulate(self, micro: Micro, targets: Targets | None) -> None:
        """Forward and backward of one micro-batch, weighed so that all of a batch's average to its mean (Eq 7)."""
        spec = self.spec
        with synchronised(self.forward, len(self._seen) + 1 == self._passes):
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
        norm = clip_gradients(self._named.values(), spec.clip)
        seen = self.world.add(torch.stack(self._seen).mean(0)) / self.world.size
        loss, next_token, divergence, entropy, _ = seen.tolist()
        self._seen.clear()
        if spec.divergence == "forward":
            divergence -= entropy
        moved = Moved(loss, next_token, divergence, norm, factor * spec.lr)
        if moved.finite:
            self.optimiser.step(factor)
            self.step += 1
        self.model.zero_grad(set_to_none=True)
        return moved

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that the next step depends on, beside the spec and the data; shares where it is sharded."""
        names = {parameter: name for name, parameter in self._named.items()}
        return {"model": {**self._named}, "optimizer": self.optimiser.tensors(names)}

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors whole, in the first process; nothing in the others."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            tensor = whole(parameter.detach())
            if self.world.first:
                found[name] = tensor.cpu()
        return found

    def restore(self, found: Checkpoint) -> None:
        """Become what was saved; a name or shape that does not fit is named."""
        mine = self.tensors()
        if self.sharded or found.sharded:
            from .shards import read_into

            read_into(found, mine)
        else:
            saved = found.tensors
            for part in mine:
                copy_into(mine[part], saved.get(part, {}), part)
        self.optimiser.at(found.step)
        self.step = found.step
