"""Writes the paper's figures and tables of one law into a folder, with an index; every number and line is others'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from . import __version__
from .chart import Figure, Table, csv_text
from .confidence import standing_warnings
from .curves import Entry, Scope
from .errors import InputError
from .figures import available, images
from .files import write_atomically
from .report.html import as_html
from .report.markdown import escaped, markdown_table
from .report.page import Points, Report, Text, section

__all__ = ["Made", "made_of", "reproduce"]

_WORTH_A_PROCESS = 4
"""Figures from which a second process pays for its start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """One entry of the catalogue for one law: what was made and its files, or why it was not."""

    name: str
    shows: str
    drawing: Figure | Table | None
    files: tuple[str, ...] = ()
    reason: str = ""


def made_of(entries: Sequence[Entry], scope: Scope) -> list[Made]:
    """Every entry computed, or left out with the reason."""
    out: list[Made] = []
    for entry in entries:
        reason = entry.missing(scope)
        drawing = None if reason else entry.make(scope)
        out.append(Made(name=entry.name, shows=entry.shows, drawing=drawing, reason=reason or ""))
    return out


def reproduce(
    entries: Sequence[Entry],
    scope: Scope,
    out: Path,
    *,
    formats: Sequence[str],
    themes: Sequence[str],
    workers: int = 1,
    command: str = "",
    tell: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Compute, draw and write; each file whole or not at all, the index last.

    NAME.csv holds the numbers, NAME.svg and so on the drawing (NAME-dark.svg in the dark theme), index.html all of
    them to look at offline, README.md the list.
    """
    kinds = [(format_, theme) for theme in themes for format_ in formats if format_ != "csv"]
    if kinds and not available():
        raise InputError(
            "drawing needs matplotlib; pip install 'distillscale[report]', or take --format csv for the numbers alone"
        )
    made = made_of(entries, scope)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {str(out)!r} cannot be made: {error.strerror or error}; choose another place"
        ) from None
    figures = [one.drawing for one in made if isinstance(one.drawing, Figure)] if kinds else []
    for number, (figure, drawn) in enumerate(zip(figures, _drawn(figures, kinds, workers), strict=True), 1):
        for (format_, theme), content in drawn.items():
            write_atomically(out / _file(figure.name, format_, theme), content, "--out")
        if tell is not None:
            tell(number, len(figures))
    written = [_with_files(one, kinds) for one in made]
    for one in written:
        if one.drawing is not None:
            write_atomically(out / f"{one.name}.csv", csv_text(one.drawing.rows()), "--out")
    page = _page(written, scope, command)
    write_atomically(out / "index.html", as_html(page), "--out")
    write_atomically(out / "README.md", _readme(written, scope, command), "--out")
    return written


def _file(name: str, format_: str, theme: str) -> str:
    return f"{name}{'-dark' if theme == 'dark' else ''}.{format_}"


def _with_files(one: Made, kinds: Sequence[tuple[str, str]]) -> Made:
    if one.drawing is None:
        return one
    drawn = [_file(one.name, *kind) for kind in kinds] if isinstance(one.drawing, Figure) else []
    return Made(name=one.name, shows=one.shows, drawing=one.drawing, files=(*drawn, f"{one.name}.csv"))


def _drawn(
    figures: Sequence[Figure], kinds: Sequence[tuple[str, str]], workers: int
) -> Iterator[dict[tuple[str, str], bytes]]:
    """The bytes of each figure in turn, from several processes where there are enough figures."""
    if workers < 2 or len(figures) < _WORTH_A_PROCESS:
        for figure in figures:
            yield images(figure, kinds)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(images, figures, [list(kinds)] * len(figures))


def _page(made: Sequence[Made], scope: Scope, command: str) -> Report:
    """Everything on one page to look at."""
    missing = [f"{one.name}: {one.reason}" for one in made if one.drawing is None]
    parts = [
        section("Law", Text(scope.holds), Points(tuple(standing_warnings(scope.evidence)), alert=True)),
        *(section(one.name, one.drawing) for one in made if one.drawing is not None),
        section("Not made", Points(tuple(missing))),
    ]
    return Report(
        title=f"Figures and tables of the law {scope.evidence.name}",
        subtitle=f"As in Distillation Scaling Laws (Busbridge et al., ICML 2025). {command}".strip(),
        sections=tuple(part for part in parts if part is not None),
        made_by=f"Made by distillscale {__version__}.",
    )


def _readme(made: Sequence[Made], scope: Scope, command: str) -> str:
    """What each file shows."""
    lines = [f"# Figures and tables of the law {escaped(scope.evidence.name)}", ""]
    lines += ["As in *Distillation Scaling Laws* (Busbridge et al., ICML 2025). `index.html` shows all of them.", ""]
    lines += [escaped(scope.holds), ""]
    lines += [f"- {escaped(warning)}" for warning in standing_warnings(scope.evidence)]
    lines += ["", f"Made by distillscale {__version__}" + (f": `{command.replace('`', '')}`" if command else "."), ""]
    for one in made:
        lines += [f"## {one.name}", ""]
        if one.drawing is None:
            lines += [f"Not made: {escaped(one.reason)}.", ""]
            continue
        drawing = one.drawing
        picture = next((f for f in one.files if f.endswith((".svg", ".png")) and "-dark." not in f), None)
        if isinstance(drawing, Table):
            lines += [markdown_table(drawing), ""]
        else:
            lines += [f"{escaped(drawing.title)}. {escaped(drawing.caption)} ({escaped(drawing.source)}.)", ""]
        lines += [f"![{escaped(drawing.title)}]({picture})", ""] if picture else []
        lines += ["Files: " + ", ".join(f"[{name}]({name})" for name in one.files), ""]
    return "\n".join(lines)
