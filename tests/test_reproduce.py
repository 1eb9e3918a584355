"""`reproduce`: every figure and table with its numbers, an index, and what a law cannot give said so."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from cli_support import invoke

from distillscale.curves import CATALOGUE, Scope, chosen
from distillscale.reproduce import reproduce

pytest.importorskip("matplotlib", reason="drawing needs matplotlib")


def test_without_a_folder_it_lists_what_there_is() -> None:
    shown = invoke("reproduce")
    assert (shown.code, shown.err) == (0, "")
    assert all(entry.name in shown.out for entry in CATALOGUE)
    listed = invoke("reproduce", "--json").json()
    assert [entry["name"] for entry in listed] == [entry.name for entry in CATALOGUE]


def test_the_numbers_of_every_entry_are_written(tmp_path: Path) -> None:
    """All of them, without drawing: each CSV is the values of its figure."""
    done = invoke("reproduce", "all", "--out", str(tmp_path / "new" / "figs"), "--format", "csv", "--json").json()
    home = tmp_path / "new" / "figs"
    assert [one["name"] for one in done["made"]] == [entry.name for entry in CATALOGUE]
    assert {path.name for path in home.iterdir()} == {f"{e.name}.csv" for e in CATALOGUE} | {"index.html", "README.md"}
    scope = Scope.of("busbridge2025")
    (entry,) = chosen("figure-1")
    with (home / "figure-1-u-shape.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    rows = list(entry.make(scope).rows())
    assert len(read) == len(rows)
    for cells, row in zip(read, rows, strict=True):
        assert cells["series"] == row["series"]
        assert float(cells["x"]) == pytest.approx(row["x"], rel=1e-9)
        assert float(cells["y"]) == pytest.approx(row["y"], rel=1e-9)
    index = (home / "README.md").read_text(encoding="utf-8")
    page = (home / "index.html").read_text(encoding="utf-8")
    for entry in CATALOGUE:
        assert f"## {entry.name}" in index
        assert f"{entry.name}.csv" in index
        assert entry.name in page


def test_one_figure_in_every_format_and_theme(tmp_path: Path) -> None:
    done = invoke("reproduce", "figure-40", "--out", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    name = "figure-40-endless-data"
    drawn = {f"{name}{dark}.{kind}" for dark in ("", "-dark") for kind in ("svg", "png", "pdf")}
    assert {path.name for path in tmp_path.iterdir()} == drawn | {f"{name}.csv", "index.html", "README.md"}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert invoke("reproduce", "figure-40", "--out", str(tmp_path)).code == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_law_without_teachers_gets_the_rest_and_the_reasons(tmp_path: Path) -> None:
    done = invoke("reproduce", "--out", str(tmp_path), "--law", "besiroglu2024", "--format", "csv", "--json").json()
    made = {one["name"]: one for one in done["made"]}
    assert made["supervised-loss"]["files"] == ["supervised-loss.csv"]
    assert made["figure-1-u-shape"]["files"] == []
    assert "knows no teacher" in made["figure-1-u-shape"]["reason"]
    assert "Not made: law besiroglu2024 is a chinchilla law" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_several_processes_draw_the_same(tmp_path: Path) -> None:
    scope = Scope.of("busbridge2025")
    entries = [entry for entry in CATALOGUE if entry.name in _FAST]
    for workers in (1, 2):
        reproduce(entries, scope, tmp_path / str(workers), formats=["svg"], themes=["light"], workers=workers)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / str(n)).iterdir()} for n in (1, 2))
    assert one == two
    assert len(one) == 2 * len(_FAST) + 2


_FAST = ("figure-1-u-shape", "figure-36-isoflop-supervised", "figure-40-endless-data", "supervised-loss")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("figure-7", "--out", "x"), "'figure-7' is not a figure or table of the catalogue"),
        (("figure-6",), "--out is missing"),
        (("--out", "x", "--format", "jpg"), "--format must be of svg, png, pdf or csv"),
        (("--out", "x", "--format", ","), "--format must be of svg"),
        (("--out", " "), "is not a folder"),
        (("--out", "file"), "is not a folder"),
        (("--out", "file/x", "table-13"), "cannot be made"),
        (("--out", "x", "--law", "nobody"), "law 'nobody' is neither a published set nor a file"),
        (("--out", "x", "--law", "muennighoff2023"), "predicts no supervised loss"),
    ],
)
def test_wrong_input_is_one_line(args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    shown = invoke("reproduce", *args, cwd=tmp_path)
    assert shown.code == 2
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_names_of_a_law_are_data_in_the_index(tmp_path: Path) -> None:
    from distillscale import published

    hostile = "<img src=x onerror=alert(1)> `a` | b"
    law = published.load_set("busbridge2025").to_json() | {"name": hostile, "paper": "", "draws": None}
    (tmp_path / "law.json").write_text(json.dumps(law), encoding="utf-8")
    shown = invoke("reproduce", "table-3", "--law", "law.json", "--out", "o", "--format", "csv", cwd=tmp_path)
    assert shown.code == 0
    page = (tmp_path / "o" / "index.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<img" not in (tmp_path / "o" / "README.md").read_text(encoding="utf-8").replace("\\<img", "")
