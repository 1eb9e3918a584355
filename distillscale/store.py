"""A study's runs as folders on disk: what is done, under way, failed or missing, and why; it trains and places nothing.

    runs/<study>/<id>/spec.json  metrics.jsonl  checkpoint/  model/     see train/folder.py
                      record.json                                       its existence means done
                      failure.json                                      attempts that ended otherwise, and why
                      .job                                              held while a process carries the run out

Everything that anybody knows about the state of a study is here, so that any number of processes, engines and shells
may look at it or work on it at once; nothing is kept anywhere else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from .claim import held
from .record import RunRecord, write_json
from .study import Planned

__all__ = ["JOB", "Failure", "State", "Status", "Store"]

JOB = ".job"
"""Name of the claim that is held from the start of a job's process; the run's own is taken once its model is built."""
_TAIL_BYTES = 4096


class State(StrEnum):
    """Of one run."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Failure:
    """Attempts at a run that did not end in a record, the last with its reason."""

    attempts: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A study at one moment; runs = done + running + failed + missing."""

    states: Mapping[str, State]
    reasons: Mapping[str, str]
    """Why runs failed, and why others wait for ever."""
    blocked: tuple[str, ...]
    """Missing runs whose teacher or trunk failed."""
    flops_done: float
    flops_total: float
    flops_running: float
    """Of the steps that unfinished runs have logged."""

    def count(self, state: State) -> int:
        """Runs in this state."""
        return sum(found is state for found in self.states.values())

    def to_json(self) -> dict[str, Any]:
        """The counts, and what stands in the way."""
        return {
            "runs": len(self.states),
            **{state.value: self.count(state) for state in State},
            "blocked": len(self.blocked),
            "flops_done": self.flops_done,
            "flops_total": self.flops_total,
            "flops_running": self.flops_running,
            "reasons": dict(self.reasons),
        }


class Store:
    """The folder of a study's runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._records: dict[str, RunRecord] = {}  # a record never changes once it is there

    def folder(self, id_: str) -> Path:
        """Where a run lies."""
        return self.root / id_

    def record(self, id_: str) -> RunRecord | None:
        """The record of a run that ended, also of one that diverged."""
        if id_ not in self._records:
            path = self.folder(id_) / "record.json"
            if not path.exists():
                return None
            self._records[id_] = RunRecord.read(path)
        return self._records[id_]

    def done(self, id_: str) -> bool:
        """Whether the run has a result."""
        record = self.record(id_)
        return record is not None and record.outcome == "completed"

    def running(self, id_: str) -> bool:
        """Whether a living process has the run in hand."""
        return held(self.folder(id_), JOB) or held(self.folder(id_))

    def failure(self, id_: str) -> Failure | None:
        """What went wrong so far; a run that went on to its end has none."""
        record = self.record(id_)
        if record is not None:
            where = f"the loss was no longer a number at step {record.diverged_step}"
            return None if record.outcome == "completed" else Failure(record.sessions, where)
        try:
            found = json.loads((self.folder(id_) / "failure.json").read_text(encoding="utf-8"))
            attempts = cast("list[dict[str, Any]]", found["attempts"])
            return Failure(len(attempts), str(attempts[-1]["reason"]))
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None

    def add_failure(self, id_: str, reason: str) -> None:
        """One more attempt that failed, kept beside the run."""
        path = self.folder(id_) / "failure.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            attempts = list(json.loads(path.read_text(encoding="utf-8"))["attempts"])
        except (OSError, ValueError, KeyError, TypeError):
            attempts = []
        write_json(path, {"attempts": [*attempts, {"reason": reason, "time": round(time.time())}]})

    def steps(self, id_: str) -> int:
        """Steps that the run has logged, read from the end of its metrics; 0 where there are none."""
        try:
            with open(self.folder(id_) / "metrics.jsonl", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read().split(b"\n")[:-1]
            return int(json.loads(lines[-1])["step"]) if lines else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def needed(self, runs: Sequence[Planned]) -> list[Planned]:
        """The runs without those trunks whose every decay is done already."""
        waiting = {run.trunk for run in runs if run.trunk is not None and self.record(run.id) is None}
        return [run for run in runs if not run.is_trunk or run.id in waiting]

    def status(self, runs: Sequence[Planned]) -> Status:
        """Every run's state, by set difference: nothing but the folders is asked."""
        states: dict[str, State] = {}
        reasons: dict[str, str] = {}
        needed = {run.id for run in self.needed(runs)}
        under_way = 0.0
        for run in runs:
            if self.done(run.id):
                states[run.id] = State.DONE
            elif self.running(run.id):
                states[run.id] = State.RUNNING
            elif run.id not in needed:
                states[run.id] = State.DONE
            elif (failure := self.failure(run.id)) is not None:
                states[run.id] = State.FAILED
                reasons[run.id] = failure.reason
            else:
                states[run.id] = State.MISSING
            if states[run.id] is not State.DONE and self.record(run.id) is None:
                share = max(0.0, self.steps(run.id) - run.branch_step) / max(1, run.steps)
                under_way += min(1.0, share) * (run.flops + run.flops_teacher)
        blocked = tuple(self._blocked(runs, states, reasons))
        cost = {run.id: run.flops + run.flops_teacher for run in runs}
        return Status(
            states=states,
            reasons=reasons,
            blocked=blocked,
            flops_done=sum(cost[id_] for id_, state in states.items() if state is State.DONE),
            flops_total=sum(cost.values()),
            flops_running=under_way,
        )

    @staticmethod
    def _blocked(runs: Iterable[Planned], states: Mapping[str, State], reasons: dict[str, str]) -> Iterable[str]:
        for run in runs:  # each comes after what it needs
            if states[run.id] is State.MISSING and (cause := next((n for n in run.needs if n in reasons), None)):
                what = "teacher" if cause == run.teacher else "trunk"
                reasons[run.id] = f"its {what} {cause} failed: {reasons[cause].removeprefix('its ')}"
                yield run.id
