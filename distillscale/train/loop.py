"""The training loop: specs, data and a teacher in, records out; what a step computes is `student`'s business.

One process, one device. Several students may share a loop: they see the same batches, the teacher looks at each batch
once, and every student ends bit for bit where it would have ended alone. A run that is killed continues from its last
checkpoint, exactly as if it had not been.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..claim import Claim, claimed
from ..errors import InputError
from ..record import RunRecord
from ..schedule import branch_step
from ..spec import RunSpec
from . import checkpoint
from .evaluate import Evaluation, evaluate_model
from .folder import RunFolder
from .fused import keep_freed_memory
from .ledger import Ledger, Stopwatch, record_of
from .machine import pick_device, pick_precision, synchronise, versions
from .student import Micro, Moved, Student, build
from .teaching import Lesson, lesson_of, stream_of

if TYPE_CHECKING:
    from .cache import TargetCache
    from .data import Batch, TokenData
    from .hf import Teacher
    from .model import Transformer

__all__ = ["Interrupted", "Progress", "Saving", "release", "run", "run_many"]

_LOGGED = 1000
"""A run logs each step, or about so many where it is longer."""


class Interrupted(Exception):
    """The caller's `stop` said so; every run has a checkpoint of this moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """When checkpoints are written, beside branch points and the end."""

    seconds: float = 60.0
    steps: int | None = None
    """Every so many steps, instead of by the clock."""


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
) -> RunRecord:
    """Train what `spec` says in the folder `out`; a run that is done is not run again, one that was killed continues.

    `teacher` gives the distribution to learn from, or `cache` holds it (with the teacher beside it, KL is measured
    too). `trunk` is the folder of a run whose kept branch point this one starts from. `start` is a model whose weights
    are the first. With `resume=False` a folder that holds a begun run is refused.
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
) -> list[RunRecord]:
    """Runs that see the same batches, in one loop with one teacher pass a batch; see `run`.

    Their specs must agree in everything that decides the batches and the teacher's pass; lengths may differ.
    """
    trunks = trunks or [None] * len(specs)
    _check(specs, outs, trunks, data)
    device = pick_device()
    keep_freed_memory()
    lesson = lesson_of(specs[0], data, teacher, cache)
    with ExitStack() as stack:
        runs: list[_Run] = []
        for i, (spec, out) in enumerate(zip(specs, outs, strict=True)):
            path = Path(out)
            path.mkdir(parents=True, exist_ok=True)
            claim = stack.enter_context(claimed(path))
            one = _Run(spec, RunFolder(path), data, lesson, claim, saving or Saving(), study)
            one.sharing = len(specs)
            one.begin(trunks[i], start, resume, device)
            stack.callback(one.close)
            runs.append(one)
        _loop(runs, data, lesson, device, progress, stop)
        return [one.record for one in runs if one.record is not None]


# What the runs of one loop must have in common: all that decides their batches and how the teacher sees them.
_SHARED = ("context", "batch_tokens", "micro_batch_tokens", "seed", "unique_tokens", "data_half", "teacher", "targets")


def _check(
    specs: Sequence[RunSpec], outs: Sequence[str | Path], trunks: Sequence[str | Path | None], data: TokenData
) -> None:
    """Everything that can be known to be wrong before a folder is made."""
    if not specs or len(specs) != len(outs):
        raise InputError(f"runs need one folder each; got {len(specs)} specs and {len(outs)} folders")
    if len({Path(out).resolve() for out in outs}) < len(outs):
        raise InputError("two runs cannot share one folder; name a folder for each")
    for spec in specs:
        for name in _SHARED:
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
            _branch_of(RunFolder(Path(trunk)), spec)


def _branch_of(trunk: RunFolder, spec: RunSpec) -> int:
    """The step of the trunk that the run starts from."""
    theirs = trunk.spec()
    kept = [step for step in checkpoint.steps(trunk.checkpoints) if step in theirs.branch_steps]
    return branch_step(theirs, spec, kept)


class _Run:
    """One spec on its way to its record."""

    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        data: TokenData,
        lesson: Lesson | None,
        claim: Claim,
        saving: Saving,
        study: str | None,
    ) -> None:
        self.spec, self.folder, self.data, self.lesson = spec, folder, data, lesson
        self.claim, self.saving, self.study = claim, saving, study
        self.record: RunRecord | None = None
        self.sharing = 1
        self.ledger = Ledger()
        self.last: Moved | None = None
        self._saved_at = time.monotonic()

    def begin(self, trunk: str | Path | None, start: Transformer | None, resume: bool, device: torch.device) -> None:
        """From the record, the last checkpoint, the trunk's branch point or nothing, whichever is there first."""
        if not resume and (self.folder.path / "spec.json").exists():
            raise InputError(f"{str(self.folder.path)!r} already holds a run; resume it, or name another folder")
        if start is None and self.spec.start is not None:
            raise InputError(f"the spec starts from {self.spec.start!r}, which is missing; give that model")
        self.record = self.folder.look(self.spec)
        if self.record is not None:
            return
        found = self.folder.latest()
        if found is not None:
            self._check_origin(found.state, self.folder)
        elif trunk is not None:
            found = self._branch(RunFolder(Path(trunk)))
        precision = pick_precision(self.spec.precision, device) if found is None else found.state["precision"]
        self.student = Student(self.spec, build(self.spec, self.data.vocab, device, start), precision)
        if found is not None:
            self.student.restore(found.step, found.tensors)
            self.ledger = Ledger(**found.state["ledger"])
        self.ledger.sessions += 1
        self.folder.begin(self.spec)
        self.metrics = self.folder.open_metrics(self.student.step)

    def _check_origin(self, state: Any, folder: RunFolder) -> None:
        for what, now in self._origin().items():
            if state["origin"][what] != now:
                raise InputError(
                    f"{str(folder.path)!r} was begun with {what} {state['origin'][what]}, this is {now}; give the "
                    "same one to go on from it, or name another folder"
                )

    def _origin(self) -> dict[str, str | None]:
        return {
            "data": self.data.hash,
            "tokenizer": self.data.tokenizer_hash,
            "teacher": None if self.lesson is None else self.lesson.teacher_hash,
        }

    def _branch(self, trunk: RunFolder) -> checkpoint.Checkpoint:
        found = checkpoint.load(trunk.checkpoints, _branch_of(trunk, self.spec))
        self._check_origin(found.state, trunk)
        ledger = {**found.state["ledger"], "sessions": 0, "branched_at": found.step * self.spec.batch_tokens}
        return checkpoint.Checkpoint(found.step, found.tensors, {**found.state, "ledger": ledger})

    @property
    def active(self) -> bool:
        """It has steps, or its evaluation, before it."""
        return self.record is None

    @property
    def complete(self) -> bool:
        return self.student.step >= self.spec.steps

    def log(self, moved: Moved) -> None:
        """A line of metrics where this step is one to log."""
        step, every = self.student.step, max(1, self.spec.steps // _LOGGED)
        if step % every == 0 or self.complete:
            row = {"step": step, "tokens": step * self.spec.batch_tokens, **moved._asdict()}
            self.metrics.log(row)

    def save_if_due(self) -> None:
        step, now = self.student.step, time.monotonic()
        by_step = self.saving.steps is not None and step % self.saving.steps == 0
        by_clock = self.saving.steps is None and now - self._saved_at >= self.saving.seconds
        if step in self.spec.branch_steps or by_step or by_clock or self.complete:
            self.save()

    def save(self) -> None:
        """A checkpoint of this moment; those before it go, except branch points."""
        with Stopwatch() as watch:
            self.metrics.flush()
            state = {
                "spec": self.spec.to_json(),
                "id": self.spec.id,
                "origin": self._origin(),
                "precision": self.student.precision,
                "ledger": self.ledger.to_json(),
                "versions": versions(),
            }
            tensors = self.student.tensors()
            self.folder.save(self.student.step, tensors, state, set(self.spec.branch_steps))
        self.ledger.other_seconds += watch.wall
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Measure the trained student and write its record."""
        with Stopwatch() as watch:
            found = self._evaluate()
        self.ledger.other_seconds += watch.wall
        self.record = self._record(found)
        settings = {
            "model": self.student.model.settings(),
            "spec": self.spec.to_json(),
            "id": self.spec.id,
            "tokenizer_hash": self.data.tokenizer_hash,
            "record": self.record.to_json(),
        }
        self.folder.finish(self.record, self.student.tensors()["model"], settings)
        checkpoint.prune(self.folder.checkpoints, set(self.spec.branch_steps))

    def diverge(self) -> None:
        """The step before the loss stopped being finite is kept; the record says which one failed."""
        self.save()
        self.record = self._record(None)
        self.folder.close(self.record)

    def _evaluate(self) -> Evaluation:
        return evaluate_model(
            self.student.model,
            self.data,
            context=self.spec.context,
            max_tokens=self.spec.eval_tokens,
            teacher=None if self.lesson is None else self.lesson.teacher,
            precision=self.student.precision,
        )

    def _record(self, found: Evaluation | None) -> RunRecord:
        record = record_of(self.spec, self.data, self.student, self.ledger, self.lesson, self.last, found, self.study)
        return replace(record, sharing=self.sharing)

    def close(self) -> None:
        if hasattr(self, "metrics"):
            self.metrics.close()


def _loop(
    runs: Sequence[_Run],
    data: TokenData,
    lesson: Lesson | None,
    device: torch.device,
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
        for one, moved in zip(takers, _step(takers, stream.batch(step, spec.sequences), lesson, device), strict=True):
            _settle(one, moved)
        meter.tick(takers, progress)
        if stop is not None and stop() and any(one.active for one in runs):
            for one in runs:
                if one.active:
                    one.save()
            raise Interrupted(f"stopped after step {step + 1}")


def _settle(one: _Run, moved: Moved) -> None:
    one.claim.renew()
    one.last = moved
    if not moved.finite:
        one.diverge()
        return
    one.log(moved)
    one.save_if_due()
    if one.complete:
        one.finish()


def _step(takers: Sequence[_Run], batch: Batch, lesson: Lesson | None, device: torch.device) -> list[Moved]:
    """One step of every taker on the same batch; the teacher's time and FLOPs are shared out evenly."""
    spec = takers[0].spec
    tokens_BT = torch.from_numpy(batch.tokens_BT).to(device, non_blocking=True)
    labels_BT = torch.from_numpy(batch.labels_BT).to(device, non_blocking=True)
    shared = Stopwatch()
    for first in range(0, spec.sequences, spec.micro_sequences):
        rows = slice(first, first + spec.micro_sequences)
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

    def __init__(self, runs: Sequence[_Run]) -> None:
        self._runs = runs
        self._begun, self._first = time.monotonic(), self._tokens()

    def _tokens(self) -> int:
        return sum(
            r.student.step * r.spec.batch_tokens if r.active else r.spec.steps * r.spec.batch_tokens for r in self._runs
        )

    def tick(self, takers: Sequence[_Run], progress: Callable[[Progress], None] | None) -> None:
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
