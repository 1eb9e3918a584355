"""Training: what a step, a schedule, a branch, a shared loop and a record are held to."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F
from train_support import VOCAB, TinyTeacher, digest, same_run, spec, token_data

from distillscale.errors import InputError
from distillscale.record import RunRecord
from distillscale.schedule import decay_start, lr_factor
from distillscale.train import checkpoint, loop, running, student
from distillscale.train.data import TokenData
from distillscale.train.evaluate import evaluate_model
from distillscale.train.loop import Interrupted, Progress, Saving, run, run_many
from distillscale.train.machine import autocast, matmul_peak, pick_precision, versions
from distillscale.train.optimiser import AdamW
from distillscale.train.rehearsal import rehearse
from distillscale.train.student import Micro, Student, build, load_start

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenData:
    return token_data(tmp_path_factory.mktemp("corpus") / "data")


def teacher(**options: Any) -> Any:
    return TinyTeacher(**options)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tree(folder: Path) -> dict[str, str]:
    """Every file with the hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): blake2b(path.read_bytes()).hexdigest() for path in files}


# The optimiser ------------------------------------------------------------------------------------------------------


def test_adamw_is_torchs_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes, rates = [(5, 3), (7,), (2, 2)], [(0.1, 0.01), (0.02, 0.0)]
    sides: list[list[torch.nn.Parameter]] = []
    for _ in range(2):
        generator.manual_seed(0)
        sides.append([torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes])
    groups = [
        [{"params": side[:2], "lr": rates[0][0], "peak_lr": rates[0][0], "weight_decay": rates[0][1]},
         {"params": side[2:], "lr": rates[1][0], "peak_lr": rates[1][0], "weight_decay": rates[1][1]}]
        for side in sides
    ]  # fmt: skip
    ours = AdamW(groups[0], beta1=0.9, beta2=0.95, eps=1e-8)
    torchs = torch.optim.AdamW(groups[1], betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step in range(20):
        factor = 1 - step / 40
        for mine, other in zip(*sides, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for group in torchs.param_groups:
            group["lr"] = factor * group["peak_lr"]
        ours.step(factor)
        torchs.step()
    assert all(torch.equal(mine, other) for mine, other in zip(*sides, strict=True))


def test_a_run_never_imports_the_compiler(tmp_path: Path, data: TokenData) -> None:
    """Two seconds of CPU that every short run would pay."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from train_support import *\nfrom pathlib import Path\n"
        f"train_until({str(tmp_path)!r}, {{'teacher': 't'}}, True, 5, None)\n"
        "assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    (tmp_path / "data").symlink_to(data.folder)
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_step_is_the_textbooks(data: TokenData) -> None:
    """One step of a student against torch's dense loss, clipping and AdamW on a copy of its model."""
    run_spec = spec(z_weight=0.0, clip=0.05, warmup_tokens=0, schedule="constant")
    ours = Student(run_spec, build(run_spec, VOCAB, CPU), "fp32")
    twin = build(run_spec, VOCAB, CPU)
    batch = data.stream(context=16, half="teacher", seed=0).batch(0, 4)
    tokens, labels = torch.from_numpy(batch.tokens_BT), torch.from_numpy(batch.labels_BT).flatten()
    ours.accumulate(Micro(tokens, labels), None)
    moved = ours.update()
    loss = F.cross_entropy(twin.logits(twin(tokens)).flatten(0, 1), labels)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
    groups = student.param_groups(twin, lr=run_spec.lr, weight_decay=run_spec.weight_decay)
    torch.optim.AdamW(groups, betas=(0.9, 0.95)).step()
    assert moved.loss == pytest.approx(loss.item(), rel=1e-6)
    assert moved.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for mine, other in zip(ours.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taught", [False, True])
def test_micro_batches_add_up_to_the_batch(taught: bool, tmp_path: Path, data: TokenData) -> None:
    changes = {"teacher": "t"} if taught else {}
    given_teacher = teacher() if taught else None
    for name, micro in (("whole", None), ("parts", 16)):
        run(spec(**changes, micro_batch_tokens=micro), data=data, out=tmp_path / name, teacher=given_teacher)
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    assert [row["grad_norm"] for row in parts[:5]] == pytest.approx([row["grad_norm"] for row in whole[:5]], rel=1e-3)


# Schedules ----------------------------------------------------------------------------------------------------------

schedules = st.builds(
    lambda steps, kind, warm, fraction: spec(
        tokens=steps * 64,
        schedule=kind,
        warmup_tokens=round(steps * warm) * 64,
        decay_fraction=fraction,
        final_lr_ratio=0.01,
    ),
    st.integers(3, 400),
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.floats(0, 0.5),
    st.floats(0.05, 0.5),
)


@given(schedules)
def test_rates_rise_hold_and_fall(run_spec: Any) -> None:
    factors = [lr_factor(run_spec, step) for step in range(run_spec.steps)]
    warm, start = run_spec.warmup_steps, decay_start(run_spec)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    assert all(factor == 1 for factor in factors[warm:start])
    falling = factors[start:]
    assert falling == sorted(falling, reverse=True)
    if run_spec.schedule != "constant" and start < run_spec.steps:
        assert factors[-1] == pytest.approx(0.01)


def test_the_papers_schedule() -> None:
    """2,000 steps of warm-up, then half a cosine to a thousandth."""
    paper = spec(tokens=10_000 * 64)
    paper = replace(paper, warmup_tokens=2000 * 64)
    assert lr_factor(paper, 999) == 0.5
    assert lr_factor(paper, 1999) == 1
    assert lr_factor(paper, 5999) == pytest.approx(0.5005, abs=1e-9)
    assert lr_factor(paper, 9999) == pytest.approx(1e-3)


# Branches -----------------------------------------------------------------------------------------------------------

TRUNK: dict[str, Any] = {"tokens": 24 * 64, "schedule": "constant", "warmup_tokens": 4 * 64}
DECAY: dict[str, Any] = {"schedule": "wsd", "warmup_tokens": 4 * 64, "decay_fraction": 0.25}


def test_a_decay_from_a_trunk_is_the_run_from_the_start_and_leaves_the_trunk(tmp_path: Path, data: TokenData) -> None:
    trunk = spec(**TRUNK, branch_tokens=(9 * 64, 18 * 64))
    run(trunk, data=data, out=tmp_path / "trunk")
    before = tree(tmp_path / "trunk")
    assert checkpoint.steps(tmp_path / "trunk" / "checkpoint") == [9, 18]
    for steps, branch in ((12, 9), (24, 18), (16, 9)):
        decay = spec(**DECAY, tokens=steps * 64)
        alone = run(decay, data=data, out=tmp_path / f"alone{steps}")
        branched = run(decay, data=data, out=tmp_path / f"branch{steps}", trunk=tmp_path / "trunk")
        assert branched.branched_at == branch * 64
        assert branched.loss == alone.loss
        assert branched.flops_student == alone.flops_student
        name = "model/model.safetensors"
        assert (tmp_path / f"branch{steps}" / name).read_bytes() == (tmp_path / f"alone{steps}" / name).read_bytes()
    assert tree(tmp_path / "trunk") == before


def test_a_branch_point_stays_until_it_is_released(tmp_path: Path, data: TokenData) -> None:
    run(spec(**TRUNK, branch_tokens=(9 * 64, 18 * 64)), data=data, out=tmp_path)
    loop.release(tmp_path, 9 * 64)
    assert checkpoint.steps(tmp_path / "checkpoint") == [18]
    with pytest.raises(InputError, match=r"keeps no branch point at 576 tokens; it keeps 1152"):
        loop.release(tmp_path, 9 * 64)


@pytest.mark.parametrize(
    ("trunk", "decay", "said"),
    [
        ({}, {}, "trunk keeps no branch point; give it branch_tokens"),
        ({"branch_tokens": (9 * 64,)}, {"lr": 0.02}, "trunk differs in lr: None there, 0.02 here"),
        ({"branch_tokens": (9 * 64,), "seed": 3}, {}, "trunk differs in seed: 3 there, None here"),
        ({"branch_tokens": (9 * 64,)}, {"warmup_tokens": 64}, "the same learning rate up to step 0, the trunk keeps 9"),
        ({"branch_tokens": (20 * 64,)}, {}, "the same learning rate up to step 9, the trunk keeps 20"),
    ],
)
def test_a_decay_that_does_not_fit_its_trunk_is_refused(
    trunk: dict[str, Any], decay: dict[str, Any], said: str, tmp_path: Path, data: TokenData
) -> None:
    run(spec(**TRUNK, **trunk), data=data, out=tmp_path / "trunk")
    with pytest.raises(InputError) as refused:
        run(spec(**DECAY | {"tokens": 12 * 64} | decay), data=data, out=tmp_path / "decay", trunk=tmp_path / "trunk")
    assert said in str(refused.value)


# Several students to one teacher pass -------------------------------------------------------------------------------


def test_students_of_one_loop_end_where_each_would_alone(tmp_path: Path, data: TokenData) -> None:
    specs = [spec(teacher="t"), spec(teacher="t", d_model=32, lam=0.5), spec(teacher="t", tokens=9 * 64, lr=0.02)]
    shared, apart = teacher(), teacher()
    outs = [tmp_path / f"shared{i}" for i in range(3)]
    records = run_many(specs, data=data, outs=outs, teacher=shared, saving=Saving(steps=4))
    for i, one in enumerate(specs):
        alone = run(one, data=data, out=tmp_path / f"alone{i}", teacher=apart)
        assert digest(outs[i]) == digest(tmp_path / f"alone{i}")
        assert (records[i].loss, records[i].kl) == (alone.loss, alone.kl)
        assert records[i].flops_student == alone.flops_student
    evaluations = 3 * math.ceil(512 / (16 * 16))
    assert shared.calls == 20 + evaluations  # one pass a batch, where alone it is one a batch and student
    assert apart.calls == 20 + 20 + 9 + evaluations
    passes = sum(record.flops_teacher for record in records)
    assert passes == pytest.approx(20 * 64 * shared.flops_per_token, rel=1e-12)


def test_a_shared_loop_that_was_stopped_unevenly_continues(tmp_path: Path, data: TokenData) -> None:
    specs = [spec(teacher="t"), spec(teacher="t", lr=0.02)]
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(specs[0], data=data, out=tmp_path / "0", teacher=teacher(), stop=lambda: next(calls) >= 6)
    run_many(specs, data=data, outs=[tmp_path / "0", tmp_path / "1"], teacher=teacher())
    for i, one in enumerate(specs):
        run(one, data=data, out=tmp_path / f"alone{i}", teacher=teacher())
        assert digest(tmp_path / str(i)) == digest(tmp_path / f"alone{i}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "they must agree in seed; got 0 and 1; run them apart"),
        ({"context": 32}, "they must agree in context; got 16 and 32"),
        ({"half": "all"}, "they must agree in data_half"),
        ({"micro_batch_tokens": 16}, "they must agree in micro_batch_tokens"),
    ],
)
def test_runs_that_see_other_batches_do_not_share_a_loop(
    changes: dict[str, Any], said: str, tmp_path: Path, data: TokenData
) -> None:
    with pytest.raises(InputError) as refused:
        run_many([spec(), spec(**changes)], data=data, outs=[tmp_path / "a", tmp_path / "b"])
    assert said in str(refused.value)
    with pytest.raises(InputError, match="two runs cannot share one folder"):
        run_many([spec(), spec(lr=0.1)], data=data, outs=[tmp_path / "a", tmp_path / "a"])
    with pytest.raises(InputError, match="got 1 specs and 0 folders"):
        run_many([spec()], data=data, outs=[])


# The record ---------------------------------------------------------------------------------------------------------


def test_training_learns_and_the_record_counts_it(tmp_path: Path, data: TokenData) -> None:
    """The corpus has a quarter of noise in 64 tokens; guessing costs ln 64, a table of pairs far less."""
    run_spec = spec(tokens=240 * 64, unique_tokens=320 * 16)
    record = run(run_spec, data=data, out=tmp_path)
    arch = run_spec.arch(VOCAB)
    assert record.loss is not None
    assert record.bits_per_byte == pytest.approx(record.loss / math.log(2) / 2.0)  # two bytes a token here
    assert record.loss < 0.85 * math.log(VOCAB)
    assert (record.kind, record.outcome, record.kl, record.teacher_loss) == ("supervised", "completed", None, None)
    assert (record.params, record.total_params) == (arch.params, arch.total_params)
    assert (record.tokens, record.steps, record.unique_tokens) == (240 * 64, 240, 320 * 16)
    assert record.epochs == 3
    assert record.flops_student == record.flops == 3 * arch.forward_flops_per_token * 240 * 64
    assert record.flops_teacher == 0
    assert record.eval_tokens == 512
    assert record.mfu == pytest.approx(record.flops / record.wall_seconds / (record.peak_flops or 0))
    assert record.cpu_seconds > 0
    assert record.data_hash == data.hash
    assert record.tokenizer_hash == data.tokenizer_hash
    assert record.versions == versions()
    assert record.versions["torch"] == torch.__version__
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 241))
    assert [row["lr"] for row in rows] == [0.01 * lr_factor(run_spec, step) for step in range(240)]
    assert rows[-1]["loss"] == record.train_loss


def test_the_four_losses_are_those_of_dense_tensors(tmp_path: Path, data: TokenData) -> None:
    """Student's and teacher's cross-entropy, KL and entropy, against float64 over the whole held-out split."""
    tiny = teacher()
    run_spec = spec(teacher="t", eval_tokens=4096, tokens=50 * 64)
    record = run(run_spec, data=data, out=tmp_path, teacher=tiny)
    model = build(run_spec, VOCAB, CPU)
    found = load_file(tmp_path / "model" / "model.safetensors")
    checkpoint.copy_into(dict(model.named_parameters()), found, "model")
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0
    with torch.no_grad():
        for batch in data.validation(16, 4096):
            tokens, labels = torch.from_numpy(batch.tokens_BT), torch.from_numpy(batch.labels_BT).flatten()
            q = model.logits(model(tokens)).flatten(0, 1).double().log_softmax(-1)
            p = (tiny.hidden(tokens).flatten(0, 1) @ tiny.output_weight.T).double().log_softmax(-1)
            sums += torch.stack(
                [
                    F.nll_loss(q, labels, reduction="sum"),
                    F.kl_div(q, p, log_target=True, reduction="sum"),
                    F.nll_loss(p, labels, reduction="sum"),
                    -(p.exp() * p).sum(),
                ]
            )
            count += len(labels)
    assert record.eval_tokens == count
    measured = (record.loss, record.kl, record.teacher_loss, record.teacher_entropy)
    assert measured == pytest.approx((sums / count).tolist(), rel=1e-5)
    assert record.flops_teacher == 50 * 64 * tiny.flops_per_token
    assert (record.kind, record.teacher, record.teacher_params) == ("distillation", "t", tiny.params)
    assert record.teacher_hash == tiny.sha


def test_a_student_learns_from_its_teacher_alone(tmp_path: Path, data: TokenData) -> None:
    """With λ = 1 the labels say nothing: the student nears a random teacher and not the data."""
    records = [
        run(spec(teacher="t", tokens=steps * 64, lr=0.03), data=data, out=tmp_path / str(steps), teacher=teacher())
        for steps in (10, 160)
    ]
    assert (records[1].kl or 0) < 0.5 * (records[0].kl or 0)
    assert (records[1].loss or 0) > math.log(VOCAB)


def test_without_weight_on_the_teacher_a_distilled_run_is_the_supervised_one(tmp_path: Path, data: TokenData) -> None:
    alone = run(spec(half="student"), data=data, out=tmp_path / "alone")
    record = run(spec(teacher="t", lam=0.0), data=data, out=tmp_path / "taught", teacher=teacher())
    assert record.loss == pytest.approx(alone.loss, rel=1e-6)
    assert record.kl is not None


def test_weights_to_start_from(tmp_path: Path, data: TokenData) -> None:
    run(spec(tokens=60 * 64), data=data, out=tmp_path / "first")
    model = load_start(tmp_path / "first")
    started = spec(start="first", lr=1e-9)
    record = run(started, data=data, out=tmp_path / "second", start=model)
    assert record.loss == pytest.approx(RunRecord.read(tmp_path / "first" / "record.json").loss, rel=1e-4)
    with pytest.raises(InputError, match="the spec starts from 'first', which is missing"):
        run(started, data=data, out=tmp_path / "third")
    with pytest.raises(InputError, match="the model to start from has d_model 16, the spec's is 32"):
        run(spec(start="x", d_model=32), data=data, out=tmp_path / "fourth", start=model)


def test_long_runs_log_every_so_many_steps_and_the_last(
    tmp_path: Path, data: TokenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_LOGGED", 10)
    run(spec(tokens=37 * 64), data=data, out=tmp_path)
    assert [row["step"] for row in metrics(tmp_path)] == [*range(3, 37, 3), 37]


def test_progress_tells_how_much_is_left(tmp_path: Path, data: TokenData) -> None:
    seen: list[Progress] = []
    run(spec(), data=data, out=tmp_path, progress=seen.append)
    assert [p.tokens for p in seen] == [64 * (i + 1) for i in range(20)]
    assert {p.total_tokens for p in seen} == {20 * 64}
    assert seen[-1].seconds_left == 0
    assert all(p.tokens_per_second > 0 and p.loss > 0 for p in seen)


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_ends_its_run_alone(
    tmp_path: Path, data: TokenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, accumulate, victim = student.target_loss, Student.accumulate, spec(teacher="t", lr=0.02)

    def nothing(*args: Any, **options: Any) -> tuple[torch.Tensor, Any]:
        loss, parts = real(*args, **options)
        return loss * math.nan, parts

    def poisoned(self: Student, micro: Micro, targets: Any) -> None:
        if self.spec == victim and self.step == 7:
            monkeypatch.setattr(student, "target_loss", nothing)
        accumulate(self, micro, targets)
        monkeypatch.setattr(student, "target_loss", real)

    monkeypatch.setattr(Student, "accumulate", poisoned)
    specs = [victim, spec(teacher="t")]
    lost, kept = run_many(specs, data=data, outs=[tmp_path / "0", tmp_path / "1"], teacher=teacher())
    assert (lost.outcome, lost.diverged_step, lost.steps, lost.loss, lost.kl) == ("diverged", 7, 7, None, None)
    assert not (tmp_path / "0" / "model").exists()
    assert checkpoint.steps(tmp_path / "0" / "checkpoint") == [7]
    tensors = checkpoint.load(tmp_path / "0" / "checkpoint", 7).tensors
    assert all(bool(t.isfinite().all()) for group in tensors.values() for t in group.values())
    assert kept.outcome == "completed"
    run(specs[1], data=data, out=tmp_path / "alone", teacher=teacher())
    assert digest(tmp_path / "1") == digest(tmp_path / "alone")


def test_a_rate_beyond_reason_diverges_and_says_so(tmp_path: Path, data: TokenData) -> None:
    wild = spec(lr=100.0, tokens=60 * 64, parametrisation="standard", clip=1e9, warmup_tokens=0, weight_decay=0.9)
    record = run(wild, data=data, out=tmp_path)
    assert record.outcome in ("diverged", "completed")
    assert (record.loss is None) == (record.outcome == "diverged")
    assert RunRecord.read(tmp_path / "record.json") == record


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"teacher": "gone"}, {}, "the spec's teacher 'gone' is missing; give its folder"),
        ({}, {"teacher": TinyTeacher()}, "a teacher was given, but the spec names none"),
        ({"teacher": "t"}, {"teacher": TinyTeacher(vocab=65)}, "has a vocabulary of 65, the data's is 64"),
        ({"data_hash": "0" * 32}, {}, "the spec wants 00000000000000000000000000000000"),
        ({"vocab": 65}, {}, "vocab of the spec is 65, the data's is 64"),
        ({"unique_tokens": 10**9}, {}, "unique_tokens must lie in 16 to"),
        (
            {"context": 16_384, "batch_tokens": 16_384, "tokens": 16_384, "eval_tokens": 16_384},
            {},
            "no window of 16384",
        ),
    ],
)
def test_what_does_not_fit_the_data_or_the_teacher_is_one_line(
    changes: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path, data: TokenData
) -> None:
    with pytest.raises(InputError) as refused:
        run(spec(**changes), data=data, out=tmp_path / "run", **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# Machines -----------------------------------------------------------------------------------------------------------


def test_bf16_products_train_as_fp32_does(tmp_path: Path, data: TokenData) -> None:
    """The path that GPUs take, here on a CPU: bf16 products, float32 weights, moments and losses."""
    losses = {
        name: run(
            spec(precision=name, tokens=12 * 64, teacher="t", eval_tokens=64),
            data=data,
            out=tmp_path / name,
            teacher=teacher(),
        )
        for name in ("fp32", "bf16")
    }
    assert losses["bf16"].loss == pytest.approx(losses["fp32"].loss, rel=0.02)
    assert losses["bf16"].precision == "bf16"
    found = load_file(tmp_path / "bf16" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


@pytest.mark.parametrize("has_units", [True, False])
def test_precision_goes_by_the_device(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    """A CPU with bf16 units is a CPU; a GPU that only emulates bf16 is one without."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_units
    )
    assert pick_precision("bf16", CPU) == "bf16"
    assert pick_precision("auto", CPU) == "fp32"
    assert pick_precision("auto", torch.device("cuda")) == ("bf16" if has_units else "fp32")


def test_precision_stays_over_a_resume(tmp_path: Path, data: TokenData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "pick_precision", lambda *_: "bf16")
    calls = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(spec(), data=data, out=tmp_path, stop=lambda: next(calls) >= 3)
    monkeypatch.setattr(running, "pick_precision", lambda *_: "fp32")
    assert run(spec(), data=data, out=tmp_path).precision == "bf16"


def test_the_peak_is_a_rate_of_matrix_products() -> None:
    peak = matmul_peak(CPU, "fp32", 1)
    assert 1e8 < peak < 1e13
    assert matmul_peak(CPU, "fp32", 1) == peak
    with autocast(CPU, "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast(CPU, "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_rehearsal_reckons_what_the_run_then_takes(tmp_path: Path, data: TokenData) -> None:
    run_spec = spec(teacher="t", tokens=100 * 64, branch_tokens=(64, 128))
    before = tree(tmp_path)
    found = rehearse(run_spec, data=data, teacher=teacher())
    assert tree(tmp_path) == before
    record = run(run_spec, data=data, out=tmp_path / "run", teacher=teacher())
    for name in ("id", "kind", "params", "total_params", "tokens", "steps", "unique_tokens", "epochs"):
        assert getattr(found, name) == getattr(record, name)
    assert (found.flops_student, found.flops_teacher) == (record.flops_student, record.flops_teacher)
    assert found.disk_bytes == (24 + 4 + 24) * record.total_params
    assert found.memory_bytes > 1e7
    assert record.wall_seconds / 5 < found.seconds < record.wall_seconds * 5
    json.dumps(found.to_json(), allow_nan=False)


def test_evaluation_measures_the_tokens_it_is_given(data: TokenData) -> None:
    model = build(spec(), VOCAB, CPU)
    seen: list[int] = []
    found = evaluate_model(model, data, context=16, max_tokens=600, progress=seen.append)
    assert found.tokens == 592  # whole windows
    assert seen[-1] == 592
    assert (found.kl, found.teacher_loss, found.teacher_entropy) == (None, None, None)
    whole = evaluate_model(model, data, context=16, max_tokens=None)
    assert whole.tokens == len(data.windows("val", 16)) * 16
    assert whole.loss == pytest.approx(math.log(VOCAB), rel=0.01)  # µP starts near uniform


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of torch
def test_a_compiled_run_trains_as_an_eager_one(tmp_path: Path, data: TokenData) -> None:
    losses = [
        run(spec(compile=compiled, tokens=60 * 64), data=data, out=tmp_path / str(compiled)).loss
        for compiled in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_same_spec_twice_is_the_same_run(tmp_path: Path, data: TokenData) -> None:
    for name in ("one", "two"):
        run(spec(teacher="t", tau=2.0, lam=0.5), data=data, out=tmp_path / name, teacher=teacher())
    assert same_run(tmp_path / "one", tmp_path / "two")
    run(spec(teacher="t", tau=2.0, lam=0.5, seed=1), data=data, out=tmp_path / "other", teacher=teacher())
    assert digest(tmp_path / "other") != digest(tmp_path / "one")
