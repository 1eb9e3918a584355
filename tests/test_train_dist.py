"""Training on several processes: whole models or sharded ones, it is the run of one process."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from dist_support import command, in_processes, load, train
from safetensors import safe_open
from safetensors.torch import load_file
from train_support import spec, token_data

from distillscale.claim import claimed
from distillscale.errors import InputError
from distillscale.train import checkpoint
from distillscale.train.cache import TargetCache
from distillscale.train.data import TokenData
from distillscale.train.loop import run
from distillscale.train.teaching import fill_cache
from distillscale.train.world import ALONE, World

VOCAB = 61
"""Rows that two processes cannot share evenly."""
SHAPE: dict[str, Any] = {"layers": 2, "d_model": 20, "d_head": 4, "batch_tokens": 96, "tokens": 20 * 96}
# With AdamW's usual eps, an entry whose gradient is nearly zero moves by a whole step in the direction of rounding: one
# process that cuts its batch into two passes is then 2e-5 from one that does not, and with this eps 2e-7.
SMOOTH: dict[str, Any] = SHAPE | {"eps": 1e-2}
TAUGHT: dict[str, Any] = SMOOTH | {"teacher": "t", "lam": 0.7, "tied": False, "micro_batch_tokens": 48}
WAYS = pytest.mark.parametrize("shard", [False, True], ids=["whole", "sharded"])
DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")),
    ],
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a teacher."""
    home = tmp_path_factory.mktemp("corpus")
    data = token_data(home / "data", vocab=VOCAB)
    run(spec(**SHAPE | {"lr": 0.05, "d_model": 24}), data=data, out=home / "teacher")
    return home


@pytest.fixture
def home(corpus: Path, tmp_path: Path) -> Path:
    """A folder for runs, with data and teacher in it."""
    for name in ("data", "teacher"):
        (tmp_path / name).symlink_to(corpus / name)
    return tmp_path


def alone(home: Path, changes: dict[str, Any], device: str = "cpu") -> Path:
    """The folder of the same run by one process, never interrupted; it is made once."""
    corpus = (home / "data").resolve().parent
    name = f"{spec(**changes).id}-{device}"
    if not (corpus / name).exists():
        in_processes(train, corpus, name, changes, teacher="teacher" in changes, size=1, device=device)
    return corpus / name


MEASURED = ("loss", "bits_per_byte", "train_loss", "kl", "teacher_loss", "teacher_entropy")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_within_rounding(one: Path, other: Path) -> None:
    """Losses of every step, of the evaluation, and weights."""
    assert losses(other) == pytest.approx(losses(one), rel=2e-6)
    assert len(losses(one)) == 20
    found, wanted = (json.loads((home / "record.json").read_text()) for home in (other, one))
    measured = [name for name in MEASURED if wanted[name] is not None]
    assert [found[name] for name in measured] == pytest.approx([wanted[name] for name in measured], rel=2e-6, abs=1e-6)
    for name in ("id", "flops", "flops_teacher", "tokens", "eval_tokens", "unique_tokens", "steps", "teacher_hash"):
        assert found[name] == wanted[name], name
    tensors, theirs = (load_file(home / "model" / "model.safetensors") for home in (one, other))
    assert tensors.keys() == theirs.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)


@DEVICES
@WAYS
@pytest.mark.parametrize("taught", [False, True], ids=["supervised", "distilled"])
def test_two_processes_run_what_one_runs(taught: bool, shard: bool, device: str, home: Path) -> None:
    """Tied and untied, with one forward pass a step and with several, and 33 held-out windows: 17 and 16."""
    changes = (TAUGHT if taught else SMOOTH) | {"eval_tokens": 33 * 16}
    one = alone(home, changes, device)
    records = in_processes(train, home, "two", changes, teacher=taught, shard=shard, device=device)
    assert records[0] == records[1] == json.loads((home / "two" / "record.json").read_text())
    same_within_rounding(one, home / "two")
    assert [json.loads((run / "record.json").read_text())["processes"] for run in (one, home / "two")] == [1, 2]
    flops, seconds = records[0]["flops"] + records[0]["flops_teacher"], records[0]["wall_seconds"]
    assert records[0]["mfu"] == pytest.approx(flops / seconds / records[0]["peak_flops"] / 2)


@WAYS
def test_three_processes_and_more_than_a_tensor_has_rows(shard: bool, home: Path) -> None:
    """Of norms with two entries, one process has none."""
    changes = TAUGHT | {"d_head": 2, "d_model": 8, "eval_tokens": 16}
    in_processes(train, home, "three", changes, teacher=True, shard=shard, saving=7, size=3)
    same_within_rounding(alone(home, changes), home / "three")


def compiled(world: World, *args: Any, **named: Any) -> Any:
    warnings.simplefilter("ignore")  # torch's compiler warns of torch
    return train(world, *args, **named)


@pytest.mark.slow
@DEVICES
@WAYS
def test_compiled_models_are_spread_alike(shard: bool, device: str, home: Path) -> None:
    changes = TAUGHT | {"compile": True}
    in_processes(compiled, home, "run", changes, teacher=True, shard=shard, device=device)
    assert losses(home / "run") == pytest.approx(losses(alone(home, TAUGHT, device)), rel=1e-5)


# Checkpoints --------------------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize("sizes", [(2, 1, 2), (1, 2, 3)], ids=str)
@WAYS
def test_a_run_goes_on_with_another_number_of_processes(
    shard: bool, sizes: tuple[int, ...], device: str, home: Path
) -> None:
    if device == "cuda" and max(sizes) > torch.cuda.device_count():
        pytest.skip("needs as many GPUs")
    for size, steps in zip(sizes, (6, 7, None), strict=True):
        options: dict[str, Any] = {"teacher": True, "shard": shard, "stop_at": steps, "size": size, "device": device}
        found = in_processes(train, home, "run", TAUGHT, **options)
        if steps is not None:
            assert found == ["stopped"] * size
            [last] = (home / "run" / "checkpoint").iterdir()
            assert bool(list(last.rglob("shard-*"))) == (shard and size > 1)
            assert_nothing_is_pickled(home / "run")
    same_within_rounding(alone(home, TAUGHT, device), home / "run")
    record = found[0]
    assert (record["sessions"], record["processes"]) == (3, sizes[-1])
    assert list((home / "run" / "checkpoint").iterdir()) == []


def assert_nothing_is_pickled(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as content:
                assert content.keys()
        elif path.name != ".claim":
            for line in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
                json.loads(line)
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl"}


def stopped(home: Path, size: int = 2) -> Path:
    """The checkpoint of a sharded run that was stopped."""
    assert in_processes(train, home, "run", SMOOTH, shard=True, stop_at=5, size=size) == ["stopped"] * size
    [folder] = (home / "run" / "checkpoint").iterdir()
    return folder


def test_a_sharded_checkpoint_is_whole_tensors_for_one_process(home: Path) -> None:
    found = checkpoint.load(stopped(home).parent, 5)
    assert found.sharded
    assert set(found.tensors) == {"model", "optimizer"}
    assert found.tensors["model"]["embedding"].shape == (VOCAB, 20)
    assert set(found.tensors["optimizer"]) == {
        f"{name}.{moment}" for name in found.tensors["model"] for moment in ("exp_avg", "exp_avg_sq")
    }


def test_what_processes_and_sessions_spent_adds_up(home: Path) -> None:
    folder = stopped(home)
    body = json.loads((folder / "checkpoint.json").read_text())
    body["state"]["ledger"] |= {"cpu_seconds": 1e12, "wall_seconds": 600.0}
    checkpoint.seal(folder, {"step": body["step"], "state": body["state"]}, body["files"])
    [record, _] = in_processes(train, home, "run", SMOOTH, shard=True, harm="busy")
    new = record["wall_seconds"] - 600
    assert 0 < new < 100
    assert 1e5 * new < record["cpu_seconds"] - 1e12 < 1e7 * new
    assert record["flops"] == spec(**SMOOTH).flops(VOCAB)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("damage", ["flipped", "lost"])
def test_a_damaged_share_is_named_and_nothing_starts_from_zero(damage: str, size: int, home: Path) -> None:
    path = stopped(home) / "optimizer" / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content) if damage == "flipped" else path.unlink()
    found = in_processes(train, home, "run", SMOOTH, shard=True, size=size)
    assert len(found) == size
    for message in found:
        assert str(path) in message
        assert "restore it from a copy, or delete the run's folder to start from zero" in message
    assert not (home / "run" / "record.json").exists()


def test_another_model_is_not_read_from_shares(home: Path) -> None:
    found = checkpoint.load(stopped(home).parent, 5)
    from distillscale.train.shards import read_into

    wanted = found.tensors
    wanted["model"]["embedding"] = torch.zeros(VOCAB, 24)
    with pytest.raises(InputError, match=r"model: 'embedding' has shape \(61, 24\), its file \(61, 20\)"):
        read_into(found, wanted)


def test_a_disk_that_refuses_one_share_stops_all_and_the_last_checkpoint_stays(home: Path) -> None:
    found = in_processes(train, home, "run", SMOOTH, shard=True, saving=4, harm="full")
    assert found[0] == found[1]
    assert "the checkpoint of step 12 could not be written" in found[0]
    assert "the one of step 8 is intact and resumes when there is room for" in found[0]
    assert [path.name for path in (home / "run" / "checkpoint").iterdir()] == ["step-000000008"]
    in_processes(train, home, "run", SMOOTH, shard=True)
    same_within_rounding(alone(home, SMOOTH), home / "run")


# When one process fails ---------------------------------------------------------------------------------------------


@WAYS
def test_a_killed_process_ends_the_others_and_the_run_goes_on(shard: bool, home: Path) -> None:
    found = in_processes(train, home, "run", SMOOTH, shard=shard, saving=3, harm="killed")
    assert found[1] == -9
    assert found[0] == "another process of this run ended before its time"
    assert checkpoint.steps(home / "run" / "checkpoint") == [6]
    in_processes(train, home, "run", SMOOTH, shard=shard)
    same_within_rounding(alone(home, SMOOTH), home / "run")


@WAYS
def test_a_loss_that_is_no_number_in_one_process_ends_the_run_in_all(shard: bool, home: Path) -> None:
    found = in_processes(train, home, "run", SMOOTH, shard=shard, harm="nan")
    assert found[0] == found[1]
    assert (found[0]["outcome"], found[0]["diverged_step"]) == ("diverged", 4)
    assert checkpoint.steps(home / "run" / "checkpoint") == [4]


def refuse_alone(world: World) -> str:
    try:
        with world.together():
            if world.rank == 1:
                raise InputError("this process has no such file")
    except InputError as error:
        return str(error)
    return "went on"


def test_what_one_process_refuses_all_refuse() -> None:
    assert in_processes(refuse_alone) == ["this process has no such file"] * 2


def test_a_folder_in_other_hands_is_refused_by_all(home: Path) -> None:
    (home / "run").mkdir()
    with claimed(home / "run"):
        found = in_processes(train, home, "run", SMOOTH)
    assert found[0] == found[1]
    assert "is in the hands of process" in found[0]


# Targets kept on disk -----------------------------------------------------------------------------------------------

CACHED: dict[str, Any] = TAUGHT | {"targets": "topk", "classes": 5, "unique_tokens": 37 * 16}


def fill(world: World, home: Path, shard: bool) -> int:
    teacher = load(world, home / "teacher", shard)
    return fill_cache(home / "cache-2", spec(**CACHED), TokenData.open(home / "data"), teacher, world=world).tokens


@DEVICES
@WAYS
def test_two_processes_fill_a_cache_as_one_does(shard: bool, device: str, home: Path) -> None:
    data, run_spec = TokenData.open(home / "data"), spec(**CACHED)
    one = fill_cache(home / "cache-1", run_spec, data, load(ALONE, home / "teacher", False))
    assert in_processes(fill, home, shard, device=device) == [37 * 16] * 2
    two = TargetCache.find(home / "cache-2", one.key)
    assert two.sample_ids.tolist() == one.sample_ids.tolist()
    wanted, found = one.targets(one.sample_ids), two.targets(one.sample_ids)
    assert torch.equal(found.ids, wanted.ids)  # type: ignore[union-attr]
    torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]


# Teachers -----------------------------------------------------------------------------------------------------------


def say(world: World, folder: Path) -> tuple[list[float], int, int]:
    """Some logits of a sharded teacher, the entries of it kept here, and of all."""
    teacher = load(world, folder, shard=True)
    kept = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in teacher.module.parameters())
    every = sum(p.numel() for p in teacher.module.parameters())
    logits = teacher.hidden(torch.arange(16, device=world.device)[None]) @ teacher.output_weight.T
    return logits.flatten().tolist(), kept, every


@DEVICES
@pytest.mark.parametrize("kind", ["ours", "gpt2", "phi"])
def test_a_sharded_teacher_says_the_same(kind: str, device: str, home: Path) -> None:
    """Ours, one of transformers that is tied, and one whose output layer has a bias."""
    folder = home / "teacher"
    if kind != "ours":
        pytest.importorskip("transformers")
        from test_train_hf import FOREIGN, _save

        folder = home / kind
        _save(kind, folder, **FOREIGN[kind])
    teacher = load(ALONE, folder, shard=False)
    wanted = teacher.hidden(torch.arange(16, device=teacher.output_weight.device)[None]) @ teacher.output_weight.T
    table = 0 if kind == "phi" else teacher.output_weight.numel()  # what is whole in each
    for logits, kept, every in in_processes(say, folder, device=device):
        assert logits == pytest.approx(wanted.flatten().tolist(), rel=1e-4, abs=1e-4)
        assert kept - table <= 0.55 * (every - table)


# The commands -------------------------------------------------------------------------------------------------------

SPEC = """
[run]
data = "data"
out = "run"
layers = 1
d_model = 32
context = 16
batch_tokens = 64
tokens = 640
eval_tokens = 256
"""


def printed(home: Path, size: int) -> tuple[str, str]:
    return tuple("".join((home / f"{name}-{rank}").read_text() for rank in range(size)) for name in ("out", "err"))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        (("train", "spec.toml"), 3, "a batch of 4 sequences (64 tokens) cannot be cut into equal shares for 3 process"),
        (("train", "nowhere.toml"), 2, "spec file 'nowhere.toml' cannot be read"),
        (("distill", "spec.toml"), 2, "has no [distill] table"),
        (("train", "spec.toml", "--dry-run"), 2, "--dry-run times one process"),
        (("train", "--nonsense"), 2, "No such option"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_wrong_input_is_one_line_and_exit_2_in_every_process(
    arguments: tuple[str, ...], size: int, said: str, home: Path
) -> None:
    (home / "spec.toml").write_text(SPEC)
    assert in_processes(command, home, *arguments, size=size) == [2] * size
    out, err = printed(home, size)
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert not (home / "run").exists()


def test_the_first_process_prints_one_record(home: Path) -> None:
    (home / "spec.toml").write_text(SPEC)
    assert in_processes(command, home, "train", "spec.toml", "--json") == [0, 0]
    out, err = printed(home, 2)
    assert json.loads(out) == json.loads((home / "run" / "record.json").read_text())
    assert err == ""


def test_torchrun_trains_and_distills(home: Path) -> None:
    shutil.copy(home / "data" / "tokenizer.json", home / "tokenizer.json")
    distilled = SPEC.replace('out = "run"', 'out = "student"') + '[distill]\nteacher = "teacher"\n'
    (home / "spec.toml").write_text(distilled)
    line = "-m torch.distributed.run --standalone --nproc-per-node 2 -m distillscale distill spec.toml --shard --json"
    done = subprocess.run([sys.executable, *line.split()], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["processes"] == 2
    assert 0 < record["kl"] < math.log(VOCAB)
