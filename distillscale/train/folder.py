"""The files of one run: what lies in its folder and in which order it is written; models and losses are not known here.

spec.json       written first, never edited
metrics.jsonl   one line a logged step; cut back to the checkpoint on resume
checkpoint/     the latest, and branch points still needed
model/          the trained weights
record.json     written last; its existence means done
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..record import RunRecord, write_json
from ..spec import RunSpec
from ..specfile import spec_of
from . import checkpoint

__all__ = ["Metrics", "RunFolder"]


class RunFolder:
    """One run's files; the caller holds the claim."""

    def __init__(self, path: Path) -> None:
        self.path, self.checkpoints = path, path / "checkpoint"

    @property
    def model(self) -> Path:
        """Where the trained weights are once the run is done."""
        return self.path / "model"

    def look(self, spec: RunSpec) -> RunRecord | None:
        """The record where the run is done; a folder of another run is refused."""
        written, record = self.path / "spec.json", self.path / "record.json"
        if written.exists():
            _same(spec, self.spec(), self.path)
        elif record.exists() or checkpoint.steps(self.checkpoints):
            raise InputError(f"{str(self.path)!r} holds a run without its spec.json; restore it or name another folder")
        return RunRecord.read(record) if record.exists() else None

    def begin(self, spec: RunSpec) -> None:
        """The spec, once; and nothing of what killed processes left half written."""
        checkpoint.sweep(self.checkpoints)
        if not (self.path / "spec.json").exists():
            write_json(self.path / "spec.json", spec.to_json())

    def spec(self) -> RunSpec:
        """The spec that the run was begun with."""
        return spec_of(self.path / "spec.json")

    def latest(self) -> checkpoint.Checkpoint | None:
        """The last checkpoint, verified; None where the run has none yet."""
        found = checkpoint.steps(self.checkpoints)
        return checkpoint.load(self.checkpoints, found[-1]) if found else None

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: set[int]
    ) -> None:
        """A durable checkpoint; then those before it go, but for the steps in `keep`."""
        checkpoint.save(self.checkpoints, step, tensors, state)
        checkpoint.prune(self.checkpoints, keep | {step})

    def open_metrics(self, step: int) -> Metrics:
        """The metrics, without whatever was logged after `step`."""
        return Metrics(self.path / "metrics.jsonl", step)

    def finish(self, record: RunRecord, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
        """The weights, then the record: after it the run is done."""
        draft = self.path / f".model-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        checkpoint.write_folder(draft, {"step": record.steps, "state": dict(settings)}, {"model": tensors})
        shutil.rmtree(self.model, ignore_errors=True)
        os.rename(draft, self.model)
        self.close(record)

    def close(self, record: RunRecord) -> None:
        """The record alone, for a run that has no trained weights to give."""
        record.write(self.path / "record.json")


class Metrics:
    """`metrics.jsonl`, append-only: one JSON object a line, each with its `step`."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text("".join(kept), encoding="utf-8")
        os.replace(draft, path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`

    def log(self, row: Mapping[str, Any]) -> None:
        """One line, at once in the hands of the system."""
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def flush(self) -> None:
        """Everything logged is on the disk; before a checkpoint that counts on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Every line with its end, which one that a killed process left half written lacks."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _same(spec: RunSpec, written: RunSpec, folder: Path) -> None:
    ours, theirs = spec.content(), written.content()
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"{str(folder)!r} holds another run: its {name} is {getattr(written, name)!r}, the spec's is "
                f"{getattr(spec, name)!r}; name another folder, or delete that one"
            )
