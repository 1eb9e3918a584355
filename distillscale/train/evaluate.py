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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .logits import HiddenTargets
from .loss import evaluate_loss, target_loss
from .machine import autocast

if TYPE_CHECKING:
    from .data import TokenData
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
) -> Evaluation:
    """A `Transformer` on the validation split, at most `max_tokens` of it spread evenly; with a teacher, both."""
    return _evaluate(model, model.output_weight, data, context, max_tokens, teacher, precision, progress)


def evaluate_teacher(
    teacher: Teacher,
    data: TokenData,
    *,
    context: int,
    max_tokens: int | None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Any `Teacher`, ours or foreign, on the validation split."""
    return _evaluate(teacher.hidden, teacher.output_weight, data, context, max_tokens, None, "fp32", progress)


@torch.no_grad()
def _evaluate(
    forward: Callable[[Tensor], Tensor],
    weight_VD: Tensor,
    data: TokenData,
    context: int,
    max_tokens: int | None,
    teacher: Teacher | None,
    precision: str,
    progress: Callable[[int], None] | None,
) -> Evaluation:
    device = weight_VD.device
    sums = torch.zeros(4, dtype=torch.float64)  # student CE, KL + entropy, entropy, teacher CE
    tokens = 0
    for batch in data.validation(context, max_tokens):
        tokens_BT = torch.from_numpy(batch.tokens_BT).to(device)
        labels_N = torch.from_numpy(batch.labels_BT).to(device).flatten()
        with autocast(device, precision):
            hidden_ND = forward(tokens_BT).flatten(0, 1)
        if teacher is None:
            sums[0] += evaluate_loss(hidden_ND, weight_VD, labels_N)[0]
        else:
            hidden_T_ND = teacher.hidden(tokens_BT).flatten(0, 1)
            targets = HiddenTargets(hidden_T_ND, teacher.output_weight)
            sums[:3] += target_loss(hidden_ND, weight_VD, targets, labels_N)[1].sums[:3].cpu()
            sums[3] += evaluate_loss(hidden_T_ND, teacher.output_weight, labels_N)[0]
        tokens += len(labels_N)
        if progress is not None:
            progress(tokens)
    loss, cross, entropy, teacher_loss = (float(x) / tokens for x in sums)
    return Evaluation(
        tokens=tokens,
        loss=loss,
        bits_per_byte=loss / math.log(2) / data.bytes_per_token("val"),
        kl=None if teacher is None else cross - entropy,
        teacher_loss=None if teacher is None else teacher_loss,
        teacher_entropy=None if teacher is None else entropy,
    )
