"""A process that carries out jobs given to it line by line; which jobs, when and where, is decided elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

__all__ = ["Worker"]

_REASON_BYTES: Final = 2000


class Worker:
    """One process; `select` on its `output` tells when there is something to `read`."""

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
        self._text = b""

    @property
    def output(self) -> int:
        """The file descriptor of what it says."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def begin(self, ids: Sequence[str]) -> None:
        """Hand it the job of these runs; a worker that died meanwhile is noticed by `read`."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(ids).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[tuple[int, str]] | None:
        """What it said of jobs that ended; None once it is gone."""
        found = os.read(self.output, 1 << 16)
        if not found:
            return None
        *lines, self._text = (self._text + found).split(b"\n")
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

    def terminate(self) -> None:
        """Ask it to save what it is at and to end."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def close(self) -> None:
        """Its pipes and files."""
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
