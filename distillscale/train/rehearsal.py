"""What a run would take, from a few of its own steps timed on this machine; it writes nothing and trains nothing."""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import resource
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..cost import TRAINING_PASSES
from ..spec import RunSpec
from .evaluate import evaluate_model
from .machine import matmul_peak, pick_device, pick_precision, synchronise
from .student import Micro, Student, build
from .teaching import Lesson, lesson_of, stream_of

if TYPE_CHECKING:
    from .cache import TargetCache
    from .data import Stream, TokenData
    from .hf import Teacher

__all__ = ["Rehearsal", "rehearse"]

_SECONDS = 1.5
"""Spent on timed steps, after one to warm up."""
_MOMENTS_AND_WEIGHTS = 12
"""Bytes of a checkpoint for each parameter: a float32 weight and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """A run before it is run; seconds are for this machine as busy as it is now."""

    id: str
    kind: str
    params: int
    total_params: int
    teacher_params: int | None
    tokens: int
    steps: int
    unique_tokens: int
    epochs: float
    flops: float
    flops_student: float
    flops_teacher: float
    tokens_per_second: float
    """Measured."""
    seconds: float
    """Steps and the evaluation after them, at the measured rates."""
    mfu: float
    peak_flops: float
    memory_bytes: int
    """Peak of this process with model, optimiser, teacher and one batch in it: measured."""
    disk_bytes: int
    """Two checkpoints, as while one replaces the other, each branch point and the trained weights."""
    precision: str
    device: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the field's names."""
        return asdict(self)


def rehearse(
    spec: RunSpec, *, data: TokenData, teacher: Teacher | None = None, cache: TargetCache | None = None
) -> Rehearsal:
    """Build the run's model, make some of its steps in memory, and reckon."""
    device = pick_device()
    lesson = lesson_of(spec, data, teacher, cache)
    stream = stream_of(spec, data)
    student = Student(spec, build(spec, data.vocab, device), pick_precision(spec.precision, device))
    per_step = _time_steps(student, stream, lesson)
    arch, tokens = student.model.arch, spec.steps * spec.batch_tokens
    flops_student = TRAINING_PASSES * arch.forward_flops_per_token * tokens
    flops_teacher = 0.0 if lesson is None else lesson.flops_per_token * tokens
    peak, threads = matmul_peak(device, student.precision, torch.get_num_threads()), torch.get_num_threads()
    training = per_step * spec.steps
    per_param = 2 * _MOMENTS_AND_WEIGHTS + 4 + _MOMENTS_AND_WEIGHTS * len(spec.branch_steps)
    return Rehearsal(
        id=spec.id,
        kind=spec.kind,
        params=arch.params,
        total_params=arch.total_params,
        teacher_params=None if teacher is None else teacher.params,
        tokens=tokens,
        steps=spec.steps,
        unique_tokens=stream.unique_tokens_at(spec.steps, spec.sequences),
        epochs=stream.epochs_at(spec.steps, spec.sequences),
        flops=flops_student,
        flops_student=flops_student,
        flops_teacher=flops_teacher,
        tokens_per_second=spec.batch_tokens / per_step,
        seconds=training + _evaluation_seconds(student, data, lesson),
        mfu=(flops_student + flops_teacher) / training / peak,
        peak_flops=peak,
        memory_bytes=_peak_memory(device),
        disk_bytes=per_param * arch.total_params,
        precision=student.precision,
        device=str(device),
        threads=threads,
    )


def _time_steps(student: Student, stream: Stream, lesson: Lesson | None) -> float:
    spec, times = student.spec, list[float]()
    begun = time.perf_counter()
    for step in range(1000):
        once = time.perf_counter()
        batch = stream.batch(step, spec.sequences)
        for first in range(0, spec.sequences, spec.micro_sequences):
            rows = slice(first, first + spec.micro_sequences)
            tokens_BT = torch.from_numpy(batch.tokens_BT[rows]).to(student.device)
            labels_N = torch.from_numpy(batch.labels_BT[rows]).to(student.device).flatten()
            targets = None if lesson is None else lesson.targets(tokens_BT, batch.sample_ids_B[rows])
            student.accumulate(Micro(tokens_BT, labels_N), targets)
        student.update()
        student.step = 0  # the first step of the warm-up again, whatever the length of the run
        synchronise(student.device)
        times.append(time.perf_counter() - once)
        if step and time.perf_counter() - begun > _SECONDS:
            break
    return sorted(times[1:])[len(times[1:]) // 2]


def _evaluation_seconds(student: Student, data: TokenData, lesson: Lesson | None) -> float:
    spec = student.spec
    windows = len(data.windows("val", spec.context))
    some, whole = min(16, windows), max(1, min(windows, spec.eval_tokens // spec.context))
    begun = time.perf_counter()
    evaluate_model(
        student.model,
        data,
        context=spec.context,
        max_tokens=some * spec.context,
        teacher=None if lesson is None else lesson.teacher,
        precision=student.precision,
    )
    return (time.perf_counter() - begun) * whole / max(some, 1)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
