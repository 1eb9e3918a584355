"""How a study looks on a terminal, before it, while it runs and after; every number is the library's."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from ..units import format_bytes, format_count, format_duration, format_flops
from .show import bullets, line, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..store import Status, Store
    from ..study import Planned, Study

__all__ = ["forecast", "show_forecast", "show_status", "watching"]

_EVERY_SECONDS = 30.0
"""Between lines of progress where stderr is no terminal."""
_SHOWN = 8
"""Runs or reasons listed one by one; more are counted."""


def forecast(study: Study, runs: Sequence[Planned], store: Store, workers: int, measure: bool) -> dict[str, Any]:
    """What the study would take, as the JSON of `dry-run`."""
    from ..jobs import jobs_of, makespan
    from ..study import savings

    saved, status = savings(study, runs), store.status(runs)
    left = [run for run in runs if store.record(run.id) is None]
    measured, why = _measured(study, left, store, measure)
    jobs = jobs_of(runs)
    return {
        "study": study.name,
        "question": study.question,
        "prediction": study.prediction,
        "runs": len(runs),
        "done": status.to_json()["done"],
        "roles": {
            role: sum(role in run.roles for run in runs) for role in ("supervised", "teacher", "student", "trunk")
        },
        "jobs": len(jobs),
        "tokens": sum(run.steps * run.spec.batch_tokens for run in runs),
        "flops": sum(run.flops + run.flops_teacher for run in runs),
        "flops_student": sum(run.flops for run in runs),
        "flops_teacher": sum(run.flops_teacher for run in runs),
        "savings": {"flops_alone": saved.alone, "branching": saved.branching, "share_teacher": saved.sharing},
        "workers": workers,
        "worker_seconds": None if measured is None else sum(measured.values()),
        "wall_seconds": None if measured is None else makespan(jobs_of(left, measured), measured, workers),
        "not_measured": why,
        "disk_bytes": _disk(runs, study.data.vocab, workers),
        "list": [_listed(run) for run in runs],
    }


def _listed(run: Planned) -> dict[str, Any]:
    return {
        "id": run.id,
        "roles": list(run.roles),
        "params": run.params,
        "tokens": run.spec.steps * run.spec.batch_tokens,
        "seed": run.spec.seed,
        "teacher": run.spec.teacher,
        "trunk": run.trunk,
        "branched_at": run.branch_step * run.spec.batch_tokens if run.trunk else None,
        "group": run.group,
        "flops": run.flops,
        "flops_teacher": run.flops_teacher,
    }


def _measured(
    study: Study, runs: Sequence[Planned], store: Store, measure: bool
) -> tuple[Mapping[str, float] | None, str | None]:
    """Seconds of each run on this machine, or why there are none."""
    if not measure:
        return None, "not asked for"
    if find_spec("torch") is None:
        return None, "timing steps needs torch: pip install 'distillscale[train]'"
    from ..train.timing import seconds_of

    def progress(done: int, total: int) -> None:
        click.echo(f"distillscale: timed {done} of {total} shapes", err=True)

    return seconds_of(study, runs, store, progress if sys.stderr.isatty() else None), None


def _disk(runs: Sequence[Planned], vocab: int, workers: int) -> int:
    """Weights and metrics of every run, branch points of every trunk, two checkpoints of the runs under way."""
    weight, moments = 4, 12
    total = 0
    sizes: list[int] = []
    for run in runs:
        size = run.spec.arch(vocab).total_params
        sizes.append(2 * moments * size)
        total += weight * size + moments * size * len(run.spec.branch_steps) + 200 * min(run.spec.steps, 2000)
    return total + sum(sorted(sizes)[-workers:])


def show_forecast(found: dict[str, Any], study: Study) -> None:
    """The forecast in words and two tables."""
    line(f"{study.name}: {found['runs']} runs in {found['jobs']} jobs", bold=True)
    for what in ("question", "prediction"):
        if found[what]:
            line(f"{what.capitalize()}: {found[what]}")
    rows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for run in found["list"]:
        rows[", ".join(run["roles"]), run["params"]].append(run)
    cells = [
        (
            role,
            format_count(params),
            str(len(group)),
            _span([run["tokens"] for run in group]),
            format_flops(sum(run["flops"] + run["flops_teacher"] for run in group)),
        )
        for (role, params), group in rows.items()
    ]
    table(("runs", "N", "count", "tokens each", "FLOPs"), cells)
    saved = found["savings"]
    facts = [
        ("done already", str(found["done"])),
        ("tokens trained", format_count(found["tokens"])),
        ("FLOPs", format_flops(found["flops"])),
        ("of these teachers' forward passes", format_flops(found["flops_teacher"])),
        ("saved by branching", _part(saved["branching"], saved["flops_alone"])),
        ("saved by shared teacher passes", _part(saved["share_teacher"], saved["flops_alone"])),
        ("disk, about", format_bytes(found["disk_bytes"])),
    ]
    if found["wall_seconds"] is not None:
        facts.append(("time of one worker, as busy as now", format_duration(found["worker_seconds"])))
        facts.append((f"time with {found['workers']} workers", format_duration(found["wall_seconds"])))
    else:
        facts.append(("time", f"not measured: {found['not_measured']}"))
    table(("it would take", ""), facts)


def _span(values: Sequence[float]) -> str:
    low, high = format_count(min(values)), format_count(max(values))
    return low if low == high else f"{low} to {high}"


def _part(flops: float, whole: float) -> str:
    return f"{format_flops(flops)} ({flops / whole:.0%})" if flops else "0"


def show_status(study: Study, runs: Sequence[Planned], store: Store, status: Status) -> None:
    """Counts, FLOPs, and what stands in the way."""
    from ..export import schedule_pairs

    counts = status.to_json()
    line(f"{study.name}: {counts['done']} of {counts['runs']} runs done, in {store.root}", bold=True)
    names = ("running", "failed", "missing", "blocked")
    rows = [(name, str(counts[name])) for name in names if counts[name] or name in ("running", "failed", "missing")]
    rows.append(("FLOPs done", f"{format_flops(status.flops_done)} of {format_flops(status.flops_total)}"))
    table(("runs", ""), rows)
    _show_running(runs, store, status)
    reasons = [f"{id_}: {reason}" for id_, reason in status.reasons.items()]
    more = [f"and {len(reasons) - _SHOWN} more"] if len(reasons) > _SHOWN else []
    bullets("Failed, and waiting for what failed", reasons[:_SHOWN] + more)
    if pairs := schedule_pairs(runs, store):
        differences = [pair["difference_nats"] for pair in pairs]
        mean, worst = sum(differences) / len(pairs), max(differences, key=abs)
        line(f"wsd against cosine, {len(pairs)} pairs: {mean:+.4f} nats on average, {worst:+.4f} at most")


def _show_running(runs: Sequence[Planned], store: Store, status: Status) -> None:
    from ..store import State

    running = [run for run in runs if status.states[run.id] is State.RUNNING]
    rows = [
        (f"{run.id} {', '.join(run.roles)}", format_count(run.params), f"{store.steps(run.id)} of {run.spec.steps}")
        for run in running[:_SHOWN]
    ]
    if rows:
        table(("running", "N", "steps"), rows)


class _Rate:
    """FLOPs of a study against the clock of this session."""

    def __init__(self, status: Status) -> None:
        self._begun, self._first = time.monotonic(), status.flops_done + status.flops_running

    def now(self, status: Status) -> tuple[float, float | None]:
        """FLOP/s, and seconds left where they can be told."""
        so_far = status.flops_done + status.flops_running
        rate = (so_far - self._first) / max(1e-9, time.monotonic() - self._begun)
        return rate, (status.flops_total - so_far) / rate if rate > 0 else None


@contextmanager
def watching(runs: Sequence[Planned], store: Store, quiet: bool) -> Generator[Callable[[], None] | None]:
    """A live table on a terminal; elsewhere a line now and then, or nothing beside --json."""
    from rich.console import Console

    console = Console(stderr=True)
    rate = _Rate(store.status(runs))
    if not console.is_terminal:
        yield None if quiet else _lines(runs, store, rate)
        return
    from rich.live import Live

    with Live(console=console, transient=True, auto_refresh=False) as live:
        told = [0.0]

        def tell() -> None:
            if time.monotonic() - told[0] >= 1.0:
                live.update(_picture(runs, store, rate), refresh=True)
                told[0] = time.monotonic()

        yield tell


def _lines(runs: Sequence[Planned], store: Store, rate: _Rate) -> Callable[[], None]:
    told = [time.monotonic()]

    def tell() -> None:
        if time.monotonic() - told[0] >= _EVERY_SECONDS:
            told[0] = time.monotonic()
            click.echo(_summary(store.status(runs), rate), err=True)

    return tell


def _summary(status: Status, rate: _Rate) -> str:
    counts = status.to_json()
    speed, left = rate.now(status)
    share = (status.flops_done + status.flops_running) / max(status.flops_total, 1.0)
    text = f"{counts['done']} of {counts['runs']} runs done, {counts['running']} running, {counts['failed']} failed"
    ending = "" if left is None else f", {format_duration(left)} left"
    return f"{text}; {share:.0%} of the FLOPs, {format_flops(speed)} FLOP/s{ending}"


def _picture(runs: Sequence[Planned], store: Store, rate: _Rate) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from ..store import State

    status = store.status(runs)
    grid = Table(box=None, pad_edge=False, header_style="")
    for heading in ("run", "what", "N", "tokens", ""):
        grid.add_column(heading)
    running = [run for run in runs if status.states[run.id] is State.RUNNING]
    for run in running[:_SHOWN]:
        bar = ProgressBar(total=run.spec.steps, completed=store.steps(run.id), width=24)
        size, tokens = format_count(run.params), format_count(run.spec.steps * run.spec.batch_tokens)
        grid.add_row(run.id, ", ".join(run.roles), size, tokens, bar)
    more = [Text(f"and {len(running) - _SHOWN} more")] if len(running) > _SHOWN else []
    return Group(Text(_summary(status, rate)), grid, *more)
