"""Executors place jobs and say how they ended; what is done, failed or next is the store's and the driver's to know.

`submit` starts a job, `poll` waits for some to end, `cancel` stops them politely. A job is the same command everywhere:
`python -m distillscale study job STUDY.toml ID…`, alone in a process of an engine, or here one after the other in a
worker that reads ids from its standard input, so that torch is loaded once a worker instead of once a job. A worker
whose input ends (its parent is gone, however) saves what it is at and ends too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from .jobs import Job

__all__ = ["BUSY", "FAILED", "STOPPED", "WRONG", "Ended", "Executor", "LocalExecutor"]

FAILED: Final = 4
"""A job whose run diverged: it has a record, and another attempt would end alike."""
WRONG: Final = 2
"""A job that something from outside does not fit: another attempt would end alike."""
BUSY: Final = 75
"""A job whose run is in another process's hands."""
STOPPED: Final = 130
_PATIENCE_SECONDS: Final = 120.0
_REASON_BYTES: Final = 2000


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


class _Worker:
    """One process and the job it has in hand."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=dict(env),
            start_new_session=True,  # Ctrl-C at the terminal is the driver's to pass on
        )
        self.job: Job | None = None
        self.text = b""

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def begin(self, job: Job) -> None:
        """Hand it the job; a worker that died meanwhile is noticed by `read`."""
        self.job = job
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(job.ids).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[tuple[int, str]] | None:
        """What it said of jobs that ended; None once it is gone."""
        found = os.read(self.output, 1 << 16)
        if not found:
            return None
        *lines, self.text = (self.text + found).split(b"\n")
        said: list[tuple[int, str]] = []
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                answer: Any = json.loads(line)
                said.append((int(answer["code"]), str(answer["reason"])))
        return said

    def ending(self) -> tuple[int, str]:
        """Exit code and reason of a worker that is gone."""
        code = self.process.wait()
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - _REASON_BYTES))
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "it said nothing"
        if code < 0:
            name = signal.Signals(-code).name
            why = " (out of memory?)" if -code == signal.SIGKILL else ""
            return 128 - code, f"its process was ended by {name}{why}"
        return code or 1, f"its process ended with code {code}: {last}"

    def close(self) -> None:
        """Its pipes and files."""
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class LocalExecutor:
    """Worker processes on this machine; `command` is a worker's, which reads the ids of one job a line."""

    def __init__(self, command: Sequence[str], workers: int, env: Mapping[str, str]) -> None:
        self._command, self._most, self._env = list(command), workers, env
        self._workers: list[_Worker] = []

    @property
    def free(self) -> int:
        return self._most - sum(worker.job is not None for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the workers, busy or not."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, job: Job) -> None:
        idle = next((worker for worker in self._workers if worker.job is None), None)
        if idle is None:
            idle = _Worker(self._command, self._env)
            self._workers.append(idle)
        idle.begin(job)

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
                if worker.job is not None:
                    ended.append(Ended(worker.job, code, reason))
                    worker.job = None
        return ended

    def cancel(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + _PATIENCE_SECONDS
        while self._workers and time.monotonic() < limit:
            self.poll(0.2)
        self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait()
            worker.close()
        self._workers.clear()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Idle workers go by themselves once their input ends; one that still works is asked to, unless in a hurry."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._kill()
        elif any(worker.job is not None for worker in self._workers):
            self.cancel()
        for worker in self._workers:
            if worker.process.stdin is not None:
                worker.process.stdin.close()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(10)
        self._kill()
