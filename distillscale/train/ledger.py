"""What a run has spent so far, in seconds and FLOPs, and the record made of it; nothing here trains or evaluates."""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from ..cost import TRAINING_PASSES
from ..record import RunRecord
from ..spec import RunSpec
from .machine import matmul_peak, versions
from .teaching import Lesson, stream_of

if TYPE_CHECKING:
    from .data import TokenData
    from .evaluate import Evaluation
    from .student import Moved, Student

__all__ = ["Ledger", "Stopwatch", "record_of"]


class Stopwatch:
    """Wall and CPU seconds spent inside its `with` blocks, all threads of the process counted in the latter."""

    __slots__ = ("_begun", "cpu", "wall")

    def __init__(self, wall: float = 0.0, cpu: float = 0.0) -> None:
        self.wall, self.cpu = wall, cpu
        self._begun = (0.0, 0.0)

    def __enter__(self) -> Stopwatch:
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter() - self._begun[0]
        self.cpu += time.process_time() - self._begun[1]


class Ledger:
    """Sums over all sessions of a run; a resumed run reads them from its checkpoint."""

    def __init__(
        self,
        *,
        wall_seconds: float = 0.0,
        cpu_seconds: float = 0.0,
        other_seconds: float = 0.0,
        flops_student: float = 0.0,
        flops_teacher: float = 0.0,
        sessions: int = 0,
        branched_at: int | None = None,
    ) -> None:
        self.steps = Stopwatch(wall_seconds, cpu_seconds)
        """Time in training steps; the rest is `other_seconds`."""
        self.other_seconds = other_seconds
        self.flops_student, self.flops_teacher = flops_student, flops_teacher
        self.sessions, self.branched_at = sessions, branched_at

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {
            "wall_seconds": self.steps.wall,
            "cpu_seconds": self.steps.cpu,
            "other_seconds": self.other_seconds,
            "flops_student": self.flops_student,
            "flops_teacher": self.flops_teacher,
            "sessions": self.sessions,
            "branched_at": self.branched_at,
        }

    def charge(self, tokens: int, student: float, teacher: float) -> None:
        """`tokens` trained on, at so many forward FLOPs a token of the student and of (its share of) the teacher."""
        self.flops_student += TRAINING_PASSES * student * tokens
        self.flops_teacher += teacher * tokens

    def add(self, shared: Stopwatch, students: int) -> None:
        """This run's part of what `students` runs used together."""
        self.steps.wall += shared.wall / students
        self.steps.cpu += shared.cpu / students


def record_of(
    spec: RunSpec,
    data: TokenData,
    student: Student,
    ledger: Ledger,
    lesson: Lesson | None,
    last: Moved | None,
    found: Evaluation | None,
    study: str | None,
) -> RunRecord:
    """The record of a run that ended: completed with its evaluation `found`, diverged without one."""
    teacher = None if lesson is None else lesson.teacher
    arch, steps, threads = student.model.arch, student.step, torch.get_num_threads()
    stream = stream_of(spec, data)
    peak = matmul_peak(student.device, student.precision, threads)
    processes = student.world.size
    flops, wall = ledger.flops_student + ledger.flops_teacher, ledger.steps.wall
    return RunRecord(
        id=spec.id,
        kind=spec.kind,
        outcome="diverged" if found is None else "completed",
        params=arch.params,
        total_params=arch.total_params,
        tokens=steps * spec.batch_tokens,
        loss=None if found is None else found.loss,
        bits_per_byte=None if found is None else found.bits_per_byte,
        kl=None if found is None else found.kl,
        teacher_loss=None if found is None else found.teacher_loss,
        teacher_entropy=None if found is None else found.teacher_entropy,
        teacher_params=None if teacher is None else teacher.params,
        teacher=spec.teacher,
        train_loss=None if last is None or found is None else last.loss,
        steps=steps,
        diverged_step=steps if found is None else None,
        unique_tokens=stream.unique_tokens_at(steps, spec.sequences),
        epochs=stream.epochs_at(steps, spec.sequences),
        eval_tokens=0 if found is None else found.tokens,
        lr=spec.lr,
        batch_tokens=spec.batch_tokens,
        context=spec.context,
        vocab=arch.vocab,
        seed=spec.seed,
        flops=ledger.flops_student,
        flops_student=ledger.flops_student,
        flops_teacher=ledger.flops_teacher,
        wall_seconds=wall,
        cpu_seconds=ledger.steps.cpu,
        other_seconds=ledger.other_seconds,
        mfu=flops / wall / (peak * processes) if wall else None,
        peak_flops=peak,
        precision=student.precision,
        device=str(student.device),
        threads=threads,
        processes=processes,
        sessions=ledger.sessions,
        branched_at=ledger.branched_at,
        data_hash=data.hash,
        tokenizer_hash=data.tokenizer_hash,
        teacher_hash=None if lesson is None else lesson.teacher_hash,
        versions=versions(),
        study=study,
        spec=spec.to_json(),
    )
