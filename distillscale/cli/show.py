"""How answers look on a terminal: short tables within 80 columns that read well without colour.

By hand, since loading a library for it takes longer than answering.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ..plain import as_json_text

__all__ = ["as_json_text", "bullets", "line", "nats", "print_json", "printable", "table"]

WIDTH = 80


def print_json(value: Any) -> None:
    """The whole of stdout under --json; where the terminal is not UTF-8, what it cannot show is escaped."""
    text = as_json_text(value)
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    click.echo(text if utf8 else json.dumps(json.loads(text), indent=2))


def printable(text: str) -> str:
    """The text without control characters, which a name in a file may hold."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, WIDTH)


def _bold(text: str) -> str:
    """Bold on a terminal that wants it, plain elsewhere."""
    asked = sys.stdout.isatty() or os.environ.get("FORCE_COLOR")
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return click.style(text, bold=True) if asked and not plain else text


def _say(text: str) -> None:
    click.echo(text, color=True)  # styled or not is decided in `_bold`


def line(text: str = "", *, bold: bool = False) -> None:
    """A paragraph, wrapped."""
    for part in textwrap.wrap(printable(text), _width()) or [""]:
        _say(_bold(part) if bold else part)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table with the first column to the left and the others to the right; the first is wrapped where it must be."""
    cells = [[printable(cell) for cell in row] for row in rows]
    heads = [name.split("\n") for name in columns]
    tall = max(len(head) for head in heads)
    heading = [list(row) for row in zip(*([""] * (tall - len(head)) + head for head in heads), strict=True)]
    widths = [max(len(row[i]) for row in [*heading, *cells]) for i in range(len(columns))]
    gap = "  " if sum(widths) + 2 * len(widths) <= _width() else " "
    widths[0] = max(8, min(widths[0], _width() - sum(widths[1:]) - len(gap) * (len(widths) - 1)))

    def show(row: Sequence[str]) -> None:
        first, *more = textwrap.wrap(row[0], widths[0], drop_whitespace=False) or [""]
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for text in (gap.join([first.ljust(widths[0]), *rest]), *more):
            _say(text.rstrip())

    if title:
        line(title, bold=True)
    for row in heading:
        show(row)
    _say("─" * (sum(widths) + len(gap) * (len(widths) - 1)))
    for row in cells:
        show(row)
    _say("")


def bullets(title: str, sentences: Sequence[str]) -> None:
    """A titled list of sentences, wrapped with a hanging indent; nothing where there are none."""
    if not sentences:
        return
    if title:
        line(title, bold=True)
    for sentence in sentences:
        text = printable(sentence)
        _say(textwrap.fill(text, _width(), initial_indent=" - ", subsequent_indent="   ", break_on_hyphens=False))


def nats(loss: float | None, ends: Sequence[float] | None = None) -> str:
    """`2.152 (2.133 to 2.173)`."""
    if loss is None:
        return "none"
    return f"{loss:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")
