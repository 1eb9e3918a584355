"""The training loop: specs, data and a teacher in, records out; what a step computes is `student`'s business.

Several students may share a loop: they see the same batches, the teacher looks at each batch once, and every student
ends bit for bit where it would have ended alone. A run that is killed continues from its last checkpoint, exactly as if
it had not been. In a world of several processes each one takes its share of every batch.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..claim import claimed
from ..errors import InputError
from ..record import RunRecord
from ..spec import BATCH_FIELDS, RunSpec
from . import checkpoint
from .folder import RunFolder
from .fused import keep_freed_memory
from .ledger import Stopwatch
from .machine import synchronise
from .running import Run, Saving, branch_of
from .student import Micro, Moved
from .teaching import Lesson, lesson_of, stream_of
from .world import ALONE, World

if TYPE_CHECKING:
    from .cache import TargetCache
    from .data import Batch, TokenData
    from .hf import Teacher
    from .model import Transformer

__all__ = ["Interrupted", "Progress", "Saving", "release", "run", "run_many"]


class Interrupted(Exception):
    """The caller's `stop` said so; every run has a checkpoint of this moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far the process is, over all of its runs."""

    tokens: int
    total_tokens: int
    tokens_per_second: float
    seconds_left: float
    loss: float
    """Of the last step, mean over the runs."""


def run(
    spec: RunSpec,
    *,
    data: TokenData,
    out: str | Path,
    teacher: Teacher | None = None,
    cache: TargetCache | None = None,
    trunk: str | Path | None = None,
    start: Transformer | None = None,
    resume: bool = True,
    saving: Saving | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    study: str | None = None,
    world: World = ALONE,
    shard: bool = False,
) -> RunRecord:
    """Train what `spec` says in the folder `out`; a run that is done is not run again, one that was killed continues.

    `teacher` gives the distribution to learn from, or `cache` holds it (with the teacher beside it, KL is measured
    too). `trunk` is the folder of a run whose kept branch point this one starts from. `start` is a model whose weights
    are the first. With `resume=False` a folder that holds a begun run is refused. In a `world` of several processes all
    of them call this alike; `shard` cuts the student between them instead of keeping it whole in each (`parallel`), and
    the result is that of one process within rounding.
    """
    return run_many(
        [spec],
        data=data,
        outs=[out],
        teacher=teacher,
        cache=cache,
        trunks=[trunk],
        start=start,
        resume=resume,
        saving=saving,
        progress=progress,
        stop=stop,
        study=study,
        world=world,
        shard=shard,
    )[0]


def run_many(
    specs: Sequence[RunSpec],
    *,
    data: TokenData,
    outs: Sequence[str | Path],
    teacher: Teacher | None = None,
    cache: TargetCache | None = None,
    trunks: Sequence[str | Path | None] | None = None,
    start: Transformer | None = None,
    resume: bool = True,
    saving: Saving | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    study: str | None = None,
    world: World = ALONE,
    shard: bool = False,
) -> list[RunRecord]:
    """Runs that see the same batches, in one loop with one teacher pass a batch; see `run`.

    Their specs must agree in everything that decides the batches and the teacher's pass; lengths may differ.
    """
    trunks = trunks or [None] * len(specs)
    keep_freed_memory()
    with world.together():
        _check(specs, outs, trunks, data)
        _check_world(specs[0], world, shard)
        lesson = lesson_of(specs[0], data, teacher, cache)
    with ExitStack() as stack:
        runs: list[Run] = []
        for i, (spec, out) in enumerate(zip(specs, outs, strict=True)):
            folder = RunFolder(Path(out))
            one = Run(
                spec, folder, data, lesson, world,
                shard=shard, saving=saving or Saving(), study=study, sharing=len(specs),
            )  # fmt: skip
            one.claim(stack)
            one.begin(trunks[i], start, resume)
            stack.callback(one.close)
            runs.append(one)
        _loop(runs, data, lesson, world, progress, stop)
        return [one.record for one in runs if one.record is not None]


def _check(
    specs: Sequence[RunSpec], outs: Sequence[str | Path], trunks: Sequence[str | Path | None], data: TokenData
) -> None:
    """Everything that can be known to be wrong before a folder is made."""
    if not specs or len(specs) != len(outs):
        raise InputError(f"runs need one folder each; got {len(specs)} specs and {len(outs)} folders")
    if len({Path(out).resolve() for out in outs}) < len(outs):
        raise InputError("two runs cannot share one folder; name a folder for each")
    for spec in specs:
        for name in BATCH_FIELDS:
            if getattr(spec, name) != getattr(specs[0], name):
                raise InputError(
                    f"runs of one loop see the same batches, so they must agree in {name}; got "
                    f"{getattr(specs[0], name)!r} and {getattr(spec, name)!r}; run them apart"
                )
        if spec.data_hash and not data.hash.startswith(spec.data_hash):
            raise InputError(
                f"the data's hash is {data.hash}, the spec wants {spec.data_hash}; use the data it was made for"
            )
        spec.arch(data.vocab)
        data.validation(spec.context, spec.eval_tokens)
    stream_of(specs[0], data)
    for spec, out, trunk in zip(specs, outs, trunks, strict=True):
        if trunk is not None and not (Path(out) / "spec.json").exists():
            branch_of(RunFolder(Path(trunk)), spec)


def _check_world(spec: RunSpec, world: World, shard: bool) -> None:
    if spec.sequences % world.size:
        raise InputError(
            f"a batch of {spec.sequences} sequences ({spec.batch_tokens} tokens) cannot be cut into equal shares for "
            f"{world.size} processes; start a number that divides it, or change batch_tokens"
        )
    if shard and world.size > 1:
        try:
            from . import shards
        except ImportError as error:
            raise InputError(f"sharding needs a later torch than {torch.__version__} ({error}); upgrade it") from None
        assert shards


def _loop(
    runs: Sequence[Run],
    data: TokenData,
    lesson: Lesson | None,
    world: World,
    progress: Callable[[Progress], None] | None,
    stop: Callable[[], bool] | None,
) -> None:
    spec = runs[0].spec
    stream = stream_of(spec, data)
    meter = _Meter(runs)
    for one in runs:
        if one.active and one.complete:  # killed between its last step and its record
            one.finish()
    while left := [one for one in runs if one.active]:
        step = min(one.student.step for one in left)
        takers = [one for one in left if one.student.step == step]
        batch = stream.batch(step, spec.sequences, world.rank, world.size)
        for one, moved in zip(takers, _step(takers, batch, lesson, world.device), strict=True):
            one.settle(moved)
        meter.tick(takers, progress if world.first else None)
        if world.any(stop is not None and stop()) and any(one.active for one in runs):
            for one in runs:
                if one.active:
                    one.save()
            raise Interrupted(f"stopped after step {step + 1}")


def _step(takers: Sequence[Run], batch: Batch, lesson: Lesson | None, device: torch.device) -> list[Moved]:
    """One step of every taker on the same batch; the teacher's time and FLOPs are shared out evenly."""
    spec, rows_at_once = takers[0].spec, takers[0].student.micro_sequences
    tokens_BT = torch.from_numpy(batch.tokens_BT).to(device, non_blocking=True)
    labels_BT = torch.from_numpy(batch.labels_BT).to(device, non_blocking=True)
    shared = Stopwatch()
    for first in range(0, len(batch), rows_at_once):
        rows = slice(first, first + rows_at_once)
        micro = Micro(tokens_BT[rows], labels_BT[rows].flatten())
        targets = None
        if lesson is not None:
            with shared:
                targets = lesson.targets(micro.tokens_BT, batch.sample_ids_B[rows])
                synchronise(device)
        for one in takers:
            with one.ledger.steps:
                one.student.accumulate(micro, targets)
    moved: list[Moved] = []
    for one in takers:
        with one.ledger.steps:
            moved.append(one.student.update())
        teacher = 0.0 if lesson is None else lesson.flops_per_token / len(takers)
        one.ledger.charge(spec.batch_tokens, one.student.model.arch.forward_flops_per_token, teacher)
        one.ledger.add(shared, len(takers))
    return moved


class _Meter:
    """Tokens of all runs against the clock of this session."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._begun, self._first = time.monotonic(), self._tokens()

    def _tokens(self) -> int:
        return sum(
            r.student.step * r.spec.batch_tokens if r.active else r.spec.steps * r.spec.batch_tokens for r in self._runs
        )

    def tick(self, takers: Sequence[Run], progress: Callable[[Progress], None] | None) -> None:
        if progress is None:
            return
        done, total = self._tokens(), sum(one.spec.steps * one.spec.batch_tokens for one in self._runs)
        rate = (done - self._first) / max(1e-9, time.monotonic() - self._begun)
        losses = [one.last.loss for one in takers if one.last is not None]
        progress(
            Progress(
                tokens=done,
                total_tokens=total,
                tokens_per_second=rate,
                seconds_left=(total - done) / max(rate, 1e-9),
                loss=sum(losses) / len(losses),
            )
        )


def release(out: str | Path, tokens: int) -> None:
    """Delete the branch point that a finished trunk keeps at `tokens`, once its decays are done."""
    folder = RunFolder(Path(out))
    spec, kept = folder.spec(), checkpoint.steps(folder.checkpoints)
    step = round(tokens / spec.batch_tokens)
    if step not in kept or step not in spec.branch_steps:
        listed = ", ".join(str(s * spec.batch_tokens) for s in kept) or "none"
        raise InputError(f"{str(folder.path)!r} keeps no branch point at {tokens} tokens; it keeps {listed}")
    with claimed(folder.path):
        checkpoint.discard(folder.checkpoints, step)
