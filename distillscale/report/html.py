"""One HTML file that opens offline and asks nobody for anything; what it says is decided elsewhere.

The page is built as a tree, so everything that a user supplied is escaped by the serialiser; scripts and styles are the
package's own files, named by their hashes in the page's security policy, and no other may run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from ..chart import Chart, Figure, Table
from .page import Block, Code, Facts, Points, Report, Section, Text

__all__ = ["as_html"]

_STATIC: Final = Path(__file__).parents[1] / "static"
_STYLES: Final = ("uplot.css", "base.css", "report.css")
_SCRIPTS: Final = ("uplot.js", "charts.js")
_WORDS: Final = 24
"""Letters from which a column is text, set to the left and wrapped."""
_FOLDED: Final = 40
"""Rows from which a table is folded away."""
_START: Final = "DistillCharts.drawAll();"


def as_html(report: Report) -> str:
    """The page as text, complete in itself."""
    style = "\n".join(_asset(name) for name in _STYLES)
    scripts = [*(_asset(name) for name in _SCRIPTS), _START]
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _policy(style, scripts)})
    SubElement(head, "meta", {"name": "referrer", "content": "no-referrer"})
    _say(head, "title", report.title)
    SubElement(head, "style").text = style
    body = SubElement(html, "body")
    _body(body, report)
    for data in _data(report):
        body.append(data)
    for script in scripts:
        SubElement(body, "script").text = script
    return "<!doctype html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def _asset(name: str) -> str:
    return (
        (_STATIC / name).read_text(encoding="utf-8").replace("</script", "<\\/script").replace("</style", "<\\/style")
    )


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Nothing may be fetched; the scripts and the style are these and no others."""
    named = " ".join(_hash(script) for script in scripts)
    return f"default-src 'none'; script-src {named}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _clean(text: str) -> str:
    """Without control characters, which HTML does not allow."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _say(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    element = SubElement(parent, tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    element.text = _clean(text)
    return element


def _body(body: Element, report: Report) -> None:
    head = SubElement(body, "header")
    _say(head, "h1", report.title)
    _say(head, "p", report.subtitle, class_="muted")
    if len(report.sections) > 3:
        nav = SubElement(SubElement(head, "nav", {"aria-label": "Sections", "class": "no-print"}), "ul")
        for number, part in enumerate(report.sections, 1):
            _say(SubElement(nav, "li"), "a", part.title, href=f"#section-{number}")
    main = SubElement(body, "main")
    for number, part in enumerate(report.sections, 1):
        _section(main, part, number)
    _say(SubElement(body, "footer"), "p", report.made_by, class_="muted")


def _section(main: Element, part: Section, number: int) -> None:
    home = SubElement(main, "section", {"id": f"section-{number}", "aria-labelledby": f"title-{number}"})
    _say(home, "h2", part.title, id=f"title-{number}")
    for place, block in enumerate(part.blocks):
        _block(home, block, f"{number}-{place}")


def _block(home: Element, block: Block, place: str) -> None:
    match block:
        case Text():
            _say(home, "p", block.text, **({"class_": "lead"} if block.lead else {}))
        case Points():
            listed = SubElement(home, "ul", {"class": "alert"} if block.alert else {})
            for item in block.items:
                _say(listed, "li", item)
        case Facts():
            listed = SubElement(home, "dl")
            for name, value in block.pairs:
                _say(listed, "dt", name)
                _say(listed, "dd", value)
        case Code():
            _say(SubElement(home, "pre", {"tabindex": "0"}), "code", block.text)
        case Table():
            _table(home, block)
        case Figure():
            _figure(home, block, place)


def _table(home: Element, table: Table) -> None:
    if table.title:
        _say(home, "h3", table.title)
    if len(table.cells) > _FOLDED:
        home = SubElement(home, "details")
        _say(home, "summary", f"{len(table.cells)} rows")
    label = {"role": "region", "aria-label": _clean(table.title) or "Table"}
    box = SubElement(home, "div", {"class": "scroll", "tabindex": "0", **label})
    grid = SubElement(box, "table")
    wordy = [any(len(row[i]) > _WORDS for row in table.shown()) for i in range(len(table.columns))]
    row = SubElement(SubElement(grid, "thead"), "tr")
    for name, words in zip(table.columns, wordy, strict=True):
        _say(row, "th", name, scope="col", **({"class_": "words"} if words else {}))
    body = SubElement(grid, "tbody")
    for cells in table.shown():
        row = SubElement(body, "tr")
        for number, (cell, words) in enumerate(zip(cells, wordy, strict=True)):
            style = {"class_": "words"} if words else {}
            _say(row, "td" if number else "th", cell, **style, **({} if number else {"scope": "row"}))
    for note in (table.caption, table.source):
        if note:
            _say(home, "p", note, class_="chart-note")


def _figure(home: Element, figure: Figure, place: str) -> None:
    single = len(figure.charts) == 1
    if not single:
        _say(home, "h3", figure.title)
    grid = SubElement(home, "div", {"class": "charts" if not single else "charts one"})
    for number in range(len(figure.charts)):
        chart = _whole(figure, number)
        box = SubElement(grid, "div", {"class": "chart", "data-chart": _id(place, number)})
        _say(box, "p", chart.title)  # what is left where no script runs
        _say(box, "p", " ".join(filter(None, (chart.told, chart.caption))))
    if not single:
        _say(home, "p", " ".join(filter(None, (figure.caption, _source(figure)))), class_="chart-note")


def _source(figure: Figure) -> str:
    return f"({figure.source}.)" if figure.source else ""


def _whole(figure: Figure, number: int) -> Chart:
    """A chart as it stands alone: a single one takes the figure's title and caption."""
    chart = figure.charts[number]
    if len(figure.charts) > 1:
        return chart
    caption = chart.caption or " ".join(filter(None, (figure.caption, _source(figure))))
    return replace(chart, title=chart.title or figure.title, caption=caption)


def _id(place: str, number: int) -> str:
    return f"chart-{place}-{number}"


def _data(report: Report) -> Iterator[Element]:
    """Every chart as JSON in a script that is data and never runs."""
    for at, part in enumerate(report.sections, 1):
        for place, block in enumerate(part.blocks):
            if not isinstance(block, Figure):
                continue
            for number in range(len(block.charts)):
                data = Element("script", {"type": "application/json", "id": _id(f"{at}-{place}", number)})
                text = json.dumps(_whole(block, number).to_screen(), ensure_ascii=False, separators=(",", ":"))
                data.text = (
                    _clean(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
                )
                yield data
