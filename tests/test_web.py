"""The planner over HTTP: the command line's numbers, whatever hostile input brings, and who is let in."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import LLAMA, invoke, plant_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillscale import published
from distillscale.cli import cli
from distillscale.errors import InputError
from distillscale.lawset import LawSet

pytest.importorskip("starlette", reason="the planner needs the extra `web`")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")
from starlette.routing import Route
from starlette.testclient import TestClient

from distillscale.web import worker
from distillscale.web.app import MOST_QUESTION_BYTES, Settings, create_app
from distillscale.web.fields import DEFAULTS, FIELDS, in_fields
from distillscale.web.fitting import MOST_ROWS, Busy, Fits, Gone, TooLong
from distillscale.web.guard import SECURITY_HEADERS
from distillscale.web.laws import LawBook
from distillscale.web.schema import openapi

ROOT = Path(__file__).parents[1]
HERE = "http://127.0.0.1:8765"
ASKED = {"student": "3B", "budget": "1e21", "teacher": "inference"}
OWNED = [{"name": "ours 7B", "params": "7B", "loss": 2.0}, {"name": "ours-2B", "params": 2e9, "loss": 2.2}]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_files(tmp_path_factory.mktemp("web"))


def ask(client: TestClient, question: str, **body: Any) -> Any:
    response = client.post(f"/api/{question}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: TestClient, question: str, body: Any, status: int = 422) -> str:
    """One line in words, without a trace."""
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    response = client.post(f"/api/{question}", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    message = response.json()["error"]
    assert "Traceback" not in message
    assert len(message) < 1200
    return message


# ---- the same numbers


def options_of(body: dict[str, Any]) -> list[str]:
    """The command line of a question."""
    words: list[str] = []
    for name, value in body.items():
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [] if value is False else [option, str(value)]
    return words


counts = st.sampled_from(["300M", "1B", "2.5e9", "paper:546M", "7B"])
money = st.sampled_from(["1e20", "3e21", "5000 USD", "2000 H100-hours", "$12,300", "400 A100-hours"])
questions = st.fixed_dictionaries(
    {"student": counts, "budget": money, "teacher": st.sampled_from(["free", "inference", "pretraining", "both"])},
    optional={
        "share_students": st.integers(1, 50),
        "max_teacher_params": st.sampled_from(["8B", "70B"]),
        "teacher_tokens": st.sampled_from(["1T", "15T"]),
        "unique_tokens": st.sampled_from(["30B", "1T"]),
        "mfu": st.sampled_from([0.35, "0.5"]),
        "price": st.sampled_from([1.5, "4"]),
        "context": st.sampled_from([2048, "8k"]),
        "law": st.sampled_from(["busbridge2025", "busbridge2025-refit", "busbridge2025-printed"]),
        "seed": st.integers(0, 5),
        "logits_share": st.sampled_from([0.5, 1]),
    },
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=questions)
def test_a_plan_is_the_command_lines_plan(client: TestClient, question: dict[str, Any]) -> None:
    """The same text, so the same numbers, keys, reasons and warnings; or the same refusal."""
    told = invoke("plan", *options_of(question), "--json")
    response = client.post("/api/plan", json=question)
    if told.code == 0:
        assert response.text == told.out
    else:
        assert response.status_code == 422
        assert in_fields(told.err.removeprefix("distillscale: ").strip()) == response.json()["error"]


@pytest.mark.parametrize(
    ("question", "body"),
    [
        ("predict", {"student": "1B", "tokens": "20B", "teacher_loss": 2.1}),
        ("predict", {"student": "1B", "tokens": "20B", "teacher_params": "7B", "teacher_tokens": "140B"}),
        ("predict", {"student": "1B", "tokens": 2e10, "law": "hoffmann2022"}),
        ("break-even", {"student": "1B", "teacher": "inference", "tolerance": 0.02}),
        ("break-even", {"student": "1B", "teacher": "both", "share_students": 7}),
        ("plan", {"student": "500M", "target_loss": 2.4, "teacher": "both"}),
        ("plan", {"student": "1.3B", "budget": "1e21", "teacher": "free", "total_params": True}),
    ],
)
def test_every_question_has_the_command_lines_answer(client: TestClient, question: str, body: dict[str, Any]) -> None:
    assert ask(client, question, **body) == invoke(question, *options_of(body), "--json").json()


def test_laws_frontiers_and_teachers_are_the_command_lines(client: TestClient, folder: Path) -> None:
    assert client.get("/api/laws").json() == invoke("laws", "--json").json()
    grid = ask(client, "frontier", students=["300M", 1e9], budgets="1e20:1e22:3", scenarios=["free", "both"])
    same = invoke(
        "frontier", "--students", "300M,1e9", "--budgets", "1e20:1e22:3", "--teacher", "free,both", "--json"
    )  # fmt: skip
    assert grid == same.json()
    text = (folder / "teachers.toml").read_text()
    owned = client.post("/api/teachers-file", content=text, headers={"content-type": "text/plain"}).json()["owned"]
    ranked = ask(client, "teachers", student="1B", tokens="200B", owned=owned)
    assert (
        ranked
        == invoke("teachers", "teachers.toml", "--student", "1B", "--tokens", "200B", "--json", cwd=folder).json()
    )


def test_a_config_is_content_and_its_plan_the_command_lines(client: TestClient, folder: Path) -> None:
    found = ask(client, "plan", config=LLAMA, budget="1e21", teacher="inference")
    told = invoke(
        "plan",
        "--student",
        "config.json",
        *options_of({"budget": "1e21", "teacher": "inference"}),
        "--json",
        cwd=folder,
    )
    assert found == told.json()
    assert client.post("/api/config", json=LLAMA).json()["params"] == found["distillation"]["student"]["params"]


ANSWERED: list[dict[str, Any]] = [
    ASKED,
    ASKED | {"budget": "5000 USD", "mfu": 0.5, "teacher": "both", "share_students": 3},
    ASKED | {"student": "paper:546M", "budget": "300 A100-hours", "context": 2048, "price": 1.2, "device": "A100"},
    {"student": "500M", "target_loss": 2.4, "teacher": "inference", "max_teacher_params": "7B", "seed": 3},
    ASKED | {"device": "Mine", "peak_flops": 1e14, "total_params": True, "vocab": 50_000, "unique_tokens": "100B"},
    ASKED | {"law": "busbridge2025-refit", "owned": OWNED, "teacher": "free"},
    {"config": LLAMA, "budget": "1e22", "teacher": "pretraining", "teacher_params": "3B", "teacher_tokens": "100B"},
]


@pytest.mark.parametrize("question", ANSWERED)
def test_the_commands_to_copy_give_the_numbers_shown(
    client: TestClient, folder: Path, question: dict[str, Any]
) -> None:
    answer = ask(client, "answer", **question)
    plan, commands = answer["plan"], answer["commands"]
    words = shlex.split(commands["cli"])
    assert invoke(*words[1:], "--json", cwd=folder).json() == plan
    names: dict[str, Any] = {"print": lambda *values: None}
    here = Path.cwd()
    try:
        os.chdir(folder)
        exec(commands["python"], names)
    finally:
        os.chdir(here)
    ours = json.loads(json.dumps(names["answer"].to_json()))
    assert {k: v for k, v in ours.items() if k != "asked"} == {k: v for k, v in plan.items() if k != "asked"}
    if "owned" in question:
        (folder / "copied").mkdir(exist_ok=True)
        (folder / "copied" / "teachers.toml").write_text(commands["teachers_toml"], encoding="utf-8")
        told = invoke(*shlex.split(commands["teachers"])[1:], "--json", cwd=folder / "copied").json()
        assert told == answer["teachers"]["ranked"]


def test_the_answer_for_a_page_agrees_with_itself(client: TestClient) -> None:
    answer = ask(client, "answer", **ASKED, owned=OWNED)
    assert answer["plan"] == ask(client, "plan", **ASKED)
    assert answer["break_even"] == ask(client, "break-even", student="3B", teacher="inference")
    teacher, budget = answer["charts"]
    points = {s["name"]: s for s in teacher["series"] if s["style"] == "points"}
    assert points["the plan"]["x"] == [pytest.approx(answer["plan"]["distillation"]["teacher"]["loss"], rel=1e-6)]
    assert points["your teachers"]["x"] == [2.0, 2.2]
    assert [m["label"] for m in teacher["marks"]][1:] == ["ours 7B", "ours-2B"]
    assert budget["x"]["scale"] == "log"
    best = answer["teachers"]["ranked"][0]
    assert answer["teachers"]["gain"].startswith(f"gain {best['gain_at_equal_flops']:+.3f}")
    assert 0 <= best["probability_at_equal_flops"] <= 1


def test_fields_and_defaults_are_those_of_the_command_line() -> None:
    ours_alone = {"config", "owned", "scenarios", "scenario"}
    renamed = {"scenarios": "teacher", "as_json": None, "out": None, "file": None}
    for question in ("plan", "predict", "break-even", "teachers", "frontier"):
        options = {p.name: p for p in cli.commands[question].params}
        names = {renamed.get(name, name) for name in options} - {None}
        fields = set(FIELDS[question]) - ours_alone | ({"teacher"} if question == "frontier" else set())
        assert fields == names, question
        for name, default in DEFAULTS.items():
            if name in options and name != "total_params":
                assert options[name].default == default


# ---- uploads


def test_an_uploaded_law_is_used_by_its_id_and_nothing_else(client: TestClient, folder: Path) -> None:
    law = published.load_set("busbridge2025-refit").to_json()
    kept = client.post("/api/laws", json=law).json()
    assert re.fullmatch(r"upload:[0-9a-f]{32}", kept["id"])
    assert client.post("/api/laws", json=law).json() == kept
    found = ask(client, "answer", **ASKED, law=kept["id"])
    (folder / "law.json").write_text(json.dumps(law), encoding="utf-8")
    assert invoke(*shlex.split(found["commands"]["cli"])[1:], "--json", cwd=folder).json() == found["plan"]
    gone = client.post("/api/plan", json=ASKED | {"law": "upload:" + "0" * 32})
    assert (gone.status_code, gone.json()["field"]) == (404, "law")


def test_uploads_are_bounded_and_the_longest_unused_goes() -> None:
    law = published.load_set("busbridge2025").to_json() | {"draws": None}
    book = LawBook(most=2)
    ids = [book.add(law | {"name": f"law {i}"})[0] for i in range(2)]
    book.find(ids[0])
    book.add(law | {"name": "another"})
    assert book.find(ids[0]).name == "law 0"
    with pytest.raises(InputError, match="upload the law file again"):
        book.find(ids[1])


@pytest.mark.parametrize(
    "change",
    [
        {"form": "nonsense"},
        {"coefficients": {"A": "many"}},
        {"regime": {"student_params": [0, 0]}},
        {"regime": {"student_params": [1e9, -1]}},
        {"draws": {"names": ["A"], "values": [[1.0, 2.0]]}},
        {"name": "x" * 300},
        {"name": "two\nlines"},
        {"caveats": ["x" * 3000]},
        {"residual": {"supervised": 1e9}},
        {"surprise": 1},
    ],
)  # fmt: skip
def test_bad_law_files_are_refused(client: TestClient, change: dict[str, Any]) -> None:
    law = published.load_set("busbridge2025").to_json() | {"draws": None}
    refused(client, "laws", law | change)


def test_a_teachers_file_names_no_file_here(client: TestClient) -> None:
    text = '[[teacher]]\nname = "a"\nloss = 2.0\nconfig = "/etc/passwd"\n'
    response = client.post("/api/teachers-file", content=text, headers={"content-type": "text/plain"})
    assert response.status_code == 422
    assert "cannot be read from here" in response.json()["error"]
    assert "cannot be read from here" in refused(
        client, "teachers", {"student": "1B", "tokens": "20B", "owned": [{"name": "a", "loss": 2, "config": "../x"}]}
    )


# ---- hostile input

PATHS = ["/etc/passwd", "../../etc/passwd", "law.json", "./busbridge2025", "busbridge2025.toml", "C:\\law.json", "~/x"]


@pytest.mark.parametrize("path", PATHS)
def test_no_text_of_a_client_is_a_path(client: TestClient, folder: Path, path: str) -> None:
    """Also where a file of that name exists."""
    here = Path.cwd()
    (folder / "law.json").write_text(json.dumps(published.load_set("busbridge2025").to_json()), encoding="utf-8")
    try:
        os.chdir(folder)
        assert "published set" in refused(client, "plan", ASKED | {"law": path})
        assert "is not a count" in refused(client, "plan", ASKED | {"student": path})
        assert "is not a count" in refused(client, "plan", ASKED | {"student": "config.json"})
        assert "not in the family" in refused(client, "plan", ASKED | {"student": f"paper:{path}"})
        response = client.post(f"/api/fit?supervised={path}", content="a", headers={"content-type": "text/csv"})
        assert response.status_code == 422
        assert "supervised must be one of" in response.json()["error"]
    finally:
        os.chdir(here)
    assert client.get(f"/static/{path}").status_code == 404
    assert client.get("/static/%2e%2e/web/app.py").status_code == 404


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (ASKED | {"student": "lots"}, "not a count"),
        (ASKED | {"student": "5"}, "at least 1000"),
        (ASKED | {"student": "1e18"}, "at most"),
        (ASKED | {"student": True}, "must be text"),
        (ASKED | {"student": [1]}, "a list"),
        (ASKED | {"student": "٣B"}, "not a count"),
        (ASKED | {"student": "3\u202eB"}, "one line"),
        (ASKED | {"student": "3B" * 500}, "at most 400 characters"),
        (ASKED | {"student": 10**400}, "more digits"),
        (ASKED | {"budget": "1e400"}, "positive and finite"),
        (ASKED | {"budget": "1e37"}, "at most 1e+36"),
        (ASKED | {"budget": "5 sheep"}, "budget"),
        (ASKED | {"budget": -1}, "budget"),
        (ASKED | {"mfu": 40}, "mfu must be a number from 0.0001 to 1"),
        (ASKED | {"mfu": "nan"}, "mfu must be"),
        (ASKED | {"price": {}}, "price must be a number"),
        (ASKED | {"device": "Abacus"}, "device must be one of"),
        (ASKED | {"teacher": "mine"}, "free, inference"),
        (ASKED | {"seed": -1}, "seed must be"),
        (ASKED | {"studnet": "3B"}, "did you mean 'student'"),
        (ASKED | {"x" * 100_000: 1}, "no field"),
        (ASKED | {"config": LLAMA}, "got both"),
        (ASKED | {"total_params": "yes"}, "true or false"),
        (ASKED | {"law": "folk-breakeven"}, "published set"),
        (ASKED | {"law": "hoffmann2022"}, "knows no teacher"),
        ({"budget": "1e21", "teacher": "free"}, "got neither"),
        ({"student": "3B", "teacher": "free"}, "budget is missing"),
        ({"student": "3B", "budget": "1e21"}, "teacher is missing"),
        (ASKED | {"student": "1T", "budget": "1e12"}, "too small"),
        (ASKED | {"teacher_params": "7B", "max_teacher_params": "8B"}, "not both"),
        ([], "JSON object"),
        ("text", "JSON object"),
        (None, "JSON object"),
    ],
)  # fmt: skip
def test_wrong_values_are_one_line_that_says_why(client: TestClient, body: Any, says: str) -> None:
    assert says in refused(client, "plan", json.dumps(body))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"mfu": NaN}', b'{"mfu": Infinity}', b"[" * 100_000, b'{"seed": %s}' % (b"9" * 5000)],
)  # fmt: skip
def test_what_is_not_json_is_refused(client: TestClient, body: bytes) -> None:
    refused(client, "plan", body, 400)


def test_sizes_are_limited(client: TestClient) -> None:
    refused(client, "plan", ASKED | {"law": "x" * MOST_QUESTION_BYTES}, 413)
    assert "at most 100 teachers" in refused(client, "answer", ASKED | {"owned": [OWNED[0]] * 101})
    assert "at most 4,000 plans" in refused(
        client, "frontier", {"students": ["1B"], "budgets": "1e19:1e24:5000", "scenarios": ["free"]}
    )
    rows = b"params,tokens,loss\n" + b"1,1,1\n" * 1_000_000
    response = client.post("/api/fit", content=rows, headers={"content-type": "text/csv"})
    assert response.status_code == 413
    assert f"{MOST_ROWS:,} rows" in response.json()["error"]
    response = client.post("/api/fit", content=b"x" * 9_000_000, headers={"content-type": "text/csv"})
    assert response.status_code == 413


def test_forms_of_other_sites_cannot_ask(client: TestClient) -> None:
    assert client.post("/api/plan", data={"student": "3B"}).status_code == 415
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post("/api/plan", json=ASKED, headers=headers).status_code == 403
    assert client.post("/api/plan", json=ASKED, headers={"origin": HERE}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "", "10.0.0.1:80"])
def test_a_name_rebound_to_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1", "[::1]:80"])
def test_loopback_is_answered_at_any_port(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for response in (
        client.get("/"),
        client.get("/nowhere"),
        client.put("/api/plan"),
        client.post("/api/plan", json=[]),
        client.get("/", headers={"host": "evil.example"}),
    ):
        assert SECURITY_HEADERS.items() <= dict(response.headers).items()


def test_the_page_asks_nobody_else_and_has_no_script_in_it(client: TestClient) -> None:
    page = client.get("/").text
    assert "unsafe" not in SECURITY_HEADERS["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)
    for name in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
        response = client.get(name)
        assert response.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg|github\.com/leeoniya)", response.text), name
        again = client.get(name, headers={"if-none-match": response.headers["etag"]})
        assert again.status_code == 304
    assert "Traceback" not in client.get("/nowhere").text


def test_a_defect_is_a_500_without_its_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("distillscale.web.answers.plan", broken)
    with TestClient(create_app(), base_url=HERE, raise_server_exceptions=False) as client:
        response = client.post("/api/plan", json=ASKED)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "defect" in response.json()["error"]


# ---- tokens

TOKEN = "correct-horse-battery-staple"


def test_a_token_is_asked_for_and_a_cookie_stands_for_it() -> None:
    app = create_app(Settings(token=TOKEN, remote=True))
    with TestClient(app, base_url="https://planner.example", follow_redirects=False) as client:
        assert client.post("/api/plan", json=ASKED).status_code == 401
        assert client.get("/openapi.json").status_code == 401
        login = client.get("/")
        assert login.status_code == 401
        assert 'type="password"' in login.text
        assert client.get("/static/base.css").status_code == 200
        assert client.get("/static/planner.js").status_code == 401
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/api/plan", json=ASKED, headers=bearer).status_code == 200
        assert client.post("/api/plan", json=ASKED, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/login", data={"token": "wrong"}).status_code == 401
        entered = client.post("/login", data={"token": TOKEN})
        assert entered.status_code == 303
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/").status_code == 200
        assert client.post("/api/plan", json=ASKED).status_code == 200


# ---- fits


LONG = {
    "name": "runs.csv", "law": "distillation", "columns": {}, "kind": None, "skip_bad_rows": False, "seed": 0,
    "tokens_from_flops": False, "supervised": None, "cluster": None, "bootstrap": 100_000, "hold_out": None,
}  # fmt: skip


def fit(client: TestClient, table: bytes | str, **options: str) -> Any:
    return client.post("/api/fit", params=options, content=table, headers={"content-type": "text/csv"})


def test_a_run_table_becomes_the_law_that_the_command_line_fits(client: TestClient, folder: Path) -> None:
    table = (folder / "runs.csv").read_bytes()
    response = fit(client, table, law="distillation", bootstrap="20", cluster="teacher", name="runs.csv")
    assert response.status_code == 200, response.text
    found = response.json()
    told = invoke(
        "fit", "runs.csv", "--law", "distillation", "--bootstrap", "20", "--cluster", "teacher", "--json", cwd=folder
    )
    assert found["fit"] == told.json()
    assert found["fit"]["certificate"]["starts_agreeing"] > 0
    assert found["fit"]["held_out"]["rows"] > 0
    law = LawSet.from_mapping(found["law"], "law")
    assert law.name == "runs"
    kept = client.post("/api/laws", json=found["law"]).json()
    assert kept["plans"]
    assert ask(client, "plan", **ASKED, law=kept["id"])["law"] == "runs"
    assert {s["name"] for s in found["chart"]["series"]} == {"runs", "exact"}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "empty"),
        ("params,tokens\n1e9,1e10\n", "no column 'loss'"),
        ("params,tokens,loss\n1e9,1e10,-2\n", "line 2"),
        ("params,tokens,loss\n1e9,1e10,NaN\n", "finite"),
        ("params;tokens;loss\n1;2;3\n", "semicolons"),
        (b"\x00\x01\x02binary", "binary"),
        ('params,tokens,loss\n"1e9,1e10,2\n', "CSV"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_the_place(table: bytes | str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        worker.answer(LONG, table if isinstance(table, bytes) else table.encode())


def test_a_bad_table_is_one_line(client: TestClient) -> None:
    for table, says in (("params,tokens,loss\n1e9,1e10,-2\n", "line 2"), (b"PAR1" + b"\0" * 50, "Parquet")):
        response = fit(client, table, name="../../x.parquet")
        assert response.status_code == 422
        assert says in response.json()["error"]
        assert "x.parquet" not in response.json()["error"]


@pytest.mark.parametrize(
    "options",
    [{"law": "cubic"}, {"bootstrap": "1001"}, {"bootstrap": "many"}, {"kind": "x"}, {"columns": "a"}, {"other": "1"}],
)  # fmt: skip
def test_bad_options_of_a_fit_are_refused(client: TestClient, options: dict[str, str]) -> None:
    assert fit(client, "params,tokens,loss\n", **options).status_code == 422


def test_a_fit_without_a_law_says_so(client: TestClient) -> None:
    found = fit(client, "params,tokens,loss\n1e9,1e10,2.5\n2e9,1e10,2.4\n").json()
    assert found["law"] is None
    assert not found["fit"]["usable"]
    assert found["fit"]["reason"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def never() -> None:
    await asyncio.Event().wait()


def test_a_fit_that_nobody_waits_for_is_killed(folder: Path) -> None:
    """The process is gone when `run` returns, whichever way it ends."""
    table = (folder / "runs.csv").read_bytes()

    async def leaves() -> list[int]:
        fits, seen = Fits(), list[int]()

        async def gone() -> None:
            while not fits.running:
                await asyncio.sleep(0.01)
            seen.extend(fits.running)
            assert all(map(alive, seen))

        with pytest.raises(Gone):
            await fits.run(LONG, table, gone)
        assert not fits.running
        return seen

    async def takes_too_long() -> None:
        fits = Fits(seconds=1.0)
        with pytest.raises(TooLong):
            await fits.run(LONG, table, never)
        assert not fits.running

    async def is_one_too_many() -> list[int]:
        fits = Fits(most=1)
        first = asyncio.create_task(fits.run(LONG, table, never))
        while not fits.running:
            await asyncio.sleep(0.01)
        pids = list(fits.running)
        with pytest.raises(Busy):
            await fits.run(LONG, table, never)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert not fits.running
        with pytest.raises(Gone):  # the place is free again
            await fits.run(LONG, table, lambda: asyncio.sleep(0))
        return pids

    pids = asyncio.run(leaves()) + asyncio.run(is_one_too_many())
    asyncio.run(takes_too_long())
    assert pids
    assert not any(map(alive, pids))


def test_too_many_fits_are_told_to_come_back(folder: Path) -> None:
    with TestClient(create_app(Settings(fits=0)), base_url=HERE) as client:
        response = fit(client, (folder / "runs.csv").read_bytes())
    assert response.status_code == 503
    assert "retry-after" in response.headers


# ---- the description, and the process


def test_the_description_covers_every_route_and_field(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert found == json.loads(json.dumps(openapi()))
    app: Any = client.app
    routes = {(r.path, m) for r in app.app.routes if isinstance(r, Route) for m in r.methods - {"HEAD"}}
    described = {(path, method.upper()) for path, item in found["paths"].items() for method in item}
    of_the_page = {("/", "GET"), ("/static/{name}", "GET"), ("/openapi.json", "GET"), ("/login", "POST")}
    assert described == routes - of_the_page
    for question, names in FIELDS.items():
        if question != "fit":
            body = found["paths"][f"/api/{question}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            assert set(body["properties"]) == set(names)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--host", "0.0.0.0"), "--allow-remote"),
        (("--host", "0.0.0.0", "--allow-remote"), "--token"),
        (("--host", "0.0.0.0", "--token", TOKEN), "--allow-remote"),
        (("--host", "::", "--allow-remote", "--token", "short"), "at least 16"),
        (("--host", "192.0.2.7", "--port", "0", "--allow-remote", "--token", TOKEN), "cannot be listened on"),
        (("--host", "no such host", "--allow-remote", "--token", TOKEN), "not an address"),
        (("--law", "nonsense"), "neither a published set"),
        (("--port", "70000"), "--port"),
    ],
)
def test_serve_lets_nobody_in_by_mistake(arguments: tuple[str, ...], says: str) -> None:
    done = invoke("serve", *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1


def test_serve_prints_where_it_is_answers_and_ends_on_ctrl_c(folder: Path) -> None:
    (folder / "law.json").write_text(json.dumps(published.load_set("busbridge2025").to_json()), encoding="utf-8")
    command = [sys.executable, "-m", "distillscale", "serve", "--port", "0", "--law", "law.json"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=env
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert url, line + (server.stderr.read() if server.stderr and server.poll() is not None else "")
            from urllib.request import urlopen

            with urlopen(f"{url[0]}api/options", timeout=30) as response:
                options = json.load(response)
            assert options["law"].startswith("upload:")
            assert options["laws"][0]["id"] == options["law"]
            server.send_signal(signal.SIGINT)
            out, err = server.communicate(timeout=30)
        finally:
            server.kill()
    assert (server.returncode, out, err) == (0, "", "")


def test_questions_do_not_wait_for_a_fit(folder: Path) -> None:
    """While a long fit runs, plans are answered, and leaving ends the fit."""
    import threading

    with TestClient(create_app(Settings(fit_seconds=20)), base_url=HERE) as client:
        table = (folder / "runs.csv").read_bytes()
        done = threading.Event()

        def long() -> None:
            fit(client, table, law="distillation", bootstrap="1000")
            done.set()

        thread = threading.Thread(target=long)
        thread.start()
        answered = 0
        while not done.is_set() and answered < 3:
            ask(client, "plan", **ASKED)
            answered += 1
            time.sleep(0.01)
        thread.join()
    assert answered == 3
