"""One run on its way to its record: where it begins, what it keeps on the way, how it ends; steps are others' business.

In a world of several processes all of them go through everything here together; the first one has the run's folder.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..claim import Claim, claimed
from ..errors import InputError
from ..record import RunRecord
from ..schedule import branch_step
from ..spec import RunSpec
from . import checkpoint
from .evaluate import Evaluation, evaluate_model
from .folder import Metrics, RunFolder
from .ledger import Ledger, Stopwatch, record_of
from .machine import pick_precision, versions
from .student import Moved, Student, build
from .teaching import Lesson
from .world import World

if TYPE_CHECKING:
    from .data import TokenData
    from .model import Transformer

__all__ = ["Run", "Saving", "branch_of"]

_LOGGED = 1000
"""A run logs each step, or about so many where it is longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """When checkpoints are written, beside branch points and the end."""

    seconds: float = 60.0
    steps: int | None = None
    """Every so many steps, instead of by the clock."""


def branch_of(trunk: RunFolder, spec: RunSpec) -> int:
    """The step of the trunk that the run starts from."""
    theirs = trunk.spec()
    kept = [step for step in checkpoint.steps(trunk.checkpoints) if step in theirs.branch_steps]
    return branch_step(theirs, spec, kept)


class Run:
    """One spec on its way to its record."""

    def __init__(
        self,
        spec: RunSpec,
        folder: RunFolder,
        data: TokenData,
        lesson: Lesson | None,
        world: World,
        *,
        shard: bool,
        saving: Saving,
        study: str | None,
        sharing: int,
    ) -> None:
        self.spec, self.folder, self.data, self.lesson, self.world = spec, folder, data, lesson, world
        self.shard, self.saving, self.study = shard, saving, study
        self.record: RunRecord | None = None
        self.sharing = sharing
        """Runs of this loop."""
        self.ledger = Ledger()
        self.last: Moved | None = None
        self._claim: Claim | None = None
        self._metrics: Metrics | None = None
        self._saved_at = time.monotonic()

    def claim(self, held: ExitStack) -> None:
        """Take the folder, in the first process, until `held` is left."""

        def take() -> None:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self._claim = held.enter_context(claimed(self.folder.path))

        self.world.first_does(take)

    def begin(self, trunk: str | Path | None, start: Transformer | None, resume: bool) -> None:
        """From the record, the last checkpoint, the trunk's branch point or nothing, whichever is there first."""
        world, device = self.world, self.world.device
        self.record, found = world.first_does(lambda: self._look(trunk, start, resume))
        if self.record is not None:
            return
        asked = self.spec.precision
        precision = (
            world.first_does(lambda: pick_precision(asked, device)) if found is None else found.state["precision"]
        )
        with world.together():
            # shards are cut from the whole model on the CPU and moved one by one
            whole_on = torch.device("cpu") if self.shard and world.size > 1 else device
            model = build(self.spec, self.data.vocab, whole_on, start)
        self.student = Student(self.spec, model, precision, world, shard=self.shard)
        if found is not None:
            with world.together():
                self.student.restore(found)
            self.ledger = Ledger(**found.state["ledger"])
            if not world.first:  # what earlier sessions spent is counted once
                self.ledger.steps.cpu = 0.0
        self.ledger.sessions += 1
        world.first_does(self._open)

    def _look(
        self, trunk: str | Path | None, start: Transformer | None, resume: bool
    ) -> tuple[RunRecord | None, checkpoint.Checkpoint | None]:
        if not resume and (self.folder.path / "spec.json").exists():
            raise InputError(f"{str(self.folder.path)!r} already holds a run; resume it, or name another folder")
        if start is None and self.spec.start is not None:
            raise InputError(f"the spec starts from {self.spec.start!r}, which is missing; give that model")
        record = self.folder.look(self.spec)
        if record is not None:
            return record, None
        found = self.folder.latest()
        if found is not None:
            self._check_origin(found.state, self.folder)
        elif trunk is not None:
            found = self._branch(RunFolder(Path(trunk)))
        return None, found

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
        found = checkpoint.load(trunk.checkpoints, branch_of(trunk, self.spec))
        self._check_origin(found.state, trunk)
        ledger = {**found.state["ledger"], "sessions": 0, "branched_at": found.step * self.spec.batch_tokens}
        return replace(found, state={**found.state, "ledger": ledger})

    def _open(self) -> None:
        self.folder.begin(self.spec)
        self._metrics = self.folder.open_metrics(self.student.step)

    @property
    def active(self) -> bool:
        """It has steps, or its evaluation, before it."""
        return self.record is None

    @property
    def complete(self) -> bool:
        return self.student.step >= self.spec.steps

    def settle(self, moved: Moved) -> None:
        """After a step: log it, keep it, or end with it."""
        if self._claim is not None:
            self._claim.renew()
        self.last = moved
        if not moved.finite:
            self._diverge()
            return
        self._log(moved)
        self._save_if_due()
        if self.complete:
            self.finish()

    def _log(self, moved: Moved) -> None:
        """A line of metrics where this step is one to log."""
        step, every = self.student.step, max(1, self.spec.steps // _LOGGED)
        if self._metrics is not None and (step % every == 0 or self.complete):
            self._metrics.log({"step": step, "tokens": step * self.spec.batch_tokens, **moved._asdict()})

    def _save_if_due(self) -> None:
        step = self.student.step
        if step in self.spec.branch_steps or self.complete:
            self.save()
        elif self.saving.steps is not None:
            if step % self.saving.steps == 0:
                self.save()
        elif self.world.any(self.world.first and time.monotonic() - self._saved_at >= self.saving.seconds):
            self.save()

    def save(self) -> None:
        """A checkpoint of this moment; those before it go, except branch points."""
        with Stopwatch() as watch:
            if self._metrics is not None:
                self._metrics.flush()
            state = {
                "spec": self.spec.to_json(),
                "id": self.spec.id,
                "origin": self._origin(),
                "precision": self.student.precision,
                "ledger": self.ledger.to_json() | {"cpu_seconds": self._cpu_seconds()},
                "versions": versions(),
            }
            step, tensors, keep = self.student.step, self.student.tensors(), set(self.spec.branch_steps)
            if self.student.sharded:
                from . import shards

                shards.save(self.folder.checkpoints, step, tensors, state, self.world)
                self.world.first_does(lambda: checkpoint.prune(self.folder.checkpoints, keep | {step}))
            else:
                self.world.first_does(lambda: self.folder.save(step, tensors, state, keep))
        self.ledger.other_seconds += watch.wall
        self._saved_at = time.monotonic()

    def _cpu_seconds(self) -> float:
        """Of all processes in training steps."""
        return float(self.world.add(torch.tensor(self.ledger.steps.cpu, dtype=torch.float64)))

    def finish(self) -> None:
        """Measure the trained student and write its record."""
        with Stopwatch() as watch:
            found = self._evaluate()
        self.ledger.other_seconds += watch.wall
        weights, cpu_seconds = self.student.weights(), self._cpu_seconds()
        self.record = self.world.first_does(lambda: self._finished(found, weights, cpu_seconds))

    def _finished(self, found: Evaluation, weights: dict[str, Tensor], cpu_seconds: float) -> RunRecord:
        record = self._record(found, cpu_seconds)
        settings = {
            "model": self.student.model.settings(),
            "spec": self.spec.to_json(),
            "id": self.spec.id,
            "tokenizer_hash": self.data.tokenizer_hash,
            "record": record.to_json(),
        }
        self.folder.finish(record, weights, settings)
        checkpoint.prune(self.folder.checkpoints, set(self.spec.branch_steps))
        return record

    def _diverge(self) -> None:
        """The step before the loss stopped being finite is kept; the record says which one failed."""
        self.save()
        cpu_seconds = self._cpu_seconds()

        def close() -> RunRecord:
            record = self._record(None, cpu_seconds)
            self.folder.close(record)
            return record

        self.record = self.world.first_does(close)

    def _evaluate(self) -> Evaluation:
        return evaluate_model(
            self.student.model,
            self.data,
            context=self.spec.context,
            max_tokens=self.spec.eval_tokens,
            teacher=None if self.lesson is None else self.lesson.teacher,
            precision=self.student.precision,
            world=self.world,
        )

    def _record(self, found: Evaluation | None, cpu_seconds: float) -> RunRecord:
        made = record_of(self.spec, self.data, self.student, self.ledger, self.lesson, self.last, found, self.study)
        return replace(made, cpu_seconds=cpu_seconds, sharing=self.sharing)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
