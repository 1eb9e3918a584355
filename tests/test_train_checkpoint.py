"""Checkpoints are whole or absent, and a run that was killed at any moment ends where it would have ended."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from train_support import TinyTeacher, same_run, spec, token_data, train_until

from distillscale.claim import claimed
from distillscale.errors import InputError
from distillscale.record import RunRecord
from distillscale.train import checkpoint
from distillscale.train.data import TokenData
from distillscale.train.loop import Interrupted, Saving, run


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return token_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes that have torch already; each is a fresh copy of one that never computed anything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distillscale.train.loop"])
    return context


def begin(server: ForkServerContext, *args: Any) -> ForkServerProcess:
    process = server.Process(target=train_until, args=args)
    process.start()
    return process


def stopped_after(steps: int, out: Path, data: TokenData, **options: Any) -> None:
    """A run that was told to stop after so many steps, with a checkpoint of that moment."""
    calls = iter(range(1, 10**6))
    with pytest.raises(Interrupted):
        run(spec(), data=data, out=out, stop=lambda: next(calls) >= steps, **options)


# Exact resume -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taught", [False, True], ids=["supervised", "distilled"])
def test_a_run_that_dies_ever_later_ends_as_if_it_had_not(
    taught: bool, tmp_path: Path, data: TokenData, server: ForkServerContext
) -> None:
    """Session n is killed at the n·3-th thing that it does to the disk, files cut in half included."""
    changes: dict[str, Any] = {"tokens": 12 * 64} | ({"teacher": "tiny", "lam": 0.7} if taught else {})
    shutil.copytree(data.folder, tmp_path / "data")
    teacher: Any = TinyTeacher() if taught else None
    run(spec(**changes), data=data, out=tmp_path / "whole", teacher=teacher)
    sessions = 0
    for deaths in range(2 + taught, 200, 3):
        process = begin(server, str(tmp_path), changes, taught, 2, deaths)
        process.join()
        sessions += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
    assert sessions > 5
    assert same_run(tmp_path / "whole", tmp_path / "run")
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert [name for name in left if not name.startswith(".")] == [
        "checkpoint",
        "metrics.jsonl",
        "model",
        "record.json",
        "spec.json",
    ]
    assert list((tmp_path / "run" / "checkpoint").iterdir()) == []


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(
    tmp_path: Path, data: TokenData, server: ForkServerContext
) -> None:
    changes: dict[str, Any] = {"tokens": 4000 * 64, "teacher": "tiny"}
    shutil.copytree(data.folder, tmp_path / "data")
    teacher: Any = TinyTeacher()
    begun = time.monotonic()
    run(spec(**changes), data=data, out=tmp_path / "whole", teacher=teacher)
    whole, moments, kills = time.monotonic() - begun, random.Random(20), 0
    while not (tmp_path / "run" / "record.json").exists():
        process = begin(server, str(tmp_path), changes, True, 5, None)
        if kills < 20:
            process.join(moments.uniform(0.2, 0.3 + whole / 25))
            process.kill()
            kills += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    assert kills == 20
    assert same_run(tmp_path / "whole", tmp_path / "run")


def test_a_stopped_run_continues_and_a_finished_one_is_not_run_again(tmp_path: Path, data: TokenData) -> None:
    run(spec(), data=data, out=tmp_path / "whole")
    stopped_after(7, tmp_path / "run", data)
    assert checkpoint.steps(tmp_path / "run" / "checkpoint") == [7]
    record = run(spec(), data=data, out=tmp_path / "run")
    assert record.sessions == 2
    assert same_run(tmp_path / "whole", tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert run(spec(), data=data, out=tmp_path / "run") == record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path in times} == times


def test_seconds_and_flops_add_up_over_sessions(tmp_path: Path, data: TokenData) -> None:
    stopped_after(7, tmp_path / "run", data)
    spent = json.loads(next((tmp_path / "run").rglob("checkpoint.json")).read_text())["state"]["ledger"]
    record = run(spec(), data=data, out=tmp_path / "run")
    assert record.flops_student == spec().flops(data.vocab)
    assert spent["flops_student"] == pytest.approx(record.flops_student * 7 / 20, rel=1e-12)
    assert record.wall_seconds > spent["wall_seconds"] > 0


def test_only_the_latest_checkpoint_and_branch_points_stay(tmp_path: Path, data: TokenData) -> None:
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(
            spec(branch_tokens=(4 * 64, 9 * 64)),
            data=data,
            out=tmp_path,
            saving=Saving(steps=1),
            stop=lambda: next(calls) >= 12,
        )
    assert checkpoint.steps(tmp_path / "checkpoint") == [4, 9, 12]
    run(spec(branch_tokens=(4 * 64, 9 * 64)), data=data, out=tmp_path)
    assert checkpoint.steps(tmp_path / "checkpoint") == [4, 9]


# Damage -------------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_named_and_nothing_starts_from_zero(
    name: str, damage: Any, tmp_path: Path, data: TokenData
) -> None:
    stopped_after(3, tmp_path / "run", data)
    damage(tmp_path / "run" / "checkpoint" / "step-000000003" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refused:
        run(spec(), data=data, out=tmp_path / "run")
    assert "step-000000003" in str(refused.value)
    assert name in str(refused.value)
    assert "restore it from a copy, or delete the run's folder to start from zero" in str(refused.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_an_older_checkpoint_is_offered_but_not_taken(tmp_path: Path, data: TokenData) -> None:
    run(spec(), data=data, out=tmp_path / "whole")
    stopped_after(3, tmp_path / "run", data)
    kept = tmp_path / "run" / "checkpoint" / "step-000000003"
    shutil.copytree(kept, tmp_path / "copy")
    stopped_after(2, tmp_path / "run", data)
    shutil.copytree(tmp_path / "copy", kept)
    flip(tmp_path / "run" / "checkpoint" / "step-000000005" / "model.safetensors")
    with pytest.raises(InputError, match="delete that folder to resume from step 3"):
        run(spec(), data=data, out=tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint" / "step-000000005")
    run(spec(), data=data, out=tmp_path / "run")
    assert same_run(tmp_path / "whole", tmp_path / "run")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    tensors = {"model": {"a": torch.zeros(3)}, "optimizer": {}}
    checkpoint.save(tmp_path, 1, tensors, {"x": 1})
    found = checkpoint.load(tmp_path, 1)
    assert found.step == 1
    assert found.state == {"x": 1}
    assert torch.equal(found.tensors["model"]["a"], torch.zeros(3))
    assert dict(found.tensors["optimizer"]) == {}


# Full disks ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    tmp_path: Path, data: TokenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec(), data=data, out=tmp_path / "whole")
    real, saves = checkpoint.save_file, iter(range(100))

    def full(tensors: Any, path: Path) -> None:
        if next(saves) < 5:  # two whole checkpoints and half of a third
            return real(tensors, path)
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError) as refused:
        run(spec(), data=data, out=tmp_path / "run", saving=Saving(steps=4))
    assert "No space left on device" in str(refused.value)
    assert "the one of step 8 is intact and resumes when there is room for" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["step-000000008"]
    monkeypatch.undo()
    run(spec(), data=data, out=tmp_path / "run")
    assert same_run(tmp_path / "whole", tmp_path / "run")


def _with_little_room(home: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # less than the optimiser's file
    try:
        train_until(home, {}, False, 4, None)
    except InputError as error:
        (Path(home) / "said").write_text(str(error))


def test_a_disk_that_refuses_to_write_leaves_no_half_checkpoint(
    tmp_path: Path, data: TokenData, server: ForkServerContext
) -> None:
    """The system itself says no, in the middle of safetensors' writing."""
    shutil.copytree(data.folder, tmp_path / "data")
    process = server.Process(target=_with_little_room, args=(str(tmp_path),))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "the checkpoint of step 4 could not be written" in (tmp_path / "said").read_text()
    assert "the run has none yet and begins anew" in (tmp_path / "said").read_text()
    assert list((tmp_path / "run" / "checkpoint").iterdir()) == []


# One process at a time ----------------------------------------------------------------------------------------------


def test_two_processes_never_share_a_run(tmp_path: Path, data: TokenData, server: ForkServerContext) -> None:
    shutil.copytree(data.folder, tmp_path / "data")
    process = begin(server, str(tmp_path), {"tokens": 100_000 * 64}, False, 1000, None)
    try:
        metrics, limit = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < limit:
            time.sleep(0.05)
        with pytest.raises(InputError, match=f"in the hands of process {process.pid} on "):
            run(spec(tokens=100_000 * 64), data=data, out=tmp_path / "run")
    finally:
        process.kill()
        process.join()
    stopped = iter([True])
    with pytest.raises(Interrupted):  # the dead process's claim does not bind the next
        run(spec(tokens=100_000 * 64), data=data, out=tmp_path / "run", stop=lambda: next(stopped))


def test_a_claim_of_another_machine_binds_until_it_is_stale(tmp_path: Path) -> None:
    claim = tmp_path / ".claim"
    claim.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(InputError, match="in the hands of process 1 on elsewhere"), claimed(tmp_path):
        pass
    os.utime(claim, (time.time() - 3600, time.time() - 3600))
    with claimed(tmp_path):
        assert json.loads(claim.read_text())["pid"] == os.getpid()
    assert not claim.exists()


# Another run's folder -----------------------------------------------------------------------------------------------


def test_a_folder_of_another_run_is_refused_by_the_field_that_differs(tmp_path: Path, data: TokenData) -> None:
    stopped_after(3, tmp_path / "run", data)
    with pytest.raises(InputError, match=r"holds another run: its lr is 0\.01, the spec's is 0\.02"):
        run(spec(lr=0.02), data=data, out=tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        run(spec(), data=data, out=tmp_path / "run", resume=False)


def test_other_data_or_another_teacher_do_not_continue_a_run(tmp_path: Path, data: TokenData) -> None:
    stopped_after(3, tmp_path / "run", data)
    other = token_data(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="was begun with data"):
        run(spec(), data=other, out=tmp_path / "run")
    one, two = TinyTeacher(seed=1), TinyTeacher(seed=2)
    calls = iter(range(1, 100))
    taught = spec(teacher="t")
    with pytest.raises(Interrupted):
        run(taught, data=data, out=tmp_path / "taught", teacher=one, stop=lambda: next(calls) > 2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="was begun with teacher"):
        run(taught, data=data, out=tmp_path / "taught", teacher=two)  # type: ignore[arg-type]


def test_a_run_without_its_spec_or_with_an_unreadable_record_is_named(tmp_path: Path, data: TokenData) -> None:
    stopped_after(3, tmp_path / "run", data)
    (tmp_path / "run" / "spec.json").rename(tmp_path / "spec.json")
    with pytest.raises(InputError, match=r"holds a run without its spec\.json"):
        run(spec(), data=data, out=tmp_path / "run")
    (tmp_path / "spec.json").rename(tmp_path / "run" / "spec.json")
    (tmp_path / "run" / "record.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        run(spec(), data=data, out=tmp_path / "run")


def test_a_record_reads_back(tmp_path: Path, data: TokenData) -> None:
    record = run(spec(), data=data, out=tmp_path)
    assert RunRecord.read(tmp_path / "record.json") == record
