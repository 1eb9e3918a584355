"""train, distill and evaluate: runs described by a spec file, and losses measured on prepared data."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DistillscaleError, InputError
from ..exits import FAILED
from .options import QUANTITY, WHOLE, cores, json_option
from .show import line, nats, print_json, table

if TYPE_CHECKING:
    from ..record import RunRecord
    from ..specfile import Job
    from ..train.data import TokenData
    from ..train.hf import LoadedTeacher
    from ..train.loop import Progress
    from ..train.rehearsal import Rehearsal
    from ..train.world import World

__all__ = ["distill", "evaluate", "require_torch", "stopping", "train"]

_NARROW = 256
"""Models below this width run on one thread unless told otherwise: two would wait for each other."""

_CONTEXT = 1024
"""Tokens in a sequence that `evaluate` measures on, unless the model sees fewer or the user says otherwise."""

_EVERY_SECONDS = 30.0
"""Between lines of progress where stderr is no terminal."""

_run_options = (
    click.argument("spec", metavar="SPEC", type=click.Path(path_type=Path)),
    click.option("--dry-run", is_flag=True, help="Time a few steps and say what the run would take; write nothing."),
    click.option("--threads", type=WHOLE(1, 4096), help="CPU threads.  [default: 1 below width 256, else all cores]"),
    click.option("--shard", is_flag=True, help="Cut models between torchrun's processes, not whole in each."),
    json_option,
)


def _runs(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_run_options):
        command = option(command)
    return command


@click.command(
    epilog="\b\nExample:\n  distillscale train teacher.toml\n\nExit code 4: the loss stopped being a number.",
    short_help="One model on text alone.",
)
@_runs
def train(spec: Path, dry_run: bool, threads: int | None, shard: bool, as_json: bool) -> None:
    """Train the model that SPEC describes, in the folder that it names.

    Killed at any moment, the same command goes on from the last checkpoint and ends exactly where it would have ended;
    a run that is done is only shown.
    """
    require_torch("train")
    with _world() as world:
        job = _job(spec, distilled=False)
        _carry_out(job, world, dry_run, threads, shard, as_json)


@click.command(
    epilog="\b\nExample:\n  distillscale distill student.toml\n\nExit code 4: the loss stopped being a number.",
    short_help="One model on the outputs of a teacher.",
)
@_runs
def distill(spec: Path, dry_run: bool, threads: int | None, shard: bool, as_json: bool) -> None:
    """Distill the student that SPEC describes from the teacher in its [distill] table.

    The teacher is a folder of `train` or of a Hugging Face model with the data's tokenizer. Killed at any moment, the
    same command goes on from the last checkpoint; a run that is done is only shown.
    """
    require_torch("distill")
    with _world() as world:
        job = _job(spec, distilled=True)
        _carry_out(job, world, dry_run, threads, shard, as_json)


def require_torch(command: str) -> None:
    """One line where torch is not there."""
    if find_spec("torch") is None:
        raise InputError(f"{command} needs torch, which is not installed; run pip install 'distillscale[train]'")


def _job(path: Path, *, distilled: bool) -> Job:
    from ..specfile import read_job

    job = read_job(path)
    if distilled and job.spec.teacher is None:
        raise InputError(f"{path} has no [distill] table; add one with teacher = …, or use `distillscale train`")
    if not distilled and job.spec.teacher is not None:
        raise InputError(f"{path} has a [distill] table; use `distillscale distill`, or take the table out")
    return job


@contextmanager
def _world() -> Generator[World | None]:
    """The processes that torchrun started, None for one alone; what several refuse, one of them says."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield None
        return
    from ..train.world import joined

    with joined() as world:
        try:
            yield world
        except (DistillscaleError, OSError) as error:
            if world.says(str(error)):
                raise
            raise click.exceptions.Exit(2) from None


def _carry_out(job: Job, world: World | None, dry_run: bool, threads: int | None, shard: bool, as_json: bool) -> None:
    from ..train.data import TokenData
    from ..train.world import ALONE

    spec, world = job.spec, world or ALONE
    with world.together():
        if dry_run and world.size > 1:
            raise InputError("--dry-run times one process; run it without torchrun")
        data = TokenData.open(job.data)
        _set_threads(threads, spec.arch(data.vocab).d_model, world.local_size)
        given: dict[str, Any] = {"data": data}
        if job.teacher is not None:
            given["teacher"] = _teacher(job.teacher, data, spec.context, world, shard)
        if job.start is not None:
            from ..train.student import load_start

            given["start"] = load_start(job.start)
    if dry_run:
        from ..train.rehearsal import rehearse

        found = rehearse(spec, **given)
        return print_json(found.to_json()) if as_json else _show_rehearsal(found, job)
    if spec.targets != "online":
        given["cache"] = _filled(job, given, world, as_json)
    record = _run(job, given, world, shard, as_json)
    world.first_does(lambda: print_json(record.to_json()) if as_json else _show_record(record, job.out))
    if record.outcome != "completed":
        raise click.exceptions.Exit(FAILED)
    return None


def _run(job: Job, given: dict[str, Any], world: World, shard: bool, quiet: bool) -> RunRecord:
    from ..train.loop import Interrupted, run

    with stopping() as stop, _telling(job.out.name, quiet, world) as tell:

        def progress(now: Progress) -> None:
            if tell is not None:
                tell(now.tokens, now.total_tokens, f"loss {now.loss:.3f}, {_rate(now.tokens_per_second)}")

        given = given | {"world": world, "shard": shard, "progress": progress, "stop": stop}
        try:
            return run(job.spec, out=job.out, trunk=job.trunk, **given)
        except Interrupted as reason:
            if world.says(str(reason)):
                click.echo(f"distillscale: {reason}; the same command goes on from there", err=True)
            raise click.exceptions.Exit(130) from None


def _set_threads(threads: int | None, width: int, processes: int = 1) -> None:
    import torch

    torch.set_num_threads(threads or (1 if width < _NARROW else max(1, cores() // processes)))


def _teacher(path: Path, data: TokenData, context: int | None, world: World, shard: bool) -> LoadedTeacher:
    """The model at `path` on the device that runs use, over exactly the data's tokens."""
    from ..train.hf import aligned, load_teacher
    from ..train.parallel import shard_teacher

    cut = shard and world.size > 1  # from the whole model on the CPU, block by block
    loaded = load_teacher(path, context=context, device="cpu" if cut else world.device)
    found = aligned(loaded, data.vocab, data.tokenizer_file)
    return shard_teacher(found, world) if cut else found


def _filled(job: Job, given: dict[str, Any], world: World, quiet: bool) -> Any:
    """The cache that the spec names, after what is missing of it was computed."""
    from ..train.teaching import fill_cache

    if job.cache is None:
        raise InputError(
            f'targets {job.spec.targets!r} are kept in a cache; write cache = "path of a folder" in [distill]'
        )
    with _telling("teacher's targets", quiet, world) as tell:

        def progress(done: int, total: int) -> None:
            if tell is not None:
                tell(done, total, "computing")

        return fill_cache(job.cache, job.spec, given["data"], given["teacher"], progress, world)


@contextmanager
def stopping(*more: int) -> Generator[Callable[[], bool]]:
    """Ctrl-C or a polite kill ends the run after its step, with a checkpoint; a second one ends it at once.

    `more` are other signals that ask politely.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        for name, handler in kept.items():
            signal.signal(name, handler)

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *more)}
    for number in kept:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _telling(what: str, quiet: bool, world: World | None = None) -> Generator[Callable[[int, int, str], None] | None]:
    """A bar on a terminal; elsewhere a line now and then, or nothing beside --json. The first process tells alone."""
    if world is not None and not world.first:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None if quiet else _lines(what)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, said: str) -> None:
            bar.update(task, completed=done, total=total, description=said)

        yield tell


def _lines(what: str) -> Callable[[int, int, str], None]:
    begun = time.monotonic()
    told, first = [begun], list[int]()

    def tell(done: int, total: int, said: str) -> None:
        from ..units import format_duration

        now = time.monotonic()
        first.append(done) if not first else None
        if now - told[0] >= _EVERY_SECONDS and done > first[0]:
            told[0] = now
            left = (total - done) * (now - begun) / (done - first[0])
            click.echo(f"{what}: {done / total:.0%}, {said}, {format_duration(left)} left", err=True)

    return tell


def _rate(tokens_per_second: float) -> str:
    from ..units import format_count

    return f"{format_count(max(tokens_per_second, 1.0))} tokens/s"


def _show_rehearsal(found: Rehearsal, job: Job) -> None:
    from ..units import format_bytes, format_count, format_duration, format_flops

    size = f"{format_count(found.params)} parameters, {format_count(found.total_params)} with embeddings"
    line(f"{job.out}: {found.kind}, {size}", bold=True)
    rows = [
        ("steps", f"{found.steps:,}"),
        ("tokens", format_count(found.tokens)),
        ("unique tokens", f"{format_count(found.unique_tokens)} ({found.epochs:.2f} epochs)"),
        ("FLOPs of the student", format_flops(found.flops_student)),
    ]
    if found.flops_teacher:
        rows.append(("FLOPs of the teacher", format_flops(found.flops_teacher)))
    rows += [
        ("measured rate", f"{_rate(found.tokens_per_second)}, MFU {found.mfu:.0%}"),
        ("time", format_duration(found.seconds)),
        ("memory", format_bytes(found.memory_bytes)),
        ("disk", format_bytes(found.disk_bytes)),
    ]
    table(("it would take", f"on {found.device}, {found.precision}, {found.threads} thread(s)"), rows)


def _show_record(record: RunRecord, out: Path) -> None:
    from ..units import format_count, format_duration, format_flops

    line(f"{out}: {record.outcome}, {format_count(record.params)} parameters", bold=True)
    rows = [("tokens", f"{format_count(record.tokens)} ({record.epochs:.2f} epochs)")]
    if record.diverged_step is not None:
        rows.append(("loss", f"not finite at step {record.diverged_step}; the checkpoint before it is kept"))
    else:
        rows.append(("loss", f"{nats(record.loss)} nats/token, {record.bits_per_byte or 0:.3f} bits/byte"))
    if record.kl is not None:
        rows.append(("divergence from the teacher", f"{record.kl:.3f} nats/token"))
        rows.append(("teacher", f"{nats(record.teacher_loss)} nats/token, entropy {nats(record.teacher_entropy)}"))
    rows.append(("FLOPs of the student", format_flops(record.flops_student)))
    if record.flops_teacher:
        rows.append(("FLOPs of the teacher", format_flops(record.flops_teacher)))
    mfu = "" if record.mfu is None else f", MFU {record.mfu:.0%}"
    rows.append(("time", f"{format_duration(record.wall_seconds + record.other_seconds)}{mfu}"))
    table(("result", ""), rows)


@click.command(
    epilog="\b\nExample:\n  distillscale evaluate runs/teacher corpus --json", short_help="A model's loss on your data."
)
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--context", type=WHOLE(2, 1 << 24), help="Tokens in a sequence.  [default: the model's, at most 1024]")
@click.option("--max-tokens", type=QUANTITY, help="Most held-out tokens.  [default: all]")
@click.option("--threads", type=WHOLE(1, 4096), help="CPU threads.  [default: 1 below width 256, else all cores]")
@json_option
def evaluate(
    model: Path, data: Path, context: int | None, max_tokens: float | None, threads: int | None, as_json: bool
) -> None:
    """Measure MODEL on the held-out part of DATA, in nats per token and bits per byte.

    MODEL is a run's folder or a Hugging Face one; DATA was made by `data prepare` with the model's tokenizer. Losses
    of models with different tokenizers compare in bits per byte only.
    """
    require_torch("evaluate")
    from ..train.data import TokenData
    from ..train.evaluate import evaluate_teacher
    from ..train.world import ALONE

    prepared = TokenData.open(data)
    teacher = _teacher(model, prepared, context, ALONE, shard=False)
    _set_threads(threads, teacher.width)
    length = min(_CONTEXT, teacher.context) if context is None else context
    most = None if max_tokens is None else int(max_tokens)
    with _telling("evaluate", as_json) as tell:
        windows = len(prepared.windows("val", length)) * length

        def progress(done: int) -> None:
            if tell is not None:
                tell(done, min(windows, most or windows), "measuring")

        found = evaluate_teacher(teacher, prepared, context=length, max_tokens=most, progress=progress)
    values = {
        "model": str(model),
        "data": str(data),
        "tokens": found.tokens,
        "loss_nats": found.loss,
        "bits_per_byte": found.bits_per_byte,
        "params": teacher.params,
        "context": length,
        "model_hash": teacher.sha,
        "data_hash": prepared.hash,
    }
    if as_json:
        return print_json(values)
    return _show_evaluation(values, prepared)


def _show_evaluation(values: dict[str, Any], data: TokenData) -> None:
    from ..units import format_count

    line(f"{values['model']} on {values['data']}", bold=True)
    table(
        ("held-out data", "result"),
        [
            ("loss", f"{values['loss_nats']:.4f} nats/token"),
            ("", f"{values['bits_per_byte']:.4f} bits/byte at {data.bytes_per_token('val'):.3f} bytes/token"),
            ("tokens", format_count(values["tokens"])),
            ("parameters", format_count(values["params"])),
        ],
    )
