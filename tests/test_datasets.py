"""Run tables of the package: each readable, with source and licence; listed, printed and written."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from cli_support import invoke

from distillscale import datasets
from distillscale.runs import read

HOME = files("distillscale.datasets")
TABLES = sorted(path.name.removesuffix(".csv") for path in HOME.iterdir() if path.name.endswith(".csv"))


def test_every_table_has_its_entry_and_every_entry_its_table() -> None:
    entries = tomllib.loads((HOME / "tables.toml").read_text(encoding="utf-8"))
    assert sorted(entries) == TABLES
    assert all(set(entry) == {"what", "source", "licence"} and all(entry.values()) for entry in entries.values())
    assert [entry.name for entry in datasets.datasets()] == TABLES


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_one_of_runs_with_ids(name: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    assert invoke("datasets", name, "--out", "runs.csv", cwd=tmp_path).code == 0
    table = read(path)
    assert table.id is not None
    assert len(set(table.id)) == len(table)
    assert path.read_text(encoding="utf-8") == datasets.load(name)


CSV = "kind,params,tokens,loss,id\nsupervised,1e6,2e7,3.5,a\nsupervised,2e6,4e7,3.25,b\n"
ENTRY = 'what = "two runs"\nsource = "written for this test, 2026"\nlicence = "public domain"\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with one table, and an entry whose table is not there."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "miniature.csv").write_text(CSV)
    (folder / "tables.toml").write_text(f"[miniature]\n{ENTRY}[promised]\n{ENTRY}")
    monkeypatch.setattr(datasets, "_home", lambda: folder)
    return tmp_path


def test_tables_are_listed_with_their_source(home: Path) -> None:
    (found,) = invoke("datasets", "--json", cwd=home).json()
    assert found == {
        "name": "miniature", "what": "two runs", "source": "written for this test, 2026", "licence": "public domain",
        "rows": 2, "columns": ["kind", "params", "tokens", "loss", "id"],
    }  # fmt: skip
    shown = invoke("datasets", cwd=home)
    assert all(word in shown.out for word in ("miniature", "two runs", "written for this test", "public domain"))


def test_a_table_is_printed_or_written_as_it_is(home: Path) -> None:
    assert invoke("datasets", "miniature", cwd=home).out == CSV
    found = invoke("datasets", "miniature", "--json", cwd=home).json()
    assert [row["loss"] for row in found["table"]] == ["3.5", "3.25"]
    done = invoke("datasets", "miniature", "--out", "runs.csv", cwd=home)
    assert (done.code, (home / "runs.csv").read_text()) == (0, CSV)
    assert "fit runs.csv" in done.out
    assert read(home / "runs.csv").loss.tolist() == [3.5, 3.25]
    assert invoke("datasets", "miniature", "--out", "runs.csv", "--json", cwd=home).json()["out"] == "runs.csv"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("minature",), "there is no dataset 'minature'; did you mean 'miniature'? there are miniature"),
        (("promised",), "there is no dataset 'promised'"),
        (("miniature", "--out", "no/runs.csv"), "the folder 'no' does not exist"),
        (("--out", "runs.csv"), "--out needs the NAME of a dataset"),
    ],
)
def test_wrong_names_are_one_line(arguments: tuple[str, ...], said: str, home: Path) -> None:
    done = invoke("datasets", *arguments, cwd=home)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


def test_without_tables_there_is_nothing_to_list(home: Path) -> None:
    (home / "package" / "miniature.csv").unlink()
    assert invoke("datasets", "--json", cwd=home).json() == []
    assert "no run tables" in invoke("datasets", cwd=home).out
    (home / "package" / "tables.toml").unlink()
    assert invoke("datasets", "--json", cwd=home).json() == []
    assert "comes with none" in invoke("datasets", "miniature", cwd=home).err
