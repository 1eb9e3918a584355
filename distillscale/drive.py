"""Brings a study to its end: what is missing is placed, what failed is tried again; it keeps no state between calls.

Expected minus found, again and again, until nothing more can be done. Runs that another process has in hand are left to
it and waited for, so that two drivers of one study share its work. A run that fails is tried again from its last
checkpoint, and one of a group alone, so that the others go on without it; what it was needed for is blocked, and
everything else goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from .executor import Ended, Executor
from .exits import BUSY, FAILED, STOPPED, WRONG
from .jobs import Job, jobs_of, ready
from .store import Status, Store
from .study import Planned

__all__ = ["drive"]

_POLL_SECONDS = 0.5
_FRUITLESS = 10
"""Times that a run may be stopped from outside before it has taken a step, as by a time limit that is too short."""


def drive(
    runs: Sequence[Planned],
    store: Store,
    executor: Executor,
    *,
    retries: int = 2,
    tell: Callable[[], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Status:
    """Work until every run is done, failed for good or blocked, or until `stop`; the status it ends with.

    A run gets 1 + `retries` attempts from this call, however often it failed before. `tell` is called twice a second.
    """
    driver = _Driver(runs, store, executor, retries)
    while driver.work_left():
        if stop is not None and stop():
            executor.cancel()
            break
        driver.place()
        for ended in executor.poll(_POLL_SECONDS):
            driver.note(ended)
        if tell is not None:
            tell()
    return store.status(runs)


class _Driver:
    """What is in flight, and what was given up in this call."""

    def __init__(self, runs: Sequence[Planned], store: Store, executor: Executor, retries: int) -> None:
        self._runs, self._store, self._executor, self._retries = runs, store, executor, retries
        needed = {run.id for run in store.needed(runs)}
        # A trunk that nobody waits for counts as done, and is no reason to wait.
        self._done = {run.id for run in runs if run.id not in needed}
        self._left = [job for job in jobs_of(runs) if not set(job.ids) <= self._done]
        self._flying: set[str] = set()
        self._failures: Counter[str] = Counter()
        self._steps: dict[str, int] = {}
        self._fruitless: Counter[str] = Counter()
        self._lost: set[str] = set()
        self._look()
        for job in executor.pick_up(self._left):
            self._flying |= set(job.ids)

    def _look(self) -> None:
        """Which runs are done or lost by now, whoever brought that about."""
        for run in self._runs:
            if run.id in self._done or run.id in self._lost:
                continue
            if self._store.done(run.id):
                self._done.add(run.id)
            elif self._store.record(run.id) is not None or any(other in self._lost for other in run.needs):
                self._lost.add(run.id)
        over = self._done | self._lost
        self._left = [job for job in self._left if not set(job.ids) <= over]

    def work_left(self) -> bool:
        """Whether anything is in flight or may still be done."""
        self._look()
        return bool(self._flying) or bool(self._left)

    def place(self) -> None:
        """Start what may begin, as far as there is room."""
        for job in ready(self._left, self._done):
            if self._executor.free < 1:
                return
            mine = [id_ for id_ in job.ids if id_ not in self._done and id_ not in self._lost]
            if self._flying & set(job.ids) or any(self._store.running(id_) for id_ in mine):
                continue
            self._flying |= set(job.ids)
            self._steps |= {id_: self._store.steps(id_) for id_ in mine}
            self._executor.submit(job)

    def note(self, ended: Ended) -> None:
        """What a job's end means for its runs."""
        job, code, reason = ended
        self._flying -= set(job.ids)
        if code == STOPPED and self._got_nowhere(job):
            reason = f"it was stopped {_FRUITLESS} times before it took a step: {reason}"
        elif code in (0, BUSY, FAILED, STOPPED):
            return  # done, another's, diverged (its record says so), or stopped from outside and to be done again
        unfinished = [id_ for id_ in job.ids if self._store.record(id_) is None]
        for id_ in unfinished:
            self._store.add_failure(id_, reason)
            self._failures[id_] += 1
            final = code == STOPPED or (code == WRONG and len(job.ids) == 1)
            if final or self._failures[id_] > self._retries:
                self._lost.add(id_)
        if len(job.ids) > 1 and job in self._left:
            self._left.remove(job)
            self._left += [one for one in job.alone() if one.ids[0] in unfinished]

    def _got_nowhere(self, job: Job) -> bool:
        """Whether a job that was stopped has been so too often without a step between."""
        for id_ in job.ids:
            moved = self._store.steps(id_) != self._steps.get(id_, 0)
            self._fruitless[id_] = 0 if moved else self._fruitless[id_] + 1
        return all(self._fruitless[id_] >= _FRUITLESS for id_ in job.ids)
