"""Runs of other tools: MLflow folders, TensorBoard logs, tables of W&B; which value is taken, and what is refused."""

from __future__ import annotations

import base64
import csv
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_support import invoke
from hypothesis import given
from hypothesis import strategies as st
from test_runs import refusal

from distillscale import eventfile
from distillscale.eventfile import EventFile, read_events
from distillscale.runs import RunTable, read
from distillscale.tracked import Point, Tracked

# TensorBoard ----------------------------------------------------------------------------------------------------------

# What torch.utils.tensorboard 2.13 with tensorboard 2.21 wrote: `val/loss` 4.0, 3.5, 3.7 at steps 0, 100, 200, and in a
# folder below it, as `add_hparams` does, n_params 1e6, tokens 2e7, act "silu", bias False with the metric hparam/best.
SCALARS = base64.b64decode(
    "SAAAAAAAAAD+kkidCSAIP+ZjwdpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3JpdG"
    "Vy9MJu3BwAAAAAAAAAyMGVHQngTT/mY8HaQSoRCg8KCHZhbC9sb3NzFQAAgEANzbLIHgAAAAAAAADZ3BIyCYVOP+ZjwdpBEGQqEQoPCgh2YWwv"
    "bG9zcxUAAGBAFMYJVR8AAAAAAAAAUUtEGAnITj/mY8HaQRDIASoRCg8KCHZhbC9sb3NzFc3MbEA3AY1I"
)
HPARAMS = base64.b64decode(
    "SAAAAAAAAAD+kkidCU3UQOZjwdpBGg1icmFpbi5FdmVudDoyUi4KLHRlbnNvcmJvYXJkLnN1bW1hcnkud3JpdGVyLmV2ZW50X2ZpbGVfd3JpdG"
    "Vy139EGnIAAAAAAAAAJQU6ggnEHUHmY8HaQSpnCmUKFF9ocGFyYW1zXy9leHBlcmltZW50Sk0KSwoHaHBhcmFtcxJAEj4iDAoIbl9wYXJhbXMg"
    "AyIKCgZ0b2tlbnMgAyIHCgNhY3QgASIICgRiaWFzIAMqDwoNEgtocGFyYW0vYmVzdNBabOmKAAAAAAAAAK27d1cJRB5B5mPB2kEqfwp9ChxfaH"
    "BhcmFtc18vc2Vzc2lvbl9zdGFydF9pbmZvSl0KWwoHaHBhcmFtcxJQGk4KDQoDYWN0EgYaBHNpbHUKEQoEYmlhcxIJEQAAAAAAAAAAChUKCG5f"
    "cGFyYW1zEgkRAAAAAICELkEKEwoGdG9rZW5zEgkRAAAAANASc0F2l0jJPAAAAAAAAADIt6NSCWgeQeZjwdpBKjEKLwoaX2hwYXJhbXNfL3Nlc3"
    "Npb25fZW5kX2luZm9KEQoPCgdocGFyYW1zEgQiAggBYJ0ixR8AAAAAAAAAUUtEGAmEH0HmY8HaQSoUChIKC2hwYXJhbS9iZXN0FQAAIECm7VQE"
)
COLUMNS = {"params": "hparams.n_params", "tokens": "hparams.tokens", "loss": "scalars.val/loss"}


def framed(*records: bytes) -> bytes:
    """Records as an event file holds them."""
    parts: list[bytes] = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += [length, struct.pack("<I", eventfile._masked(length)), record]
        parts.append(struct.pack("<I", eventfile._masked(record)))
    return b"".join(parts)


def varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def part(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def scalar(tag: str, step: int, value: float, time: float = 0.0) -> bytes:
    """An event with one number, written down from the format's description rather than from our reader."""
    inner = part(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
    return b"\x09" + struct.pack("<d", time) + b"\x10" + varint(step) + part(5, part(1, inner))


def logged(home: Path, **files: bytes) -> Path:
    for name, content in files.items():
        path = home / name.replace("__", "/") / "events.out.tfevents.1.host.1.0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return home


def test_the_checksum_is_crc_32c() -> None:
    """The check value of CRC-32C (RFC 3720, B.4: 32 bytes of zeros give aa 36 91 8a), before it is masked."""
    crc = 0x8A9136AA
    assert eventfile._masked(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_log_directory_is_a_run_table(tmp_path: Path) -> None:
    logged(tmp_path, small=SCALARS, small__1795=HPARAMS, large__a=SCALARS, large__a__1796=HPARAMS)
    table = read(tmp_path, COLUMNS)
    assert table.id is not None
    assert table.id.tolist() == ["large/a", "small"]
    assert table.params.tolist() == [1e6, 1e6]
    assert table.tokens.tolist() == [2e7, 2e7]
    assert table.loss == pytest.approx([3.7, 3.7])
    assert read(tmp_path, COLUMNS | {"loss": "min(scalars.val/loss)"}).loss.tolist() == [3.5, 3.5]
    assert set(table.extra) == {"hparams.act", "hparams.bias", "scalars.hparam/best"}
    assert table.labels("hparams.act").tolist() == ["silu", "silu"]
    assert table.labels("hparams.bias").tolist() == ["0.0", "0.0"]  # so the writer put it


def test_one_run_goes_by_the_name_of_its_folder(tmp_path: Path) -> None:
    home = logged(tmp_path / "mine", **{".": SCALARS, "below": HPARAMS})
    table = read(home, COLUMNS)
    assert table.id is not None
    assert table.id.tolist() == ["mine"]


def test_two_folders_of_hyperparameters_below_a_run_are_not_guessed_between(tmp_path: Path) -> None:
    logged(tmp_path, run=SCALARS, run__1=HPARAMS, run__2=HPARAMS)
    said = refusal(lambda: read(tmp_path, COLUMNS))
    assert "run 'run', column 'hparams.n_params': the cell is empty" in said


def test_a_run_written_in_several_files_is_one_series(tmp_path: Path) -> None:
    logged(tmp_path, run=framed(scalar("a", 1, 5.0, 1.0), scalar("a", 3, 4.0, 2.0)))
    (tmp_path / "run" / "events.out.tfevents.2.host.1.0").write_bytes(framed(scalar("a", 3, 3.5, 9.0)))
    found = EventFile()
    for path in sorted((tmp_path / "run").iterdir()):
        read_events(path, found)
    assert Tracked("run", {}, found.scalars).cells() == {"id": "run", "a": "3.5", "min(a)": "3.5"}


@given(st.lists(st.tuples(st.text(max_size=9), st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False))))
def test_every_scalar_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, int, float]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.out.tfevents"
    path.write_bytes(framed(*(scalar(*value) for value in values)))
    found = EventFile()
    read_events(path, found)
    assert sorted(found.scalars) == sorted({tag for tag, _, _ in values})
    for tag, points in found.scalars.items():
        assert points == [Point(float(step), 0.0, value) for name, step, value in values if name == tag]


def tensor(kind: int, body: bytes, *shape: int) -> bytes:
    sizes = b"".join(part(2, b"\x08" + varint(size)) for size in shape)
    return part(1, part(1, b"t") + part(8, b"\x08" + varint(kind) + part(2, sizes) + body))


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        (tensor(1, part(4, struct.pack("<f", 1.5))), 1.5),
        (tensor(1, part(5, struct.pack("<f", 1.5))), 1.5),
        (tensor(2, part(6, struct.pack("<d", 0.1))), 0.1),
        (tensor(1, part(4, struct.pack("<f", 1.5)), 1), None),  # a list of one is no scalar
        (tensor(7, part(8, b"text")), None),
    ],
)
def test_scalars_may_be_tensors(value: bytes, read_as: float | None, tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents"
    path.write_bytes(framed(part(5, value)))
    found = EventFile()
    read_events(path, found)
    assert [point.value for point in found.scalars.get("t", [])] == ([] if read_as is None else [read_as])


def test_a_writer_that_was_killed_leaves_what_it_had_written(tmp_path: Path) -> None:
    whole = framed(scalar("a", 1, 5.0))
    for cut in range(len(whole)):
        found = EventFile()
        path = tmp_path / "events.out.tfevents"
        path.write_bytes(whole + whole[:cut])
        read_events(path, found)
        assert len(found.scalars["a"]) == 1


def test_a_damaged_file_is_one_line_with_its_name(tmp_path: Path) -> None:
    whole = framed(scalar("a", 1, 5.0))
    for place in range(len(whole)):
        path = tmp_path / "events.out.tfevents"
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert "events.out.tfevents' is not an event file" in refusal(lambda: read(tmp_path))
    path.write_bytes(framed(b"\xff" * 40))
    assert "damaged" in refusal(lambda: read(tmp_path))


def test_what_is_too_large_for_a_scalar_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents"
    path.write_bytes(framed(part(5, bytes(1 << 17)), scalar("a", 1, 5.0)))
    found = EventFile()
    read_events(path, found)
    assert len(found.scalars["a"]) == 1


# MLflow ---------------------------------------------------------------------------------------------------------------

MLFLOW = {"params": "params.n_params", "tokens": "params.tokens", "loss": "metrics.val/loss"}


def run(home: Path, name: str, status: int | str = 3, stage: str = "active", loss: str | None = None) -> None:
    """As MLflow 2's file store lays a run out."""
    home = home / name
    (home / "metrics" / "val").mkdir(parents=True)
    (home / "params").mkdir()
    (home / "tags").mkdir()
    (home / "meta.yaml").write_text(
        f"artifact_uri: file:///a/{name}\nlifecycle_stage: {stage}\nrun_name: n{name}\nstatus: {status}\ntags: []\n"
    )
    (home / "metrics" / "val" / "loss").write_text(loss or "1700 5.0 0\n1702 3.5 20\n1701 3.4 10\n")
    (home / "params" / "n_params").write_text("1000000")
    (home / "params" / "tokens").write_text("20M\n")
    (home / "tags" / "mlflow.user").write_text("me")


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    home = tmp_path / "mlruns"
    for name, experiment in (("aa", "1"), ("bb", "2")):
        run(home / experiment, name)
        (home / experiment / "meta.yaml").write_text("name: scaling\n")
    (home / "models").mkdir()
    run(home / ".trash" / "9", "dd")
    run(home / "2", "cc", stage="deleted")
    return home


def ids(table: RunTable) -> list[str]:
    assert table.id is not None
    return table.id.tolist()


def test_an_mlflow_folder_is_a_run_table(mlruns: Path) -> None:
    table = read(mlruns, MLFLOW)
    assert ids(table) == ["aa", "bb"]
    assert table.params.tolist() == [1e6, 1e6]
    assert table.tokens.tolist() == [2e7, 2e7]
    assert table.loss.tolist() == [3.5, 3.5]  # of the greatest step, wherever its line is
    assert read(mlruns, MLFLOW | {"loss": "min(metrics.val/loss)"}).loss.tolist() == [3.4, 3.4]
    assert set(table.extra) == {"status", "run_name", "tags.mlflow.user"}
    assert ids(read(mlruns / "2", MLFLOW)) == ["bb"]
    assert ids(read(mlruns / "2" / "bb", MLFLOW)) == ["bb"]


def test_of_one_step_the_later_value_counts_and_the_least_is_finite(mlruns: Path) -> None:
    path = mlruns / "1" / "aa" / "metrics" / "val" / "loss"
    path.write_text("1700 4.0 7\n1701 3.0 7\n1600 nan 3\n")
    assert read(mlruns / "1", MLFLOW).loss.tolist() == [3.0]
    assert read(mlruns / "1", MLFLOW | {"loss": "min(metrics.val/loss)"}).loss.tolist() == [3.0]
    path.write_text("1700 4.0 1\n1701 nan 7\n")
    assert "mlruns/1 run 'aa', column 'metrics.val/loss': 'nan' must be finite" in refusal(
        lambda: read(mlruns / "1", MLFLOW)
    )


@pytest.mark.parametrize("status", [1, 2, 4, 5, "FAILED"])
def test_the_loss_of_a_run_that_did_not_end_is_not_believed(status: int | str, mlruns: Path) -> None:
    run(mlruns / "1", "ee", status)
    said = refusal(lambda: read(mlruns, MLFLOW))
    assert "run 'ee', column 'status'" in said
    assert "the run did not end" in said
    table = read(mlruns, MLFLOW, skip_bad_rows=True)
    assert ids(table) == ["aa", "bb"]
    assert table.dropped == 1


def test_a_damaged_metric_is_named_with_its_line(mlruns: Path) -> None:
    path = mlruns / "1" / "aa" / "metrics" / "val" / "loss"
    for bad in ("1700 4.0 1\n1701 low 2\n", "\n1700\n", "1700 1.0 0\nnow 1 2\n"):
        path.write_text(bad)
        assert "loss' line 2 is not a metric's 'time value step'" in refusal(lambda: read(mlruns, MLFLOW))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"params": "n_params"}, ["no column 'n_params'", "did you mean 'params.n_params'?"]),
        (MLFLOW | {"loss": "val/loss"}, ["no column 'val/loss'", "did you mean 'metrics.val/loss'?"]),
        (MLFLOW | {"loss": "metrics.val/los"}, ["did you mean 'metrics.val/loss'?"]),
        (MLFLOW | {"loss": "min(val/loss)"}, ["did you mean 'min(metrics.val/loss)'?"]),
        ({}, ["no column 'params'", "--columns params=params.n_params"]),
    ],
)
def test_a_column_that_is_not_there_is_told_with_the_nearest(
    columns: Mapping[str, str], words: list[str], mlruns: Path
) -> None:
    said = refusal(lambda: read(mlruns, columns))
    assert all(word in said for word in words), said


def test_a_folder_without_runs_says_what_it_could_be(tmp_path: Path) -> None:
    said = refusal(lambda: read(tmp_path))
    assert all(word in said for word in ("directory without runs", "CSV", "mlruns", "TensorBoard"))


# Tables that trackers export ------------------------------------------------------------------------------------------


def exported(rows: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


WANDB = {"params": "config.model.n_params", "tokens": "config.tokens", "loss": "summary.val/loss"}
CONFIG = {"model": {"n_params": 1000000}, "tokens": {"desc": None, "value": 20000000}, "betas": [0.9, 0.95]}


@pytest.mark.parametrize("printed", [json.dumps, str], ids=["json", "python"])
def test_objects_in_the_cells_of_a_table_are_opened(printed: object, tmp_path: Path) -> None:
    """`summary` and `config` as W&B's public API gives them, written by pandas or by json."""
    assert callable(printed)
    path = tmp_path / "project.csv"
    rows = [["", "name", "summary", "config"], [0, "x", printed({"val/loss": 2.5, "_step": 9}), printed(CONFIG)]]
    path.write_text(exported([*rows, [1, "y", printed({"val/loss": 2.25}), printed(CONFIG)]]))
    table = read(path, WANDB)
    assert (table.params.tolist(), table.tokens.tolist(), table.loss.tolist()) == ([1e6] * 2, [2e7] * 2, [2.5, 2.25])
    assert table.labels("config.betas").tolist() == ["[0.9, 0.95]"] * 2
    path.write_text(exported([*rows, [1, "y", "{cut", printed(CONFIG)]]))
    assert "line 3, column 'summary.val/loss': the cell is empty" in refusal(lambda: read(path, WANDB))
    assert "did you mean 'summary.val/loss'?" in refusal(lambda: read(path, WANDB | {"loss": "val/loss"}))


def test_a_flat_export_keeps_its_names_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "wandb.csv"
    columns = {"params": "model.n_params", "tokens": "tokens", "loss": "val/loss"}
    head = ["Name", "ID", "State", "model.n_params", "tokens", "val/loss"]
    path.write_text(exported([head, ["big", "q1", "finished", "1e6", "2e7", "2.5"]]))
    assert ids(read(path, columns)) == ["q1"]
    path.write_text(exported([head, ["big", "q1", "crashed", "1e6", "2e7", "2.5"]]))
    assert "line 2, column 'State': 'crashed': the run did not end" in refusal(lambda: read(path, columns))
    path = tmp_path / "mlflow.csv"
    path.write_text(exported([["run_id", "params.n", "params.d", "metrics.loss"], ["r7", "1e6", "2e7", "2.5"]]))
    assert ids(read(path, {"params": "params.n", "tokens": "params.d", "loss": "metrics.loss"})) == ["r7"]


def test_the_export_of_a_chart_is_told_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "chart.csv"
    path.write_text('"Step","a - val/loss","a - val/loss__MIN","a - val/loss__MAX"\n1,2,2,2\n')
    assert "export the table of runs instead" in refusal(lambda: read(path))


def test_objects_are_data(tmp_path: Path) -> None:
    """Nothing in a cell is carried out, and a deep one is no way to the end of the stack."""
    path = tmp_path / "bad.csv"
    for cell in (
        "{__import__('os').getpid(): 1}",
        "{" * 9000 + "}" * 9000,
        '{"a":' * 9000 + "1" + "}" * 9000,
        "{1, 2}",
    ):
        path.write_text(exported([["params", "tokens", "loss", "note"], ["1e9", "2e10", "2.4", cell]]))
        table = read(path)
        assert table.loss.tolist() == [2.4]
        assert list(table.extra) == ["note"]


def test_fit_and_compare_take_a_folder(tmp_path: Path) -> None:
    for n in (1, 2, 4, 8, 16):
        for d in (20, 40, 80):
            loss = 1.7 + 400 / (n * 1e6) ** 0.34 + 410 / (d * 1e6) ** 0.28
            run(tmp_path / "mlruns" / "1", f"{n}x{d}", loss=f"1 9.0 0\n2 {loss!r} 5\n")
            (tmp_path / "mlruns" / "1" / f"{n}x{d}" / "params" / "n_params").write_text(f"{n}M")
            (tmp_path / "mlruns" / "1" / f"{n}x{d}" / "params" / "tokens").write_text(f"{d}M")
    columns = ",".join(f"{ours}={theirs}" for ours, theirs in MLFLOW.items())
    found = invoke("fit", "mlruns", "--columns", columns, "--bootstrap", "0", "--json", cwd=tmp_path).json()
    assert found["rows"] == 15
    assert found["coefficients"]["alpha"] == pytest.approx(0.34, rel=1e-3)
    assert invoke("compare", "mlruns", "--columns", columns, "--json", cwd=tmp_path).code == 0
    bad = invoke("fit", "mlruns", cwd=tmp_path)
    assert (bad.code, bad.out, bad.err.count("\n")) == (2, "", 1)
