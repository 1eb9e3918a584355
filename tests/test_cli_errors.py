"""Wrong input: every kind ends with exit 2 and one line on stderr that says what is wrong and what to do, and leaves
no file behind. A case is a command line, the fragments its message must hold, and the files it reads."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_support import LLAMA, Result, invoke, plant_files, script

from distillscale.errors import InputError
from distillscale.files import write_atomically

Content = str | bytes
RUNS_HEADER = "kind,params,tokens,loss,teacher,teacher_loss"
TEACHER = '[[teacher]]\nname = "a"\nparams = "7B"\nloss = 2.0\n'
LAW: dict[str, Any] = {
    "format": "distillscale-law/1",
    "name": "mine",
    "form": "distillation",
    "coefficients": {
        "A": 2243.0,
        "B": 2.4181e6,
        "alpha": 0.321,
        "beta": 0.637,
        "gamma": 0.764,
        "c0": 2.549,
        "c1": 522.6,
        "f1": 0.09,
        "d1": 1.315,
    },
    "supervised": {"E": 1.22, "A": 3355.0, "B": 18186.0, "alpha": 0.408, "beta": 0.431, "gamma": 0.452},
}


def case(name: str, line: str, *says: str, files: Mapping[str, Content] | None = None) -> Any:
    return pytest.param(line, says, files or {}, id=name)


def law(**changes: Any) -> str:
    """The law file with some keys changed; `...` takes one out."""
    return json.dumps({key: value for key, value in (LAW | changes).items() if value is not ...})


def coefficients(**changes: Any) -> str:
    return law(coefficients={k: v for k, v in (LAW["coefficients"] | changes).items() if v is not ...})


def config(**changes: Any) -> str:
    return json.dumps({key: value for key, value in (LLAMA | changes).items() if value is not ...})


def runs(*rows: str, header: str = RUNS_HEADER) -> str:
    return "\n".join([header, "supervised,1e8,2e9,3.2,,", "supervised,2e8,4e9,3.0,,", *rows]) + "\n"


PLAN = "plan --student 1B --budget 1e21 --teacher both"
PREDICT = "predict --student 1B --tokens 20B"
FRONTIER = "frontier --students 1B --budgets 1e20 --teacher both"
TEACHERS = "teachers t.toml --student 1B --tokens 200B"


def law_case(name: str, content: Content, *says: str) -> Any:
    return case(f"law-{name}", f"{PREDICT} --law l.json", "l.json", *says, files={"l.json": content})


def teacher_case(name: str, content: Content, *says: str) -> Any:
    return case(f"teachers-{name}", TEACHERS, "t.toml", *says, files={"t.toml": content})


def config_case(name: str, content: Content, *says: str) -> Any:
    return case(f"config-{name}", "predict --student c.json --tokens 20B", *says, files={"c.json": content})


def table_case(name: str, content: Content, *says: str, options: str = "") -> Any:
    return case(f"runs-{name}", f"fit x.csv {options}", "x.csv", *says, files={"x.csv": content})


def cell_case(name: str, row: str, column: str, *says: str) -> Any:
    """A bad cell in the fourth line of a table."""
    return table_case(name, runs(row), "line 4", f"'{column}'", *says)


COMMAND_LINE = [
    case("command-unknown", "nosuch", "'nosuch'", "distillscale --help"),
    case("command-misspelt", "plann --student 1B", "'plann'", "distillscale --help"),
    case("option-of-the-group-unknown", "--nosuch", "'--nosuch'", "--help"),
    case("option-misspelt", "plan --student 1B --budget 1e21 --techer both", "'--techer'", "--teacher"),
    case("option-without-value", "plan --student 1B --budget", "'--budget'", "requires an argument"),
    case("option-missing", "plan --budget 1e21 --teacher both", "'--student'", "distillscale plan --help"),
    case("argument-too-many", f"{PLAN} 3B", "(3B)", "extra"),
    case("argument-missing", "fit", "'RUNS'", "distillscale fit --help"),
    case("scenario-misspelt", "plan --student 1B --budget 1e21 --teacher infer", "'infer'", "'inference'"),
    case("scenario-missing", "plan --student 1B --budget 1e21", "--teacher", "free, inference"),
    case("scenario-half-given", "plan --student 1B --budget 1e21 --logits-share 1", "--pretraining-share"),
    case("scenario-of-a-grid-misspelt", "frontier --students 1B --budgets 1e20 --teacher free,bth", "'bth'", "both"),
    case("seed-negative", f"{PLAN} --seed -1", "--seed", "at least 0", "'-1'"),
    case("seed-a-word", f"{PREDICT} --seed lucky", "--seed", "whole number", "'lucky'"),
    case("share-students-zero", f"{PLAN} --share-students 0", "--share-students", "from 1", "'0'"),
    case("share-students-broken", f"{PLAN} --share-students 1.5", "--share-students", "whole number", "'1.5'"),
]

QUANTITIES = [
    case("student-zero", "plan --student 0 --budget 1e21 --teacher both", "--student", "at least 1", "'0'", "1.5B"),
    case("student-negative", "plan --student -1B --budget 1e21 --teacher both", "--student", "'-1B'", "1.5B"),
    case("student-empty", "plan --student '' --budget 1e21 --teacher both", "--student ''", "1.5B"),
    case("student-nan", "plan --student nan --budget 1e21 --teacher both", "--student 'nan'", "1.5B"),
    case("student-infinite", "plan --student inf --budget 1e21 --teacher both", "--student 'inf'", "1.5B"),
    case("student-beyond-floats", "predict --student 1e400 --tokens 20B", "--student", "'1e400'", "finite"),
    case("student-huge", "predict --student 1e30 --tokens 20B", "--student", "'1e30'", "at most 1e+17"),
    case("student-without-suffix", "predict --student 300 --tokens 20B", "--student", "'300'", "suffix"),
    case("student-unit-unknown", "predict --student 1BB --tokens 20B", "--student '1BB'", "1.5B"),
    case("student-decimal-comma", "predict --student 1,5B --tokens 20B", "--student '1,5B'", "1.5B"),
    case(
        "student-all-embeddings",
        "predict --student 300k --total-params --tokens 20B",
        "--student 300k",
        "--total-params",
    ),
    case("family-row-misspelt", "predict --student paper:547M --tokens 20B", "'547M'", "546M"),
    case("tokens-zero", "predict --student 1B --tokens 0", "--tokens", "at least 1", "'0'"),
    case("tokens-without-suffix", "predict --student 1B --tokens 20", "--tokens", "'20'", "suffix"),
    case("tokens-huge", "predict --student 1B --tokens 1e300", "--tokens", "'1e300'", "exponent"),
    case("unique-tokens-zero", f"{PLAN} --unique-tokens 0", "--unique-tokens", "'0'"),
    case("context-zero", f"{PLAN} --context 0", "--context", "'0'"),
    case("context-huge", f"{PLAN} --context 1e300", "--context", "'1e300'", "at most"),
    case("vocab-negative", f"{PLAN} --vocab -3", "--vocab '-3'"),
    case("vocab-of-an-exact-shape", "predict --student . --vocab 32k --tokens 20B", "--vocab", "its own vocabulary"),
    case("total-params-of-a-shape", "predict --student . --total-params --tokens 20B", "--total-params", "exact shape"),
]

MONEY = [
    case("budget-missing", "plan --student 1B --teacher both", "--budget", "1e21", "--target-loss"),
    case("budget-zero", "plan --student 1B --budget 0 --teacher both", "budget", "positive", "'0'"),
    case("budget-negative", "plan --student 1B --budget -1e21 --teacher both", "budget '-1e21'", "5000 USD"),
    case("budget-nan", "plan --student 1B --budget nan --teacher both", "budget 'nan'", "1e21"),
    case("budget-infinite", "plan --student 1B --budget inf --teacher both", "budget 'inf'", "1e21"),
    case("budget-empty", "plan --student 1B --budget '' --teacher both", "budget ''", "1e21"),
    case(
        "budget-without-unit", "plan --student 1B --budget 5000 --teacher both", "'5000'", "without a unit", "5000 USD"
    ),
    case("budget-in-euro", "plan --student 1B --budget '5000 EUR' --teacher both", "'5000 EUR'", "5000 USD"),
    case("budget-huge", "plan --student 1B --budget 1e300 --teacher both", "--budget", "1e+36", "'1e300'"),
    case("budget-hours-huge", "plan --student 1B --budget '1e300 H100-hours' --teacher both", "1e300 H100", "at most"),
    case("budget-too-small", "plan --student 1B --budget 1e10 --teacher both", "1.00e10", "too small", "raise"),
    case("budget-of-nothing", "plan --student 1B --budget '0 USD' --teacher both", "positive", "'0 USD'"),
    case(
        "budget-hours-of-an-unknown-device",
        "plan --student 1B --budget '9 H101-hours' --teacher both",
        "'H101'",
        "H100?",
    ),
    case(
        "budget-usd-without-price",
        "plan --student 1B --budget '9k USD' --teacher both --device A100",
        "A100",
        "--price",
    ),
    case("budget-eaten-by-the-teacher", f"{PLAN} --teacher-params 1T --teacher-tokens 10T", "too small", "loosen"),
    case("device-unknown", f"{PLAN} --device H1000", "'H1000'", "H100?"),
    case("precision-unknown", f"{PLAN} --precision fp9", "'fp9'", "bf16 or fp8"),
    case("precision-of-another-device", f"{PLAN} --device A100 --precision fp8", "A100", "'fp8'", "bf16"),
    case("mfu-zero", f"{PLAN} --mfu 0", "--mfu", "to 1;", "'0'", "0.4"),
    case("mfu-above-one", f"{PLAN} --mfu 1.5", "--mfu", "to 1;", "'1.5'", "0.4"),
    case("mfu-in-percent", f"{PLAN} --mfu 40%", "--mfu", "'40%'", "0.4"),
    case("mfu-nan", f"{PLAN} --mfu nan", "--mfu", "'nan'"),
    case("price-negative", f"{PLAN} --price -1", "--price", "USD", "'-1'", "2.95"),
    case("price-infinite", f"{PLAN} --price inf", "--price", "'inf'"),
    case("peak-zero", f"{PLAN} --peak-flops 0", "--peak-flops", "FLOP/s", "'0'", "989e12"),
]

QUESTIONS = [
    case("target-negative", "plan --student 1B --target-loss -1 --teacher both", "--target-loss", "nats", "'-1'"),
    case("target-out-of-reach", "plan --student 1B --target-loss 0.5 --teacher both", "0.5", "out of reach", "higher"),
    case("target-and-budget", f"{PLAN} --target-loss 2.4", "budget or a target", "both"),
    case(
        "logits-share-above-one",
        "plan --student 1B --budget 1e21 --teacher both --logits-share 1.5",
        "--logits-share",
        "'1.5'",
    ),
    case("pretraining-share-negative", f"{PLAN} --pretraining-share -0.5", "--pretraining-share", "0 to 1", "'-0.5'"),
    case("logits-share-a-word", f"{PLAN} --logits-share all", "--logits-share", "'all'", "0.5"),
    case(
        "teacher-size-fixed-and-capped",
        f"{PLAN} --teacher-params 7B --max-teacher-params 9B",
        "--teacher-params",
        "not both",
    ),
    case(
        "teacher-tokens-fixed-and-capped",
        f"{PLAN} --teacher-tokens 1T --max-teacher-tokens 2T",
        "--teacher-tokens",
        "not both",
    ),
    case("limit-low-above-high", f"{PLAN} --max-teacher-params 10k", "teacher params", "low ≤ high", "10000"),
    case("limit-student-tokens-tiny", f"{PLAN} --max-student-tokens 2k", "student tokens", "2000"),
    case("teacher-size-without-tokens", f"{PREDICT} --teacher-params 7B", "parameters and its tokens", "one of them"),
    case("teacher-tokens-without-size", f"{PREDICT} --teacher-tokens 1T", "parameters and its tokens", "one of them"),
    case(
        "teacher-by-loss-and-size",
        f"{PREDICT} --teacher-loss 2 --teacher-params 7B --teacher-tokens 1T",
        "teacher's loss, or its size",
        "not both",
    ),
    case("teacher-loss-zero", f"{PREDICT} --teacher-loss 0", "--teacher-loss", "nats per token", "'0'"),
    case("teacher-loss-in-bits-of-a-file", f"{PREDICT} --teacher-loss 25", "--teacher-loss", "to 20", "'25'"),
    case("teacher-loss-tiny", f"{PREDICT} --teacher-loss 1e-300", "--teacher-loss", "'1e-300'"),
    case("tolerance-negative", "break-even --student 1B --teacher both --tolerance -1", "--tolerance", "'-1'", "0.01"),
    case("tolerance-nan", "break-even --student 1B --teacher both --tolerance nan", "--tolerance", "'nan'"),
    case("law-unknown", f"{PREDICT} --law busbridge2052", "'busbridge2052'", "'busbridge2025'"),
    case("law-empty", f"{PREDICT} --law ''", "--law", "empty", "distillscale laws"),
    case("law-knows-no-teacher", f"{PLAN} --law hoffmann2022", "'hoffmann2022'", "chinchilla", "--law busbridge2025"),
    case("law-predicts-no-loss", f"{PREDICT} --law hernandez2021", "'hernandez2021'", "transfer"),
    case("law-is-a-rule-of-thumb", f"{PREDICT} --law folk-breakeven", "'folk-breakeven'", "rule of thumb"),
    case("students-empty", "frontier --students '' --budgets 1e20 --teacher both", "--students ''", "1.5B"),
    case("students-one-forgotten", "frontier --students 1B,,3B --budgets 1e20 --teacher both", "--students ''"),
    case(
        "range-without-count",
        "frontier --students 1B --budgets 1e20:1e22 --teacher both",
        "--budgets",
        "low:high:count",
    ),
    case("range-backwards", "frontier --students 1B --budgets 1e22:1e20:3 --teacher both", "--budgets", "swap"),
    case("range-of-one", "frontier --students 1B --budgets 1e20:1e22:1 --teacher both", "--budgets", "from 2"),
    case(
        "grid-in-usd", "frontier --students 1B --budgets '9000 USD' --teacher both", "--budgets", "'9000 USD'", "1e19"
    ),
    case(
        "grid-too-large",
        "frontier --students 1e8:1e10:10000 --budgets 1e20:1e22:10000 --teacher both",
        "1,000,000",
        "100,000,000",
    ),
]

LAW_FILES = [
    case("law-file-missing", f"{PREDICT} --law nosuch.json", "'nosuch.json'", "No such file", "fit --out"),
    case("law-a-directory", f"{PREDICT} --law .", "'.'", "published set"),
    law_case("not-json", "hello", "not JSON", "fit --out"),
    law_case("empty-file", "", "not JSON", "fit --out"),
    law_case("binary", bytes(range(256)), "not JSON"),
    law_case("nested-without-end", "[" * 100_000, "not JSON"),
    law_case("a-list", "[1, 2]", "one JSON object", "fit --out"),
    law_case("something-else", json.dumps(LLAMA), "not a law file", "fit --out"),
    law_case("another-version", law(format="distillscale-law/9"), "distillscale-law/1"),
    law_case("form-unknown", law(form="destillation"), "'destillation'", "distillation"),
    law_case("key-misspelt", law(regimee={}), "'regimee'", "'regime'"),
    law_case("supervised-part-missing", law(supervised=...), "supervised", "E, A, B"),
    law_case("coefficient-missing", coefficients(c0=...), "lacks c0"),
    law_case("coefficient-extra", coefficients(c7=1.0), "'c7'", "'c1'"),
    law_case("coefficient-text", coefficients(c0="2.5"), "c0", "'2.5'", "finite number"),
    law_case("coefficient-nan", coefficients(c0=float("nan")), "c0", "nan", "finite number"),
    law_case("coefficient-beyond-floats", coefficients(c0=10**400), "c0", "finite number"),
    case(
        "law-coefficient-negative",
        f"{PREDICT} --law l.json",
        "alpha",
        "positive",
        "-1",
        files={"l.json": coefficients(alpha=-1.0)},
    ),
    law_case("exponent-absurd", coefficients(gamma=1e3), "gamma", "at most 100", "1000"),
    law_case("regime-backwards", law(regime={"student_params": [3, 1]}), "regime.student_params", "[3, 1]"),
    law_case("residual-negative", law(residual={"distillation": -0.1}), "residual", "-0.1"),
    law_case("residual-infinite", law(residual={"distillation": float("inf")}), "residual", "inf"),
    law_case("draws-ragged", law(draws={"names": ["A", "B"], "values": [[1.0, 2.0], [1.0]]}), "draws", "values"),
    law_case("draws-of-nothing-known", law(draws={"names": ["Z"], "values": [[1.0]]}), "'Z'", "A, B"),
]

TEACHER_FILES = [
    case("teachers-missing", "teachers no.toml --student 1B --tokens 200B", "'no.toml'", "No such file", "[[teacher]]"),
    case("teachers-a-directory", "teachers . --student 1B --tokens 200B", "'.'", "directory", "[[teacher]]"),
    case("teachers-tokens-and-budget", "teachers teachers.toml --student 1B --tokens 9B --budget 1e21", "not both"),
    case("teachers-neither-tokens-nor-budget", "teachers teachers.toml --student 1B", "--tokens or --budget"),
    case("teachers-budget-too-small", "teachers teachers.toml --student 1B --budget 1e12", "'large'", "raise"),
    case("teachers-law-without-teachers", "teachers teachers.toml --student 1B --tokens 9B --law kaplan2020", "kaplan"),
    teacher_case("a-csv", runs(), "not TOML", "line 1", "[[teacher]]"),
    teacher_case("utf-16", TEACHER.encode("utf-16"), "not TOML", "UTF-8"),
    teacher_case("empty-file", "", "no [[teacher]]", "name, params and loss"),
    teacher_case("single-brackets", TEACHER.replace("[[teacher]]", "[teacher]"), "no [[teacher]]"),
    teacher_case("table-misspelt", TEACHER.replace("teacher", "teachers"), "'teachers'", "[[teacher]]"),
    teacher_case("key-misspelt", TEACHER.replace("params", "parms"), "teacher 1", "'parms'", "'params'"),
    teacher_case("name-twice", TEACHER + TEACHER, "'a'", "two teachers"),
    teacher_case("name-empty", TEACHER.replace('"a"', '""'), "name", "''"),
    teacher_case("name-with-an-escape-code", TEACHER.replace('"a"', r'"\u001b[31mred"'), "name", "x1b"),
    teacher_case("loss-missing", TEACHER.replace("loss = 2.0", ""), "lacks loss"),
    teacher_case("loss-text", TEACHER.replace("2.0", '"2.0"'), "loss", "'2.0'"),
    teacher_case("loss-nan", TEACHER.replace("2.0", "nan"), "loss", "nan", "0.01 to 20 nats"),
    teacher_case("loss-negative", TEACHER.replace("2.0", "-1"), "loss", "-1", "0.01 to 20 nats"),
    teacher_case("params-in-words", TEACHER.replace("7B", "7 billion"), "params '7 billion'", "1.5B"),
    teacher_case("params-without-suffix", TEACHER.replace('"7B"', "7"), "params", "7", "suffix"),
    teacher_case("price-negative", TEACHER + "usd_per_million_tokens = -1\n", "usd_per_million_tokens", "-1"),
    case(
        "teachers-config-missing",
        TEACHERS,
        "no.json",
        "does not exist",
        files={"t.toml": '[[teacher]]\nname = "a"\nconfig = "no.json"\nloss = 2.0\n'},
    ),
]

CONFIGS = [
    case("config-missing", "predict --student no.json --tokens 20B", "no.json", "does not exist", "config.json"),
    case(
        "config-folder-without",
        "predict --student empty --tokens 20B",
        "empty",
        "no config.json",
        files={"empty/x": ""},
    ),
    config_case("broken", "{", "c.json", "not JSON"),
    config_case("a-list", "[]", "c.json", "object", "list"),
    config_case("type-unknown", config(model_type="bert"), "'bert'", "llama"),
    config_case("type-missing", config(model_type=...), "model_type"),
    config_case("mixture-of-experts", config(model_type="mixtral"), "'mixtral'", "mixture of experts", "by hand"),
    config_case("experts-in-a-dense-type", config(num_local_experts=8), "num_local_experts", "mixture of experts"),
    config_case("key-missing", config(hidden_size=...), "'hidden_size'", "add it"),
    config_case("key-text", config(hidden_size="2048"), "hidden_size", "'2048'"),
    config_case("heads-do-not-divide", config(num_attention_heads=7), "2048 and 7"),
    config_case("size-absurd", config(hidden_size=10**400), "hidden_size", "at most"),
    config_case("parameters-absurd", config(hidden_size=10**10), "parameters", "at most"),
]

RUN_TABLES = [
    case("runs-missing", "fit no.csv", "no.csv", "No such file", "check the path"),
    case("runs-a-directory", "fit .", "directory", "CSV"),
    case("runs-of-compare-missing", "compare no.csv", "no.csv", "No such file"),
    table_case("empty", "", "empty", "header"),
    table_case("header-only", RUNS_HEADER + "\n", "header only"),
    table_case("binary", bytes(range(256)) * 4, "binary", "CSV"),
    table_case("utf-16", runs().encode("utf-16"), "UTF-16", "UTF-8"),
    table_case("latin-1", runs("sup\u00e9rvised,1e8,2e9,3,,").encode("latin-1"), "line 4", "UTF-8"),
    table_case("semicolons", runs().replace(",", ";"), "semicolons", "commas"),
    table_case("tabs", runs().replace(",", "\t"), "tabs", "commas"),
    table_case("quote-unclosed", runs('"supervised,1e8,2e9,3,,'), "not CSV", "quotes"),
    table_case("column-missing", runs(header=RUNS_HEADER.replace("tokens", "extra")), "'tokens'", "--columns tokens="),
    table_case("column-misspelt", runs(header=RUNS_HEADER.replace(",loss", ",los")), "'loss'", "did you mean 'los'"),
    table_case("column-twice", runs(header=RUNS_HEADER.replace("tokens", "params")), "'params'", "2 times"),
    table_case("row-too-long", runs("supervised,1e8,2e9,3,,,"), "line 4", "7 fields", "has 6"),
    table_case("row-too-short", runs("supervised,1e8"), "line 4", "2 fields", "has 6"),
    cell_case("loss-nan", "supervised,1e8,2e9,nan,,", "loss", "'nan'", "finite", "--skip-bad-rows"),
    cell_case("loss-infinite", "supervised,1e8,2e9,inf,,", "loss", "'inf'", "finite"),
    cell_case("loss-negative", "supervised,1e8,2e9,-3,,", "loss", "'-3'", "positive"),
    cell_case("loss-zero", "supervised,1e8,2e9,0,,", "loss", "'0'", "positive"),
    cell_case("loss-text", "supervised,1e8,2e9,low,,", "loss", "'low'", "not a number"),
    cell_case("loss-empty", "supervised,1e8,2e9,,,", "loss", "empty"),
    cell_case("params-in-millions", "supervised,125,2e9,3,,", "params", "'125'", "125M"),
    cell_case("tokens-beyond-floats", "supervised,1e8,1e400,3,,", "tokens", "'1e400'", "finite"),
    cell_case("kind-unknown", "teacher,1e8,2e9,3,,", "kind", "'teacher'", "distillation"),
    cell_case("teacher-without-loss", "distillation,1e8,2e9,3,t,", "teacher_loss", "loss of its teacher"),
    table_case("no-students", runs(), "no distillation runs", options="--law distillation --supervised busbridge2025"),
    table_case(
        "students-only",
        "params,tokens,loss,teacher_loss\n1e8,2e9,3,2.5\n",
        "no supervised runs",
        "--supervised",
        options="--law distillation",
    ),
    case("runs-json-without-end", "fit x.jsonl", "line 1", "not JSON", files={"x.jsonl": "[" * 100_000 + "\n"}),
    case("runs-json-lines-broken", "fit x.jsonl", "line 2", "not JSON", files={"x.jsonl": '{"params": 1e8}\n{\n'}),
    case(
        "runs-json-null",
        "fit x.jsonl",
        "line 1",
        "'loss'",
        files={"x.jsonl": '{"params": 1e8, "tokens": 1e9, "loss": null}\n'},
    ),
]

FITS = [
    case("fit-law-unknown", "fit runs.csv --law chinchila", "'chinchila'", "'chinchilla'"),
    case("fit-objective-unknown", "fit runs.csv --objective hubr", "'hubr'", "'huber'"),
    case("fit-kind-unknown", "fit runs.csv --kind student", "'student'", "'distillation'"),
    case(
        "fit-supervised-with-chinchilla",
        "fit runs.csv --supervised busbridge2025",
        "--supervised",
        "chinchilla",
        "drop",
    ),
    case("fit-supervised-unknown", "fit runs.csv --law distillation --supervised nosuch", "'nosuch'", "busbridge2025"),
    case("fit-supervised-empty", "fit runs.csv --law distillation --supervised ''", "--supervised", "empty"),
    case(
        "fit-supervised-without-loss", "fit runs.csv --law distillation --supervised hernandez2021", "'hernandez2021'"
    ),
    case("fit-columns-malformed", "fit runs.csv --columns params", "--columns", "'params'", "OURS=THEIRS"),
    case("fit-columns-ours-unknown", "fit runs.csv --columns parms=params", "'parms'", "'params'"),
    case("fit-columns-theirs-unknown", "fit runs.csv --columns params=parms", "'parms'", "did you mean 'params'"),
    case("hold-out-no-comparison", "fit runs.csv --hold-out loss", "hold-out 'loss'", "loss<2.3"),
    case("hold-out-no-number", "fit runs.csv --hold-out 'loss<low'", "'low'", "2.3"),
    case("hold-out-column-misspelt", "fit runs.csv --hold-out 'los<2'", "'los'", "'loss'"),
    case("hold-out-takes-nothing", "fit runs.csv --hold-out 'loss<0'", "'loss<0'", "no row"),
    case("hold-out-takes-everything", "fit runs.csv --hold-out 'loss<99'", "'loss<99'", "every row"),
    case("hold-out-two-rules", "fit runs.csv --hold-out 'loss<3 and params>1e8'", "'3 and params>1e8'"),
    case("hold-out-of-compare", "compare runs.csv --hold-out 'loss<0'", "'loss<0'", "no distillation run"),
    case("bounds-malformed", "fit runs.csv --bounds alpha", "--bounds 'alpha'", "NAME=LOW:HIGH"),
    case("bounds-no-number", "fit runs.csv --bounds alpha=low:high", "alpha=low:high", "0.1:0.6"),
    case("bounds-coefficient-unknown", "fit runs.csv --bounds alpa=0.1:0.5", "alpa", "'alpha'"),
    case("bounds-backwards", "fit runs.csv --bounds alpha=0.5:0.1", "alpha", "low ≤ high"),
    case("bounds-negative", "fit runs.csv --bounds alpha=-1:0.5", "alpha", "0 ≤ low"),
    case("bounds-nan", "fit runs.csv --bounds alpha=nan", "alpha", "nan"),
    case("bounds-of-a-constant", "fit runs.csv --bounds gamma=0.5", "gamma", "another form"),
    case("bootstrap-negative", "fit runs.csv --bootstrap -1", "--bootstrap", "from 0", "'-1'"),
    case("bootstrap-broken", "fit runs.csv --bootstrap 1.5", "--bootstrap", "whole number", "'1.5'"),
    case("bootstrap-huge", "fit runs.csv --bootstrap 1000000000", "--bootstrap", "to 100000"),
    case("delta-zero", "fit runs.csv --delta 0", "--delta", "'0'", "1e-3"),
    case("delta-nan", "fit runs.csv --delta nan", "--delta", "'nan'", "1e-3"),
    case("cluster-unknown", "fit runs.csv --law distillation --cluster techer", "'techer'", "'teacher'"),
    case("cluster-empty-cells", "fit runs.csv --cluster teacher", "'teacher'", "empty", "another"),
]

OUTPUTS = [
    case(f"{command.split()[0]}-out-{name}", f"{command} --out {out}", "--out", *says, files=files)
    for command in ("fit runs.csv --bootstrap 0", FRONTIER)
    for name, out, says, files in (
        ("a-directory", ".", ["'.'", "directory", "name a file"], {}),
        ("in-a-missing-folder", "nosuch/f.json", ["'nosuch'", "does not exist"], {}),
        ("below-a-file", "runs.csv/f.json", ["'runs.csv'", "does not exist"], {}),
        ("empty", "''", ["empty"], {}),
        ("in-proc", "/proc/f.json", ["'/proc/f.json'", "cannot be written"], {}),
    )
]

CASES = [
    *COMMAND_LINE,
    *QUANTITIES,
    *MONEY,
    *QUESTIONS,
    *LAW_FILES,
    *TEACHER_FILES,
    *CONFIGS,
    *RUN_TABLES,
    *FITS,
    *OUTPUTS,
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_files(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def home(planted: Path, tmp_path: Path) -> Path:
    """A folder with runs.csv, teachers.toml and config.json."""
    return Path(shutil.copytree(planted, tmp_path, dirs_exist_ok=True))


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def write(home: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def check(result: Result, says: tuple[str, ...]) -> None:
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("distillscale")
    assert "Traceback" not in result.err
    assert result.err.rstrip("\n").isprintable()
    for fragment in says:
        assert fragment in result.err


@pytest.mark.parametrize(("line", "says", "files"), CASES)
def test_wrong_input_is_one_line_that_says_what_and_how(
    line: str, says: tuple[str, ...], files: Mapping[str, Content], home: Path
) -> None:
    write(home, files)
    before = contents(home)
    args = shlex.split(line)
    for extra in ([], ["--json"]):
        if args[-1] in ("--budget", "--nosuch"):  # where --json would be the value, or is no option of the group
            extra = []
        check(invoke(*args, *extra, cwd=home), says)
    assert contents(home) == before


def test_the_kinds_of_wrong_input_are_many_and_named_apart() -> None:
    names = [case.id for case in CASES]
    assert len(names) >= 200
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("plan --student 1B --budget 1e21 --techer free", ("'--techer'", "--teacher")),
        ("plan --student 0 --budget 1e21 --teacher free", ("--student", "'0'")),
        ("fit no.csv --json", ("no.csv", "No such file")),
        ("frontier --students 1B --budgets 1e20 --teacher both --out .", ("--out", "directory")),
        ("teachers runs.csv --student 1B --tokens 9B", ("runs.csv", "not TOML")),
        ("predict --student 1B --tokens 1B --law runs.csv", ("runs.csv", "not JSON")),
    ],
    ids=["option", "value", "table", "output", "teachers", "law"],
)
def test_the_installed_script_refuses_the_same_way(line: str, says: tuple[str, ...], home: Path) -> None:
    check(script(*shlex.split(line), cwd=home), says)


WRITERS = [
    pytest.param("fit runs.csv --bootstrap 0", id="fit"),
    pytest.param("frontier --students 1B --budgets 1e20 --teacher free", id="frontier"),
]
"""Commands that write a file with --out."""


@pytest.mark.parametrize("line", WRITERS)
@pytest.mark.parametrize("fails", ["write_text", "replace"])
def test_an_output_that_cannot_be_written_leaves_the_old_file(
    line: str, fails: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, in the middle of writing or at its end."""

    def half_written(path: Path, text: str, **_: Any) -> int:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError(28, "No space left on device")

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (home / "old").write_text("as it was", encoding="utf-8")
    before = contents(home)
    if fails == "write_text":
        monkeypatch.setattr(Path, "write_text", half_written)
    else:
        monkeypatch.setattr(os, "replace", refused)
    check(invoke(*shlex.split(line), "--out", "old", cwd=home), ("--out 'old'", "No space left"))
    assert contents(home) == before


@pytest.mark.parametrize("line", WRITERS)
def test_an_output_is_refused_where_a_pipe_would_be_replaced(line: str, home: Path) -> None:
    """Renaming a draft over a device or a pipe would destroy it."""
    os.mkfifo(home / "pipe")
    check(invoke(*shlex.split(line), "--out", "pipe", cwd=home), ("--out 'pipe'", "pipe", "name a file"))
    assert (home / "pipe").is_fifo()
    with pytest.raises(InputError, match="pipe"):
        write_atomically(home / "pipe", "text")
    assert (home / "pipe").is_fifo()


@pytest.mark.parametrize("line", WRITERS)
def test_an_output_goes_through_a_link_to_its_file(line: str, home: Path) -> None:
    (home / "folder").mkdir()
    (home / "link").symlink_to(home / "folder" / "real")
    assert invoke(*shlex.split(line), "--out", "link", cwd=home).code == 0
    assert (home / "link").is_symlink()
    assert (home / "folder" / "real").read_text(encoding="utf-8")
    assert [path.name for path in (home / "folder").iterdir()] == ["real"]


def test_a_fit_never_overwrites_the_table_it_reads(home: Path) -> None:
    before = contents(home)
    (home / "same.json").symlink_to(home / "runs.csv")
    for out in ("runs.csv", "./runs.csv", "same.json"):
        check(invoke("fit", "runs.csv", "--out", out, cwd=home), ("--out", "overwrite", "another file"))
    assert (home / "runs.csv").read_bytes() == before["runs.csv"]


@pytest.mark.parametrize("line", WRITERS)
def test_an_output_without_permission_is_refused_before_any_work(
    line: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda _, mode, **__: mode != os.W_OK)  # the superuser may write anywhere
    check(invoke(*shlex.split(line), "--out", "new", cwd=home), ("--out 'new'", "permission denied"))
    assert not (home / "new").exists()


@pytest.mark.parametrize("line", ["fit {}", "teachers {} --student 1B --tokens 9B", f"{PREDICT} --law {{}}"])
def test_a_file_without_permission_is_one_line(line: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(Path, "read_text", refused)
    check(invoke(*shlex.split(line.format("runs.csv")), cwd=home), ("runs.csv", "Permission denied"))


NAMES: list[tuple[str, Callable[[str], str]]] = [
    ("runs", "fit {}".format),
    ("law", f"{PREDICT} --law {{}}".format),
    ("student", "predict --student {}.json --tokens 9B".format),
    ("teachers", "teachers {} --student 1B --tokens 9B".format),
    ("out", f"{FRONTIER} --out no/{{}}".format),
]


@pytest.mark.parametrize("line", [pytest.param(line, id=name) for name, line in NAMES])
@pytest.mark.parametrize(
    "name",
    [pytest.param("a" * 300, id="long"), pytest.param("\udcff", id="not-text"), pytest.param("\x1b[31m", id="escape")],
)
def test_names_that_no_file_can_have_are_one_line(line: Callable[[str], str], name: str, home: Path) -> None:
    check(invoke(*line(name).split(), cwd=home), ())
