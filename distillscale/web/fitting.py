"""Fits of uploaded run tables, each in a process of its own that ends when it must; what a fit is, it does not know.

A fit takes seconds of a core, so it never runs in the server: a worker reads the table from stdin and writes one JSON
object to stdout. It is killed after a time limit, and when whoever asked has gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

__all__ = ["MOST_BYTES", "MOST_ROWS", "SECONDS", "Busy", "Fits", "Gone", "TooLong"]

MOST_BYTES, MOST_ROWS = 8_000_000, 20_000
SECONDS = 120.0
_MOST_ANSWER = 32_000_000


class Busy(Exception):
    """As many fits run as may; ask again in a while."""


class TooLong(Exception):
    """The fit did not end within its time."""


class Gone(Exception):
    """Whoever asked has left."""


class Fits:
    """At most so many fits at once."""

    def __init__(self, most: int = 2, seconds: float = SECONDS) -> None:
        self.most, self.seconds = most, seconds
        self.running: set[int] = set()
        """Process ids."""
        self._places = most

    async def run(self, options: dict[str, Any], table: bytes, gone: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        """The worker's answer; `gone` returns when the one who asked has left."""
        if not self._places:
            raise Busy
        self._places -= 1
        try:
            return await self._run(json.dumps(options).encode() + b"\n" + table, gone)
        finally:
            self._places += 1

    async def _run(self, question: bytes, gone: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "distillscale.web.worker",
            str(int(self.seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, **threads},
            limit=_MOST_ANSWER,
        )
        self.running.add(worker.pid)
        talk = asyncio.create_task(worker.communicate(question))
        left = asyncio.ensure_future(gone())
        try:
            done, _ = await asyncio.wait({talk, left}, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if talk in done:
                return _parsed((await talk)[0])
            raise Gone if left in done else TooLong
        finally:  # also where this very task is cancelled
            with suppress(ProcessLookupError):
                worker.kill()
            for task in (talk, left):
                task.cancel()
            await asyncio.gather(talk, left, return_exceptions=True)
            await worker.wait()
            self.running.discard(worker.pid)


def _parsed(answer: bytes) -> dict[str, Any]:
    try:
        return json.loads(answer)
    except ValueError:  # it ran out of memory or of processor time
        return {"error": "the fit ran out of memory or time; give fewer rows or resamples"}
