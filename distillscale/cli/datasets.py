"""datasets: run tables that come with the package, listed and written; their content is the library's."""

from __future__ import annotations

import csv
import io

import click

from ..files import write_atomically
from .options import json_option, output_path
from .show import line, print_json, table

__all__ = ["datasets"]


@click.command(
    epilog="\b\nExample:\n  distillscale datasets",
    short_help="Run tables that come with the package.",
)
@click.argument("name", required=False)
@click.option("--out", metavar="FILE", help="Write the table there instead of printing it.")
@json_option
def datasets(name: str | None, out: str | None, as_json: bool) -> None:
    """List the run tables that come with the package, or write NAME as CSV, for fit, compare and your own tools."""
    from ..datasets import datasets as datasets_
    from ..datasets import load

    if name is None:
        if out is not None:
            raise click.UsageError("--out needs the NAME of a dataset")
        found = datasets_()
        if as_json:
            return print_json([entry.to_json() for entry in found])
        if not found:
            return line("This version comes with no run tables.")
        table(("name", "runs", "what"), [(entry.name, str(entry.rows), entry.what) for entry in found])
        for entry in found:
            line(f"{entry.name}: {entry.source}; {entry.licence}")
        return line("Write one with `distillscale datasets NAME --out runs.csv`, then `distillscale fit runs.csv`.")
    text = load(name)
    path = output_path(out)
    if path is not None:
        write_atomically(path, text, "--out")
    (entry,) = (entry for entry in datasets_() if entry.name == name)
    if as_json:
        rows = list(csv.DictReader(io.StringIO(text, newline=""))) if path is None else None
        return print_json(entry.to_json() | {"out": out} | ({} if rows is None else {"table": rows}))
    if path is None:
        return click.echo(text, nl=False)
    return line(f"{entry.rows} runs written to {out}; fit them with `distillscale fit {out}`")
