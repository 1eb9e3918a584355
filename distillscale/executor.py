"""Executors place jobs and say how they ended; what is done, failed or next is the store's and the driver's to know.

`submit` starts a job, `poll` waits for some to end, `cancel` stops them politely, `pick_up` finds those that an engine
still holds for a driver that is gone. A job is the same command everywhere: `python -m distillscale study job
STUDY.toml ID…`, alone in a process of an engine (ray_executor, slurm_executor), or here one after the other in a worker
that reads ids from its standard input, so that torch is loaded once a worker instead of once a job. A worker whose
input ends (its parent is gone, however) saves what it is at and ends too.
"""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from .errors import InputError
from .jobs import Job
from .worker import Worker

__all__ = ["Ended", "Executor", "JobCommand", "LocalExecutor", "require", "settings"]

_PATIENCE_SECONDS: Final = 120.0
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCommand:
    """What carries out the jobs of a study; the interpreter before it is that of the machine where it runs."""

    study: Path
    root: Path
    threads: int
    save_seconds: float

    def arguments(self, *ids: str, answer: Path | None = None) -> list[str]:
        """After the interpreter: for one job, or with "-" for those of each line of standard input."""
        places = [str(path.resolve()) for path in (self.study, self.root)]
        settings = ["--runs", places[1], "--threads", str(self.threads), "--save-seconds", str(self.save_seconds)]
        end = [] if answer is None else ["--answer", str(answer.resolve())]
        return ["-m", "distillscale", "study", "job", places[0], *ids, *settings, *end]

    @property
    def env(self) -> dict[str, str]:
        """To be set beside what the environment holds already."""
        return dict.fromkeys(_THREADS, str(self.threads))


def require(package: str, executor: str) -> None:
    """One line where the engine's library is not there."""
    if find_spec(package) is None:
        raise InputError(
            f"--executor {executor} needs {package}, which is not installed; run pip install 'distillscale[{executor}]'"
        )


def settings(given: Mapping[str, str], known: Sequence[str], executor: str) -> dict[str, str]:
    """The engine's own settings; an unknown one is named with the nearest."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise InputError(f"--engine {name!r} is no setting of --executor {executor}; {hint}{there}")
    return dict(given)


class Ended(NamedTuple):
    """A job that ended, with its exit code and, where that is not 0, one line that says why."""

    job: Job
    code: int
    reason: str


class Executor(Protocol):
    """What the driver needs of an engine."""

    @property
    def free(self) -> int:
        """Jobs that it would start at once."""
        ...

    def submit(self, job: Job) -> None:
        """Start the job."""
        ...

    def poll(self, seconds: float) -> list[Ended]:
        """Jobs that ended since, waiting at most so long for the first."""
        ...

    def cancel(self) -> None:
        """Ask every job to save and end, and wait until they have."""
        ...

    def pick_up(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs that the engine still holds from an earlier driver, now this one's; those of `jobs` where they match."""
        ...


class LocalExecutor:
    """Worker processes on this machine; `command` is a worker's, which reads the ids of one job a line."""

    def __init__(self, command: Sequence[str], workers: int, env: Mapping[str, str]) -> None:
        self._command, self._most, self._env = list(command), workers, env
        self._workers: list[Worker] = []
        self._jobs: dict[Worker, Job] = {}

    @property
    def free(self) -> int:
        return self._most - len(self._jobs)

    @property
    def pids(self) -> list[int]:
        """Of the workers, busy or not."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, job: Job) -> None:
        idle = next((worker for worker in self._workers if worker not in self._jobs), None)
        if idle is None:
            idle = Worker(self._command, self._env)
            self._workers.append(idle)
        self._jobs[idle] = job
        idle.begin(job.ids)

    def poll(self, seconds: float) -> list[Ended]:
        if not self._workers:
            time.sleep(seconds)
            return []
        readable, _, _ = select.select([worker.output for worker in self._workers], [], [], seconds)
        ended: list[Ended] = []
        for worker in [worker for worker in self._workers if worker.output in readable]:
            said = worker.read()
            if said is None:
                self._workers.remove(worker)
                said = [worker.ending()]
                worker.close()
            for code, reason in said:
                if worker in self._jobs:
                    ended.append(Ended(self._jobs.pop(worker), code, reason))
        return ended

    def cancel(self) -> None:
        for worker in self._workers:
            worker.terminate()
        limit = time.monotonic() + _PATIENCE_SECONDS
        while self._workers and time.monotonic() < limit:
            self.poll(0.2)
        self._kill()

    def pick_up(self, jobs: Sequence[Job]) -> list[Job]:
        """None: workers end with their driver."""
        del jobs
        return []

    def _kill(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait()
            worker.close()
        self._workers.clear()
        self._jobs.clear()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Idle workers go by themselves once their input ends; one that still works is asked to, unless in a hurry."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._kill()
        elif self._jobs:
            self.cancel()
        for worker in self._workers:
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(10)
        self._kill()
