"""Reports of plans, laws and studies: their numbers, their safety, every format, every state of a study."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import invoke
from study_support import STUDY, LawExecutor, planned_record, read, write

from distillscale import published
from distillscale.chart import Chart, Figure, Table
from distillscale.curves import evidence
from distillscale.drive import drive
from distillscale.errors import InputError
from distillscale.export import rows_of
from distillscale.report import report_of, study_page, write_report
from distillscale.report.html import as_html
from distillscale.report.of_law import fingerprint
from distillscale.report.page import Code, Facts, Points, Report, Section, Text, figures_of
from distillscale.store import Store

HOSTILE = "<script>alert('x')</script> \"quoted\" & λ ✓ `tick` $x$ | \x07 ]]> </style> -->"


class Page(HTMLParser):
    """What a browser would read: tags, attributes, text, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = attrs, text + data
        elif self.inside != "style":
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def charts(self) -> list[dict[str, Any]]:
        return [json.loads(text) for attrs, text in self.scripts if attrs.get("type") == "application/json"]


def asks_nobody(text: str) -> Page:
    """No address outside the page in anything that a browser would fetch, and a policy that forbids it."""
    page = Page(text)
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            value = attrs.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
        assert not any(name.startswith("on") for name in attrs)
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    for word in ("@import", "url("):
        assert word not in text
    assert len(text.encode()) < 3_000_000
    return page


@pytest.fixture(scope="module")
def planned_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("plan")
    shown = invoke("plan", "--student", "3B", "--budget", "1e21", "--teacher", "inference", "--json")
    (home / "plan.json").write_text(shown.out, encoding="utf-8")
    return home / "plan.json"


# Plans ----------------------------------------------------------------------------------------------------------------


def test_a_plans_page_says_what_the_plan_says(planned_file: Path) -> None:
    data = json.loads(planned_file.read_text(encoding="utf-8"))
    page = asks_nobody(as_html(report_of(str(planned_file))))
    assert "Distill it" in page.text
    assert f"{data['gain_nats']:+.3f}" in page.text
    assert f"P(gain > 0) = {data['probability']:.2f}" in page.text
    for sentence in (*data["reasons"], *data["warnings"]):
        assert " ".join(sentence.split()) in page.text
    _, _, body = page.text.partition("Answer Distill it")
    assert 0 < body.index("The bill") < body.index("Reproduce distillscale plan")
    names = [chart["name"] for chart in page.charts]
    assert names == ["loss-against-teacher-loss", "loss-against-budget"]
    chosen = next(s for s in page.charts[0]["series"] if s["name"] == "the plan")
    assert chosen["y"] == [pytest.approx(data["distillation"]["student_loss"], rel=1e-7)]


@pytest.mark.parametrize(
    "options",
    [
        ("--student", "paper:546M", "--budget", "5000 USD", "--teacher", "both", "--share-students", "4"),
        ("--student", "500M", "--target-loss", "2.4", "--teacher", "inference", "--seed", "3"),
        (
            *("--student", "1B", "--budget", "1e21", "--logits-share", "0.5", "--pretraining-share", "0.25"),
            *("--max-teacher-params", "7B", "--max-teacher-tokens", "15T", "--unique-tokens", "100B", "--vocab", "50k"),
        ),
        (
            "--student",
            "1B",
            "--budget",
            "1e21",
            "--teacher",
            "free",
            "--device",
            "A100",
            "--mfu",
            "0.3",
            "--price",
            "2",
        ),
    ],
)
def test_the_command_of_a_report_asks_the_same_plan_again(options: tuple[str, ...], tmp_path: Path) -> None:
    first = invoke("plan", *options, "--json").json()
    (tmp_path / "plan.json").write_text(json.dumps(first), encoding="utf-8")
    report = report_of(str(tmp_path / "plan.json"))
    (code,) = [b for part in report.sections if part.title == "Reproduce" for b in part.blocks if isinstance(b, Code)]
    command = code.text.splitlines()[0].partition(" > ")[0]
    again = invoke(*shlex.split(command)[1:]).json()
    for key in ("verdict", "probability", "gain_nats", "distillation", "supervised", "scenario"):
        new, old = dict(leaves(again[key])), dict(leaves(first[key]))
        assert new.keys() == old.keys()
        for path, value in old.items():
            assert new[path] == (value if isinstance(value, str | None) else pytest.approx(value, rel=1e-6)), path


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and word of a JSON value by its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}.{key}")
    else:
        yield path, value


def test_a_plan_by_a_law_of_ones_own_needs_that_law(tmp_path: Path) -> None:
    law = published.load_set("busbridge2025-refit").to_json() | {"name": "ours"}
    law["draws"]["values"] = law["draws"]["values"][:50]
    (tmp_path / "law.json").write_text(json.dumps(law), encoding="utf-8")
    options = ("--student", "1B", "--budget", "1e21", "--teacher", "free", "--json")
    made = invoke("plan", *options, "--law", "law.json", cwd=tmp_path)
    (tmp_path / "plan.json").write_text(made.out, encoding="utf-8")
    alone = invoke("report", "plan.json", "--out", "r.html", cwd=tmp_path)
    assert (alone.code, alone.err.count("\n")) == (2, 1)
    assert "was made with a law of its own, 'ours'; name its file with --law" in alone.err
    other = invoke("report", "plan.json", "--law", "busbridge2025", "--out", "r.html", cwd=tmp_path)
    assert other.code == 2
    assert "was made with another law than 'busbridge2025'" in other.err
    assert not (tmp_path / "r.html").exists()
    done = invoke("report", "plan.json", "--law", "law.json", "--out", "r.html", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "--law law.json" in Page((tmp_path / "r.html").read_text(encoding="utf-8")).text


def test_a_plan_of_another_version_is_told_apart(planned_file: Path, tmp_path: Path) -> None:
    data = json.loads(planned_file.read_text(encoding="utf-8"))
    data["distillation"]["student_loss"] += 0.01
    (tmp_path / "old.json").write_text(json.dumps(data), encoding="utf-8")
    assert "student loss is 2.15" in Page(as_html(report_of(str(tmp_path / "old.json")))).text


@pytest.mark.parametrize("key", ["student", "limits", "scenario", "context", "law", "seed"])
def test_half_a_plan_is_refused(planned_file: Path, tmp_path: Path, key: str) -> None:
    data = json.loads(planned_file.read_text(encoding="utf-8"))
    del data["asked"][key]
    (tmp_path / "half.json").write_text(json.dumps(data), encoding="utf-8")
    shown = invoke("report", str(tmp_path / "half.json"), "--out", str(tmp_path / "r.html"))
    assert (shown.code, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert "no whole output of `distillscale plan --json`" in shown.err


def test_equal_laws_have_equal_fingerprints() -> None:
    ours, printed = (published.load_set(name) for name in ("busbridge2025", "busbridge2025-printed"))
    assert fingerprint(ours) == fingerprint(published.load_set("busbridge2025"))
    assert fingerprint(ours) != fingerprint(printed)
    assert len(fingerprint(ours)) == 12


# Laws -----------------------------------------------------------------------------------------------------------------


def test_a_fitted_laws_page_has_its_certificate_and_held_out_score(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["params,tokens,loss"]
    for N in np.geomspace(1e7, 1e9, 6):
        for D in np.geomspace(1e9, 1e11, 5):
            loss = (1.8 + 400 / N**0.34 + 1500 / D**0.34) * np.exp(0.003 * rng.standard_normal())
            rows.append(f"{N:.0f},{D:.0f},{loss:.6f}")
    (tmp_path / "runs.csv").write_text("\n".join(rows), encoding="utf-8")
    fitted = invoke("fit", "runs.csv", "--bootstrap", "50", "--out", "law.json", "--json", cwd=tmp_path).json()
    shown = invoke("report", "law.json", "--out", "law.html", cwd=tmp_path)
    assert (shown.code, shown.err) == (0, "")
    page = asks_nobody((tmp_path / "law.html").read_text(encoding="utf-8"))
    proof, held = fitted["certificate"], fitted["held_out"]
    assert f"{proof['starts_agreeing']} of {proof['starts']}" in page.text
    assert f"rmse {held['rmse']:.4f} nats" in page.text
    assert "distillscale fit runs.csv --law chinchilla --out law.json" in page.text
    assert [chart["name"] for chart in page.charts] == ["loss", "isoflop"]


@pytest.mark.parametrize("name", ["busbridge2025", "busbridge2025-refit", "kaplan2020"])
def test_published_laws_have_pages(name: str) -> None:
    page = asks_nobody(as_html(report_of(name)))
    for caveat in published.load_set(name).caveats:
        assert " ".join(caveat.split()) in page.text
    assert page.charts


# Studies --------------------------------------------------------------------------------------------------------------


def study_at(home: Path, *changes: tuple[str, str], done: int | None = None, fails: int = 0) -> tuple[Path, Store]:
    """The study of study_support with so many of its runs done, by a law, and so many failed."""
    study, runs = read(home, *changes)
    store = Store(home / "runs" / study.name)
    if done is None and not fails:
        drive(runs, store, LawExecutor(runs, store), retries=0)
    for run in runs[: done or 0]:
        folder = store.folder(run.id)
        folder.mkdir(parents=True)
        planned_record(run, store).write(folder / "record.json")
    for run in runs[done or 0 : (done or 0) + fails]:
        store.add_failure(run.id, HOSTILE)
    return home / "study.toml", store


def blocks(report: Report, kind: Any) -> list[Any]:
    return [block for part in report.sections for block in part.blocks if isinstance(block, kind)]


def titled(report: Report, title: str) -> Section:
    return next(part for part in report.sections if part.title == title)


def test_a_finished_studys_page(tmp_path: Path) -> None:
    path, store = study_at(tmp_path)
    report = study_page(path, None)
    study, runs = read(tmp_path)
    del study
    rows = rows_of(runs, store)
    page = asks_nobody(as_html(report))
    assert "Does the larger teacher help the small student more?" in page.text
    assert f"All {len(runs)} runs are done." in page.text
    table = next(b for b in titled(report, "Runs").blocks if isinstance(b, Table))
    assert {row["run"] for row in table.rows()} == {row["id"] for row in rows}
    gains = evidence.gains(rows)
    assert gains
    for gain in gains:  # the law of the test gives student and twin one loss
        assert gain.nats == pytest.approx(0, abs=1e-12)
    names = [figure.name for figure in figures_of(report)]
    assert names[:3] == ["loss", "students", "gains"]
    prediction = titled(report, "Prediction and result").blocks[0]
    assert isinstance(prediction, Table)
    assert prediction.cells[0][0] == "yes, by 0.05 nats"


@pytest.mark.parametrize("enough", [True, False])
def test_a_law_says_what_its_intervals_rest_on_or_that_it_has_none(
    enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not enough:
        monkeypatch.setattr(sys.modules["distillscale.fit"], "LEAST_FREEDOM", 1000)  # clusters beyond the coefficients
    path, _ = study_at(
        tmp_path,
        ("[[protocol]]", '[[size]]\nname = "d48"\nd_model = 48\n[[protocol]]'),
        ('sizes = ["d16", "d32"]\ntokens = [1280, 2560]', 'sizes = ["d16", "d32", "d48"]\ntokens = [1280, 2560, 5120]'),
    )
    law = next(table for table in blocks(study_page(path, None), Table) if table.name == "coefficients-chinchilla")
    assert any(cell is not None for row in law.cells for cell in row[2:]) == enough
    assert law.caption.startswith("Intervals: 200 resamples of 18 clusters" if enough else "No intervals;")


@pytest.mark.parametrize(("done", "fails"), [(0, 0), (1, 0), (3, 1), (4, 2)])
def test_a_study_half_done_or_failed_has_a_page(tmp_path: Path, done: int, fails: int) -> None:
    path, _ = study_at(tmp_path, done=done, fails=fails)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    if not done and not fails:
        before = sorted(str(p) for p in tmp_path.rglob("*"))
    report = study_page(path, None)
    page = asks_nobody(as_html(report))
    assert f"{done} of " in page.text
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before  # looking changes nothing
    if fails:
        assert f"{fails} failed." in page.text
        assert "<script>alert('x')</script>" in page.text  # as text
        assert not any("alert" in text for _, text in page.scripts)
    else:
        assert "What failed Nothing." in page.text


def test_noise_and_gains_are_of_twins_alone() -> None:
    base = {
        "kind": "supervised", "params": 10, "tokens": 100, "teacher": None, "teacher_loss": None, "schedule": "wsd",
        "lr": 0.01, "batch_tokens": 10, "seed": 0, "loss": 3.0, "flops": 1.0, **dict.fromkeys(evidence.SETTINGS),
    }  # fmt: skip
    taught = base | {"kind": "distillation", "teacher": "t", "teacher_loss": 2.5}
    rows: list[dict[str, Any]] = [
        base, base | {"seed": 1, "loss": 3.2}, base | {"tokens": 200, "loss": 2.0},
        base | {"schedule": "cosine", "loss": 9.0}, base | {"lr": 0.02, "loss": 9.0},
        taught | {"loss": 2.9}, taught | {"loss": 2.8, "tokens": 400}, taught | {"loss": 2.7, "lam": 0.5, "seed": 1},
    ]  # fmt: skip
    (cell,) = evidence.noise(rows)
    assert (cell.seeds, cell.mean, cell.spread) == (2, pytest.approx(3.1), pytest.approx(0.2 / 2**0.5))
    assert [gain.nats for gain in evidence.gains(rows)] == [pytest.approx(0.2), pytest.approx(0.4)]
    figure = evidence.gains_figure(evidence.gains(rows))
    assert figure is not None
    assert figure.charts[0].series[0].y == (pytest.approx(0.2), pytest.approx(0.4))


def test_loss_figures_go_through_the_runs_of_a_planted_law() -> None:
    law = published.load_set("hoffmann2022").supervised
    row = {"kind": "supervised", "teacher_loss": None, "flops": None}
    rows = [row | {"params": N, "tokens": D, "loss": float(law.loss(N, D))} for N in (1e8, 1e9) for D in (1e10, 1e11)]
    figure = evidence.loss_figure(rows, law)
    assert figure is not None
    for chart, x in zip(figure.charts, ("tokens", "params"), strict=True):
        for series in chart.series:
            if series.style == "points":
                line = next(s for s in chart.series if s.name == series.name and s.style == "line")
                for at, y in zip(series.x, series.y, strict=True):
                    assert np.interp(np.log(at), np.log(line.x), np.array(line.y, float)) == pytest.approx(y, abs=2e-3)
                assert set(series.x) <= {row[x] for row in rows}
    residuals = evidence.residual_figure({"chinchilla": (rows, [row["loss"] / 1.01 for row in rows])})
    assert residuals is not None
    assert residuals.charts[0].title == "chinchilla: 1.00 % rms"


# Formats and safety ---------------------------------------------------------------------------------------------------


def hostile_report() -> Report:
    from distillscale.chart import Axis, Series

    chart = Chart(
        name="c", title=HOSTILE, x=Axis(label=HOSTILE, unit="FLOPs", scale="log"), y=Axis(label="y", unit=HOSTILE),
        series=(Series(name=HOSTILE, x=(1.0, 2.0), y=(1.0, 2.0)),), caption=HOSTILE, told=HOSTILE, source=HOSTILE,
    )  # fmt: skip
    parts = (
        Text(HOSTILE), Text(HOSTILE, lead=True), Points((HOSTILE,), alert=True), Facts(((HOSTILE, HOSTILE),)),
        Code(HOSTILE, "bash"), Table(name="t", title=HOSTILE, columns=(HOSTILE, "n"), cells=((HOSTILE, 1.0),)),
        Figure(name="f", title=HOSTILE, charts=(chart,)),
        Figure(name="g", title=HOSTILE, charts=(chart, chart), columns=2),
    )  # fmt: skip
    return Report(title=HOSTILE, subtitle=HOSTILE, sections=(Section(HOSTILE, parts),), made_by=HOSTILE)


def test_nothing_that_a_user_wrote_is_mark_up() -> None:
    text = as_html(hostile_report())
    page = asks_nobody(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 3 + 3  # three charts, three programs
    assert tags.count("style") == 1
    assert "\x07" not in text
    assert page.charts[0]["series"][0]["name"].startswith("<script>alert('x')</script>")
    assert page.text.count("<script>alert('x')</script>") > 10


def test_markdown_shows_hostile_text_as_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = write_report(hostile_report(), tmp_path / "r.md", "md")
    assert [path.name for path in files] == ["f.svg", "g.svg", "r.md"]
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    outside = [line for line in text.splitlines() if "script" in line and not line.startswith(("<script>", "```"))]
    assert outside
    assert all("\\<script\\>" in line for line in outside)
    assert "](r-figures/f.svg)" in text


def test_every_format_of_every_source(planned_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path, _ = study_at(tmp_path)
    for source in (str(planned_file), str(path)):
        for kind in ("html", "md", "pdf"):
            done = invoke("report", source, "--out", str(tmp_path / f"r.{kind}"), "--json").json()
            assert done["files"][-1] == str(tmp_path / f"r.{kind}")
            assert all(Path(file).stat().st_size for file in done["files"])
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
    again = invoke("study", "report", str(path), "--out", str(tmp_path / "s.html"), "--json").json()
    assert again["title"] == "Study study"
    one, other = ((tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("r", "s"))
    assert one == other


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nothing.json", "--out", "r.html"), "report 'nothing.json' cannot be read"),
        (("nothing.toml", "--out", "r.html"), "study 'nothing.toml' cannot be read"),
        (("busbridge2025", "--out", "r.txt"), "write .html, .md or .pdf, or give --format"),
        (("busbridge2025", "--out", "missing/r.html"), "create it first"),
        (("busbridge2025", "--out", "r.html", "--law", "kaplan2020"), "is a law itself; drop it"),
        (("busbridge2025", "--out", "r.html", "--runs", "runs"), "is no study.toml; drop it"),
        (("list.json", "--out", "r.html"), "holds no JSON object"),
        (("text.json", "--out", "r.html"), "neither a study.toml nor JSON"),
        (("fit.json", "--out", "r.html"), "give the law file that `fit --out` writes"),
        (("other.json", "--out", "r.html"), "not a law file of this tool"),
        (("text.json", "--out", "text.json"), "would overwrite"),
        (("busbridge2025",), "--out"),
    ],
)
def test_wrong_input_is_one_line(args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    (tmp_path / "text.json").write_text("hello", encoding="utf-8")
    (tmp_path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    (tmp_path / "fit.json").write_text('{"outcome": "converged", "certificate": {}}', encoding="utf-8")
    shown = invoke("report", *args, cwd=tmp_path)
    assert (shown.code, shown.out) == (2, "")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_study_that_is_not_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ("question =", "qestion ="), text=STUDY)
    with pytest.raises(InputError, match="did you mean 'question'"):
        study_page(path, None)


def test_the_examples_of_the_help_run(tmp_path: Path) -> None:
    made = invoke("plan", "--student", "3B", "--budget", "1e21", "--teacher", "inference", "--json")
    (tmp_path / "plan.json").write_text(made.out, encoding="utf-8")
    for name in ("report", "reproduce", "study report"):
        shown = invoke(*name.split(), "--help").out
        assert f"distillscale {name}" in shown.partition("Example:")[2]
        assert "--json" in shown
    assert invoke("report", "plan.json", "--out", "report.html", cwd=tmp_path).code == 0
