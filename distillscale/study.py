"""A study as a value and the runs that it consists of; pure: no file is read, nothing is trained, no result is known.

The same study has the same runs with the same ids on every machine. A run that two protocols ask for is one run, and a
supervised run may also be the teacher of others. Savings change how runs are made, never which there are or what comes
out: a decay off a trunk equals the whole run bit for bit, and so does a student that shared its teacher's pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError
from .protocols import Protocol, made_by
from .schedule import decay_start
from .spec import BATCH_FIELDS, RunSpec, default

__all__ = ["DataSource", "Planned", "Savings", "Study", "planned", "savings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """The prepared data, and what makes it where it is not there yet."""

    path: Path
    vocab: int
    sources: tuple[str, ...] = ()
    tokenizer: str | None = None
    eot: str | None = None
    val_fraction: float = 0.05
    field: str = "text"
    seed: int = 0
    hash: str | None = None
    """Where given, every run refuses data whose hash does not begin with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What study.toml says; see studyfile.py for its keys."""

    name: str
    file: Path
    question: str = ""
    prediction: str = ""
    data: DataSource
    run: Mapping[str, Any]
    """RunSpec's fields shared by all runs."""
    distill: Mapping[str, Any]
    """And by all students."""
    protocols: tuple[Protocol, ...]
    branching: bool = False
    share_teacher: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A run of the study before it is run."""

    spec: RunSpec
    id: str
    roles: tuple[str, ...]
    """Of `supervised`, `teacher`, `student`, `trunk`; a run may have several."""
    teacher: str | None = None
    """Id of the teacher where that is a run of the study; `spec.teacher` also names those from outside."""
    trunk: str | None = None
    """Id of the run whose branch point this one starts from."""
    branch_step: int = 0
    """The step that it starts from."""
    params: int
    flops: float
    """Training FLOPs 3 F(N) D of the steps that this run makes itself."""
    flops_teacher: float = 0.0
    """Forward FLOPs of the teacher over them, its share where the pass is shared; 0 for a teacher from outside."""
    group: str | None = None
    """Runs of one group share a teacher pass, and so a process."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one begins."""
        return tuple(other for other in (self.teacher, self.trunk) if other is not None)

    @property
    def steps(self) -> int:
        """Steps that it makes itself."""
        return self.spec.steps - self.branch_step

    @property
    def is_trunk(self) -> bool:
        """It exists for its branch points only, and is no row of the run table."""
        return self.roles == ("trunk",)


class Savings(NamedTuple):
    """FLOPs that are not spent; what they are saved from is the sum of every run alone."""

    alone: float
    branching: float
    sharing: float


def planned(study: Study) -> tuple[Planned, ...]:
    """Every run once: teachers, trunks, then the rest, each after what it needs."""
    vocab = study.data.vocab
    base = {**study.run} | ({"data_hash": study.data.hash} if study.data.hash else {})
    roles: dict[str, set[str]] = defaultdict(set)
    specs: dict[str, RunSpec] = {}
    for number, protocol in enumerate(study.protocols, 1):
        try:
            for made in made_by(protocol, base, study.distill, vocab):
                for spec, role in ((made.teacher, "teacher"), (made.spec, _role(made.spec))):
                    if spec is not None:
                        specs[spec.id] = spec
                        roles[spec.id].add(role)
        except InputError as error:
            raise InputError(f"{study.file}: [[protocol]] {number} ({protocol.kind}): {error}") from None
    runs = [_planned(spec, tuple(sorted(roles[id_])), specs, vocab) for id_, spec in specs.items()]
    if study.branching:
        runs = _branched(runs, vocab, f"{study.file}: [savings] branching")
    if study.share_teacher:
        runs = _grouped(runs, specs, vocab)
    by_id = {run.id: run for run in runs}
    return tuple(sorted(runs, key=lambda run: _depth(run, by_id)))


def _depth(run: Planned, runs: Mapping[str, Planned]) -> int:
    """How many runs must end, one after the other, before this one begins."""
    return max((1 + _depth(runs[other], runs) for other in run.needs), default=0)


def _role(spec: RunSpec) -> str:
    return "supervised" if spec.teacher is None else "student"


def _planned(spec: RunSpec, roles: tuple[str, ...], specs: Mapping[str, RunSpec], vocab: int) -> Planned:
    teacher = specs.get(spec.teacher or "")
    tokens = spec.steps * spec.batch_tokens
    return Planned(
        spec=spec,
        id=spec.id,
        roles=roles,
        teacher=None if teacher is None else spec.teacher,
        params=spec.arch(vocab).params,
        flops=spec.flops(vocab),
        flops_teacher=0.0 if teacher is None else teacher.arch(vocab).forward_flops_per_token * tokens,
    )


def _branched(runs: list[Planned], vocab: int, where: str) -> list[Planned]:
    """Runs that differ in their length and decay alone become decays off a trunk of theirs."""
    families: dict[str, list[Planned]] = defaultdict(list)
    for run in runs:
        if run.spec.schedule == "wsd":
            if run.spec.warmup_tokens is None:
                raise InputError(
                    f"{where}: runs of all lengths must warm up alike; write warmup_tokens in [run], or leave it out"
                )
            families[_kin(run)].append(run)
    if not families:
        raise InputError(f'{where} needs schedule = "wsd", whose stable phase is the same for every length; write it')
    out = {run.id: run for run in runs}
    for kin in families.values():
        starts = {run.id: decay_start(run.spec) for run in kin}
        # One run alone has nobody to share with, and one that decays from its first step nothing to share.
        usable = [run for run in kin if starts[run.id] > 0]
        if len(usable) < 2:
            continue
        trunk = _trunk(usable, [starts[run.id] for run in usable], vocab)
        out[trunk.id] = trunk
        for run in usable:
            out[run.id] = _decay(run, trunk, starts[run.id])
    return list(out.values())


def _kin(run: Planned) -> str:
    """What a run has in common with those that may branch off the same trunk: all but its length and its decay."""
    free = ("tokens", "decay_fraction", "final_lr_ratio")
    content = {name: value for name, value in run.spec.content().items() if name not in free}
    return repr(sorted(content.items()))


def _trunk(runs: list[Planned], starts: list[int], vocab: int) -> Planned:
    first = runs[0].spec
    points = tuple(step * first.batch_tokens for step in sorted(set(starts)))
    # A constant rate has no decay to describe; at their defaults these two do not split one trunk's id in two.
    plain: dict[str, Any] = {name: default(name) for name in ("decay_fraction", "final_lr_ratio")}
    spec = replace(first, schedule="constant", tokens=points[-1], branch_tokens=points, **plain)
    whole = max(runs, key=lambda run: run.spec.steps)
    share = spec.steps / whole.spec.steps
    return Planned(
        spec=spec,
        id=spec.id,
        roles=("trunk",),
        teacher=whole.teacher,
        params=whole.params,
        flops=spec.flops(vocab),
        flops_teacher=whole.flops_teacher * share,
    )


def _decay(run: Planned, trunk: Planned, start: int) -> Planned:
    left = (run.spec.steps - start) / run.spec.steps
    return replace(
        run, trunk=trunk.id, branch_step=start, flops=run.flops * left, flops_teacher=run.flops_teacher * left
    )


def _grouped(runs: list[Planned], specs: Mapping[str, RunSpec], vocab: int) -> list[Planned]:
    """Students with the same teacher and the same batches from the same step on form groups."""
    groups: dict[str, list[Planned]] = defaultdict(list)
    for run in runs:
        if run.spec.teacher is not None and run.spec.targets in ("online", "hidden"):
            same = [getattr(run.spec, name) for name in BATCH_FIELDS]
            groups[repr((same, run.branch_step, run.is_trunk))].append(run)
    out = {run.id: run for run in runs}
    for group in groups.values():
        if len(group) < 2:
            continue
        name = min(run.id for run in group)
        teacher = specs.get(group[0].spec.teacher or "")
        per_step = 0.0 if teacher is None else teacher.arch(vocab).forward_flops_per_token * group[0].spec.batch_tokens
        for run in group:
            out[run.id] = replace(run, group=name, flops_teacher=per_step * _share([r.steps for r in group], run.steps))
    return list(out.values())


def _share(lengths: list[int], mine: int) -> float:
    """Teacher passes charged to a run of `mine` steps, where every step is paid by those that still run."""
    share, before = 0.0, 0
    for end in sorted({length for length in lengths if length <= mine}):
        share += (end - before) / sum(length >= end for length in lengths)
        before = end
    return share


def savings(study: Study, runs: Iterable[Planned]) -> Savings:
    """What branching and sharing save together, by exact counts."""
    runs = tuple(runs)
    plain = planned(replace(study, branching=False, share_teacher=False))
    apart = planned(replace(study, share_teacher=False)) if study.branching else plain
    alone, branched, all_ = (sum(run.flops + run.flops_teacher for run in each) for each in (plain, apart, runs))
    return Savings(alone, alone - branched, branched - all_)
