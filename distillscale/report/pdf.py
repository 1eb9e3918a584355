"""A report as pages of A4, set by matplotlib; what it says is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from ..chart import Figure, Table
from ..figures import blank_page, page_of, pages
from .page import Block, Code, Facts, Points, Report, Text, told_of

__all__ = ["as_pdf"]

_PAPER = (8.27, 11.69)
_LEFT, _TOP, _BOTTOM = 0.75, 0.7, 0.7
_WIDEST = 44
"""Letters of a column; more are wrapped."""
_WIDE = _PAPER[0] - 2 * _LEFT


@dataclass(frozen=True, slots=True)
class _Line:
    """One set line: size in points, indent in inches, space above in points."""

    text: str
    size: float = 9.0
    bold: bool = False
    mono: bool = False
    faint: bool = False
    indent: float = 0.0
    above: float = 0.0

    @property
    def height(self) -> float:
        return (self.size * 1.4 + self.above) / 72


def as_pdf(report: Report) -> bytes:
    """The whole report as one PDF; every figure has a page of its own after the text that it belongs to."""
    sheets: list[Any] = []
    lines = [_Line(text, 16, bold=True) for text in wrap(report.title, 60)]
    lines += _set(report.subtitle, faint=True)
    for part in report.sections:
        lines.append(_Line(part.title, 12.5, bold=True, above=14))
        for block in part.blocks:
            if isinstance(block, Figure):
                sheets += _sheets(lines)
                lines = []
                sheets.append(page_of(block, _caption(block), _PAPER))
            else:
                lines += _lines(block)
    lines += _set(report.made_by, faint=True, above=14)
    return pages([*sheets, *_sheets(lines)])


def _caption(figure: Figure) -> str:
    told = told_of(figure)
    return " ".join(filter(None, (figure.caption, f"({figure.source}.)" if figure.source else "", *told)))


def _set(text: str, size: float = 9.0, above: float = 5.0, indent: float = 0.0, **style: bool) -> list[_Line]:
    """A paragraph in lines; the first stands apart from what is above."""
    per_line = int((_WIDE - indent) * 72 / (size * (0.61 if style.get("mono") else 0.56)))
    lines = wrap(text, per_line, drop_whitespace=not style.get("mono"), replace_whitespace=True) or [""]
    return [
        _Line(line, size, indent=indent, above=0 if number else above, **style) for number, line in enumerate(lines)
    ]


def _lines(block: Block) -> list[_Line]:
    match block:
        case Text():
            return _set(block.text, 11.5 if block.lead else 9.0, bold=block.lead)
        case Points():
            return [line for item in block.items for line in _set(f"•  {item}", indent=0.1, above=2)]
        case Facts():
            return [line for name, value in block.pairs for line in _set(f"{name}: {value}", above=1)]
        case Code():
            return [line for text in block.text.splitlines() for line in _set(text, 7.5, above=1, mono=True)]
        case Table():
            return list(_grid(block))
        case Figure():
            return []


def _grid(table: Table) -> Iterator[_Line]:
    """A table in a fixed-width face, as small as it must be."""
    if table.title:
        yield _Line(table.title, 10, bold=True, above=8)
    rows = [list(table.columns), *(list(row) for row in table.shown())]
    widths = [min(_WIDEST, max(len(row[i]) for row in rows)) for i in range(len(table.columns))]
    size = max(3.5, min(7.5, _WIDE * 72 / (0.61 * (sum(widths) + 2 * len(widths)))))
    for number, row in enumerate(rows):
        parts = [wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
        for line in range(max(map(len, parts))):
            cells = [part[line] if line < len(part) else "" for part in parts]
            wordy = [len(part) > 1 or width == _WIDEST for part, width in zip(parts, widths, strict=True)]
            told = [
                cell.ljust(width) if not place or words else cell.rjust(width)
                for place, (cell, width, words) in enumerate(zip(cells, widths, wordy, strict=True))
            ]
            yield _Line(
                "  ".join(told).rstrip(), size, bold=not number, mono=True, above=4 if number + line == 0 else 0
            )
    for note in (table.caption, table.source):
        if note:
            yield from _set(note, 8, faint=True)


def _sheets(lines: list[_Line]) -> list[Any]:
    """Lines as pages of text."""
    sheets: list[Any] = []
    place = _PAPER[1]
    for line in lines:
        if not sheets or place - line.height < _BOTTOM:
            sheets.append(blank_page(_PAPER))
            place = _PAPER[1] - _TOP
        place -= line.height
        sheets[-1].write((_LEFT + line.indent, place), line.text, line.size, line.bold, line.mono, line.faint)
    return [sheet.canvas for sheet in sheets]
