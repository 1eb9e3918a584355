"""Which executor a study runs on, and its settings from the command line; what an engine does with them is its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import click

from ..errors import InputError
from .options import WHOLE, cores

if TYPE_CHECKING:
    from ..executor import JobCommand, LocalExecutor
    from ..ray_executor import RayExecutor
    from ..slurm_executor import SlurmExecutor

    Engine: TypeAlias = LocalExecutor | RayExecutor | SlurmExecutor

__all__ = ["EXECUTORS", "engine", "engine_options"]

EXECUTORS = ("local", "ray", "slurm")
_Command = TypeVar("_Command", bound=Callable[..., None])

_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default="local",
        show_default=True,
        help="What places the jobs: processes here, a Ray cluster, a SLURM queue.",
    ),
    click.option(
        "--engine",
        "given",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting of --executor ray or slurm, such as address=auto or partition=gpu; repeatable.",
    ),
    click.option(
        "--workers",
        type=WHOLE(1, 4096),
        help="Jobs at once.  [default: one a core; what the Ray cluster has room for; 64 in a SLURM queue]",
    ),
)


def engine_options(command: _Command) -> _Command:
    """Add --executor, --engine and --workers."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def engine(name: str, command: JobCommand, workers: int | None, given: Sequence[str]) -> Engine:
    """The executor of this name; its library is loaded now."""
    pairs: dict[str, str] = {}
    for text in given:
        key, sign, value = text.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise InputError(f"--engine {text!r} is not KEY=VALUE; write partition=gpu, and repeat --engine for more")
        pairs[key.strip().replace("-", "_")] = value.strip()
    if name == "ray":
        from ..ray_executor import RayExecutor

        return RayExecutor(command, workers, pairs, cores())
    if name == "slurm":
        from ..slurm_executor import SlurmExecutor

        return SlurmExecutor(command, workers, pairs)
    from ..executor import LocalExecutor, settings

    settings(pairs, (), "local")
    most = workers or max(1, cores() // command.threads)
    return LocalExecutor([sys.executable, *command.arguments("-")], most, os.environ | command.env)
