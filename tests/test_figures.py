"""Drawings: the same bytes twice, the formats they claim, the colours of the pages, nothing global left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distillscale import figures
from distillscale.chart import Axis, Chart, Figure, Mark, Series
from distillscale.errors import InputError

matplotlib = pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
STYLE = (Path(figures.__file__).parent / "static" / "base.css").read_text(encoding="utf-8")
STARTS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}


def figure(count: int = 1, title: str = "A title", name: str = "one") -> Figure:
    charts = tuple(
        Chart(
            name=f"c{i}", title=f"chart {i}", x=Axis(label="size", unit="parameters", scale="log"),
            y=Axis(label="loss", unit="nats/token"),
            series=(
                Series(name=name, x=(1e8, 1e9, 1e10), y=(3.0, None, 2.0), low=(2.9, None, 1.9), high=(3.1, None, 2.1)),
                Series(name=name, x=(1e8, 1e9), y=(3.0, 2.5), style="dashed"),
                Series(name="runs", x=(1e9,), y=(2.6,), low=(2.5,), high=(2.7,), style="points"),
            ),
            marks=(Mark(label="here", x=1e9), Mark(label="level", x=None, y=2.4), Mark(label="point", x=2e9, y=2.2)),
        )
        for i in range(count)
    )  # fmt: skip
    return Figure(name="test", title=title, charts=charts, columns=min(count, 3))


@pytest.mark.parametrize("theme", figures.THEMES)
@pytest.mark.parametrize("kind", figures.FORMATS)
def test_the_same_figure_has_the_same_bytes(kind: str, theme: str) -> None:
    first, second = (figures.render(figure(4), kind, theme) for _ in range(2))
    assert first == second
    assert first.startswith(STARTS[kind])
    for name in (b"CreationDate", b"matplotlib v", b"<dc:date>"):
        assert name not in first


def test_one_drawing_gives_every_format_and_theme() -> None:
    kinds = [(kind, theme) for kind in figures.FORMATS for theme in figures.THEMES]
    found = figures.images(figure(), kinds)
    assert list(found) == kinds
    assert found["svg", "light"] != found["svg", "dark"]
    assert figures.THEMES["dark"].paper.encode() in found["svg", "dark"]


def test_drawing_leaves_no_setting_behind() -> None:
    before = dict(matplotlib.rcParams)
    figures.render(figure(), "svg", "dark")
    assert dict(matplotlib.rcParams) == before


def test_colours_are_those_of_the_pages() -> None:
    """One palette: what base.css gives the browser is what matplotlib draws with."""
    light, dark = STYLE.partition('[data-theme="dark"]')[::2]
    for theme, css in (("light", light), ("dark", dark)):
        look = figures.THEMES[theme]
        named = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css))
        assert look.series == tuple(named[f"c{i}"] for i in range(1, len(look.series) + 1))
        assert (look.paper, look.ink, look.faint, look.grid) == tuple(named[n] for n in ("bg", "ink", "muted", "line"))


@pytest.mark.parametrize("theme", figures.THEMES)
def test_every_line_stands_out_from_the_paper(theme: str) -> None:
    """A contrast of 3:1 at least (WCAG 1.4.11), of text 4.5:1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    look = figures.THEMES[theme]
    for colour, least in [(c, 3.0) for c in look.series] + [(look.ink, 4.5), (look.faint, 4.5)]:
        a, b = sorted((luminance(colour), luminance(look.paper)))
        assert (b + 0.05) / (a + 0.05) >= least, colour


def test_names_from_files_are_drawn_as_text() -> None:
    """Neither mathematics (`$`) nor mark-up."""
    text = figures.render(figure(title="50 $ and <script>alert(1)</script> & co", name="a$b$<i>"), "svg").decode()
    assert "<script>" not in text
    assert "50 $ and" in text
    assert "a$b$&lt;i&gt;" in text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1e9, "parameters", "1B"),
        (3e8, "tokens", "300M"),
        (1e16, "tokens", "1e16"),
        (1e21, "FLOPs", "1e21"),
        (2.5, "", "2.5"),
    ],
)
def test_ticks_are_short(value: float, unit: str, text: str) -> None:
    assert figures.tick_text(value, unit) == text


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(figures, "import_module", gone)
    with pytest.raises(InputError, match=r"pip install 'distillscale\[report\]'"):
        figures.render(figure(), "svg")
