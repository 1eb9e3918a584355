"""study: a file of protocols to a table of runs; what a study is and how it is carried out is the library's to know."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from ..errors import InputError
from ..exits import FAILED
from .engines import engine, engine_options
from .evidence import BOOTSTRAP_OPTION, HOLD_OUT_OPTION, LAW_FORM_OPTION, LAW_OUT_OPTION
from .evidence import fit as fit_command
from .options import LAW, NUMBER, WHOLE, cores, json_option, output_path, seed_option
from .show import line, print_json
from .telling import FORMAT_OPTION, finish_report
from .training import require_torch, stopping

if TYPE_CHECKING:
    from ..store import Status, Store
    from ..study import Planned, Study

__all__ = ["study"]

_EXAMPLE = "\b\nExample:\n  distillscale study run study.toml"


class _Open(NamedTuple):
    """A study that was read, with its runs and their folder."""

    study: Study
    runs: tuple[Planned, ...]
    store: Store


@click.group(epilog=_EXAMPLE, short_help="Many runs by the paper's protocols, from a file.")
def study() -> None:
    """Many runs by one of the paper's protocols, from a file; killed at any moment, the same command goes on."""


_study_options = (
    click.argument("study", metavar="STUDY", type=click.Path(path_type=Path)),
    click.option(
        "--runs", "root", type=click.Path(path_type=Path), help="Folder of the runs.  [default: runs/NAME beside STUDY]"
    ),
)


_THREADS_OPTION = click.option(
    "--threads", type=WHOLE(1, 4096), default=1, show_default=True, help="CPU threads of each process."
)
_SAVE_OPTION = click.option(
    "--save-seconds",
    type=NUMBER(0.0, 1e6, "seconds", "60"),
    default=60.0,
    show_default=True,
    help="Between checkpoints.",
)


def _on_study(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_study_options):
        command = option(command)
    return command


def _open(path: Path, root: Path | None) -> _Open:
    from ..store import Store
    from ..study import planned
    from ..studyfile import read_study

    found = read_study(path)
    root = root or path.parent / "runs" / found.name
    if root.exists() and not root.is_dir():
        raise InputError(f"--runs {str(root)!r} is a file; name the folder of the study's runs")
    return _Open(found, planned(found), Store(root))


@study.command(
    name="dry-run",
    epilog="\b\nExample:\n  distillscale study dry-run study.toml",
    short_help="What a study would take; nothing is written.",
)
@_on_study
@click.option("--workers", type=WHOLE(1, 4096), help="Processes to reckon with.  [default: one a core]")
@click.option("--measure/--no-measure", default=True, help="Time a few steps of every shape.  [default: measure]")
@json_option
def dry_run(study: Path, root: Path | None, workers: int | None, measure: bool, as_json: bool) -> None:
    """Runs, tokens, FLOPs, hours on this machine, disk and savings of STUDY, before anything is spent.

    Hours come from timing a few steps of every shape that the study trains, with its teacher beside it.
    """
    from .study_show import forecast, show_forecast

    opened = _open(study, root)
    found = forecast(*opened, workers or cores(), measure)
    if as_json:
        return print_json(found)
    return show_forecast(found, opened.study)


@study.command(
    epilog=_EXAMPLE + "\n\nExit code 4: runs failed; every other one is kept.",
    short_help="Carry a study out, or go on with it.",
)
@_on_study
@engine_options
@_THREADS_OPTION
@click.option("--retries", type=WHOLE(0, 1000), default=2, show_default=True, help="More attempts at a failed run.")
@_SAVE_OPTION
@json_option
def run(
    study: Path,
    root: Path | None,
    executor: str,
    given: tuple[str, ...],
    workers: int | None,
    threads: int,
    retries: int,
    save_seconds: float,
    as_json: bool,
) -> None:
    """Train every run of STUDY that has no record yet, in processes of one thread each, here or on a cluster.

    Killed at any moment, the same command goes on from the last checkpoints; started twice, the two share the work.
    A run that fails is tried again, and never stops the others.
    """
    require_torch("study run")
    from ..drive import drive
    from ..executor import JobCommand
    from .study_show import show_status, watching

    opened = _open(study, root)
    command = JobCommand(study=study, root=opened.store.root, threads=threads, save_seconds=save_seconds)
    with engine(executor, command, workers, given) as placing:
        opened.store.root.mkdir(parents=True, exist_ok=True)
        _prepare(opened, max(1, cores() // threads))
        with stopping() as stop, watching(opened.runs, opened.store, as_json) as tell:
            status = drive(opened.runs, opened.store, placing, retries=retries, tell=tell, stop=stop)
            stopped = stop()
    _tidy(opened)
    if as_json:
        print_json(status.to_json())
    else:
        show_status(*opened, status)
    if stopped:
        click.echo(
            "distillscale: stopped; every run has a checkpoint, and the same command goes on from there", err=True
        )
        raise click.exceptions.Exit(130)
    _end(status)


def _prepare(opened: _Open, workers: int) -> None:
    """The data, made by one process where several come for it."""
    import time

    from ..claim import Busy, claimed
    from ..train.carry import prepared
    from .data_prepare import preparing

    while True:
        try:
            with claimed(opened.store.root, ".prepare"), preparing() as progress:
                prepared(opened.study.data, workers, progress)
            return
        except Busy:
            time.sleep(1.0)


def _tidy(opened: _Open) -> None:
    """Branch points that a killed job left behind."""
    trunks = {run.id for run in opened.runs if run.is_trunk}
    left = {id_ for id_ in trunks if any((opened.store.folder(id_) / "checkpoint").glob("step-*"))}
    if left:
        from ..train.carry import release_done

        release_done({run.id: run for run in opened.runs}, opened.store, left)


def _end(status: Status) -> None:
    from ..store import State

    if status.count(State.FAILED):
        raise click.exceptions.Exit(FAILED)


@study.command(
    epilog="\b\nExample:\n  distillscale study status study.toml --json\n\nExit code 4: runs failed.",
    short_help="Where a study stands, from any shell.",
)
@_on_study
@json_option
def status(study: Path, root: Path | None, as_json: bool) -> None:
    """Runs done, running, failed and missing of STUDY, and why, from what lies in its folder."""
    from .study_show import show_status

    opened = _open(study, root)
    found = opened.store.status(opened.runs)
    if as_json:
        from ..export import schedule_pairs

        print_json(found.to_json() | {"schedule_pairs": schedule_pairs(opened.runs, opened.store)})
    else:
        show_status(*opened, found)
    _end(found)


@study.command(
    epilog="\b\nExample:\n  distillscale study export study.toml --out runs.csv",
    short_help="The study's runs as a run table.",
)
@_on_study
@click.option("--out", required=True, metavar="FILE", help="A .csv or a .parquet file.")
@json_option
def export(study: Path, root: Path | None, out: str, as_json: bool) -> None:
    """Write what STUDY has so far as a run table (CSV or Parquet), one row a finished run.

    Trunks are no rows of it, nor are runs that diverged.
    """
    from ..export import rows_of, write_table

    path = output_path(out, study)
    assert path is not None
    opened = _open(study, root)
    rows = rows_of(opened.runs, opened.store)
    write_table(path, rows)
    if as_json:
        return print_json({"out": out, "rows": len(rows), "runs": len(opened.runs)})
    return line(f"{len(rows)} runs written to {out}; fit them with `distillscale fit {out}`")


@study.command(
    epilog="\b\nExample:\n  distillscale study fit study.toml --law supervised --out law.json",
    short_help="Fit a law to the study's runs.",
)
@_on_study
@LAW_FORM_OPTION
@BOOTSTRAP_OPTION
@click.option("--cluster", metavar="COLUMN", help="Runs resampled together.  [default: the teacher, or the trunk]")
@HOLD_OUT_OPTION
@LAW_OUT_OPTION
@seed_option
@json_option
@click.pass_context
def fit(
    ctx: click.Context,
    study: Path,
    root: Path | None,
    form: str,
    bootstrap: int,
    cluster: str | None,
    hold_out: str | None,
    out: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Fit a law to the runs that STUDY has so far, as `distillscale fit` does to any run table.

    The table is kept as runs.csv in the study's folder. Decays off one trunk share most of their training and are
    resampled together. Runs with another schedule than that of [run], which are there for comparison, are left out.
    """
    from ..export import cluster_of, rows_to_fit, write_table

    opened = _open(study, root)
    rows = rows_to_fit(*opened)
    if not rows:
        raise InputError(f"study {str(study)!r} has no finished run to fit; `distillscale study run` makes them")
    path = opened.store.root / "runs.csv"
    write_table(path, rows)
    cluster = cluster or cluster_of(rows, form)
    ctx.invoke(
        fit_command, file=path, form=form, bootstrap=bootstrap, cluster=cluster, hold_out=hold_out, out=out, seed=seed,
        as_json=as_json, name=opened.study.name,
    )  # fmt: skip


@study.command(
    epilog="\b\nExample:\n  distillscale study report study.toml --out report.html",
    short_help="The study as one page that opens offline.",
)
@_on_study
@click.option("--out", required=True, metavar="FILE", help="Where the report goes.")
@FORMAT_OPTION
@click.option("--supervised", type=LAW, metavar="NAME_OR_FILE", help="Supervised part of Eq 8; else from the runs.")
@json_option
def report(
    study: Path, root: Path | None, out: str, format_: str | None, supervised: str | None, as_json: bool
) -> None:
    """Report on STUDY as it stands: prediction and result, laws, figures, noise, gains, failures, every run.

    The same as `distillscale report STUDY`; a study that is half done, or has failed runs, is told as far as it goes.
    """
    from ..report import study_page

    path = output_path(out, study)
    assert path is not None
    finish_report(study_page(study, root, supervised), path, format_, as_json)


@study.command(hidden=True, epilog="\b\nExample:\n  distillscale study job study.toml 36f81c95e2b5")
@_on_study
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_THREADS_OPTION
@_SAVE_OPTION
@click.option("--answer", type=click.Path(path_type=Path), help="Write the JSON of --json to this file in the end.")
@json_option
def job(
    study: Path,
    root: Path | None,
    ids: tuple[str, ...],
    threads: int,
    save_seconds: float,
    answer: Path | None,
    as_json: bool,
) -> None:
    """Carry out the runs ID of STUDY together; with - in place of them, those of each line of standard input.

    Every executor's command. Exit codes: 0 done, 2 wrong input, 4 diverged, 75 in other hands, 130 stopped.
    """
    require_torch("study job")
    from ..record import write_json
    from .study_job import Jobs

    opened = _open(study, root)
    known = [run.id for run in opened.runs]
    if unknown := [id_ for id_ in ids if id_ not in known and ids != ("-",)]:
        raise InputError(f"study {str(study)!r} has no run {unknown[0]!r}; `distillscale study status` lists its runs")
    with stopping(signal.SIGUSR2) as stop:  # with which a queue announces that the time is up
        jobs = Jobs(opened.study, opened.runs, opened.store, threads, save_seconds, stop)
        code, reason = (jobs.of_lines(sys.stdin), "") if ids == ("-",) else jobs.one(ids)
    said = {"ids": list(ids), "code": code, "reason": reason}
    if answer is not None:
        write_json(answer, said)
    if as_json:
        print_json(said)
    elif reason:
        click.echo(f"distillscale: {reason}", err=True)
    raise click.exceptions.Exit(code)
