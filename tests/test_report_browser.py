"""Reports in a real Chromium, from a file: no error, no request, values under the cursor, zoom, dark, a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser_support import MARKS, chromium
from cli_support import invoke
from study_support import LawExecutor, read

from distillscale.drive import drive
from distillscale.store import Store

pytestmark = MARKS
browser = chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plan's, a law's and a study's report, and the index of figures."""
    home = tmp_path_factory.mktemp("reports")
    made = invoke("plan", "--student", "3B", "--budget", "1e21", "--teacher", "inference", "--json")
    (home / "plan.json").write_text(made.out, encoding="utf-8")
    study, runs = read(home)
    store = Store(home / "runs" / study.name)
    drive(runs, store, LawExecutor(runs, store), retries=0)
    for source, name in (("plan.json", "plan"), ("busbridge2025-refit", "law"), ("study.toml", "study")):
        assert invoke("report", source, "--out", f"{name}.html", cwd=home).code == 0
    assert invoke("reproduce", "figure-2", "--out", "figs", "--format", "csv", cwd=home).code == 0
    return {name: home / f"{name}.html" for name in ("plan", "law", "study")} | {"index": home / "figs" / "index.html"}


def open_page(browser: Any, path: Path, trouble: list[str], **options: Any) -> Any:
    page = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options)).new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: None if request.url == path.as_uri() else trouble.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('[data-chart] canvas').length === "
                           "document.querySelectorAll('[data-chart]').length")  # fmt: skip
    return page


@pytest.mark.parametrize("name", ["plan", "law", "study", "index"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_page_opens_quietly_and_fits(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    trouble: list[str] = []
    page = open_page(browser, pages[name], trouble, viewport={"width": width, "height": 900})
    assert page.locator("[data-chart] canvas").count() >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
    assert trouble == []


def test_the_cursor_reads_a_figure_and_a_drag_zooms(browser: Any, pages: dict[str, Path]) -> None:
    trouble: list[str] = []
    page = open_page(browser, pages["plan"], trouble)
    chart = page.locator("[data-chart]").first
    over = chart.locator(".u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("document.querySelector('[data-chart] .chart-legend').textContent.match(/distilled.*[0-9]/)")
    assert "at teacher loss" in chart.locator(".chart-legend").inner_text()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    chart.locator(".chart-reset").click()
    page.context.close()
    assert trouble == []


def test_the_dark_theme_follows_the_reader(browser: Any, pages: dict[str, Path]) -> None:
    trouble: list[str] = []
    colours = {}
    for scheme in ("light", "dark"):
        page = open_page(browser, pages["law"], trouble, color_scheme=scheme)
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.context.close()
    assert colours == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 20, 24)"}
    assert trouble == []


def test_without_scripts_the_page_still_tells(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(pages["plan"].as_uri())
    text = page.inner_text("main")
    assert "the student is best under a teacher of" in text
    page.context.close()
