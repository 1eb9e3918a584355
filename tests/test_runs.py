"""The run table: what is read, what is refused, and that each refusal is one line that says what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distillscale.errors import InputError
from distillscale.runs import RunTable, read

HEADER = "params,tokens,loss"
GOOD = "1e9,2e10,2.4\n2e9,4e10,2.2\n"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., RunTable]:
    """Write text (or bytes) to a file and read it."""

    def write_and_read(text: str | bytes, *args: object, name: str = "runs.csv", **settings: object) -> RunTable:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read(path, *args, **settings)  # type: ignore[arg-type]

    return write_and_read


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plain_table(table: Callable[..., RunTable]) -> None:
    runs = table(f"{HEADER},note\n1e9, 20B ,2.4,a\n\n1.5B,4e10,2.2,b\n")
    assert runs.params.tolist() == [1e9, 1.5e9]
    assert runs.tokens.tolist() == [2e10, 4e10]
    assert runs.kind.tolist() == ["supervised"] * 2
    assert runs.extra["note"].tolist() == ["a", "b"]
    assert runs.warnings == ()


def test_byte_order_mark_quotes_and_crlf(table: Callable[..., RunTable]) -> None:
    runs = table('\ufeffparams,tokens,loss\r\n"1e9","2e10","2.4"\r\n')
    assert runs.loss.tolist() == [2.4]


def test_columns_are_mapped_and_planner_names_understood(table: Callable[..., RunTable]) -> None:
    mapped = table("Model Size,D,final\n1e9,2e10,2.4\n", {"params": "Model Size", "tokens": "D", "loss": "final"})
    named = table("student_params,student_tokens,student_loss,teacher_loss\n1e9,2e10,2.4,2.0\n")
    assert mapped.params.tolist() == named.params.tolist() == [1e9]
    assert named.kind.tolist() == ["distillation"]


def test_kind_follows_the_column_then_the_teacher(table: Callable[..., RunTable]) -> None:
    text = "kind,params,tokens,loss,teacher_loss\nsupervised,1e9,2e10,2.4,\ndistillation,1e9,2e10,2.3,2.0\n"
    assert table(text).kind.tolist() == ["supervised", "distillation"]
    assert table(f"{HEADER},teacher_loss\n1e9,2e10,2.4,\n1e9,2e10,2.3,2.0\n").kind.tolist() == [
        "supervised",
        "distillation",
    ]
    assert table(f"{HEADER},teacher_loss\n1e9,2e10,2.3,2.0\n", kind="supervised").kind.tolist() == ["supervised"]


def test_tokens_from_flops_only_where_asked(table: Callable[..., RunTable]) -> None:
    text = "params,flops,loss\n1e9,1.2e20,2.4\n"
    assert table(text, tokens_from_flops=True).tokens.tolist() == [2e10]
    assert "tokens" in refusal(lambda: table(text))
    assert "--tokens-from-flops" in refusal(lambda: table(text))


def test_json_lines_and_parquet_read_the_same(table: Callable[..., RunTable], tmp_path: Path) -> None:
    rows = [{"params": 1e9, "tokens": 20000000000, "loss": 2.4}, {"params": 2e9, "tokens": 40000000000, "loss": 2.2}]
    lines = table("\n".join(json.dumps(row) for row in rows), name="runs.jsonl")
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "runs.parquet")
    same = read(tmp_path / "runs.parquet")
    csv = table(f"{HEADER}\n{GOOD}")
    for other in (lines, same):
        assert other.params.tolist() == csv.params.tolist()
        assert other.tokens.tolist() == csv.tokens.tolist()
        assert other.loss.tolist() == csv.loss.tolist()


BAD_CELLS = [
    ("0,2e10,2.4", ["line 2", "'params'", "'0'"]),
    ("125,2e10,2.4", ["line 2", "'params'", "'125'", "1000 … 1e+15", "125M"]),
    ("1e9,20,2.4", ["line 2", "'tokens'", "'20'"]),
    ("1e9,2e10,-2.4", ["line 2", "'loss'", "'-2.4'", "positive"]),
    ("1e9,2e10,25", ["line 2", "'loss'", "'25'", "20 nats"]),
    ("1e9,2e10,nan", ["line 2", "'loss'", "finite"]),
    ("1e9,inf,2.4", ["line 2", "'tokens'", "finite"]),
    ("1e9,2e10,", ["line 2", "'loss'", "empty"]),
    ("1e9,2e10,low", ["line 2", "'loss'", "'low'", "not a number"]),
    ("1e9,2e10,2.4,9", ["line 2", "4 fields", "3"]),
    ("1e9,2e10", ["line 2", "2 fields", "3"]),
]


@pytest.mark.parametrize(("row", "words"), BAD_CELLS)
def test_a_bad_row_names_line_column_value_and_rule(row: str, words: list[str], table: Callable[..., RunTable]) -> None:
    said = refusal(lambda: table(f"{HEADER}\n{row}\n{GOOD}"))
    assert all(word in said for word in [*words, "--skip-bad-rows"]), said


@pytest.mark.parametrize("row", [row for row, _ in BAD_CELLS])
def test_bad_rows_are_dropped_and_counted_on_request(row: str, table: Callable[..., RunTable]) -> None:
    runs = table(f"{HEADER}\n{row}\n{GOOD}{row}\n", skip_bad_rows=True)
    assert len(runs) == 2
    assert runs.dropped == 2
    assert "2 bad rows" in runs.warnings[0]
    assert "line 2" in runs.warnings[0]


BAD_FILES = [
    (b"", ["is empty"]),
    (b"  \n\n", ["is empty"]),
    (f"{HEADER}\n".encode(), ["header only"]),
    (f"{HEADER}\n{GOOD}".encode("utf-16"), ["UTF-16", "UTF-8"]),
    (b"\x7fELF\x00\x01\x02", ["binary"]),
    (f"{HEADER}\n1e9,2e10,2.4\n".encode() + b"\xff\n", ["line 3", "UTF-8"]),
    (b"params;tokens;loss\n1e9;2e10;2.4\n", ["semicolons", "commas"]),
    (b"params\ttokens\tloss\n1e9\t2e10\t2.4\n", ["tabs", "commas"]),
    (b"params,tokens,loss,loss\n1e9,2e10,2.4,2.4\n", ["'loss'", "2 times"]),
    (b"params,tokens,los\n1e9,2e10,2.4\n", ["'loss'", "did you mean 'los'"]),
    (b"params,tokens\n1e9,2e10\n", ["'loss'", "--columns loss="]),
    (b'params,tokens,loss\n"1e9,2e10,2.4\n', ["not CSV", "quotes"]),
    (b'{"params": 1e9, "tokens": 2e10, "loss": 2.4}\n{oops\n', ["line 2", "JSON"]),
    (b"kind,params,tokens,loss\nsupervized,1e9,2e10,2.4\n", ["line 2", "'kind'", "supervized"]),
    (b"kind,params,tokens,loss\ndistillation,1e9,2e10,2.4\n", ["line 2", "'teacher_loss'", "teacher"]),
]


@pytest.mark.parametrize(("data", "words"), BAD_FILES)
def test_every_kind_of_bad_file_has_its_own_line(data: bytes, words: list[str], table: Callable[..., RunTable]) -> None:
    said = refusal(lambda: table(data))
    assert all(word in said for word in [*words, "runs.csv"]), said


def test_all_rows_bad_is_said_even_when_skipping(table: Callable[..., RunTable]) -> None:
    said = refusal(lambda: table(f"{HEADER}\n0,0,0\n", skip_bad_rows=True))
    assert "no usable rows" in said
    assert "line 2" in said


def test_missing_file_directory_and_unknown_mapping(table: Callable[..., RunTable], tmp_path: Path) -> None:
    assert "cannot be read" in refusal(lambda: read(tmp_path / "none.csv"))
    assert "directory" in refusal(lambda: read(tmp_path))
    assert "'Params'" in refusal(lambda: table(f"{HEADER}\n{GOOD}", {"params": "Params"}))
    assert "did you mean 'params'" in refusal(lambda: table(f"{HEADER}\n{GOOD}", {"parms": "params"}))
    assert "'teacher'" in refusal(lambda: table(f"{HEADER}\n{GOOD}", kind="teacher"))


def test_not_parquet_is_said(table: Callable[..., RunTable]) -> None:
    pytest.importorskip("pyarrow")
    assert "Parquet" in refusal(lambda: table(b"PAR1 but not really", name="runs.parquet"))


def test_parquet_without_pyarrow_names_the_extra(
    table: Callable[..., RunTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "distillscale[tables]" in refusal(lambda: table(b"PAR1", name="runs.parquet"))


def test_exact_duplicates_are_kept_and_reported(table: Callable[..., RunTable]) -> None:
    runs = table(f"{HEADER}\n{GOOD}{GOOD}1e9,2e10,2.41\n")
    assert len(runs) == 5
    assert "2 rows repeat" in runs.warnings[0]
    assert table(f"{HEADER},seed\n1e9,2e10,2.4,0\n1e9,2e10,2.4,1\n").warnings == ()


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("loss<2.3", [False, True, False]),
        ("loss <= 2.2", [False, True, False]),
        ("params>5e8", [True, True, False]),
        ("params>=1B", [True, True, False]),
        ("student_loss>2.3", [True, False, True]),
        ("tokens==4e10", [False, True, False]),
        ("tokens_per_param<20", [False, False, True]),
        ("compute>3e20", [False, True, False]),
        ("teacher_loss<3", [True, False, False]),
        ("study==a", [True, False, True]),
        ("study!=a", [False, True, False]),
        ("depth>10", [False, True, False]),
    ],
)
def test_hold_out_is_one_comparison(expression: str, kept: list[bool], table: Callable[..., RunTable]) -> None:
    text = f"{HEADER},teacher_loss,study,depth\n1e9,2e10,2.4,2.0,a,3\n2e9,4e10,2.2,,b,12\n4e8,4e9,2.9,,a,x\n"
    assert table(text).where(expression).tolist() == kept


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("loss", ["one comparison", "'loss<2.3'"]),
        ("2<loss", ["one comparison"]),
        ("__import__('os').system('true')", ["one comparison"]),
        ("los<2", ["'los'", "did you mean 'loss'"]),
        ("loss<two", ["'two'", "not a number"]),
    ],
)
def test_a_bad_hold_out_says_how_to_write_one(
    expression: str, words: list[str], table: Callable[..., RunTable]
) -> None:
    said = refusal(lambda: table(f"{HEADER}\n{GOOD}").where(expression))
    assert all(word in said for word in words), said


def test_selecting_rows_selects_every_column(table: Callable[..., RunTable]) -> None:
    runs = table(f"{HEADER},teacher_loss,note\n1e9,2e10,2.4,2.0,a\n2e9,4e10,2.2,,b\n")
    part = runs.of_kind("supervised")
    assert part.extra["note"].tolist() == ["b"]
    assert part.teacher_loss is not None
    assert math.isnan(part.teacher_loss[0])
    assert len(runs.select(np.array([1, 0, 0]))) == 3
