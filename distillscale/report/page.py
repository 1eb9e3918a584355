"""A report as a value: sections of text, facts, tables, figures and commands; how it is shown is the renderers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..chart import Chart, Figure, Table

__all__ = [
    "Block",
    "Code",
    "Facts",
    "Points",
    "Report",
    "Section",
    "Text",
    "figures_of",
    "one_chart",
    "section",
    "told_of",
]


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `lead` is what a reader in a hurry reads."""

    text: str
    lead: bool = False


@dataclass(frozen=True, slots=True)
class Points:
    """A list of sentences; `alert` where they are to be heeded."""

    items: tuple[str, ...]
    alert: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Commands or a program, to be copied."""

    text: str
    language: str = ""


Block = Text | Points | Facts | Code | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The whole page."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    made_by: str
    """The program and its version."""


def section(title: str, *blocks: Block | None) -> Section | None:
    """A section of the blocks that hold anything; None where none does."""
    kept = tuple(block for block in blocks if block is not None and _holds(block))
    return Section(title, kept) if kept else None


def _holds(block: Block) -> bool:
    content: Sequence[object] | str
    match block:
        case Text():
            content = block.text
        case Code():
            content = block.text
        case Points():
            content = block.items
        case Facts():
            content = block.pairs
        case Table():
            content = block.cells
        case Figure():
            content = block.charts
    return bool(content)


def one_chart(chart: Chart) -> Figure:
    """A figure of one chart, under its own name."""
    return Figure(name=chart.name, title=chart.title, charts=(chart,), caption=chart.caption, source=chart.source)


def told_of(figure: Figure) -> list[str]:
    """What one reads off each chart, after its title where that is not the figure's."""
    named = [(chart.title if chart.title != figure.title else "", chart.told) for chart in figure.charts]
    return [f"{title}: {told}" if title else told for title, told in named if told]


def figures_of(report: Report) -> list[Figure]:
    """Every figure, in the order of the page."""
    return [block for part in report.sections for block in part.blocks if isinstance(block, Figure)]
