"""Jobs in a SLURM queue, by way of submitit; what a queue's states mean for a job, and nothing of what a job does.

What is submitted is the job's plain command: submitit's process turns into it (`execvp`), so signals and the exit code
are the job's own. Its answer is a small JSON file beside the runs; a job that is neither in the queue nor has answered
is lost. Jobs outlive their driver: the queue itself, asked by a name that the folder of the runs determines, says
which jobs of this study it holds, in their comments, and a later driver goes on with those. `sacct` is never asked, so
no accounting is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from .errors import InputError
from .executor import Ended, JobCommand, require, settings
from .exits import STOPPED
from .jobs import Job

__all__ = ["MOST", "SETTINGS", "SlurmExecutor"]

SETTINGS: Final = (
    "account", "constraint", "cpus_per_gpu", "cpus_per_task", "exclude", "exclusive", "gpus_per_node", "gpus_per_task",
    "gres", "mail_type", "mail_user", "mem", "mem_per_cpu", "mem_per_gpu", "nodelist", "partition", "qos",
    "signal_delay_s", "time", "wckey",
)  # fmt: skip
"""Those of submitit's settings that are not this module's own business; `time` is in minutes, or as sbatch takes it."""
MOST: Final = 64
"""Jobs in the queue at once, waiting or running, unless told otherwise."""
_FOLDER: Final = ".slurm"
_ASK_SECONDS: Final = 15.0
_DOUBT_SECONDS: Final = 4.0
_REFUSED_SECONDS: Final = 30.0
_SILENT_SECONDS: Final = 1800.0
_PATIENCE_SECONDS: Final = 120.0
_OUTSIDE: Final = frozenset({"CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED"})
"""Ends that say nothing about the job itself."""


class _Placed(NamedTuple):
    """A job, the number that SLURM gave it, and when it was first missed in the queue."""

    job: Job
    number: str
    missed: float | None = None


class SlurmExecutor:
    """At most `most` jobs in the queue, each with the settings of `given`."""

    def __init__(
        self, command: JobCommand, most: int | None, given: Mapping[str, str], *, ask_seconds: float = _ASK_SECONDS
    ) -> None:
        require("submitit", "slurm")
        chosen: dict[str, Any] = {name: _value(text) for name, text in settings(given, SETTINGS, "slurm").items()}
        for program in ("sbatch", "squeue", "scancel", "srun"):
            if shutil.which(program) is None:
                raise InputError(f"--executor slurm needs SLURM's {program}, which is not on the PATH of this machine")
        self._command, self._most, self._ask_seconds = command, most or MOST, ask_seconds
        self._folder = command.root.resolve() / _FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._name = f"distillscale-{blake2b(str(command.root.resolve()).encode(), digest_size=6).hexdigest()}"
        submitit: Any = import_module("submitit")
        self._failed: type[Exception] = submitit.core.utils.FailedJobError
        self._sbatch: Any = submitit.SlurmExecutor(folder=self._folder / "%j")
        # No `time` is the partition's default, no `wckey` the site's.
        asked = {"time": None, "wckey": None, "cpus_per_task": command.threads, "job_name": self._name}
        self._sbatch.update_parameters(**asked | chosen)
        self._flying: dict[str, _Placed] = {}
        self._asked = self._heard = time.monotonic()
        self._refused: float | None = None

    @property
    def free(self) -> int:
        """None for a while after the queue refused a job, as one does whose user has enough of them in it."""
        if self._refused is not None and time.monotonic() - self._refused < _REFUSED_SECONDS:
            return 0
        return self._most - len(self._flying)

    def submit(self, job: Job) -> None:
        token = uuid4().hex[:12]
        command = [sys.executable, *self._command.arguments(*job.ids, answer=self._answer(token))]
        variables = [f"{name}={value}" for name, value in self._command.env.items()]
        self._sbatch.update_parameters(comment=" ".join((token, *job.ids)))
        try:
            placed = self._sbatch.submit(os.execvp, "env", ["env", *variables, *command])
        except (self._failed, subprocess.SubprocessError, OSError) as error:
            self._refuse(job, _last_line(str(error)))
            return
        self._refused = None
        self._flying[token] = _Placed(job, str(placed.job_id))
        for link in self._folder.glob(".submission_file_*"):  # to the script, which lies with the job's notes
            if link.is_symlink():
                link.unlink(missing_ok=True)

    def _refuse(self, job: Job, why: str) -> None:
        if not self._flying and self._refused is None:
            raise InputError(f"SLURM takes no job: {why}; check --engine, for example partition, account and time")
        # The next poll gives it back, and `free` lets time pass before it is placed again.
        self._refused = time.monotonic()
        self._flying[f"refused {uuid4().hex}"] = _Placed(job, "", time.monotonic())

    def _answer(self, token: str) -> Path:
        return self._folder / f"{token}.json"

    def poll(self, seconds: float) -> list[Ended]:
        limit = time.monotonic() + seconds
        while True:
            ended = [*self._refusals(), *self._answered(), *self._lost()]
            if ended or time.monotonic() >= limit:
                return ended
            time.sleep(min(0.1, seconds))

    def _refusals(self) -> list[Ended]:
        found = [token for token, placed in self._flying.items() if not placed.number]
        return [Ended(self._flying.pop(token).job, STOPPED, "the queue did not take it") for token in found]

    def _answered(self) -> list[Ended]:
        """Jobs that said how they ended; listing the folder makes a network's file system look anew."""
        there = set(os.listdir(self._folder))
        ended: list[Ended] = []
        for token in [token for token in self._flying if f"{token}.json" in there]:
            with suppress(OSError, ValueError, KeyError, TypeError):
                found = json.loads(self._answer(token).read_bytes())
                placed = self._flying[token]
                ended.append(Ended(placed.job, int(found["code"]), str(found["reason"])))
                del self._flying[token]
                self._answer(token).unlink(missing_ok=True)
                if ended[-1].code == 0:  # the notes of others stay, for whoever asks why
                    shutil.rmtree(self._folder / placed.number, ignore_errors=True)
        return ended

    def _lost(self) -> list[Ended]:
        """Jobs that left the queue without an answer, some seconds after that was first seen."""
        doubt = any(placed.missed is not None for placed in self._flying.values())
        if not self._flying or time.monotonic() - self._asked < (_DOUBT_SECONDS if doubt else self._ask_seconds):
            return []
        queue = self._queue()
        self._asked = time.monotonic()
        if queue is None:
            if self._asked - self._heard > _SILENT_SECONDS:
                raise InputError(
                    f"squeue has failed for {_SILENT_SECONDS / 60:.0f} minutes; jobs in the queue go on, and the same "
                    "command goes on with them"
                )
            return []
        self._heard = self._asked
        ended: list[Ended] = []
        for token, placed in list(self._flying.items()):
            if token in queue:
                self._flying[token] = placed._replace(missed=None)
            elif placed.missed is None:
                self._flying[token] = placed._replace(missed=self._asked)
            else:
                ended += self._answered()
                if token in self._flying:
                    del self._flying[token]
                    ended.append(Ended(placed.job, *self._fate(placed.number)))
        return ended

    def _queue(self) -> dict[str, tuple[str, tuple[str, ...]]] | None:
        """Token → number and run ids of the jobs of these runs that wait or run; None where SLURM does not answer."""
        asked = ["squeue", "--noheader", f"--user={os.getuid()}", f"--name={self._name}", "--format=%i|%k"]
        answer = _output(asked)
        if answer is None:
            return None
        found: dict[str, tuple[str, tuple[str, ...]]] = {}
        for line in answer.splitlines():
            number, _, comment = line.strip().partition("|")
            token, *ids = comment.split() or [""]
            if ids:
                found[token] = number, tuple(ids)
        return found

    def _fate(self, number: str) -> tuple[int, str]:
        """Exit code and reason of a job that is gone without an answer, as far as SLURM remembers it."""
        shown = _output(["scontrol", "show", "job", number, "--oneliner"]) or ""
        state = re.search(r"\bJobState=(\w+)", shown)
        name = state[1] if state else "UNKNOWN"
        said = ""
        for path in sorted((self._folder / number).glob("*_log.err")):
            with suppress(OSError):
                said = _last_line(path.read_text(encoding="utf-8", errors="replace")) or said
        reason = f"SLURM job {number} ended as {name} without an answer" + (f": {said}" if said else "")
        return (STOPPED if name in _OUTSIDE else 1), reason

    def cancel(self) -> None:
        """Waiting jobs are taken out, running ones save within the cluster's KillWait."""
        numbers = [placed.number for placed in self._flying.values() if placed.number]
        if numbers:
            _output(["scancel", *numbers])
        limit = time.monotonic() + _PATIENCE_SECONDS
        while numbers and time.monotonic() < limit:
            queue = self._queue()
            if queue is not None and not {number for number, _ in queue.values()} & set(numbers):
                break
            time.sleep(0.5)
        self._answered()
        self._flying.clear()

    def pick_up(self, jobs: Sequence[Job]) -> list[Job]:
        known = {job.ids: job for job in jobs}
        queue = self._queue()
        if queue is None:
            raise InputError(
                "squeue fails, so nothing can be placed; check that SLURM runs and that SLURM_CONF is right"
            )
        found: list[Job] = []
        for token, (number, ids) in queue.items():
            job = known.get(ids) or Job(ids=ids, after=frozenset(), weight=0.0)
            self._flying[token] = _Placed(job, number)
            found.append(job)
        return found

    def __enter__(self) -> SlurmExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Ctrl-C empties the queue; after any other error the jobs go on, and the same command with them."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            _output(["scancel", *(placed.number for placed in self._flying.values() if placed.number)])


def _value(text: str) -> int | str | bool:
    if text.lower() == "true":
        return True
    return int(text) if re.fullmatch(r"\d+", text) else text


def _output(command: Sequence[str]) -> str | None:
    """What it printed; None where it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
