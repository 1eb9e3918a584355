"""Draws figures by matplotlib, as SVG, PNG or PDF, light or dark; it computes no number and decides no content.

One look for all: Okabe and Ito's colours, which people with any colour vision can tell apart; a line inside the fitted
range, dashes outside; a width that a column or a page of print takes. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from .chart import Axis, Chart, Figure, Series
from .errors import InputError
from .units import format_count

__all__ = [
    "FORMATS",
    "THEMES",
    "Sheet",
    "Theme",
    "available",
    "blank_page",
    "images",
    "page_of",
    "pages",
    "render",
    "size_of",
    "tick_text",
]

FORMATS: Final = ("svg", "png", "pdf")
COLUMN, PAGE = 3.5, 7.2
"""Inches: one column of print, and both."""
_DPI = 200
_OUTSIDE: Final = "outside the fitted range"
_ASPECT: Final = {1: 0.72, 2: 0.62, 3: 0.8}
"""Height over width of a chart, by the number of columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """Colours of one look."""

    paper: str
    ink: str
    faint: str
    grid: str
    series: tuple[str, ...]


THEMES: Final[Mapping[str, Theme]] = {
    "light": Theme(
        paper="#ffffff",
        ink="#15191e",
        faint="#515963",
        grid="#d3d8de",
        series=("#0072b2", "#c2500a", "#00805d", "#a8487f", "#8a6400", "#4a4f57", "#6f4bb0", "#a3283a"),
    ),
    "dark": Theme(
        paper="#111418",
        ink="#e9ecef",
        faint="#a9b2bd",
        grid="#343c46",
        series=("#56b4e9", "#f0883e", "#2bbd8e", "#e08dbb", "#e5c93a", "#b4bbc4", "#b59cf0", "#ff8f9c"),
    ),
}
"""As in static/base.css (a test compares them)."""


def available() -> bool:
    """Whether matplotlib is there."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _matplotlib(module: str) -> Any:
    """matplotlib or a part of it, untyped; the first use says how to get it."""
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            "drawing needs matplotlib; pip install 'distillscale[report]', or take --format csv for the numbers alone"
        ) from None


def render(figure: Figure, format_: str, theme: str = "light") -> bytes:
    """The figure as the bytes of an SVG, PNG or PDF file; the same figure gives the same bytes."""
    with _look(THEMES[theme]):
        return _saved(_drawn(figure, THEMES[theme]), format_)


def images(figure: Figure, kinds: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """Every (format, theme) of one figure, drawn once a theme."""
    out: dict[tuple[str, str], bytes] = {}
    drawn: dict[str, Any] = {}
    for format_, theme in kinds:
        with _look(THEMES[theme]):
            drawn.setdefault(theme, None)
            drawn[theme] = drawn[theme] or _drawn(figure, THEMES[theme])
            out[format_, theme] = _saved(drawn[theme], format_)
    return out


def pages(drawings: Sequence[Any]) -> bytes:
    """matplotlib figures as the pages of one PDF."""
    backend = _matplotlib("matplotlib.backends.backend_pdf")
    sink = io.BytesIO()
    with backend.PdfPages(sink, metadata=_NO_METADATA["pdf"]) as book:
        for drawing in drawings:
            book.savefig(drawing)
    return sink.getvalue()


_NO_METADATA: Final[Mapping[str, dict[str, None]]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
}


def _saved(drawing: Any, format_: str) -> bytes:
    sink = io.BytesIO()
    drawing.savefig(sink, format=format_, dpi=_DPI, metadata=_NO_METADATA[format_])
    return sink.getvalue()


def _look(theme: Theme) -> AbstractContextManager[None]:
    """matplotlib's settings for one drawing; nothing global is left changed."""
    text = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), theme.ink)
    ticks = dict.fromkeys(("xtick.color", "ytick.color", "axes.edgecolor"), theme.faint)
    return _matplotlib("matplotlib").rc_context(
        {
            "font.family": ["DejaVu Sans", "sans-serif"],
            "font.size": 7.5,
            "axes.titlesize": 7.5,
            "axes.labelsize": 7.5,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "legend.fontsize": 6.5,
            "figure.titlesize": 9,
            "figure.facecolor": theme.paper,
            "axes.facecolor": theme.paper,
            "savefig.facecolor": theme.paper,
            "axes.grid": True,
            "grid.color": theme.grid,
            "grid.linewidth": 0.4,
            "axes.axisbelow": True,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.3,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "svg.fonttype": "none",
            "svg.hashsalt": "distillscale",
            "pdf.fonttype": 3,
            "path.simplify": True,
            **text,
            **ticks,
        }
    )


def _drawn(figure: Figure, theme: Theme) -> Any:
    width, height = size_of(figure)
    canvas = _matplotlib("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    canvas.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.05)
    _fill(canvas, figure, theme, width)
    canvas.draw_without_rendering()  # lays it out; every format then takes the same places
    canvas.set_layout_engine("none")
    return canvas


def size_of(figure: Figure) -> tuple[float, float]:
    """Width and height in inches."""
    rows, columns = _shape(figure)
    width = COLUMN if columns == 1 else PAGE
    each = width / columns * _ASPECT[min(columns, 3)]
    return width, each * rows + 0.45 + 0.17 * _legend_rows(_legend_names(figure), width)


def _shape(figure: Figure) -> tuple[int, int]:
    columns = min(figure.columns, len(figure.charts))
    return math.ceil(len(figure.charts) / columns), columns


def page_of(figure: Figure, text: str, paper: tuple[float, float]) -> Any:
    """A page of `paper` inches with the figure on top and the text below it."""
    theme = THEMES["light"]
    with _look(theme):
        canvas = _matplotlib("matplotlib.figure").Figure(figsize=paper, layout="constrained")
        margin = 0.06
        width, height = size_of(figure)
        wide = paper[0] * (1 - 2 * margin)
        height = min(height * wide / width if width > COLUMN else height * 1.35, paper[1] * 0.8)
        above, below = canvas.subfigures(2, 1, height_ratios=[height, paper[1] - height])
        canvas.get_layout_engine().set(rect=(margin, margin / 2, 1 - 2 * margin, 1 - margin), hspace=0.05)
        _fill(above, figure, theme, wide)
        below.text(0.01, 0.97, _wrapped(text, paper[0] * 1.25), va="top", fontsize=8, color=theme.faint)
        canvas.draw_without_rendering()
        canvas.set_layout_engine("none")
    return canvas


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page of text under way."""

    canvas: Any
    paper: tuple[float, float]

    def write(self, place: tuple[float, float], text: str, size: float, bold: bool, mono: bool, faint: bool) -> None:
        """One line of text with its foot at `place` inches from the lower left corner."""
        theme = THEMES["light"]
        self.canvas.text(
            place[0] / self.paper[0], place[1] / self.paper[1], text, fontsize=size,
            fontweight="bold" if bold else "normal", fontfamily="DejaVu Sans Mono" if mono else "DejaVu Sans",
            color=theme.faint if faint else theme.ink, parse_math=False,
        )  # fmt: skip


def blank_page(paper: tuple[float, float]) -> Sheet:
    """An empty page of `paper` inches."""
    return Sheet(_matplotlib("matplotlib.figure").Figure(figsize=paper), paper)


def _fill(canvas: Any, figure: Figure, theme: Theme, width: float) -> None:
    """Titles, charts and the legend, on a figure or a part of one."""
    count, (rows, columns) = len(figure.charts), _shape(figure)
    names = _legend_names(figure)
    apart = {} if names else {chart.name: _colours(chart.series, theme) for chart in figure.charts}
    colours = _colours([series for chart in figure.charts for series in chart.series], theme)
    canvas.suptitle(_wrapped(figure.title, width), x=0.01, ha="left", fontweight="bold")
    shared = len({(chart.x, chart.y) for chart in figure.charts}) == 1 and count > 1
    places = canvas.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for place, chart in zip(places, figure.charts, strict=False):
        _draw_chart(place, chart, apart.get(chart.name, colours), theme, figure.title)
        if apart:
            handles = _handles(apart[chart.name], chart.series, theme)
            place.legend(
                handles=handles,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
                ncols=3,
                frameon=False,
                handlelength=1.4,
            )
    for place in places[count:]:
        place.set_visible(False)
    if shared:
        for place in places[:count]:
            place.set(xlabel="", ylabel="")
        for place in places[max(0, count - columns) : count]:
            place.tick_params(labelbottom=True)
            place.set_xlabel(figure.charts[0].x.title)
        canvas.supylabel(figure.charts[0].y.title, fontsize="medium", color=theme.ink)
    if names:
        _legend(canvas, figure, colours, theme, width)


def _colours(every: Sequence[Series], theme: Theme) -> dict[str, str]:
    """A colour for each name, in the order of the series."""
    names = dict.fromkeys(series.name for series in every)
    return {name: theme.series[i % len(theme.series)] for i, name in enumerate(names)}


def _wrapped(text: str, width: float) -> str:
    from textwrap import fill

    return fill(text, int(width * 11.5))


def _legend_names(figure: Figure) -> list[str]:
    """Names of the one legend below; none where the charts have no name in common and each has its own."""
    each = [{series.name for series in chart.series} for chart in figure.charts]
    if len(each) > 1 and not any(a & b for i, a in enumerate(each) for b in each[:i]):
        return []
    return list(dict.fromkeys(series.name for chart in figure.charts for series in chart.series))


def _legend_columns(names: Sequence[str], width: float) -> int:
    """How many entries of the widest kind go into one line; all of them where their sum does."""
    each = [0.052 * len(name) + 0.42 for name in (*names, _OUTSIDE)]
    if sum(each) <= width:
        return len(each)
    return max(1, int(width / max(each)))


def _legend_rows(names: Sequence[str], width: float) -> int:
    return math.ceil((len(names) + 1) / _legend_columns(names, width))


def _legend(canvas: Any, figure: Figure, colours: Mapping[str, str], theme: Theme, width: float) -> None:
    handles = _handles(colours, [series for chart in figure.charts for series in chart.series], theme)
    if len(handles) > 1:
        canvas.legend(
            handles=handles, loc="outside lower center", ncols=_legend_columns(list(colours), width), frameon=False,
            handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip


def _handles(colours: Mapping[str, str], every: Sequence[Series], theme: Theme) -> list[Any]:
    line = _matplotlib("matplotlib.lines").Line2D
    handles: list[Any] = []
    for name, colour in colours.items():
        styles = {series.style for series in every if series.name == name}
        marker = "o" if styles == {"points"} else ""
        dashes = "" if styles == {"points"} else ":" if styles == {"dashed"} and "line" in _all_styles(every) else "-"
        handles.append(line([], [], color=colour, marker=marker, markersize=3, linestyle=dashes, label=name))
    if _has_both(every):
        handles.append(line([], [], color=theme.faint, linestyle=(0, (3, 2)), label=_OUTSIDE))
    return handles


def _all_styles(every: Sequence[Series]) -> set[str]:
    return {series.style for series in every}


def _has_both(every: Sequence[Series]) -> bool:
    """Whether some name is drawn both as a line and dashed, which is how a fitted range is shown."""
    lines = {series.name for series in every if series.style == "line"}
    return any(series.style == "dashed" and series.name in lines for series in every)


def _draw_chart(place: Any, chart: Chart, colours: Mapping[str, str], theme: Theme, above: str) -> None:
    if chart.title and chart.title != above:
        place.set_title(chart.title, loc="left")
    place.set_xlabel(chart.x.title)
    place.set_ylabel(chart.y.title)
    for which, axis in (("x", chart.x), ("y", chart.y)):
        _scale(place, which, axis, chart)
    for series in chart.series:
        _draw_series(place, series, colours[series.name])
    for mark in chart.marks:
        style = {"color": theme.faint, "linewidth": 0.8, "zorder": 1.5}
        if mark.x is None and mark.y is not None:
            place.axhline(mark.y, **style)
            left = _room(chart, mark.y, 0) > _room(chart, mark.y, -1)
            place.annotate(
                mark.label, (0.01 if left else 0.99, mark.y), xycoords=place.get_yaxis_transform(),
                ha="left" if left else "right", va="bottom", color=theme.faint, fontsize=6, xytext=(0, 1),
                textcoords="offset points",
            )  # fmt: skip
        elif mark.y is None and mark.x is not None:
            place.axvline(mark.x, **style)
            place.annotate(
                mark.label, (mark.x, 1.0), xycoords=place.get_xaxis_transform(), rotation=90, ha="right", va="top",
                color=theme.faint, fontsize=6, xytext=(-1, -1), textcoords="offset points",
            )  # fmt: skip
        elif mark.x is not None:
            place.plot([mark.x], [mark.y], marker="D", color=theme.ink, markersize=4, zorder=4)
            place.annotate(
                mark.label, (mark.x, mark.y), xytext=(5, 5), textcoords="offset points", color=theme.ink, fontsize=6
            )


def _room(chart: Chart, y: float, end: int) -> float:
    """How far above a rule the nearest curve is at one end of the chart."""
    ends = [series.y[end] for series in chart.series if series.style != "points" and series.y]
    above = [value - y for value in ends if value is not None and value > y]
    return min(above, default=math.inf)


def _draw_series(place: Any, series: Series, colour: str) -> None:
    y = [math.nan if value is None else value for value in series.y]
    if series.style == "points":
        many = len(y) > 60
        if series.low:
            low, high = ([math.nan if v is None else v for v in ends] for ends in (series.low, series.high))
            spread = [[b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
            place.errorbar(series.x, y, yerr=spread, fmt="none", ecolor=colour, elinewidth=0.8, zorder=3)
        place.plot(series.x, y, "o", color=colour, markersize=2 if many else 3.2, zorder=3, markeredgewidth=0)
        return
    if series.low:
        low, high = ([math.nan if v is None else v for v in ends] for ends in (series.low, series.high))
        place.fill_between(series.x, low, high, color=colour, alpha=0.18, linewidth=0)
    dashes: Any = "-" if series.style == "line" else (0, (3, 2))
    place.plot(series.x, y, color=colour, linestyle=dashes, zorder=2.5)


def tick_text(value: float, unit: str) -> str:
    """A tick as short as its axis allows: 1B, 1e21, 2.4."""
    if unit in ("parameters", "tokens"):
        if value >= 1e15:
            return f"{value:.0e}".replace("e+", "e")
        return format_count(value)
    if unit == "FLOPs":
        return f"{value:.0e}".replace("e+", "e")
    return f"{value:g}"


def _scale(place: Any, which: str, axis: Axis, chart: Chart) -> None:
    """The scale of one axis, with ticks that people read."""
    if axis.scale != "log":
        return
    ticker = _matplotlib("matplotlib.ticker")
    getattr(place, f"set_{which}scale")("log")
    values = [v for s in chart.series for v in (s.x if which == "x" else s.y) if v is not None and v > 0]
    decades = math.log10(max(values) / min(values)) if values else 1.0
    if values and decades < 1e-6:  # a constant has no range of its own
        getattr(place, f"set_{which}lim")(values[0] / 30, values[0] * 30)
        decades = 3.0
    subs = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    if decades < 0.7:
        subs = tuple(x / 4 for x in range(4, 40))
    target = getattr(place, f"{which}axis")
    target.set_major_locator(ticker.LogLocator(subs=subs, numticks=6 if which == "x" else 7))
    target.set_minor_locator(ticker.NullLocator())

    def text(value: float, _position: object) -> str:
        return tick_text(value, axis.unit)

    target.set_major_formatter(ticker.FuncFormatter(text))
