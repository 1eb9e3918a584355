"""Where a batch's targets come from: a teacher at hand, or a cache of what it said; the loss is not known here."""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..spec import RunSpec
from .cache import CacheKey, CacheWriter, TargetCache
from .logits import HiddenTargets, Targets
from .world import ALONE, World

if TYPE_CHECKING:
    from .data import Ids, Stream, TokenData
    from .hf import Teacher

__all__ = ["Lesson", "cache_key", "fill_cache", "lesson_of", "stream_of"]


class Lesson(Protocol):
    """What the loop needs of a teacher."""

    teacher: Teacher | None
    """The teacher itself, for the held-out divergence; None where only its cache is at hand."""
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

    def targets(self, tokens_BT: Tensor, sample_ids_B: Ids) -> Targets:
        """What the teacher says of this batch."""
        del sample_ids_B
        return HiddenTargets(self._teacher.hidden(tokens_BT).flatten(0, 1), self._teacher.output_weight)


class Cached:
    """What the teacher said of each sample when the cache was made."""

    def __init__(self, cache: TargetCache, teacher: Teacher | None, *, biased: bool) -> None:
        self.teacher, self._cache, self._biased = teacher, cache, biased
        self.teacher_hash, self.flops_per_token = cache.key.teacher, cache.key.flops_per_token

    def targets(self, tokens_BT: Tensor, sample_ids_B: Ids) -> Targets:
        """What is kept of these samples."""
        return self._cache.targets(sample_ids_B, biased=self._biased, device=tokens_BT.device)


def lesson_of(spec: RunSpec, data: TokenData, teacher: Teacher | None, cache: TargetCache | None) -> Lesson | None:
    """The lesson that the spec asks for, once teacher and cache fit it and the data; None for a supervised run."""
    if spec.teacher is None:
        if teacher is not None or cache is not None:
            raise InputError("a teacher was given, but the spec names none; write teacher in its [distill] table")
        return None
    if teacher is not None and teacher.vocab != data.vocab:
        raise InputError(
            f"teacher {teacher.name!r} has a vocabulary of {teacher.vocab}, the data's is {data.vocab}; prepare the "
            "data with the teacher's tokenizer"
        )
    if spec.targets == "online":
        if cache is not None:
            raise InputError(
                f"a cache of {cache.key.kind} was given, but targets is 'online'; write targets = {cache.key.kind!r} "
                "in the [distill] table, or leave the cache out"
            )
        if teacher is None:
            raise InputError(f"the spec's teacher {spec.teacher!r} is missing; give its folder, or a cache of it")
        return Online(teacher)
    if cache is None:
        raise InputError(f"targets {spec.targets!r} come from a cache; give one, or write targets = 'online'")
    kind = _kind(spec)
    cache.require(kind=kind, classes=spec.classes, data=data.hash, tokenizer=data.tokenizer_hash, context=spec.context)
    cache.require(vocab=data.vocab, tau=1.0 if kind == "hidden" else spec.tau)
    if teacher is not None:
        cache.require(teacher=teacher.sha)
    return Cached(cache, teacher, biased=spec.targets == "biased-topk")


def stream_of(spec: RunSpec, data: TokenData) -> Stream:
    """The batches that the spec trains on."""
    return data.stream(context=spec.context, half=spec.data_half, seed=spec.seed, unique_tokens=spec.unique_tokens)


def _kind(spec: RunSpec) -> str:
    """What the cache is called: it keeps top-k with its tail, and only the reading is biased."""
    return "topk" if spec.targets == "biased-topk" else spec.targets


def cache_key(spec: RunSpec, data: TokenData, teacher: Teacher) -> CacheKey:
    """The cache that the spec reads."""
    kind = _kind(spec)
    return CacheKey(
        kind=kind,
        teacher=teacher.sha,
        tokenizer=data.tokenizer_hash,
        data=data.hash,
        vocab=data.vocab,
        context=spec.context,
        width=teacher.width if kind == "hidden" else None,
        classes=spec.classes,
        tau=1.0 if kind == "hidden" else spec.tau,
    )


def fill_cache(
    root: Path,
    spec: RunSpec,
    data: TokenData,
    teacher: Teacher,
    progress: Callable[[int, int], None] | None = None,
    world: World = ALONE,
) -> TargetCache:
    """The cache under `root` with everything that the run will read, after computing what is missing of it.

    In a `world` each process asks the teacher for its share of the samples, equally often, and the first one writes.
    `progress` is told the samples passed and their number.
    """
    key = cache_key(spec, data, teacher)
    stream = stream_of(spec, data)
    total = min(spec.steps * spec.sequences, stream.unique_samples)
    at_once = spec.micro_sequences * world.size
    with ExitStack() as stack:
        writer: list[CacheWriter] = []  # in the first process

        def open_writer() -> None:
            writer.append(stack.enter_context(CacheWriter(root, key, teacher.output_weight)))

        def missing(ids: Ids) -> Ids:
            return ids[writer[0].missing(ids)]

        def add(ids: Ids, hidden: Sequence[Tensor]) -> None:
            writer[0].add(ids, torch.cat(tuple(hidden))[: len(ids)].to(teacher.output_weight.device))

        world.first_does(open_writer)
        for first in range(0, total, at_once):
            candidates = stream.sample_ids(first, min(at_once, total - first))
            ids = world.first_does(partial(missing, candidates))
            if len(ids):
                share = -(-len(ids) // world.size)
                mine = np.resize(ids, share * world.size)[world.rank * share :][:share]  # the last ones may come twice
                tokens = torch.from_numpy(data.read(mine, spec.context).tokens_BT)
                hidden = world.collect(teacher.hidden(tokens.to(teacher.output_weight.device)))
                world.first_does(partial(add, ids, hidden))
            if progress is not None:
                progress(min(first + at_once, total), total)
        world.first_does(stack.close)
    return TargetCache.find(root, key)
