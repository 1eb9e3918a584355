"""What one training run cost and reached, and how that is kept in a file; nothing here trains or judges it.

A `RunRecord` is all that leaves training: fitting, planning and reports read records and never weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["RunRecord", "write_json"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What one run cost and reached; losses in nats per held-out token, None where there is none."""

    id: str
    kind: str
    outcome: str
    """`completed`, or `diverged` where the loss or its gradient stopped being finite."""
    params: int
    """N, non-embedding."""
    total_params: int
    tokens: int
    loss: float | None
    """The student's cross-entropy on held-out data."""
    bits_per_byte: float | None
    kl: float | None = None
    """KL(teacher ‖ student) on held-out data."""
    teacher_loss: float | None = None
    teacher_entropy: float | None = None
    teacher_params: int | None = None
    teacher_tokens: int | None = None
    teacher: str | None = None
    train_loss: float | None = None
    """The last step's loss as trained on (Eq 7)."""
    steps: int
    diverged_step: int | None = None
    unique_tokens: int
    epochs: float
    eval_tokens: int
    lr: float
    batch_tokens: int
    context: int
    vocab: int
    seed: int
    flops: float
    """The same as `flops_student`, the paper's C_S."""
    flops_student: float
    flops_teacher: float
    """Teacher forward passes over the student's tokens, divided among the students that shared them."""
    wall_seconds: float
    """Of training steps; evaluation and checkpoints are in `other_seconds`."""
    cpu_seconds: float
    """Of training steps, summed over threads and processes."""
    other_seconds: float
    mfu: float | None
    """(flops_student + flops_teacher) / wall_seconds / (processes · peak_flops)."""
    peak_flops: float | None
    """Measured FLOP/s of a large matrix product in one process, with the same threads and precision."""
    precision: str
    device: str
    threads: int
    """Of each process."""
    processes: int = 1
    """That trained together, in the last session."""
    sessions: int
    """Times that the run was started; more than one means that it was resumed."""
    branched_at: int | None = None
    """Tokens already trained by the trunk that the run began from."""
    sharing: int = 1
    """Runs of the loop that this one ended in; the teacher looked at each batch once for all of them."""
    data_hash: str
    tokenizer_hash: str
    teacher_hash: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    study: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the field's names."""
        return asdict(self)

    def write(self, path: Path) -> None:
        """The whole record, or none: readers never see half of it."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """A record that `write` wrote; keys of later versions are ignored."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"record {str(path)!r} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise InputError(f"record {str(path)!r} is not JSON: {error}; delete it to run again") from None
        names = [f.name for f in fields(cls)]
        try:
            return cls(**{name: values[name] for name in names if name in values})
        except TypeError as error:
            raise InputError(f"record {str(path)!r} is not a run's record: {error}") from None


def write_json(path: Path, value: Any) -> None:
    """Strict JSON, atomically and durably: a draft beside the file, flushed to disk, then renamed onto it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
