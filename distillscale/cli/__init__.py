"""The command line: parse, call, print. Every number comes from the library; heavy imports wait for the command."""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import suppress

import click

from .. import __version__
from ..errors import DistillscaleError, FitError
from .data_prepare import data
from .datasets import datasets
from .evidence import compare, fit, laws
from .planning import break_even, frontier, plan, predict, teachers
from .serve import serve
from .show import printable
from .study import study
from .telling import report, reproduce
from .training import distill, evaluate, train

__all__ = ["main"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  distillscale plan --student 3B --budget 1e21 --teacher inference",
)
@click.version_option(__version__, prog_name="distillscale", message="%(prog)s %(version)s")
def cli() -> None:
    """Train it or distill it? From which teacher, on how many tokens, at what price, and how sure can one be?

    Counts are written 300M, 1.5B or 3e9, budgets as FLOPs (1e21), "5000 USD" or "2000 H100-hours". --json on any
    command prints one JSON value and nothing else. Exit codes: 0 done, 2 wrong input, 3 a fit that is not usable,
    4 runs that failed or whose loss diverged, 130 stopped.
    """


for _command in (
    predict, plan, break_even, frontier, teachers, laws, fit, compare, datasets, data, train, distill, evaluate, study,
    serve, report, reproduce,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Run the command line; wrong input is one line on stderr and exit 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show γ shows ?
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(prog_name="distillscale", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        if _one_of_many():  # all misread the same line: the first says so, before torchrun ends it for our failing
            time.sleep(1.0)
            sys.exit(2)
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "distillscale"
        message = error.format_message().rstrip(".")
        code = _refuse(f"{message}; see `{where} --help`", 2, where)
    except DistillscaleError as error:
        code = _refuse(str(error), 3 if isinstance(error, FitError) else 2)
    except click.Abort:
        code = _refuse("interrupted", 130)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        _silence()
        code = 0
    except OSError as error:  # a full disk, a name too long
        _silence()
        name = "" if error.filename is None else f"{error.filename!r}: "
        code = _refuse(f"{name}{error.strerror or error}; check the path and the space on its disk", 2)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str, code: int, where: str = "distillscale") -> int:
    text = " ".join(printable(message).split())
    click.echo(f"{where}: {text}", err=True)
    return code


def _one_of_many() -> bool:
    """Started by torchrun, and not its first process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def _silence() -> None:
    """Send what is left in stdout's buffer nowhere, so that Python does not complain about it at its end."""
    with suppress(OSError):  # a stdout without a file has no such buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
