"""Jobs, their order, the driver with a law in place of a trainer, and worker processes that live, fail and die."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from study_support import LawExecutor, planned_record, read
from test_study import long_enough, studies

from distillscale.claim import claimed
from distillscale.drive import drive
from distillscale.executor import Ended, LocalExecutor
from distillscale.exits import BUSY, FAILED, STOPPED, WRONG
from distillscale.jobs import Job, jobs_of, makespan, ready
from distillscale.store import JOB, Status, Store
from distillscale.study import Planned, Study


def counts(status: Status) -> list[int]:
    found = status.to_json()
    return [found[key] for key in ("done", "running", "failed", "missing", "blocked")]


# Order --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(studies())
def test_jobs_hold_every_run_once_and_never_wait_for_themselves(study: Study) -> None:
    runs = long_enough(study) or ()
    jobs = jobs_of(runs)
    assert sorted(id_ for job in jobs for id_ in job.ids) == sorted(run.id for run in runs)
    done: set[str] = set()
    left = list(jobs)
    while left:
        first = ready(left, done)[0]  # there is always one
        assert not first.after & set(first.ids)
        assert all(first.weight >= other.weight for other in ready(left, done))
        done |= set(first.ids)
        left.remove(first)
    for job in jobs:
        for other in jobs:
            if job.after & set(other.ids):
                assert other.weight > job.weight


def test_heavy_chains_go_first(tmp_path: Path) -> None:
    """Of the two heaviest runs, which cost the same, the teacher has students behind it."""
    _, runs = read(tmp_path, ("branching = true", "branching = false"))
    jobs = jobs_of(runs)
    (teacher,) = (run for run in runs if "teacher" in run.roles)
    assert jobs[0].ids == (teacher.id,)
    assert max(run.flops for run in runs) == teacher.flops
    light = next(job for job in jobs if job.ids == (min(runs, key=lambda run: run.flops).id,))
    assert jobs[-1].weight == light.weight


@settings(max_examples=25, deadline=None)
@given(studies())
def test_more_workers_never_do_more_work(study: Study) -> None:
    runs = long_enough(study) or ()
    seconds = {run.id: run.flops + run.flops_teacher for run in runs}
    jobs, whole = jobs_of(runs), sum(seconds.values())
    assert makespan(jobs, seconds, 1) == pytest.approx(whole)
    longest = max((job.weight for job in jobs), default=0.0)
    for workers in (2, 5):
        assert max(longest, whole / workers) * (1 - 1e-9) <= makespan(jobs, seconds, workers) <= whole * (1 + 1e-9)


# The driver ---------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(studies())
def test_a_driver_ends_every_study(tmp_path_factory: pytest.TempPathFactory, study: Study) -> None:
    runs = long_enough(study) or ()
    store = Store(tmp_path_factory.mktemp("runs"))
    executor = LawExecutor(runs, store, slots=3)
    status = drive(runs, store, executor)
    assert counts(status) == [len(runs), 0, 0, 0, 0]
    assert status.flops_done == status.flops_total
    assert sorted(id_ for job in executor.placed for id_ in job.ids) == sorted(run.id for run in runs)
    assert executor.most <= 3
    again = LawExecutor(runs, store)
    drive(runs, store, again)
    assert again.placed == []


def of_role(runs: tuple[Planned, ...], role: str) -> Planned:
    return next(run for run in runs if run.roles == (role,))


def test_a_run_that_fails_is_tried_again_and_its_reasons_are_kept(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store, one = Store(tmp_path / "runs"), of_role(runs, "supervised")
    executor = LawExecutor(runs, store, ends={one.id: [1, 137]})
    assert counts(drive(runs, store, executor)) == [18, 0, 0, 0, 0]
    assert [job.ids for job in executor.placed].count((one.id,)) == 3
    assert "ended with 137" in (store.folder(one.id) / "failure.json").read_text()


@pytest.mark.parametrize(("codes", "attempts"), [([1] * 9, 3), ([WRONG], 1), ([FAILED], 1)])
def test_a_run_that_fails_for_good_never_stops_the_others(codes: list[int], attempts: int, tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    (teacher,) = (run for run in runs if "teacher" in run.roles)
    executor = LawExecutor(runs, store, ends={teacher.id: list(codes)})
    status = drive(runs, store, executor)
    taught = sum(run.spec.teacher is not None for run in runs)
    assert counts(status) == [len(runs) - 1 - taught, 0, 1, taught, taught]
    assert [job.ids for job in executor.placed].count((teacher.id,)) == attempts
    # The next call tries again what may end otherwise.
    status = drive(runs, store, LawExecutor(runs, store))
    assert counts(status)[0] == (len(runs) if codes != [FAILED] else len(runs) - 1 - taught)


def test_a_group_that_fails_is_tried_run_by_run(tmp_path: Path) -> None:
    _, runs = read(tmp_path, ("branching = true", "branching = false"))
    store = Store(tmp_path / "runs")
    group = [run.id for run in runs if run.group]
    executor = LawExecutor(runs, store, ends={group[1]: [1] * 9})
    status = drive(runs, store, executor)
    assert counts(status) == [11, 0, 1, 0, 0]
    placed = [job.ids for job in executor.placed if set(job.ids) & set(group)]
    assert placed[0] == tuple(group)
    assert all(len(ids) == 1 for ids in placed[1:])
    assert placed.count((group[1],)) == 2


def test_what_others_hold_is_left_to_them_and_waited_for(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store, one = Store(tmp_path / "runs"), of_role(runs, "supervised")
    store.folder(one.id).mkdir(parents=True)
    executor = LawExecutor(runs, store, ends={})
    claim = claimed(store.folder(one.id), JOB)
    claim.__enter__()
    told = [0]

    def tell() -> None:
        told[0] += 1
        if told[0] == 40:  # everything else is long done: the other one ends its run
            planned_record(one, store).write(store.folder(one.id) / "record.json")
            claim.__exit__(None, None, None)

    assert counts(drive(runs, store, executor, tell=tell)) == [18, 0, 0, 0, 0]
    assert one.id not in {id_ for job in executor.placed for id_ in job.ids}


@pytest.mark.parametrize("code", [BUSY, STOPPED])
def test_a_job_that_did_not_get_its_turn_is_no_failure(code: int, tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store, one = Store(tmp_path / "runs"), of_role(runs, "supervised")
    executor = LawExecutor(runs, store, ends={one.id: [code] * 5})
    assert counts(drive(runs, store, executor)) == [18, 0, 0, 0, 0]
    assert not (store.folder(one.id) / "failure.json").exists()


def test_what_an_engine_still_holds_is_not_placed_again(tmp_path: Path) -> None:
    """Jobs of a driver that is gone, one of them by ids that no job of today has."""
    _, runs = read(tmp_path, ("branching = true", "branching = false"))
    store = Store(tmp_path / "runs")
    first = next(run for run in runs if "teacher" in run.roles)
    group = tuple(run.id for run in runs if run.group)
    executor = LawExecutor(runs, store, slots=4)
    executor.held = [(first.id,)]
    assert counts(drive(runs, store, executor)) == [12, 0, 0, 0, 0]
    placed = [job.ids for job in executor.placed]
    assert (first.id,) not in placed
    assert group in placed


def test_a_job_that_never_takes_a_step_is_given_up(tmp_path: Path) -> None:
    """As under a time limit that ends before the first step; the reason is kept, and the others go on."""
    _, runs = read(tmp_path)
    store, one = Store(tmp_path / "runs"), of_role(runs, "supervised")
    executor = LawExecutor(runs, store, ends={one.id: [STOPPED] * 99})
    assert counts(drive(runs, store, executor)) == [17, 0, 1, 0, 0]
    assert [job.ids for job in executor.placed].count((one.id,)) == 10
    failure = store.failure(one.id)
    assert failure is not None
    assert failure.reason.startswith("it was stopped 10 times before it took a step")


def test_a_job_that_gets_on_may_be_stopped_as_often_as_one_likes(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store, one = Store(tmp_path / "runs"), of_role(runs, "supervised")
    executor = LawExecutor(runs, store, ends={one.id: [STOPPED] * 25})
    log = store.folder(one.id) / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    steps = iter(range(1, 10_000))
    end = executor._end

    def step_and_end(job: Job) -> Ended:
        log.write_text(f'{{"step": {next(steps)}}}\n')
        return end(job)

    executor._end = step_and_end  # type: ignore[method-assign]
    assert counts(drive(runs, store, executor)) == [18, 0, 0, 0, 0]
    assert [job.ids for job in executor.placed].count((one.id,)) == 26


def test_a_driver_that_is_told_to_stop_leaves_the_rest(tmp_path: Path) -> None:
    _, runs = read(tmp_path)
    store = Store(tmp_path / "runs")
    calls = iter(range(100))
    executor = LawExecutor(runs, store, slots=1)
    status = drive(runs, store, executor, stop=lambda: next(calls) == 5)
    assert counts(status)[:3] == [sum(len(job.ids) for job in executor.placed[:5]), 0, 0]
    assert counts(drive(runs, store, LawExecutor(runs, store))) == [18, 0, 0, 0, 0]


# Worker processes ---------------------------------------------------------------------------------------------------

WORKER = """
import json, os, signal, sys, time
for line in sys.stdin:
    what = line.split()[0]
    if what == "die":
        print("the last words", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        sys.exit("it left")
    if what == "sleep":
        time.sleep(60)
    print("noise", flush=True)
    print(json.dumps({"code": 0 if what == "ok" else 1, "reason": f"{what} in {os.getpid()}"}), flush=True)
"""


def job(what: str) -> Job:
    return Job(ids=(what,), after=frozenset(), weight=1.0)


def all_ended(executor: LocalExecutor, count: int) -> list[Ended]:
    ended: list[Ended] = []
    limit = time.monotonic() + 30
    while len(ended) < count and time.monotonic() < limit:
        ended += executor.poll(0.2)
    return ended


def test_workers_carry_out_job_after_job() -> None:
    with LocalExecutor([sys.executable, "-c", WORKER], 2, os.environ) as executor:
        assert executor.free == 2
        assert executor.poll(0.0) == []
        executor.submit(job("ok"))
        executor.submit(job("bad"))
        assert executor.free == 0
        first = all_ended(executor, 2)
        assert {(end.job.ids, end.code) for end in first} == {(("ok",), 0), (("bad",), 1)}
        executor.submit(job("ok"))
        (second,) = all_ended(executor, 1)
        assert len(executor.pids) == 2
        assert int(second.reason.split()[-1]) in executor.pids
        pids = executor.pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [("die", 137, "ended by SIGKILL (out of memory?)"), ("leave", 1, "ended with code 1: it left")],
)
def test_a_worker_that_dies_is_replaced(what: str, code: int, said: str) -> None:
    with LocalExecutor([sys.executable, "-c", WORKER], 1, os.environ) as executor:
        executor.submit(job(what))
        (end,) = all_ended(executor, 1)
        assert end.code == code
        assert said in end.reason
        executor.submit(job("ok"))
        (end,) = all_ended(executor, 1)
        assert end.code == 0


def test_workers_are_stopped_politely() -> None:
    polite = (
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "print('up', file=sys.stderr, flush=True)\n"
    )
    with LocalExecutor([sys.executable, "-c", polite + WORKER], 1, os.environ) as executor:
        executor.submit(job("sleep"))
        time.sleep(0.5)
        begun = time.monotonic()
        executor.cancel()
        assert time.monotonic() - begun < 10
        assert executor.pids == []


def test_signals_of_the_terminal_do_not_reach_workers() -> None:
    with LocalExecutor([sys.executable, "-c", WORKER], 1, os.environ) as executor:
        executor.submit(job("sleep"))
        (pid,) = executor.pids
        assert os.getpgid(pid) == pid != os.getpgid(0)
        os.kill(pid, signal.SIGKILL)
        assert all_ended(executor, 1)[0].code == 137
