"""Which runs make a job and which job is next; pure: nothing is started here, and no state is kept.

A job is a run, or a group of runs that share their teacher's pass. It may begin when everything that its runs need is
done, and of those that may, the one goes first behind which the longest chain of work waits, its own included: heavy
runs before light ones, and teachers of heavy students before both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .study import Planned

__all__ = ["Job", "jobs_of", "makespan", "ready"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Runs that one process carries out."""

    ids: tuple[str, ...]
    after: frozenset[str]
    """Ids of the runs that must be done before."""
    weight: float
    """FLOPs of the longest chain of jobs that begins with this one."""

    def alone(self) -> list[Job]:
        """Its runs as jobs of their own: so that one that fails does not take the others with it again."""
        return [Job(ids=(id_,), after=self.after, weight=self.weight) for id_ in self.ids]


def jobs_of(runs: Sequence[Planned], costs: Mapping[str, float] | None = None) -> list[Job]:
    """The jobs of these runs, heaviest chain first; `costs` of each run in any unit, by default its FLOPs."""
    costs = costs or {run.id: run.flops + run.flops_teacher for run in runs}
    groups: dict[str, list[Planned]] = defaultdict(list)
    for run in runs:
        groups[run.group or run.id].append(run)
    home = {run.id: name for name, group in groups.items() for run in group}
    after = {name: {other for run in group for other in run.needs if other in home} for name, group in groups.items()}
    waiting: dict[str, set[str]] = defaultdict(set)
    for name, needs in after.items():
        for other in needs:
            waiting[home[other]].add(name)
    weights: dict[str, float] = {}

    def weight(name: str) -> float:
        if name not in weights:
            own = sum(costs[run.id] for run in groups[name])
            weights[name] = own + max((weight(other) for other in waiting[name]), default=0.0)
        return weights[name]

    made = [
        Job(ids=tuple(run.id for run in group), after=frozenset(after[name]), weight=weight(name))
        for name, group in groups.items()
    ]
    return sorted(made, key=lambda job: -job.weight)


def ready(jobs: Sequence[Job], done: Collection[str]) -> list[Job]:
    """Jobs that may begin, the first of them first."""
    return sorted((job for job in jobs if job.after <= set(done)), key=lambda job: -job.weight)


def makespan(jobs: Sequence[Job], seconds: Mapping[str, float], workers: int) -> float:
    """When the last job ends, where so many workers take them in the order of `ready`."""
    left, done = list(jobs), set[str]()
    busy: list[tuple[float, Job]] = []
    now = 0.0
    while left or busy:
        for job in ready(left, done)[: workers - len(busy)]:
            left.remove(job)
            busy.append((now + sum(seconds[id_] for id_ in job.ids), job))
        if not busy:
            break  # what is left waits for runs that are not among these
        busy.sort(key=lambda entry: entry[0])
        now, ended = busy.pop(0)
        done |= set(ended.ids)
    return now
