"""The command line: the keys others rely on, equality with the library, exit codes, width, colour, help that runs."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_support import SCRIPT, Result, invoke, plant_files, script

import distillscale as ds
from distillscale.cli import cli
from distillscale.extrapolation import scored_on_largest
from distillscale.hardware import compute
from distillscale.hfconfig import read_hf_config
from distillscale.lawset import LawSet
from distillscale.published import catalogue, names
from distillscale.teachers import read_teachers

SGR = re.compile(r"\x1b\[[0-9;]*m")
DEFAULT = "busbridge2025"

COMMANDS = {
    "predict": "predict --student 1B --tokens 20B --teacher-loss 2.1",
    "predict-best-teacher": "predict --student 1B --tokens 20B",
    "predict-alone": "predict --student 1B --tokens 20B --law hoffmann2022",
    "plan": "plan --student 1B --budget 1e21 --teacher inference",
    "plan-with-practical-teacher": "plan --student 3B --budget 1e25 --teacher free",
    "plan-for-a-target": "plan --student 500M --target-loss 2.4 --teacher both --share-students 4",
    "break-even": "break-even --student 1B --teacher inference",
    "break-even-none": "break-even --student 1B --teacher both",
    "frontier": "frontier --students 300M,1B --budgets 1e19:1e22:4 --teacher both,free --out f.csv",
    "teachers": "teachers teachers.toml --student 1B --tokens 200B",
    "laws": "laws",
    "fit": "fit runs.csv --bootstrap 50 --hold-out params>5e8",
    "fit-supervised": "fit runs.csv --law supervised --bootstrap 50",
    "fit-distillation": "fit runs.csv --law distillation --bootstrap 20 --out law.json",
    "compare": "compare runs.csv",
}
"""One or more command lines of every command that answers without training."""

KEYS = {
    "predict": "law supervised_loss student_loss teacher_loss optimal_teacher_loss regime interval warnings",
    "plan": "law verdict probability gain_nats gain_interval distillation supervised reasons warnings",
    "break-even": "law scenario student_params budget_flops tolerance_nats negligible_from_flops reason "
    "folk_rule_flops",
    "teachers": "name params loss student_loss gain_nats regime flops usd warnings",
    "laws": "name form paper table regime caveats coefficients",
    "fit": "law rows objective delta coefficients intervals outcome certificate identified held_out warnings",
    "compare": "law held_out_rmse aic bic coefficients",
}
PLAN_KEYS = {
    "distillation": "student_loss student teacher flops shares gpu_hours usd",
    "distillation.student": "params tokens",
    "distillation.teacher": "params tokens loss",
    "distillation.flops": "student logits teacher total",
    "distillation.shares": "student logits teacher",
    "supervised": "loss tokens flops",
}
FIT_KEYS = {
    "certificate": "gradient_norm min_eigenvalue starts starts_agreeing",
    "held_out": "rows rmse max_relative_error",
}
FRONTIER = (
    "student_params budget_flops scenario student_loss supervised_loss student_tokens teacher_params teacher_tokens "
    "teacher_loss share_student share_logits share_teacher"
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_files(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def home(planted: Path, tmp_path: Path) -> Path:
    """A folder with runs.csv, teachers.toml and config.json."""
    return Path(shutil.copytree(planted, tmp_path, dirs_exist_ok=True))


def ask(line: str, home: Path | None = None, code: int = 0) -> Any:
    """The JSON value that a command line answers with."""
    result = invoke(*shlex.split(line), "--json", cwd=home)
    assert result.code == code, result
    return result.json()


def has(value: Any, keys: str) -> bool:
    return isinstance(value, dict) and set(keys.split()) <= set(value)


def plain(value: Any) -> Any:
    """As it comes out of a JSON file."""
    return json.loads(json.dumps(value))


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


ALL = [pytest.param(path, command, id="-".join(path)) for path, command in leaves(cli)]


# JSON: the documented keys, and the library's own answer


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "frontier"])
def test_json_is_one_value_with_the_documented_keys(name: str, home: Path) -> None:
    line = COMMANDS[name]
    command = line.split()[0]
    answer = ask(line, home)
    for one in answer if isinstance(answer, list) else [answer]:
        assert has(one, KEYS[command])
        for inner, keys in {"plan": PLAN_KEYS, "fit": FIT_KEYS}.get(command, {}).items():
            value = one
            for part in inner.split("."):
                value = value[part]
            assert has(value, keys), inner
    if isinstance(answer, list):
        assert answer


@pytest.mark.parametrize("teacher", ["free", "inference", "pretraining", "both"])
@pytest.mark.parametrize("budget", ["1e19", "1e21", "1e24"])
def test_a_plan_adds_up(teacher: str, budget: str) -> None:
    plan = ask(f"plan --student 1B --budget {budget} --teacher {teacher}")
    distilled = plan["distillation"]
    flops = distilled["flops"]
    assert sum(distilled["shares"].values()) == pytest.approx(1, abs=1e-12)
    assert flops["student"] + flops["logits"] + flops["teacher"] == pytest.approx(flops["total"])
    assert flops["total"] <= float(budget) * (1 + 1e-9)
    paid = {name for name in ("logits", "teacher") if flops[name] > 0}
    expected = {"free": set(), "inference": {"logits"}, "pretraining": {"teacher"}, "both": {"logits", "teacher"}}
    assert paid == expected[teacher]
    assert plan["gain_nats"] == pytest.approx(plan["supervised"]["loss"] - distilled["student_loss"])
    low, high = plan["gain_interval"]
    assert low < plan["gain_nats"] < high
    assert 0 <= plan["probability"] <= 1
    expected_verdict = "distill" if plan["gain_nats"] > 0 else "supervised"
    assert plan["verdict"] == ("toss-up" if abs(plan["gain_nats"]) < 0.01 else expected_verdict)
    assert distilled["usd"] == pytest.approx(distilled["gpu_hours"] * plan["hardware"]["usd_per_hour"])
    assert plan["reasons"]


def test_predict_is_the_library_s() -> None:
    line = "predict --student 1B --tokens 20B --teacher-params 7B --teacher-tokens 1T --seed 3"
    expected = ds.predict(DEFAULT, 1e9, 2e10, teacher_params=7e9, teacher_tokens=1e12, seed=3)
    assert ask(line) == plain(expected.to_json())


def test_plan_is_the_library_s() -> None:
    line = "plan --student 2B --budget 3e21 --teacher both --max-teacher-tokens 2T --unique-tokens 50B --seed 5"
    limits = ds.Limits(teacher_tokens=(ds.Limits().teacher_tokens[0], 2e12), unique_tokens=5e10)
    expected = ds.plan(DEFAULT, 2e9, 3e21, ds.Scenario.named("both"), limits=limits, seed=5)
    assert ask(line) == plain(expected.to_json())


def test_break_even_is_the_library_s() -> None:
    line = "break-even --student 3B --teacher inference --tolerance 0.02 --seed 2"
    expected = ds.break_even(DEFAULT, 3e9, ds.Scenario.named("inference"), tolerance=0.02, seed=2)
    assert ask(line) == plain(expected.to_json())


def test_teachers_are_the_library_s(home: Path) -> None:
    line = "teachers teachers.toml --student 1B --tokens 200B --device H200 --mfu 0.35"
    owned = read_teachers(home / "teachers.toml")
    hardware = compute("H200", mfu=0.35)
    expected = ds.rank_teachers(DEFAULT, 1e9, owned, tokens=2e11, hardware=hardware)
    answer = ask(line, home)
    assert answer == plain([teacher.to_json() for teacher in expected])
    losses = [teacher["student_loss"] for teacher in answer]
    assert losses == sorted(losses)


def test_frontier_is_the_library_s() -> None:
    line = "frontier --students 300M,1B --budgets 1e19:1e21:3 --teacher both --share-students 4"
    expected = ds.frontier(DEFAULT, [3e8, 1e9], [1e19, 1e20, 1e21], [ds.Scenario.named("both", 4)])
    assert ask(line) == plain({"rows": expected.rows(), "warnings": list(expected.warnings)})
    shown = invoke(*line.split())
    assert shown.out == expected.to_csv()
    assert shown.err.splitlines() == [f"warning: {warning}" for warning in expected.warnings]
    assert sum("B' is corrected" in warning for warning in expected.warnings) == 1


def besides_warnings(err: str) -> list[str]:
    """What stderr holds beside the warnings of a table on stdout, which go there to leave the table whole."""
    return [text for text in err.splitlines() if not text.startswith("warning: ")]


def test_laws_are_the_library_s() -> None:
    assert ask("laws") == plain(catalogue())


def test_fit_is_the_library_s(home: Path) -> None:
    runs = ds.read(home / "runs.csv")
    settings: dict[str, Any] = {"objective": "lad", "bounds": {"alpha": (0.2, 0.6)}, "seed": 4}
    expected = ds.fit(runs, "supervised", bootstrap=30, **settings)
    expected = scored_on_largest(expected, runs, **settings)
    line = f"fit {home / 'runs.csv'} --law supervised --objective lad --bounds alpha=0.2:0.6 --bootstrap 30 --seed 4"
    assert ask(line, home) == plain(expected.to_json())


def test_compare_is_the_library_s(home: Path) -> None:
    path = home / "runs.csv"
    expected = ds.compare(ds.read(path), hold_out="params>1e9", supervised=ds.published.load_set("kaplan2020"))
    answer = ask(f"compare {path} --hold-out params>1e9 --supervised kaplan2020", home)
    assert answer == plain([one.to_json() for one in expected])


# What the options mean


def test_a_student_is_a_count_a_row_of_the_paper_a_config_or_its_folder(home: Path) -> None:
    tail = "--budget 1e21 --teacher inference"
    count = ask(f"plan --student 1.5e9 {tail}")
    assert ask(f"plan --student 1.5B {tail}") == ask(f"plan --student 1500M {tail}") == count
    row = ask(f"plan --student paper:546M {tail}")["distillation"]["student"]
    assert row["params"] == pytest.approx(5.46e8, rel=1e-3)
    config = ask(f"plan --student config.json {tail}", home)
    shape = read_hf_config(home / "config.json")
    assert config["distillation"]["student"]["params"] == shape.params
    by_folder = ask(f"plan --student . {tail}", home)
    assert {**config, "asked": None} == {**by_folder, "asked": None}  # which keeps the name as it was given
    by_count = ask(f"plan --student {shape.params} {tail}")
    assert config["supervised"]["tokens"] != pytest.approx(by_count["supervised"]["tokens"], rel=1e-3)  # its own FLOPs


def test_total_params_include_the_embeddings() -> None:
    tail = "--tokens 20B --teacher-loss 2.1"
    total = ask(f"predict --student 1B --total-params {tail}")
    assert total["student_loss"] > ask(f"predict --student 1B {tail}")["student_loss"]
    more_words = ask(f"predict --student 1B --total-params --vocab 256k {tail}")
    assert more_words["student_loss"] > total["student_loss"]
    plan = ask("plan --student 1B --budget 1e21 --teacher both --total-params --teacher-params 2B")
    assert plan["distillation"]["student"]["params"] < 0.99e9
    assert plan["distillation"]["teacher"]["params"] < 1.99e9


@pytest.mark.parametrize("option", ["--context 32768", "--vocab 256k"])
def test_longer_contexts_and_larger_vocabularies_leave_fewer_tokens(option: str) -> None:
    line = "plan --student 1B --budget 1e21 --teacher inference"
    assert ask(f"{line} {option}")["supervised"]["tokens"] < ask(line)["supervised"]["tokens"]
    grid = "frontier --students 1B --budgets 1e21 --teacher inference"
    assert ask(f"{grid} {option}")["rows"][0]["student_tokens"] < ask(grid)["rows"][0]["student_tokens"]


@pytest.mark.parametrize(
    ("budget", "options", "flops"),
    [
        ("1e21", "", 1e21),
        ("3e20 FLOPs", "", 3e20),
        ("5000 USD", "", 5000 / 2.95 * 0.4 * 989.4e12 * 3600),
        ("$5k", "--price 2 --mfu 0.5", 2500 * 0.5 * 989.4e12 * 3600),
        ("2000 H100-hours", "", 2000 * 0.4 * 989.4e12 * 3600),
        ("2000 GPU-hours", "--mfu 0.3 --device A100", 2000 * 0.3 * 312e12 * 3600),
        ("2000 B200-hours", "", 2000 * 0.4 * 2250e12 * 3600),
        ("2000 GPU-hours", "--precision fp8", 2000 * 0.4 * 1978.9e12 * 3600),
        ("10 hours", "--device mine --peak-flops 100e12", 10 * 0.4 * 100e12 * 3600),
    ],
)
def test_a_budget_is_flops_money_or_hours(budget: str, options: str, flops: float, home: Path) -> None:
    plan = ask(f"plan --student 300M --budget '{budget}' --teacher inference {options}")
    assert plan["budget_flops"] == pytest.approx(flops, rel=1e-9)
    assert plan["supervised"]["flops"] == pytest.approx(flops, rel=1e-6)
    ranked = ask(f"teachers teachers.toml --student 300M --budget '{budget}' {options}", home)
    assert max(teacher["flops"] for teacher in ranked) == pytest.approx(flops, rel=1e-6)


def test_a_budget_in_hours_moves_the_bill_to_its_device() -> None:
    plan = ask("plan --student 300M --budget '2000 B200-hours' --teacher inference")
    assert plan["hardware"]["device"] == "B200"
    assert plan["distillation"]["gpu_hours"] == pytest.approx(2000, rel=1e-6)
    assert plan["distillation"]["usd"] == pytest.approx(2000 * 5.5, rel=1e-6)
    assert ask("plan --student 300M --budget 1e21 --teacher free --device A100")["distillation"]["usd"] is None


@pytest.mark.parametrize("loss", [2.3, 2.6])
def test_a_target_loss_is_met_at_the_least_cost(loss: float) -> None:
    target = ask(f"plan --student 1B --target-loss {loss} --teacher inference")
    reached = min(target["distillation"]["student_loss"], target["supervised"]["loss"])
    assert reached == pytest.approx(loss, abs=1e-6)
    less = ask(f"plan --student 1B --budget {target['budget_flops'] * 0.99} --teacher inference")
    assert min(less["distillation"]["student_loss"], less["supervised"]["loss"]) > loss


def test_students_share_the_teacher_s_training_only() -> None:
    line = "plan --student 1B --budget 1e21 --teacher both"
    alone, shared = ask(line), ask(f"{line} --share-students 10")
    assert shared["distillation"]["student_loss"] < alone["distillation"]["student_loss"]
    shares = "plan --student 1B --budget 1e21 --logits-share 1 --pretraining-share 0.1"
    assert ask(shares)["distillation"] == shared["distillation"]
    free = ask("plan --student 1B --budget 1e21 --teacher free")
    assert ask("plan --student 1B --budget 1e21 --teacher both --logits-share 0 --pretraining-share 0") == free


def test_limits_bind() -> None:
    line = "plan --student 1B --budget 1e22 --teacher both"
    best = ask(line)["distillation"]
    fixed = ask(f"{line} --teacher-params 2B --teacher-tokens 100B")["distillation"]
    assert (fixed["teacher"]["params"], fixed["teacher"]["tokens"]) == pytest.approx((2e9, 1e11))
    capped = ask(f"{line} --max-teacher-params 500M --max-teacher-tokens 50B --max-student-tokens 80B")["distillation"]
    assert capped["teacher"]["params"] <= 5e8 * (1 + 1e-9)
    assert capped["teacher"]["tokens"] <= 5e10 * (1 + 1e-9)
    assert capped["student"]["tokens"] <= 8e10 * (1 + 1e-9)
    assert best["student_loss"] < min(fixed["student_loss"], capped["student_loss"])
    repeated = ask(f"{line} --unique-tokens 1B")
    assert repeated["distillation"]["student_loss"] > best["student_loss"]
    assert any("epochs" in warning for warning in repeated["warnings"])


@pytest.mark.parametrize(
    "line",
    [
        "predict --student 1B --tokens 20B --teacher-loss 2.1",
        "plan --student 1B --budget 1e21 --teacher inference",
        "break-even --student 1B --teacher inference",
        "teachers teachers.toml --student 1B --tokens 200B",
        "fit runs.csv --bootstrap 40",
    ],
    ids=lambda line: line.split()[0],
)
def test_a_seed_repeats_every_byte_and_another_moves_intervals_only(line: str, home: Path) -> None:
    first, again, other = (invoke(*line.split(), "--json", "--seed", seed, cwd=home) for seed in ("1", "1", "2"))
    assert first == again
    assert first.out != other.out
    intervals = ("interval", "probability")

    def points(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: points(v) for k, v in value.items() if not any(word in k for word in (*intervals, "seed"))}
        return [points(v) for v in value] if isinstance(value, list) else value

    if line.startswith("plan"):  # what is said in words may name the probability
        answers = [{k: v for k, v in r.json().items() if k not in ("reasons", "warnings")} for r in (first, other)]
    else:
        answers = [first.json(), other.json()]
    assert points(answers[0]) == points(answers[1])


def test_a_frontier_is_a_table_of_every_combination(home: Path) -> None:
    line = "frontier --students 300M,1B --budgets 1e15:1e22:5 --teacher free,inference,both --out f.csv"
    summary = ask(line, home)
    rows = list(csv.DictReader(io.StringIO((home / "f.csv").read_text(encoding="utf-8"))))
    assert set(FRONTIER.split()) <= set(rows[0])
    assert len(rows) == summary["plans"] == 2 * 5 * 3
    assert [row["scenario"] for row in rows[:3]] == ["free", "inference", "both"]
    infeasible = [row for row in rows if not row["student_loss"]]
    assert len(infeasible) == summary["infeasible"] > 0
    for row in rows:
        if row["student_loss"]:
            shares = [float(row[f"share_{name}"]) for name in ("student", "logits", "teacher")]
            assert sum(shares) == pytest.approx(1, abs=1e-6)
    plan = ask("plan --student 1B --budget 1e22 --teacher both")
    assert float(rows[-1]["student_loss"]) == pytest.approx(plan["distillation"]["student_loss"], abs=1e-6)
    assert float(rows[-1]["supervised_loss"]) == pytest.approx(plan["supervised"]["loss"], abs=1e-6)


# Fits: the law file and the exit code


def test_a_fitted_law_plans_and_predicts(home: Path) -> None:
    fitted = ask("fit runs.csv --law distillation --bootstrap 30 --out mine.json", home)
    assert fitted["outcome"] == "converged"
    plan = ask("plan --student 1B --budget 1e21 --teacher inference --law mine.json", home)
    assert plan["law"] == "runs"
    assert plan["gain_interval"] is not None
    law = LawSet.read(home / "mine.json")
    point = float(law.distillation.loss(1e9, 2e10, 2.2))
    found = ask("predict --student 1B --tokens 20B --teacher-loss 2.2 --law mine.json", home)
    assert found["student_loss"] == pytest.approx(point)
    named = invoke(*["fit", "runs.csv", "--bootstrap", "0", "--out", "named.json", "--name", "chosen"], cwd=home)
    assert named.code == 0
    assert ask("predict --student 1B --tokens 20B --law named.json", home)["law"] == "chosen"
    again = invoke(*["fit", "runs.csv", "--law", "distillation", "--bootstrap", "30", "--out", "again.json"], cwd=home)
    assert again.code == 0
    assert (home / "again.json").read_bytes() == (home / "mine.json").read_bytes()


HOPELESS = {
    "two-sizes": [(n, d) for n in (1e8, 1e9) for d in (1e9, 1e10, 1e11, 1e12)],
    "one-token-count": [(n, 1e10) for n in (1e8, 2e8, 4e8, 8e8, 1e9, 2e9, 4e9)],
    "too-few-rows": [(1e8, 1e9), (2e8, 4e9), (4e8, 9e9)],
    "mixed-units": [(n, d) for n in (1e5, 1e9, 2e9, 4e9) for d in (1e9, 1e10, 1e11)],
}


@pytest.mark.parametrize("name", HOPELESS)
def test_an_unusable_fit_exits_3_says_why_and_writes_nothing(name: str, home: Path) -> None:
    rows = [f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 410 / d**0.28:.6f}" for n, d in HOPELESS[name]]
    (home / "t.csv").write_text("\n".join(["params,tokens,loss", *rows]), encoding="utf-8")
    (home / "old.json").write_text("as it was", encoding="utf-8")
    answer = ask("fit t.csv --bootstrap 20 --out old.json", home, code=3)
    assert has(answer, KEYS["fit"])
    assert answer["outcome"] not in ("", "converged")
    assert answer["reason"]
    assert not answer["usable"]
    assert (home / "old.json").read_text(encoding="utf-8") == "as it was"
    shown = invoke(*["fit", "t.csv", "--bootstrap", "20", "--out", "new.json"], cwd=home)
    assert (shown.code, shown.err) == (3, "")
    assert "Nothing written to new.json" in shown.out
    assert sorted(p.name for p in home.iterdir()) == sorted(
        ["runs.csv", "teachers.toml", "config.json", "t.csv", "old.json"]
    )


def test_bad_rows_are_dropped_on_request_and_counted(home: Path) -> None:
    with (home / "runs.csv").open("a", encoding="utf-8") as file:
        file.write("supervised,1e8,2e9,nan,,\n")
    assert invoke("fit", "runs.csv", cwd=home).code == 2
    answer = ask("fit runs.csv --skip-bad-rows --bootstrap 0", home)
    assert answer["rows"] == 30
    assert any("1 bad row dropped" in warning for warning in answer["warnings"])


def test_columns_of_other_names_and_tokens_from_flops(home: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((home / "runs.csv").read_text(encoding="utf-8"))))
    expected = ask("fit runs.csv --bootstrap 0", home)
    lines = ["N,C,val loss"]
    for row in rows:
        if row["kind"] == "supervised":
            lines.append(f"{row['params']},{6 * float(row['params']) * float(row['tokens']):.17g},{row['loss']}")
    (home / "theirs.csv").write_text("\n".join(lines), encoding="utf-8")
    found = ask(
        "fit theirs.csv --columns 'params=N,flops=C,loss=val loss' --tokens-from-flops --kind supervised --bootstrap 0",
        home,
    )
    assert found["coefficients"] == pytest.approx(expected["coefficients"], rel=1e-6)


# How it looks


@pytest.mark.parametrize("name", COMMANDS)
def test_what_people_read_fits_80_columns_and_is_plain_unless_asked(name: str, home: Path) -> None:
    args = shlex.split(COMMANDS[name])
    piped = invoke(*args, cwd=home)
    assert (piped.code, piped.err) == (0, "")
    assert "\x1b" not in piped.out
    for line in piped.out.splitlines():
        assert len(line) <= 80, line
    coloured = invoke(*args, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}, cwd=home)
    assert "\x1b" not in SGR.sub("", coloured.out)
    assert SGR.sub("", coloured.out) == piped.out


@pytest.mark.parametrize("name", ["predict", "plan", "break-even", "teachers", "laws"])
def test_the_environment_turns_colour_off(name: str, home: Path) -> None:
    args = shlex.split(COMMANDS[name])
    piped = invoke(*args, cwd=home)
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "200"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        assert invoke(*args, env=env, cwd=home) == piped, env


def on_a_terminal(line: str, **env: str) -> str:
    """What a command prints where stdout is a terminal."""
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", buffering=0) as screen:
        with os.fdopen(writer, "wb", buffering=0) as end:
            base = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
            done = subprocess.run([SCRIPT, *line.split()], stdout=end, stderr=end, env=base | env, timeout=60)
        assert done.returncode == 0
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error on Linux
            while part := screen.read(65536):
                shown += part
    return shown.decode("utf-8").replace("\r\n", "\n")


def test_a_terminal_gets_bold_unless_it_is_dumb_or_asks_for_none() -> None:
    line = "predict --student 1B --tokens 20B"
    plain_text = invoke(*line.split()).out
    bold = on_a_terminal(line, TERM="xterm-256color", COLUMNS="100")
    assert "\x1b[1m" in bold
    assert SGR.sub("", bold) == plain_text
    assert on_a_terminal(line, TERM="dumb", COLUMNS="100") == plain_text
    assert on_a_terminal(line, TERM="xterm-256color", NO_COLOR="1", COLUMNS="100") == plain_text


@pytest.mark.parametrize("width", ["40", "60"])
def test_a_narrow_terminal_keeps_to_its_width(width: str, home: Path) -> None:
    shown = invoke(*shlex.split(COMMANDS["predict"]), env={"COLUMNS": width}, cwd=home)
    assert shown.code == 0
    assert max(len(line) for line in shown.out.splitlines()) <= int(width)


def test_nothing_is_cut_off_where_numbers_are_long(home: Path) -> None:
    (home / "long.toml").write_text(
        f'[[teacher]]\nname = "{"very long name " * 12}"\nparams = "123.456B"\nloss = 2.0\n', encoding="utf-8"
    )
    short = invoke(*COMMANDS["teachers"].split(), cwd=home).out
    assert re.search(r"^teacher +params", short, re.MULTILINE)  # no word broken where there is room
    for line in (
        "plan --student 123.456B --budget 9.87e27 --teacher both",
        "plan --student 1M --budget 1e15 --teacher both --price 1000000",
        "teachers long.toml --student 123M --tokens 987.65B",
        "predict --student 1e17 --tokens 1e17",
    ):
        shown = invoke(*line.split(), cwd=home)
        assert (shown.code, shown.err) == (0, "")
        assert max(len(row) for row in shown.out.splitlines()) <= 80
        assert "…" not in shown.out
    plan = invoke(*["plan", "--student", "123.456B", "--budget", "9.87e27", "--teacher", "both"]).out
    for part in ("123B", "9.87e27", "USD", "supervised"):
        assert part in plan


def test_a_terminal_that_is_not_utf_8_is_served_too() -> None:
    for encoding in ("ascii", "cp1252"):
        env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        shown = subprocess.run([SCRIPT, "laws"], capture_output=True, env=env, timeout=60)
        assert (shown.returncode, shown.stderr) == (0, b"")
        answer = subprocess.run([SCRIPT, "laws", "--json"], capture_output=True, env=env, timeout=60)
        assert (answer.returncode, answer.stderr) == (0, b"")
        assert json.loads(answer.stdout.decode("ascii")) == plain(catalogue())


# Help, version, completion


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_option_says_what_it_is(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
    shown = invoke(*path, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "Example:" in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    assert shown.out == invoke(*path, "-h").out


@pytest.mark.parametrize("name", [*sorted(KEYS), "frontier"])
def test_every_command_that_answers_has_json(name: str) -> None:
    assert "--json" in invoke(name, "--help").out


def examples(shown: Result) -> list[str]:
    _, _, tail = shown.out.partition("Example:\n")
    return [line.strip() for line in tail.splitlines() if line.strip().startswith("distillscale ")]


@pytest.mark.parametrize("name", ["", *sorted(KEYS), "frontier"])
def test_the_examples_of_the_help_run(name: str, home: Path) -> None:
    lines = examples(invoke(*name.split(), "--help"))
    assert lines
    for line in lines:
        args = shlex.split(line)[1:]
        assert not name or args[0] == name
        result = invoke(*args, cwd=home)
        assert (result.code, besides_warnings(result.err)) == (0, []), line
        assert result.out


def test_the_group_names_every_command() -> None:
    shown = invoke("--help").out
    for command in (*KEYS, "frontier"):
        assert re.search(rf"^  {command}\b", shown, re.MULTILINE)
    assert "..." not in shown.partition("Commands:")[2]  # every summary fits its line


def test_the_version() -> None:
    assert invoke("--version").out == f"distillscale {ds.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "distillscale", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"distillscale {ds.__version__}\n", "")


def complete(words: str, index: int) -> list[str]:
    env = {"_DISTILLSCALE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    result = invoke(env=env)
    assert (result.code, result.err) == (0, "")
    return [line.split(",", 1)[1] for line in result.out.splitlines()]


def test_the_shell_completes_commands_options_choices_and_laws() -> None:
    assert complete("distillscale pl", 1) == ["plan"]
    assert {"--budget", "--teacher", "--target-loss"} <= set(complete("distillscale plan --", 2))
    assert complete("distillscale plan --teacher in", 3) == ["inference"]
    assert set(names()) <= set(complete("distillscale plan --law ", 3))
    assert "kaplan2020" in complete("distillscale predict --law ka", 3)
    assert "busbridge2025" in complete("distillscale fit --supervised bus", 3)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    shown = script(env={"_DISTILLSCALE_COMPLETE": f"{shell}_source"})
    if shell == "bash" and "not supported" in shown.err:
        pytest.skip("this machine has no bash that click completes for")
    assert shown.code == 0
    assert "_DISTILLSCALE_COMPLETE" in shown.out


# In a process of its own


def test_a_reader_that_leaves_early_is_no_error() -> None:
    line = f"'{SCRIPT}' frontier --students 1e8:1e10:40 --budgets 1e19:1e23:40 --teacher both | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120)
    assert (done.returncode, besides_warnings(done.stderr)) == (0, [])
    assert done.stdout.startswith("student_params,")


def test_a_full_disk_under_stdout_is_one_line() -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([SCRIPT, "laws"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_the_installed_script_answers_as_its_entry_point_does(home: Path) -> None:
    for line in ("predict --student 1B --tokens 20B --json", "teachers teachers.toml --student 1B --tokens 200B"):
        assert script(*line.split(), cwd=home) == invoke(*line.split(), cwd=home)
    line = "plan --student 1B --budget 1e21 --teacher both --json"
    assert script(*line.split()) == script(*line.split())


def test_help_starts_without_numpy() -> None:
    code = (
        "import sys; sys.argv = ['distillscale', '--help']\n"
        "from distillscale.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'numpy', 'torch', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


# The contract: what scripts around the tool rely on, through the installed script


def test_the_contract_holds_on_an_exact_table(tmp_path: Path) -> None:
    """The table has no noise, no kind of its own choosing and one kind only: a fit still ends, and its law is used."""
    rows = ["kind,params,tokens,loss,teacher_loss"]
    for n in (1e7, 3e7, 1e8, 3e8, 1e9):
        rows += [f"supervised,{n!r},{d!r},{1.7 + 400 / n**0.34 + 410 / d**0.28!r}," for d in (1e9, 3e9, 1e10, 3e10)]
    (tmp_path / "runs.csv").write_text("\n".join(rows), encoding="utf-8")
    answer = ask("fit runs.csv --bootstrap 0 --out law.json", tmp_path)
    expected = {"E": 1.7, "A": 400, "B": 410, "alpha": 0.34, "beta": 0.28, "gamma": 1}
    assert answer["coefficients"] == pytest.approx(expected, rel=1e-3)
    found = ask("predict --student 1B --tokens 20B --law law.json", tmp_path)
    assert found["supervised_loss"] == pytest.approx(1.7 + 400 / 1e9**0.34 + 410 / 2e10**0.28, rel=1e-5)
    line = "plan --student 1B --budget 1e21 --teacher both --law law.json"
    refused = invoke(*line.split(), cwd=tmp_path)
    assert refused.code == 2
    assert "knows no teacher" in refused.err
