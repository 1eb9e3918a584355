"""Where a batch's targets come from: a teacher at hand, or a cache of what it said; the loss is not known here."""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..spec import RunSpec
from .logits import HiddenTargets, Targets

if TYPE_CHECKING:
    from .data import Ids, TokenData
    from .hf import Teacher

__all__ = ["Lesson", "lesson_of"]


class Lesson(Protocol):
    """What the loop needs of a teacher."""

    teacher: Teacher | None
    """The teacher itself, for the held-out divergence."""
    teacher_hash: str
    flops_per_token: float
    """What it costs to have the targets of one token."""

    def targets(self, tokens_BT: Tensor, sample_ids_B: Ids) -> Targets: ...


class Online:
    """The teacher's hidden states, computed for every batch."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher: Teacher | None = teacher
        self._teacher = teacher
        self.teacher_hash, self.flops_per_token = teacher.sha, teacher.flops_per_token

    @torch.no_grad()
    def targets(self, tokens_BT: Tensor, sample_ids_B: Ids) -> Targets:
        del sample_ids_B
        return HiddenTargets(self._teacher.hidden(tokens_BT).flatten(0, 1), self._teacher.output_weight)


def lesson_of(spec: RunSpec, data: TokenData, teacher: Teacher | None, cache: Any) -> Lesson | None:
    """The lesson that the spec asks for, after its vocabulary and identity were checked; None for a supervised run."""
    if spec.teacher is None:
        if teacher is not None or cache is not None:
            raise InputError("a teacher was given, but the spec names none; write teacher in its [distill] table")
        return None
    if teacher is None and cache is None:
        raise InputError(f"the spec's teacher {spec.teacher!r} is missing; give its folder, or a cache of its outputs")
    if teacher is not None and teacher.vocab != data.vocab:
        raise InputError(
            f"teacher {teacher.name!r} has a vocabulary of {teacher.vocab}, the data's is {data.vocab}; prepare the "
            "data with the teacher's tokenizer"
        )
    if spec.targets == "online":
        if teacher is None:
            raise InputError(
                f"targets = 'online' needs the teacher {spec.teacher!r} itself; give it, or name the kind "
                "of targets that the cache holds"
            )
        return Online(teacher)
    raise NotImplementedError
