"""The store: what is done, running, failed or missing, from the folders alone, and the run table made of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from study_support import LawExecutor, planned_record, read, timeless

from distillscale.claim import claimed, held
from distillscale.drive import drive
from distillscale.errors import InputError
from distillscale.export import COLUMNS, rows_of, schedule_pairs, write_table
from distillscale.runs import COLUMNS as RUN_COLUMNS
from distillscale.runs import read as read_runs
from distillscale.store import JOB, State, Store
from distillscale.study import Planned


def finish(run: Planned, store: Store, **changes: object) -> None:
    home = store.folder(run.id)
    home.mkdir(parents=True, exist_ok=True)
    planned_record(run, store, **changes).write(home / "record.json")


def test_an_empty_folder_is_a_study_with_everything_missing(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    status = Store(tmp_path / "none").status(runs)
    counts = status.to_json()
    assert [counts[key] for key in ("runs", "done", "running", "failed", "missing")] == [18, 0, 0, 0, 18]
    assert (counts["flops_done"], counts["blocked"], counts["reasons"]) == (0, 0, {})
    assert counts["flops_total"] == sum(run.flops + run.flops_teacher for run in runs)
    assert not (tmp_path / "none").exists()


def test_states_are_what_the_folders_say(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    trunk, *_ = (run for run in runs if run.is_trunk)
    finish(trunk, store)
    decay = next(run for run in runs if run.trunk == trunk.id)
    home = store.folder(decay.id)
    home.mkdir()
    assert store.status(runs).states[decay.id] is State.MISSING
    for name in (JOB, ".claim"):
        with claimed(home, name):
            assert store.status(runs).states[decay.id] is State.RUNNING
    (home / "metrics.jsonl").write_text(f'{{"step": 3}}\n{{"step": {decay.branch_step + 2}}}\n{{"st')
    assert store.steps(decay.id) == decay.branch_step + 2
    with claimed(home, JOB):
        status = store.status(runs)
    assert status.flops_running == pytest.approx(2 / decay.steps * decay.flops)
    assert status.flops_done == pytest.approx(trunk.flops)
    store.add_failure(decay.id, "the disk is full")
    store.add_failure(decay.id, "it is still full")
    failure = store.failure(decay.id)
    assert failure is not None
    assert (failure.attempts, failure.reason) == (2, "it is still full")
    assert store.status(runs).states[decay.id] is State.FAILED
    finish(decay, store)
    assert store.status(runs).states[decay.id] is State.DONE
    assert store.failure(decay.id) is None


def test_what_a_failed_run_was_needed_for_is_blocked_with_the_reason(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    (teacher,) = (run for run in runs if "teacher" in run.roles)
    store.add_failure(teacher.id, "killed")
    status = store.status(runs)
    taught = {run.id for run in runs if run.spec.teacher}
    assert set(status.blocked) == taught
    assert status.count(State.MISSING) == len(runs) - 1
    student = next(run for run in runs if run.roles == ("student",))
    assert status.reasons[student.id] == f"its trunk {student.trunk} failed: teacher {teacher.id} failed: killed" or (
        status.reasons[student.id] == f"its teacher {teacher.id} failed: killed"
    )
    finish(teacher, store, outcome="diverged", loss=None, diverged_step=7)
    assert "no longer a number at step 7" in store.status(runs).reasons[teacher.id]


def test_a_trunk_that_nobody_waits_for_is_not_missing(tmp_path: Path) -> None:
    """Branching was switched on after its decays were trained whole."""
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    trunk = next(run for run in runs if run.is_trunk)
    for run in runs:
        if run.trunk == trunk.id:
            finish(run, store)
    assert store.status(runs).states[trunk.id] is State.DONE
    assert trunk not in store.needed(runs)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"attempts": []}', '{"attempts": [3]}'])
def test_damaged_notes_are_no_reason_to_stop(content: str, tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    home = store.folder(runs[0].id)
    home.mkdir(parents=True)
    (home / "failure.json").write_text(content)
    (home / "metrics.jsonl").write_text(content)
    assert store.status(runs).states[runs[0].id] is State.MISSING
    store.add_failure(runs[0].id, "again")
    assert "again" in store.status(runs).reasons[runs[0].id]


# Claims -------------------------------------------------------------------------------------------------------------


def test_asking_whether_a_folder_is_held_takes_nothing(tmp_path: Path) -> None:
    assert not held(tmp_path)
    with claimed(tmp_path):
        assert held(tmp_path)
        assert held(tmp_path)
    assert not held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from distillscale.claim import claimed\n"
        f"with claimed(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert held(tmp_path)
    process.kill()
    process.communicate()
    assert not held(tmp_path)
    assert (tmp_path / ".claim").exists()
    # The number of the dead process may belong to another by now: only the lock tells.
    (tmp_path / ".claim").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert not held(tmp_path)
    (tmp_path / ".claim").write_text("")
    assert not held(tmp_path)


def test_a_claim_of_another_machine_is_held_until_it_is_stale(tmp_path: Path) -> None:
    (tmp_path / ".claim").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    assert held(tmp_path)
    os.utime(tmp_path / ".claim", (time.time() - 3600,) * 2)
    assert not held(tmp_path)


@pytest.mark.parametrize("machine", ["another boot pid:[1]", ""])
def test_a_machine_of_the_same_name_is_another_machine(machine: str, tmp_path: Path) -> None:
    """Its process numbers mean nothing here: one that lives here says nothing, nor does one that does not."""
    for pid in (os.getpid(), 2**22 - 1):
        note = {"pid": pid, "host": socket.gethostname(), "machine": machine}
        (tmp_path / ".claim").write_text(json.dumps(note))
        assert held(tmp_path)
        with pytest.raises(InputError, match=f"in the hands of process {pid}"), claimed(tmp_path):
            pass
        os.utime(tmp_path / ".claim", (time.time() - 3600,) * 2)
        assert not held(tmp_path)


def test_a_beating_claim_is_renewed_while_its_process_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillscale.claim._BEAT_SECONDS", 0.01)
    for beat in (True, False):
        with claimed(tmp_path, beat=beat):
            path = tmp_path / ".claim"
            os.utime(path, (0.0, 0.0))
            limit = time.monotonic() + (10 if beat else 0.3)
            while path.stat().st_mtime == 0.0 and time.monotonic() < limit:
                time.sleep(0.01)
            assert (path.stat().st_mtime > 0.0) is beat
        assert not path.exists()
    assert [thread.name for thread in threading.enumerate() if "_beat" in thread.name] == []


# The run table ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> tuple[tuple[Planned, ...], Store]:
    swap = ("tokens = [1280, 2560]", 'tokens = [1280, 2560]\nschedule = ["wsd", "cosine"]')
    _, runs = read(tmp_path, swap)
    store = Store(tmp_path / "runs")
    drive(runs, store, LawExecutor(runs, store))
    return runs, store


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_study_becomes_a_run_table(name: str, finished: tuple[tuple[Planned, ...], Store], tmp_path: Path) -> None:
    runs, store = finished
    rows = rows_of(runs, store)
    assert {row["id"] for row in rows} == {run.id for run in runs if not run.is_trunk}
    write_table(tmp_path / name, rows)
    table = read_runs(tmp_path / name)
    assert set(RUN_COLUMNS) <= set(COLUMNS)
    assert list(table.labels("id")) == [row["id"] for row in rows]
    assert table.loss.tolist() == [row["loss"] for row in rows]
    students = table.of_kind("distillation")
    assert len(students) == 4
    assert students.teacher_tokens is not None
    assert students.teacher_params is not None
    assert students.teacher_loss is not None
    (teacher,) = (run for run in runs if "teacher" in run.roles)
    assert set(students.teacher_tokens) == {2560}
    assert set(students.teacher_params) == {teacher.params}
    record = store.record(teacher.id)
    assert record is not None
    assert set(students.teacher_loss) == {record.loss}
    assert {float(x) for x in students.labels("lam")} == {0.5, 1.0}
    assert not table.warnings


def test_runs_that_diverged_are_no_rows(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    supervised = [run for run in runs if run.roles == ("supervised",)]
    finish(supervised[0], store, outcome="diverged", loss=None, diverged_step=1)
    finish(supervised[1], store)
    assert [row["id"] for row in rows_of(runs, store)] == [supervised[1].id]


def test_the_price_of_the_schedule_is_told_where_both_ran(finished: tuple[tuple[Planned, ...], Store]) -> None:
    pairs = schedule_pairs(*finished)
    assert len(pairs) == 8
    assert all(pair["difference_nats"] == pair["wsd_loss"] - pair["cosine_loss"] for pair in pairs)


def test_a_table_that_cannot_be_written_leaves_the_old_one(
    finished: tuple[tuple[Planned, ...], Store], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_table(tmp_path / "no" / "t.csv", rows_of(*finished))
    assert timeless(rows_of(*finished)) == timeless(rows_of(finished[0], Store(finished[1].root)))
