"""laws, fit and compare: where the numbers come from, and one's own runs turned into a law."""

from __future__ import annotations

import click

from .options import json_option
from .show import bullets, line, print_json, table

__all__ = ["compare", "fit", "laws"]


@click.command(epilog="\b\nExample:\n  distillscale laws")
@json_option
def laws(as_json: bool) -> None:
    """Published coefficient sets and rules of thumb, with source, regime and caveats."""
    from ..published import catalogue
    from ..units import format_count

    entries = catalogue()
    if as_json:
        return print_json(entries)

    def reach(regime: dict[str, list[float]]) -> str:
        for name in ("student_params", "params"):
            if name in regime:
                return " to ".join(format_count(x) for x in regime[name])
        return "none"

    table(("name", "form", "model sizes"), [(str(e["name"]), str(e["form"]), reach(e["regime"])) for e in entries])
    for entry in entries:
        line(f"{entry['name']}: {entry['paper']}; {entry['table']}", bold=True)
        bullets("", entry["caveats"])
    return None


@click.command()
def fit() -> None:
    """Fit a law."""


@click.command()
def compare() -> None:
    """Compare."""
