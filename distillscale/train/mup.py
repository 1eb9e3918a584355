"""µP: how init, learning rate and weight decay of each tensor follow from its width; knows no loss, data or loop.

µP (simple), Wortsman et al. 2023 (arXiv:2309.14322) after Yang et al. 2022 (arXiv:2203.03466), for Adam. With w the
fan-in of a matrix, w₀ the same at the base width, and η the learning rate that the user gives:

    tensor                          init std              learning rate     what multiplies its output
    embedding, tied or not          0.1                   η                 -
    readout, tied or not            0.1, or 0 if untied   η                 w₀/(4 w)
    hidden matrix                   1/√w                  η w₀/w            -
    ... at a residual branch's end  0                     η w₀/w            -
    gain of a norm                  1                     η                 -
    queries · keys                  -                     -                 8/d_head, which is 1/√d_head at 64

What decides the transfer is how each entry depends on the width; the constants (0.1, 1/4, zeros, 64, and the base
width) put the best rate on real text within a factor of two of the paper's η = 0.01 (docs/lr_transfer.svg). In the
standard parametrisation every matrix, embedding included, has std 1/√w (divided by √(2 layers) at the end of a branch)
and learning rate η, nothing is multiplied, and attention has 1/√d_head.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..arch import FFN_RATIO
from ..errors import InputError

if TYPE_CHECKING:
    from .model import Transformer

__all__ = [
    "BASE_WIDTH",
    "Rule",
    "attention_scale",
    "coordinate_check",
    "init_weights",
    "param_groups",
    "readout_multiplier",
    "rules",
    "slope",
]

BASE_WIDTH = 128
"""w₀ of a matrix that reads the residual stream: d_model at which every tensor has the rate η."""
READOUT = 0.25
"""Multiplier of the logits at the base width: a token's logit for itself starts near 3, whatever the width."""
HEAD_WIDTH = 64
"""d_head at which attention has the usual scale."""
EMBEDDING_STD = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What µP decides for one tensor."""

    std: float | None
    """Standard deviation of the initial normal draw; None starts at one, as the gain of a norm does."""
    lr_factor: float
    """Learning rate of the tensor over the one the user gives."""
    decays: bool
    """Weight decay pulls on it: on matrices and embeddings, not on gains."""


def attention_scale(d_head: int, parametrisation: str) -> float:
    """What q·k is multiplied by before the softmax: √64/d_head under µP, since q and k align as they learn."""
    return math.sqrt(HEAD_WIDTH) / d_head if parametrisation == "mup" else 1.0 / math.sqrt(d_head)


def readout_multiplier(d_model: int, parametrisation: str, base_width: int) -> float:
    """What logits are multiplied by: w₀/(4 w) under µP."""
    return READOUT * base_width / d_model if parametrisation == "mup" else 1.0


def rules(model: Transformer) -> dict[str, Rule]:
    """The rule of each parameter, by its name."""
    return {name: _rule(model, name, parameter) for name, parameter in model.named_parameters()}


def _rule(model: Transformer, name: str, parameter: Tensor) -> Rule:
    kind, mup = name.rpartition(".")[2], model.parametrisation == "mup"
    if parameter.ndim == 1:
        return Rule(std=None, lr_factor=1.0, decays=False)
    fan_in = parameter.shape[1]
    std = 1.0 / math.sqrt(fan_in)
    if kind in ("embedding", "head"):
        drawn = EMBEDDING_STD if kind == "embedding" else 0.0
        return Rule(std=drawn if mup else std, lr_factor=1.0, decays=True)
    if kind in ("out", "down"):
        std = 0.0 if mup else std / math.sqrt(2 * model.arch.layers)
    base = model.base_width * (FFN_RATIO if kind == "down" else 1.0)
    return Rule(std=std, lr_factor=base / fan_in if mup else 1.0, decays=True)


def init_weights(model: Transformer, seed: int | torch.Generator) -> None:
    """Draw every tensor by its rule, on the CPU and in the order of the parameters, so that devices agree."""
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    found = rules(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = found[name].std
            if std is None:
                parameter.fill_(1.0)
            elif std == 0.0:
                parameter.zero_()
            else:
                draw = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator)
                parameter.copy_(draw)


def param_groups(model: Transformer, *, lr: float, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, one for each pair of learning rate and decay; `lr` is the rate at `base_width`.

    Decay is decoupled from the rate (Loshchilov & Hutter 2019, as the paper's optimiser has it): with s(t) ∈ [0, 1]
    the schedule and η the peak rate of the tensor,

        w ← w − s(t) (η·Adam + λ w).

    torch's AdamW does w ← w − r(t) (Adam + λ' w) with r(t) = s(t) η, so each group's λ' is λ/η. The schedule must
    therefore *multiply* each group's `peak_lr`: group["lr"] = s(t) · group["peak_lr"]; λ' then stays as it is.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise InputError(f"lr must be positive and finite; got {lr:g}; the paper's is 0.01")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise InputError(f"weight_decay must be finite and at least 0; got {weight_decay:g}; the paper's is 1e-4")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    found = rules(model)
    for name, parameter in model.named_parameters():
        groups.setdefault((found[name].lr_factor, found[name].decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * factor,
            "peak_lr": lr * factor,
            "weight_decay": weight_decay / (lr * factor) if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]


def coordinate_check(
    build: Callable[[int], Transformer],
    widths: Sequence[int],
    *,
    steps: int = 5,
    lr: float = 1e-2,
    batch: int = 4,
    length: int = 32,
    seeds: Iterable[int] = (0, 1),
) -> dict[str, dict[int, float]]:
    """How much each part's output has *moved* after `steps` AdamW steps, per width: {part: {width: RMS of the change}}.

    `build(width)` makes a model of that width; every model trains on the same random tokens for the same steps. The
    parts are the ends of the two residual branches in each layer, the final hidden state and the logits. Under µP the
    change does not depend on width; under the standard parametrisation it grows with it. See `slope`.
    """
    found: dict[str, dict[int, float]] = {}
    seeds = tuple(seeds)
    for width in widths:
        for seed in seeds:
            for part, moved in _moved(build(width), steps, lr, batch, length, seed).items():
                at = found.setdefault(part, {})
                at[width] = at.get(width, 0.0) + moved / len(seeds)
    return found


def _moved(model: Transformer, steps: int, lr: float, batch: int, length: int, seed: int) -> dict[str, float]:
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    # a few frequent tokens and many rare ones, each drawn half of the time as its predecessor: something to learn
    draw = torch.rand((batch, length + 1), generator=generator).pow(3).mul(model.arch.vocab).long()
    repeat = torch.rand((batch, length + 1), generator=generator) < 0.5
    tokens = torch.where(repeat, draw.roll(1, dims=1), draw)
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    optimiser = torch.optim.AdamW(param_groups(model, lr=lr, weight_decay=0.0), betas=(0.9, 0.95))
    before = _parts(model, inputs)
    for _ in range(steps):
        logits = model.logits(model(inputs))
        nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    after = _parts(model, inputs)
    return {part: float((after[part] - before[part]).square().mean().sqrt()) for part in after}


def _parts(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        parts = dict(model.trace(tokens))
        parts["logits"] = model.logits(parts["hidden"])
    # the hidden state before its multiplier, which is what should keep its scale
    parts["hidden"] = parts["hidden"] / model.readout
    return parts


def slope(by_width: Mapping[int, float]) -> float:
    """Least-squares slope of log(value) against log(width): 0 is flat, 1 grows with the width."""
    xs = [math.log(width) for width in by_width]
    ys = [math.log(value) for value in by_width.values()]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - x_mean) ** 2 for x in xs)
