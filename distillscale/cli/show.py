"""How answers look on a terminal: short tables within 80 columns that read well without colour."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["as_json_text", "bullets", "line", "nats", "print_json", "printable", "table", "write_atomically"]

WIDTH = 80


def _plain(value: Any) -> Any:
    """JSON values only: NumPy scalars become numbers, what is not finite becomes null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json_text(value: Any) -> str:
    """One JSON value, two spaces a level, strict numbers."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def print_json(value: Any) -> None:
    """The whole of stdout under --json; where the terminal is not UTF-8, what it cannot show is escaped."""
    text = as_json_text(value)
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    click.echo(text if utf8 else json.dumps(json.loads(text), indent=2))


def printable(text: str) -> str:
    """The text without control characters, which a name in a file may hold."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _console() -> Console:
    from rich.console import Console

    # NO_COLOR takes away bold too, which rich would keep
    console = Console(highlight=False, soft_wrap=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    console.width = min(console.width, WIDTH)
    return console


def line(text: str = "", *, bold: bool = False) -> None:
    """A paragraph, wrapped."""
    from rich.text import Text

    _console().print(Text(printable(text), style="bold" if bold else ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table with the first column to the left and the others to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for i, name in enumerate(columns):
        grid.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console = _console()
    if (
        console.measure(grid, options=console.options.update(width=10 * WIDTH)).maximum > console.width
    ):  # before the first column is broken, columns move together
        grid.padding = 0
    console.print(grid)


def bullets(title: str, sentences: Sequence[str]) -> None:
    """A titled list of sentences, wrapped with a hanging indent; nothing where there are none."""
    if not sentences:
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = _console()
    if title:
        console.print(Text(title, style="bold"))
    grid = Table.grid(padding=(0, 1))
    for sentence in sentences:
        grid.add_row("-", Text(printable(sentence)))
    console.print(Padding(grid, (0, 0, 0, 1), expand=False))


def nats(loss: float | None, ends: Sequence[float] | None = None) -> str:
    """`2.152 (2.133 to 2.173)`."""
    if loss is None:
        return "none"
    return f"{loss:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")


def write_atomically(path: Path, text: str) -> None:
    """The whole file or, where it cannot be written, the old one and one line of error."""
    home = path.resolve()  # through a link to its file, never in place of the link
    draft = home.with_name(f".draft.{os.getpid()}")
    try:
        if home.exists() and not home.is_file():
            raise OSError("it is a device or a pipe, not a file")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, home)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(f"--out {str(path)!r} cannot be written: {error.strerror or error}") from None
