"""Studies on a Ray cluster and in a SLURM queue: the same records as here, whatever is killed; and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from cli_support import invoke
from slurm_node import missing, one_node
from study_support import timeless, write
from test_cli_study import LONG, MINI, RUNS, records, rows, saved, until
from train_support import token_data

import distillscale.slurm_executor as slurm
from distillscale.executor import JobCommand
from distillscale.exits import STOPPED
from distillscale.jobs import Job

# For real ------------------------------------------------------------------------------------------------------------

Environment = dict[str, str]
ENGINES = ("ray", "slurm")


@pytest.fixture(scope="module")
def environments() -> Generator[dict[str, Environment]]:
    """What the users of each engine have in their environment; a short folder, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ds", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        found = {"ray": {"HOME": folder, "RAY_TMPDIR": folder}}
        if missing():
            yield found
            return
        (home / "slurm").mkdir()
        with one_node(home / "slurm") as there:
            yield found | {"slurm": there}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, environments: dict[str, Environment]) -> tuple[str, Environment]:
    name: str = request.param
    if name == "ray" and find_spec("ray") is None:
        pytest.skip("ray is not installed")
    if name not in environments:
        pytest.skip(f"SLURM is not installed: there is no {', '.join(missing())}")
    return name, os.environ | environments[name]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as local workers end it."""
    home = tmp_path_factory.mktemp("study")
    token_data(home / "data")
    write(home, text=MINI)
    assert invoke("study", "run", "study.toml", "--workers", "2", "--json", cwd=home).code == 0
    return home


@pytest.fixture
def fresh(ran: Path, tmp_path: Path) -> Path:
    shutil.copytree(ran / "data", tmp_path / "data")
    shutil.copy(ran / "study.toml", tmp_path)
    return tmp_path


def command(name: str, *options: str) -> list[str]:
    run = [sys.executable, "-m", "distillscale", "study", "run", "study.toml", "--executor", name, "--workers", "2"]
    return [*run, *options]


@contextmanager
def begun(home: Path, engine: tuple[str, Environment], *options: str) -> Generator[subprocess.Popen[str]]:
    """`study run` in a process group of its own, which does not outlive the test."""
    process = subprocess.Popen(
        command(engine[0], *options),
        cwd=home, env=engine[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(home: Path, engine: tuple[str, Environment], code: int = 0) -> dict[str, object]:
    done = subprocess.run(command(engine[0], "--json"), cwd=home, env=engine[1], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def queued(engine: tuple[str, Environment]) -> int:
    if engine[0] != "slurm":
        return 0
    return (
        len(subprocess.run(["squeue", "--noheader"], env=engine[1], capture_output=True, text=True).stdout.split("\n"))
        - 1
    )


def workers(home: Path) -> list[int]:
    """Processes that carry out jobs of the study in `home`."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[2:5] == [b"distillscale", b"study", b"job"] and str(home).encode() in words[5]:
            found.append(int(path.name))
    return found


@pytest.mark.slow
def test_every_engine_leaves_the_same_records(engine: tuple[str, Environment], ran: Path, fresh: Path) -> None:
    assert ended(fresh, engine)["done"] == RUNS
    assert timeless(rows(fresh)) == timeless(rows(ran))
    assert {record.sessions for record in records(fresh)} == {1}
    assert not list((fresh / "runs").rglob("failure.json"))
    if engine[0] == "slurm":
        assert not list((fresh / "runs" / "study" / ".slurm").iterdir())


@pytest.mark.slow
def test_a_driver_killed_again_and_again_ends_in_the_same_table(
    engine: tuple[str, Environment], ran: Path, fresh: Path
) -> None:
    """Ray's jobs save and end with their driver; SLURM's go on, are picked up, and none is placed twice."""
    rng = random.Random(engine[0])
    for _ in range(3):
        before = len(records(fresh))
        with begun(fresh, engine) as process:
            until(lambda: len(records(fresh)) > before or process.poll() is not None, 120)  # noqa: B023
            time.sleep(3 * rng.random())
            process.kill()
            process.communicate()
    if engine[0] == "slurm":
        assert queued(engine) > 0
    assert ended(fresh, engine)["done"] == RUNS
    assert timeless(rows(fresh)) == timeless(rows(ran))
    assert queued(engine) == 0
    until(lambda: not workers(fresh))
    if engine[0] == "slurm":
        assert {record.sessions for record in records(fresh)} == {1}


@pytest.mark.slow
def test_control_c_saves_and_empties_the_engine(engine: tuple[str, Environment], fresh: Path) -> None:
    write(fresh, text=LONG)
    with begun(fresh, engine, "--save-seconds", "0.2") as process:
        until(lambda: saved(fresh), 120)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to everything that the driver started too
        _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert queued(engine) == 0
    until(lambda: not workers(fresh))
    assert invoke("study", "status", "study.toml", "--json", cwd=fresh).json()["running"] == 0
    assert saved(fresh)
    assert not list((fresh / "runs").rglob("failure.json"))


@pytest.mark.slow
def test_a_job_that_is_killed_is_tried_again_with_the_reason(
    engine: tuple[str, Environment], ran: Path, fresh: Path
) -> None:
    with begun(fresh, engine, "--json") as process:
        until(lambda: workers(fresh) or process.poll() is not None, 120)
        os.kill(workers(fresh)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == RUNS
    (told, *more) = [path.read_text() for path in (fresh / "runs").rglob("failure.json")]
    assert len(more) <= 1  # students of one teacher are one job
    assert "SIGKILL" in told if engine[0] == "ray" else "ended as FAILED without an answer" in told
    assert timeless(rows(fresh)) == timeless(rows(ran))


@pytest.mark.slow
def test_what_fails_never_stops_the_others(engine: tuple[str, Environment], fresh: Path) -> None:
    swap = ('teachers = ["d32"]\nteacher_tokens = 2560', 'teacher_folders = "nowhere"')
    write(fresh, swap, ("tokens = [1280, 2560, 5120]", "tokens = [1280, 2560]"), text=MINI)
    found = ended(fresh, engine, code=4)
    assert (found["done"], found["failed"], found["blocked"]) == (9, 2, 4)
    assert isinstance(found["reasons"], dict)
    assert all("nowhere' does not exist" in reason for reason in found["reasons"].values())


@pytest.mark.slow
def test_a_time_limit_is_no_failure(environments: dict[str, Environment], fresh: Path) -> None:
    """SLURM says beforehand that the time is up: the run saves, and its next job goes on from there."""
    if "slurm" not in environments:
        pytest.skip("SLURM is not installed")
    engine = "slurm", os.environ | environments["slurm"]
    write(fresh, text=LONG)
    limits = ("--engine", "time=1", "--engine", "signal_delay_s=45", "--save-seconds", "3600")
    with begun(fresh, engine, *limits) as process:
        until(lambda: again(fresh), 200)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=200)
    assert not list((fresh / "runs").rglob("failure.json"))
    assert queued(engine) == 0


def again(home: Path) -> bool:
    """Whether a run saved although nothing but its end made it."""
    return bool(list((home / "runs").rglob("step-*")))


# Refused, and what a queue may say ------------------------------------------------------------------------------------

PROGRAMS = {
    "sbatch": 'test -e "$QUEUE/refuse" && { echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }\n'
    'n=$(($(ls "$QUEUE" | grep -c number) + 40)); touch "$QUEUE/number.$n"; cp "$1" "$QUEUE/script.$n"\n'
    'echo "$n|$(sed -n "s/^#SBATCH --comment=.\\(.*\\).$/\\1/p" "$1")" >> "$QUEUE/jobs"\n'
    'echo "Submitted batch job $n"\n',
    "squeue": 'cat "$QUEUE/jobs" 2>/dev/null; test ! -e "$QUEUE/down"\n',
    "scancel": 'echo "$@" >> "$QUEUE/cancelled"; rm -f "$QUEUE/jobs"\n',
    "scontrol": 'echo "JobId=$3 JobState=$(cat "$QUEUE/state") Reason=None"\n',
    "srun": "exit 1\n",
}


class Queue:
    """A queue of shell scripts, whose jobs end when the test says so."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("submitit")
        self.home, self.root = home / "queue", home / "runs"
        self.home.mkdir()
        for name, body in PROGRAMS.items():
            path = self.home / name
            path.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{self.home}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("QUEUE", str(self.home))
        monkeypatch.setattr(slurm, "_DOUBT_SECONDS", 0.0)
        monkeypatch.setattr(slurm, "_PATIENCE_SECONDS", 2.0)

    def executor(self, *settings: str, most: int | None = None) -> slurm.SlurmExecutor:
        command = JobCommand(study=self.root / "study.toml", root=self.root, threads=1, save_seconds=60.0)
        given = dict(text.split("=") for text in settings)
        return slurm.SlurmExecutor(command, most, given, ask_seconds=0.0)

    def leave(self, state: str) -> None:
        (self.home / "jobs").unlink(missing_ok=True)
        (self.home / "state").write_text(state)

    def answer(self, code: int, reason: str) -> None:
        for line in (self.home / "jobs").read_text().splitlines():
            path = self.root / ".slurm" / f"{line.partition('|')[2].split()[0]}.json"
            path.write_text(json.dumps({"ids": [], "code": code, "reason": reason}))

    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.home.glob("script.*"))]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path, monkeypatch)


def job(*ids: str) -> Job:
    return Job(ids=ids, after=frozenset(), weight=1.0)


def waited(executor: slurm.SlurmExecutor) -> Sequence[tuple[tuple[str, ...], int, str]]:
    return [(end.job.ids, end.code, end.reason) for end in executor.poll(5.0)]


def test_settings_reach_sbatch_and_answers_come_back(queue: Queue) -> None:
    with queue.executor("partition=gpu", "time=2-00:00:00", "mem=8GB", "exclusive=true", most=3) as executor:
        assert executor.free == 3
        executor.submit(job("a", "b"))
        assert executor.free == 2
        assert executor.poll(0.0) == []
        (script,) = queue.scripts()
        for line in ("--partition=gpu", "--time=2-00:00:00", "--mem=8GB", "--exclusive\n", "--cpus-per-task=1"):
            assert f"#SBATCH {line}" in script
        assert "--wckey" not in script
        queue.answer(75, "in other hands")
        assert waited(executor) == [(("a", "b"), 75, "in other hands")]
        assert executor.free == 3
        assert not list((queue.root / ".slurm").glob("*.json"))


@pytest.mark.parametrize(("state", "code"), [("OUT_OF_MEMORY", 1), ("TIMEOUT", 1), ("NODE_FAIL", STOPPED)])
def test_a_job_that_left_without_an_answer_is_told_by_its_state(state: str, code: int, queue: Queue) -> None:
    with queue.executor() as executor:
        executor.submit(job("a"))
        queue.leave(state)
        (end,) = waited(executor)
        assert end[1] == code
        assert end[2].startswith(f"SLURM job 40 ended as {state} without an answer")


def test_a_late_answer_counts(queue: Queue) -> None:
    with queue.executor() as executor:
        executor.submit(job("a"))
        queue.answer(0, "")
        queue.leave("COMPLETED")
        assert waited(executor) == [(("a",), 0, "")]


def test_a_later_driver_goes_on_with_what_the_queue_holds(queue: Queue) -> None:
    first = queue.executor()
    first.submit(job("a"))
    first.submit(job("b", "c"))
    known = job("b", "c")
    with queue.executor() as second:
        found = second.pick_up([known, job("d")])
        assert [one.ids for one in found] == [("a",), ("b", "c")]
        assert found[1] is known
        queue.answer(0, "")
        assert {end.job.ids for end in second.poll(5.0)} == {("a",), ("b", "c")}


def test_cancelling_empties_the_queue_of_what_was_picked_up_too(queue: Queue) -> None:
    queue.executor().submit(job("a"))
    with queue.executor() as second:
        second.pick_up([])
        second.submit(job("b"))
        second.cancel()
        assert (queue.home / "cancelled").read_text().split() == ["40", "41"]
        assert second.free == slurm.MOST


def test_a_queue_that_is_full_is_asked_again_later(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_REFUSED_SECONDS", 0.2)
    with queue.executor() as executor:
        executor.submit(job("a"))
        (queue.home / "refuse").touch()
        executor.submit(job("b"))
        assert executor.free == 0
        assert waited(executor) == [(("b",), STOPPED, "the queue did not take it")]
        (queue.home / "refuse").unlink()
        time.sleep(0.3)
        assert executor.free > 0
        executor.submit(job("b"))
        assert len(queue.scripts()) == 2


def test_a_queue_that_takes_nothing_is_one_line(queue: Queue) -> None:
    (queue.home / "refuse").touch()
    with (
        pytest.raises(ValueError, match="SLURM takes no job: sbatch: error: QOSMaxSubmit"),
        queue.executor() as executor,
    ):
        executor.submit(job("a"))


def test_a_controller_that_is_away_is_waited_for_but_not_for_ever(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with queue.executor() as executor:
        executor.submit(job("a"))
        (queue.home / "down").touch()
        assert executor.poll(0.3) == []
        with pytest.raises(ValueError, match="squeue fails, so nothing can be placed"):
            queue.executor().pick_up([])
        monkeypatch.setattr(slurm, "_SILENT_SECONDS", 0.0)
        with pytest.raises(ValueError, match="jobs in the queue go on"):
            executor.poll(0.3)


def without(package: str) -> Callable[[str], object]:
    return lambda name: None if name == package else find_spec(name)


REFUSED = [
    (("--executor", "rai"), "'rai' is not one of 'local', 'ray', 'slurm'"),
    (("--engine", "partition=gpu"), "'partition' is no setting of --executor local; it has none"),
    (("--executor", "slurm", "--engine", "partiton=gpu"), "did you mean 'partition'?"),
    (("--executor", "slurm", "--engine", "gpu"), "--engine 'gpu' is not KEY=VALUE"),
    (("--executor", "slurm"), "needs SLURM's sbatch, which is not on the PATH"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_wrong_settings_are_one_line(options: tuple[str, ...], said: str, fresh: Path) -> None:
    pytest.importorskip("submitit")
    done = invoke("study", "run", "study.toml", *options, cwd=fresh, env={"PATH": str(fresh)})
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err
    assert not (fresh / "runs").exists()


RAY_REFUSED = [
    (("--engine", "num_gpu=1"), "did you mean 'num_gpus'?"),
    (("--engine", "num_cpus=1.5"), "must be a part of 1, or a whole number"),
]


@pytest.mark.parametrize(("options", "said"), RAY_REFUSED)
def test_wrong_settings_of_ray_are_one_line(options: tuple[str, ...], said: str, fresh: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    done = invoke("study", "run", "study.toml", "--executor", "ray", *options, cwd=fresh)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert said in done.err


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_without_its_library_the_extra_is_named(
    name: str, package: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillscale.executor.find_spec", without(package))
    done = invoke("study", "run", "study.toml", "--executor", name, cwd=fresh)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"pip install 'distillscale[{name}]'" in done.err
    assert not (fresh / "runs").exists()


def test_every_setting_of_a_queue_is_one_of_submitits() -> None:
    submitit = pytest.importorskip("submitit")
    assert set(slurm.SETTINGS) <= submitit.SlurmExecutor._valid_parameters()
