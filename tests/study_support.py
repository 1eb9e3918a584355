"""What the tests of studies share: a small study file, and a law in place of a trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillscale.executor import Ended
from distillscale.jobs import Job
from distillscale.record import RunRecord
from distillscale.store import Store
from distillscale.study import Planned, Study, planned
from distillscale.studyfile import read_study

__all__ = ["STUDY", "LawExecutor", "planned_record", "read", "timeless", "write"]

STUDY = """
question = "Does the larger teacher help the small student more?"
prediction = "yes, by 0.05 nats"
seeds = [0, 1]

[data]
path = "data"
vocab = 64

[run]
layers = 1
context = 16
batch_tokens = 64
lr = 0.02
base_width = 32
schedule = "wsd"
warmup_tokens = 256
eval_tokens = 512
precision = "fp32"

[savings]
branching = true
share_teacher = true

[[size]]
name = "d16"
d_model = 16

[[size]]
name = "d32"
d_model = 32

[[protocol]]
kind = "supervised"
sizes = ["d16", "d32"]
tokens = [1280, 2560]

[[protocol]]
kind = "fixed-ratio"
teachers = ["d32"]
teacher_tokens = 2560
students = ["d16"]
tokens = [1280, 2560]
seeds = 0
lam = [0.5, 1.0]
"""


def write(home: Path, *changes: tuple[str, str], text: str = STUDY, name: str = "study.toml") -> Path:
    """The study file in `home`, with each first text replaced by the second."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = home / name
    path.write_text(text, encoding="utf-8")
    return path


def read(home: Path, *changes: tuple[str, str], text: str = STUDY) -> tuple[Study, tuple[Planned, ...]]:
    """The study and its runs."""
    study = read_study(write(home, *changes, text=text))
    return study, planned(study)


def planned_record(run: Planned, store: Store, **changes: Any) -> RunRecord:
    """A record as a trainer would leave it, its loss by a law without noise."""
    spec, arch = run.spec, run.spec.arch(64)
    tokens = spec.steps * spec.batch_tokens
    loss = 1.0 + (200 / arch.params**0.5 + 100 / tokens**0.5) ** 0.9
    teacher = None if run.teacher is None else store.record(run.teacher)
    record = RunRecord(
        id=run.id, kind=spec.kind, outcome="completed", params=arch.params, total_params=arch.total_params,
        tokens=tokens, loss=loss, bits_per_byte=loss / math.log(2), teacher=spec.teacher,
        teacher_loss=None if teacher is None else teacher.loss, steps=spec.steps, unique_tokens=tokens, epochs=1.0,
        eval_tokens=512, lr=spec.lr, batch_tokens=spec.batch_tokens, context=spec.context, vocab=64, seed=spec.seed,
        flops=run.flops, flops_student=run.flops, flops_teacher=run.flops_teacher, wall_seconds=1.0, cpu_seconds=1.0,
        other_seconds=0.0, mfu=None, peak_flops=None, precision="fp32", device="cpu", threads=1, sessions=1,
        data_hash="d", tokenizer_hash="t", study="study", spec=spec.to_json(),
    )  # fmt: skip
    return replace(record, **changes)


class LawExecutor:
    """Ends every job at the next poll, by the law, or as `ends` says of one of its runs."""

    def __init__(
        self, runs: tuple[Planned, ...], store: Store, slots: int = 2, ends: Mapping[str, list[int]] | None = None
    ) -> None:
        self.runs, self.store, self.slots = {run.id: run for run in runs}, store, slots
        self.ends = {id_: list(codes) for id_, codes in (ends or {}).items()}
        self.placed: list[Job] = []
        self.flying: list[Job] = []
        self.most = 0
        self.held: list[tuple[str, ...]] = []

    @property
    def free(self) -> int:
        return self.slots - len(self.flying)

    def submit(self, job: Job) -> None:
        assert self.free > 0
        assert all(self.store.done(other) for id_ in job.ids for other in self.runs[id_].needs)
        self.placed.append(job)
        self.flying.append(job)
        self.most = max(self.most, len(self.flying))

    def poll(self, seconds: float) -> list[Ended]:
        del seconds
        return [self._end(self.flying.pop(0))] if self.flying else []

    def _end(self, job: Job) -> Ended:
        for id_ in job.ids:
            code = self.ends[id_].pop(0) if self.ends.get(id_) else 0
            changes = {"outcome": "diverged", "loss": None, "diverged_step": 3} if code == 4 else {}
            if code not in (0, 4):
                return Ended(job, code, f"ended with {code}")
            home = self.store.folder(id_)
            home.mkdir(parents=True, exist_ok=True)
            planned_record(self.runs[id_], self.store, **changes).write(home / "record.json")
        return Ended(job, 0, "")

    def cancel(self) -> None:
        self.flying.clear()

    def pick_up(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of `held`, as if another driver had placed them."""
        found = [
            next((job for job in jobs if set(job.ids) & set(ids)), Job(ids=ids, after=frozenset(), weight=0.0))
            for ids in self.held
        ]
        self.flying += found
        return found


# Columns that say how a run was carried out; every other one is what came out.
_HOW = (
    "wall_seconds",
    "cpu_seconds",
    "other_seconds",
    "mfu",
    "sessions",
    "sharing",
    "branched_at",
    "curve",
    "flops_teacher",
)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A run table without what took how long, its rows by id."""
    return sorted(({k: v for k, v in row.items() if k not in _HOW} for row in rows), key=lambda row: str(row["id"]))
