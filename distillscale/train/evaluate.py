"""Losses on held-out data: of a model, of a teacher, and the divergence between them; nothing is trained or written.

    loss           −mean log q(next token)                 nats a token
    bits a byte    loss / ln 2 / bytes a token             comparable across tokenizers
    KL             mean Σ p (log p − log q)                teacher p, student q, over the whole vocabulary
    entropy        mean −Σ p log p

Shape suffixes: B sequences, T context, N = B·T tokens, D width, V vocabulary.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .logits import HiddenTargets
from .loss import IGNORED, evaluate_loss, target_loss
from .machine import autocast
from .world import ALONE, World

if TYPE_CHECKING:
    from .data import Batch, TokenData
    from .hf import Teacher

__all__ = ["Evaluation", "evaluate_model", "evaluate_teacher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Means over `tokens` held-out tokens, in nats; None where there was no teacher."""

    tokens: int
    loss: float
    bits_per_byte: float
    kl: float | None = None
    teacher_loss: float | None = None
    teacher_entropy: float | None = None


def evaluate_model(
    model: Any,
    data: TokenData,
    *,
    context: int,
    max_tokens: int | None,
    teacher: Teacher | None = None,
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
    world: World = ALONE,
) -> Evaluation:
    """A `Transformer` on the validation split, at most `max_tokens` of it spread evenly; with a teacher, both.

    In a `world` each process measures its share and all have the result.
    """
    batches = _shares(data, context, max_tokens, world)
    # a sharded model's output weight is whole only after its forward pass, so it is asked for every time
    return _evaluate(model, lambda: model.output_weight, data, batches, teacher, precision, progress, world)


def evaluate_teacher(
    teacher: Teacher,
    data: TokenData,
    *,
    context: int,
    max_tokens: int | None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Any `Teacher`, ours or foreign, on the validation split."""
    batches = _shares(data, context, max_tokens, ALONE)
    return _evaluate(teacher.hidden, lambda: teacher.output_weight, data, batches, None, "fp32", progress, ALONE)


def _shares(data: TokenData, context: int, max_tokens: int | None, world: World) -> Iterator[Batch]:
    """This process's batches, as many as every other's: one that has no more repeats a window and counts none of it."""
    mine = data.validation(context, max_tokens, rank=world.rank, world=world.size)
    while world.any((batch := next(mine, None)) is not None):
        if batch is None:
            window = data.read(data.windows("val", context)[:1], context)
            batch = replace(window, labels_BT=np.full_like(window.labels_BT, IGNORED))
        yield batch


@torch.no_grad()
def _evaluate(
    forward: Callable[[Tensor], Tensor],
    weight: Callable[[], Tensor],
    data: TokenData,
    batches: Iterator[Batch],
    teacher: Teacher | None,
    precision: str,
    progress: Callable[[int], None] | None,
    world: World,
) -> Evaluation:
    device = weight().device
    sums = torch.zeros(4, dtype=torch.float64)  # student CE, KL + entropy, entropy, teacher CE
    tokens = 0
    for batch in batches:
        tokens_BT = torch.from_numpy(batch.tokens_BT).to(device)
        labels_N = torch.from_numpy(batch.labels_BT).to(device).flatten()
        with autocast(device, precision):
            hidden_ND = forward(tokens_BT).flatten(0, 1)
        weight_VD = weight()
        if teacher is None:
            sums[0] += evaluate_loss(hidden_ND, weight_VD, labels_N)[0]
        else:
            hidden_T_ND = teacher.hidden(tokens_BT).flatten(0, 1)
            targets = HiddenTargets(hidden_T_ND, teacher.output_weight)
            sums[:3] += target_loss(hidden_ND, weight_VD, targets, labels_N)[1].sums[:3].cpu()
            sums[3] += evaluate_loss(hidden_T_ND, teacher.output_weight, labels_N)[0]
        tokens += int((batch.labels_BT != IGNORED).sum())
        if progress is not None:
            progress(tokens)
    *sums, count = world.add(torch.cat((sums, torch.tensor([tokens], dtype=torch.float64))))
    tokens = int(count)
    loss, cross, entropy, teacher_loss = (float(x) / tokens for x in sums)
    return Evaluation(
        tokens=tokens,
        loss=loss,
        bits_per_byte=loss / math.log(2) / data.bytes_per_token("val"),
        kl=None if teacher is None else cross - entropy,
        teacher_loss=None if teacher is None else teacher_loss,
        teacher_entropy=None if teacher is None else entropy,
    )
