"""A report as Markdown, with figures as files beside it; what it says is decided elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..chart import Figure, Table
from .page import Block, Code, Facts, Points, Report, Text, told_of

__all__ = ["as_markdown", "escaped", "markdown_table"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def as_markdown(report: Report, images: Mapping[str, str]) -> str:
    """The text; `images` maps a figure's name to the relative path of its file."""
    parts = [f"# {escaped(report.title)}", escaped(report.subtitle)]
    for part in report.sections:
        parts.append(f"## {escaped(part.title)}")
        parts += [_block(block, images) for block in part.blocks]
    return "\n\n".join([*parts, f"---\n\n{escaped(report.made_by)}"]) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return _SPECIAL.sub(r"\\\1", plain)


def _block(block: Block, images: Mapping[str, str]) -> str:
    match block:
        case Text():
            return f"**{escaped(block.text)}**" if block.lead else escaped(block.text)
        case Points():
            return "\n".join(f"- {escaped(item)}" for item in block.items)
        case Facts():
            return "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in block.pairs)
        case Code():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", block.text)), default=0))
            return f"{fence}{block.language}\n{block.text}\n{fence}"
        case Table():
            return markdown_table(block)
        case Figure():
            return _figure(block, images)


def markdown_table(table: Table) -> str:
    """Title, grid, caption."""
    rows = [[escaped(cell) for cell in row] for row in (table.columns, *table.shown())]
    rule = "|".join(["---", *["--:"] * (len(table.columns) - 1)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{rule}|")
    title = f"### {escaped(table.title)}\n\n" if table.title else ""
    notes = " ".join(filter(None, (table.caption, f"({table.source}.)" if table.source else "")))
    return title + "\n".join(lines) + (f"\n\n{escaped(notes)}" if notes else "")


def _figure(figure: Figure, images: Mapping[str, str]) -> str:
    told = told_of(figure)
    notes = " ".join(filter(None, (figure.caption, f"({figure.source}.)" if figure.source else "")))
    lines = [f"### {escaped(figure.title)}", f"![{escaped(figure.title)}]({images[figure.name]})", escaped(notes)]
    if told:
        lines.append("\n".join(f"- {escaped(one)}" for one in told))
    return "\n\n".join(lines)
