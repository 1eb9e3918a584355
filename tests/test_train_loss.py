"""The fused loss against dense twins, central differences and its own promises."""

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_train import Dense, dense_loss, teacher_logprobs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from distillscale.errors import InputError
from distillscale.train import loss as loss_module
from distillscale.train.logits import HiddenTargets, Targets, sampled_targets, top_k_targets
from distillscale.train.loss import (
    default_chunk,
    distillation_loss,
    distillation_loss_parts,
    evaluate_loss,
    next_token_loss,
    target_loss,
)

DIVERGENCES = ("forward", "reverse", "jsd")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case(NamedTuple):
    """Inputs in float64; `ignored` labels are −100."""

    hidden: Tensor
    weight: Tensor
    hidden_T: Tensor
    weight_T: Tensor
    labels: Tensor

    def to(self, dtype: torch.dtype) -> "Case":
        return Case(*(x.to(dtype) for x in self[:4]), self.labels)


def case(tokens: int, vocab: int, width: int, width_T: int, *, ignored: float = 0.2, seed: int = 0) -> Case:
    """Logits of standard deviation about 2; values exact in bfloat16, so that every precision sees the same inputs."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=g) * scale).bfloat16().double()

    labels = torch.randint(vocab, (tokens,), generator=g)
    labels[torch.rand(tokens, generator=g) < ignored] = -100
    return Case(
        normal(tokens, width),
        normal(vocab, width, scale=2 * width**-0.5),
        normal(tokens, width_T),
        normal(vocab, width_T, scale=2 * width_T**-0.5),
        labels,
    )


def dense(c: Case, tau: float = 1.0, **terms: Any) -> tuple[Dense, Tensor, Tensor]:
    """The twin's value and gradients, in the precision of `c`."""
    hidden, weight = (x.clone().requires_grad_() for x in (c.hidden, c.weight))
    out = dense_loss(hidden, weight, teacher_logprobs(c.hidden_T, c.weight_T, tau), c.labels, tau=tau, **terms)
    gradients = torch.autograd.grad(out.loss, (hidden, weight))
    return Dense(*(x.detach() for x in out)), *gradients


def fused(c: Case, **terms: Any) -> tuple[Tensor, Any, Tensor, Tensor]:
    hidden, weight = (x.clone().requires_grad_() for x in (c.hidden, c.weight))
    loss, parts = distillation_loss_parts(hidden, weight, c.hidden_T, c.weight_T, c.labels, **terms)
    return loss.detach(), parts, *torch.autograd.grad(loss, (hidden, weight))


SHAPES = [(1, 2, 1, 1), (7, 13, 3, 5), (33, 257, 16, 9), (130, 1031, 24, 40)]


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("lam", "tau", "z_weight"), [(1, 1, 0), (0.7, 1, 1e-2), (1, 2.5, 1e-4), (0.3, 0.5, 0.1)])
def test_float64_equals_the_dense_twin(
    shape: tuple[int, ...], lam: float, tau: float, z_weight: float, divergence: str
) -> None:
    c = case(*shape, ignored=0)
    terms = {"lam": lam, "tau": tau, "z_weight": z_weight, "divergence": divergence}
    truth, dh, dw = dense(c, **terms)
    for chunk in (1, 5, None):
        loss, parts, gh, gw = fused(c, **terms, chunk=chunk)
        torch.testing.assert_close(loss, truth.loss, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gh, dh, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(gw, dw, rtol=1e-9, atol=1e-13)
        kl = truth.kd - (truth.entropy if divergence == "forward" else 0)
        for got, want in zip(
            (parts.ntp, parts.kd, parts.teacher_entropy, parts.z), (truth.ntp, kl, truth.entropy, truth.z), strict=True
        ):
            assert got == pytest.approx(float(want), rel=1e-10, abs=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 40),
    vocab=st.integers(2, 300),
    width=st.integers(1, 20),
    width_T=st.integers(1, 20),
    lam=st.floats(0, 1),
    tau=st.floats(0.3, 8),
    z_weight=st.floats(0, 1),
    divergence=st.sampled_from(DIVERGENCES),
    ignored=st.sampled_from([0.0, 0.5]),
    chunk=st.one_of(st.none(), st.integers(1, 50)),
    seed=st.integers(0, 2**20),
)
def test_any_shape_and_any_terms_equal_the_dense_twin(
    tokens: int, vocab: int, width: int, width_T: int, ignored: float, chunk: int | None, seed: int, **terms: Any
) -> None:
    c = case(tokens, vocab, width, width_T, ignored=ignored, seed=seed)
    c.labels[0] = 0  # at least one token counts
    truth, dh, dw = dense(c, **terms)
    loss, _, gh, gw = fused(c, **terms, chunk=chunk)
    torch.testing.assert_close(loss, truth.loss, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gh, dh, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(gw, dw, rtol=1e-8, atol=1e-12)
    assert not gh[c.labels == -100].any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_float32_errs_no_more_than_the_naive_float32_twin(divergence: str, tau: float) -> None:
    """Three-way: our error against the truth is within that of doing it naively in the same precision."""
    c = case(200, 4099, 64, 48)
    terms: dict[str, Any] = {"lam": 0.8, "tau": tau, "z_weight": 1e-4, "divergence": divergence}
    truth, *exact = dense(c, **terms)
    naive, *rough = dense(c.to(torch.float32), **terms)
    loss, _, *ours = fused(c.to(torch.float32), **terms)
    assert loss.dtype == torch.float32
    scale = float(truth.loss)
    assert abs(float(loss) - scale) <= abs(float(naive.loss) - scale) + 2e-7 * scale
    for got, near, true in zip(ours, rough, exact, strict=True):
        size = true.abs().max()
        assert (got - true).abs().max() <= 2 * (near - true).abs().max() + 2e-7 * size
        assert (got - true).norm() <= 1.5 * (near - true).norm() + 1e-7 * true.norm()


def test_bfloat16_errs_no_more_than_the_naive_bfloat16_twin() -> None:
    """Products in bfloat16, softmax in float32; the loss comes back in float32, gradients as their inputs."""
    c = case(96, 1024, 32, 32)
    terms = {"lam": 0.5, "z_weight": 1e-4}
    truth, *exact = dense(c, **terms)
    hidden, weight = (x.bfloat16().requires_grad_() for x in (c.hidden, c.weight))
    counted = c.labels != -100
    student, teacher = (hidden @ weight.T).float()[counted], (c.hidden_T.bfloat16() @ c.weight_T.bfloat16().T).float()
    soft = -(teacher[counted].softmax(-1) * student.log_softmax(-1)).sum(-1).mean()
    hard = torch.nn.functional.cross_entropy(student, c.labels[counted])
    naive = 0.5 * hard + 0.5 * soft + 1e-4 * student.logsumexp(-1).square().mean()
    rough = torch.autograd.grad(naive, (hidden, weight))
    loss, _, *ours = fused(c.to(torch.bfloat16), **terms)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(truth.loss), rel=2e-3)
    for got, near, true in zip(ours, rough, exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - true).norm() <= 1.2 * (near - true).norm()


@pytest.mark.parametrize(
    ("student", "teacher"), [("float16", "float16"), ("float32", "float16"), ("bfloat16", "float32")]
)
def test_precisions_mix_and_the_wider_one_is_used(student: str, teacher: str) -> None:
    c = case(20, 97, 8, 8)
    S, T = (getattr(torch, name) for name in (student, teacher))
    hidden, weight = c.hidden.to(S).requires_grad_(), c.weight.float().requires_grad_()
    loss = distillation_loss(hidden, weight, c.hidden_T.to(T), c.weight_T, c.labels)
    loss.backward()
    inputs = Case(c.hidden.to(S).double(), c.weight, c.hidden_T.to(T).double(), c.weight_T, c.labels)
    truth, dh, dw = dense(inputs, lam=1.0)
    assert float(loss.detach()) == pytest.approx(float(truth.loss), rel=1e-5)
    torch.testing.assert_close(weight.grad, dw.float(), rtol=1e-4, atol=1e-7)
    assert hidden.grad is not None
    assert hidden.grad.dtype == S
    torch.testing.assert_close(hidden.grad.double(), dh, rtol=1e-2, atol=1e-5)


def test_autocast_chooses_the_precision_of_products() -> None:
    """Float32 weights under bfloat16 autocast: the same as bfloat16 inputs, gradients in float32."""
    c = case(20, 97, 8, 8).to(torch.float32)
    weight = c.weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = distillation_loss(c.hidden, weight, c.hidden_T, c.weight_T, c.labels)
    loss.backward()
    low, _, _, gw = fused(c.to(torch.bfloat16))
    torch.testing.assert_close(loss.detach(), low)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, gw.float())


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("lam", "tau"), [(1.0, 1.0), (0.6, 1.0), (0.6, 3.0)])
def test_gradcheck(divergence: str, lam: float, tau: float) -> None:
    c = case(6, 11, 3, 4)
    inputs = c.hidden.clone().requires_grad_(), c.weight.clone().requires_grad_()

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return distillation_loss(
            hidden, weight, c.hidden_T, c.weight_T, c.labels,
            lam=lam, tau=tau, z_weight=0.01, divergence=divergence, chunk=4,  # type: ignore[arg-type]
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, inputs)


def test_central_differences_of_the_float32_loss() -> None:
    """Along a random direction, in the precision that training uses."""
    c = case(64, 513, 32, 16).to(torch.float32)
    terms: dict[str, Any] = {"lam": 0.7, "tau": 1.5, "z_weight": 1e-3}
    _, _, gh, gw = fused(c, **terms)
    g = torch.Generator().manual_seed(1)
    dh, dw = torch.randn(gh.shape, generator=g), torch.randn(gw.shape, generator=g) * 0.1
    step = 3e-3
    ends = [fused(c._replace(hidden=c.hidden + s * dh, weight=c.weight + s * dw), **terms)[0] for s in (step, -step)]
    slope = float((gh * dh).sum() + (gw * dw).sum())
    assert float(ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=2e-2, abs=1e-4)


def test_temperature_touches_the_divergence_only() -> None:
    """With λ = 0 it changes nothing; with λ = 1 the value is τ² times the divergence at τ."""
    c = case(30, 50, 8, 8)
    plain, hot = (fused(c, lam=0.0, tau=tau, z_weight=0.1) for tau in (1.0, 4.0))
    for a, b in zip(plain[2:], hot[2:], strict=True):
        torch.testing.assert_close(a, b)
    assert float(plain[0]) == pytest.approx(float(hot[0]), rel=1e-12)
    loss, parts, *_ = fused(c, lam=1.0, tau=4.0)
    assert float(loss) == pytest.approx(16 * (parts.kd + parts.teacher_entropy), rel=1e-12)
    assert parts.ntp == pytest.approx(plain[1].ntp, rel=1e-12)
    assert parts.z == pytest.approx(plain[1].z, rel=1e-12)


def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient() -> None:
    c = case(40, 300, 16, 16)
    c = c._replace(hidden_T=c.hidden, weight_T=c.weight).to(torch.float32)
    for divergence in DIVERGENCES:
        _, parts, gh, gw = fused(c, divergence=divergence)
        assert abs(parts.kd) < 1e-6
        assert gh.abs().max() < 1e-7
        assert gw.abs().max() < 1e-7


def test_shifted_and_large_logits_stay_finite_and_right() -> None:
    """Logits of ±300 and a constant added to all of them: exponentials neither overflow nor divide 0 by 0."""
    c = case(30, 200, 8, 8)
    big = c._replace(weight=c.weight * 40, weight_T=c.weight_T * 40)
    for divergence in DIVERGENCES:
        truth, dh, _ = dense(big, lam=0.5, divergence=divergence)
        loss, _, gh, gw = fused(big.to(torch.float32), lam=0.5, divergence=divergence)
        assert float(loss) == pytest.approx(float(truth.loss), rel=1e-4)
        assert gw.isfinite().all()
        torch.testing.assert_close(gh.double(), dh, rtol=1e-2, atol=1e-3 * float(dh.abs().max()))


def test_the_plain_loss_needs_no_teacher() -> None:
    c = case(50, 333, 16, 4)
    hidden, weight = (x.float().requires_grad_() for x in (c.hidden, c.weight))
    loss = next_token_loss(hidden, weight, c.labels, z_weight=1e-2)
    loss.backward()
    truth, dh, dw = dense(c, lam=0.0, z_weight=1e-2)
    assert float(loss.detach()) == pytest.approx(float(truth.loss), rel=1e-6)
    torch.testing.assert_close(hidden.grad, dh.float(), rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(weight.grad, dw.float(), rtol=1e-4, atol=1e-8)
    same = distillation_loss(hidden, weight, c.hidden_T.float(), c.weight_T.float(), c.labels, lam=0.0, z_weight=1e-2)
    torch.testing.assert_close(same, loss)


def test_evaluation_sums_and_counts_and_keeps_no_graph() -> None:
    c = case(50, 333, 16, 4)
    weight = c.weight.clone().requires_grad_()
    total, count = evaluate_loss(c.hidden, weight, c.labels, chunk=7)
    assert count == int((c.labels != -100).sum())
    assert total / count == pytest.approx(float(dense(c, lam=0.0)[0].ntp), rel=1e-12)
    with torch.no_grad():
        loss, parts = distillation_loss_parts(c.hidden, weight, c.hidden_T, c.weight_T, c.labels)
    assert not loss.requires_grad
    assert parts.kd > 0


def test_no_counted_token_is_a_loss_of_zero_with_zero_gradients() -> None:
    c = case(5, 9, 3, 3, ignored=1.1)
    loss, parts, gh, gw = fused(c, lam=0.5, tau=2.0, z_weight=1.0)
    assert float(loss) == 0
    assert (parts.tokens, parts.ntp, parts.kd, parts.z) == (0, 0, 0, 0)
    assert not gh.any()
    assert not gw.any()
    assert evaluate_loss(c.hidden, c.weight, c.labels) == (0, 0)
    nothing = Case(*(x[:0] if i in (0, 2, 4) else x for i, x in enumerate(c)))
    assert float(fused(nothing)[0]) == 0


def test_ignored_tokens_are_as_if_they_were_not_there() -> None:
    c = case(60, 77, 8, 8, ignored=0.5)
    kept = c.labels != -100
    short = Case(c.hidden[kept], c.weight, c.hidden_T[kept], c.weight_T, c.labels[kept])
    poisoned = c._replace(hidden=c.hidden.masked_fill(~kept[:, None], math.nan))
    long, _, gh, gw = fused(poisoned, lam=0.5, chunk=7)
    want, _, wh, ww = fused(short, lam=0.5)
    torch.testing.assert_close(long, want)
    torch.testing.assert_close(gh[kept], wh)
    torch.testing.assert_close(gw, ww)


def test_upstream_scale_accumulation_and_a_kept_graph() -> None:
    """loss/2 twice is loss once; a graph that was kept gives the same gradients again; a freed one complains."""
    c = case(30, 50, 8, 8)
    _, _, gh, gw = fused(c, lam=0.5)
    hidden, weight = (x.clone().requires_grad_() for x in (c.hidden, c.weight))

    def loss() -> Tensor:
        return distillation_loss(hidden, weight, c.hidden_T, c.weight_T, c.labels, lam=0.5)

    (loss() / 2).backward()
    (loss() / 2).backward()
    torch.testing.assert_close(weight.grad, gw)
    torch.testing.assert_close(hidden.grad, gh)
    hidden.grad = weight.grad = None
    kept = loss()
    kept.backward(retain_graph=True)
    kept.backward()
    torch.testing.assert_close(weight.grad, 2 * gw)
    torch.testing.assert_close(hidden.grad, 2 * gh)
    with pytest.raises(RuntimeError, match="second time"):
        kept.backward()
    stale = loss()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_one_weight_serves_as_embedding_and_output() -> None:
    """Tied embeddings: both uses add up in one gradient."""
    c = case(30, 50, 8, 8)
    ids = c.labels.clamp(min=0)

    def gradient(loss: Any) -> Tensor:
        weight = c.weight.clone().requires_grad_()
        value = loss(weight[ids], weight)
        return torch.autograd.grad(value, weight)[0]

    log_p = teacher_logprobs(c.hidden_T, c.weight_T, 1.0)
    want = gradient(lambda h, w: dense_loss(h, w, log_p, c.labels, lam=0.5).loss)
    got = gradient(lambda h, w: distillation_loss(h, w, c.hidden_T, c.weight_T, c.labels, lam=0.5))
    torch.testing.assert_close(got, want)


def test_only_the_student_gets_a_gradient_and_frozen_inputs_none() -> None:
    c = case(10, 20, 4, 4)
    inputs = [x.clone().requires_grad_() for x in c[:4]]
    distillation_loss(*inputs, c.labels).backward()
    assert [x.grad is not None for x in inputs] == [True, True, False, False]
    hidden = c.hidden.clone().requires_grad_()
    distillation_loss(hidden, c.weight, c.hidden_T, c.weight_T, c.labels).backward()
    torch.testing.assert_close(hidden.grad, inputs[0].grad)


def test_equal_inputs_give_equal_bits() -> None:
    c = case(100, 1000, 16, 16).to(torch.float32)
    first, second = fused(c, lam=0.5, tau=2.0), fused(c, lam=0.5, tau=2.0)
    assert all(torch.equal(a, b) for a, b in zip(first[2:], second[2:], strict=True))
    assert torch.equal(first[0], second[0])


@pytest.mark.parametrize("chunk", [1, 3, 64, 1000])
def test_the_chunk_changes_nothing(chunk: int) -> None:
    c = case(100, 200, 16, 16).to(torch.float32)
    want, got = fused(c, lam=0.5), fused(c, lam=0.5, chunk=chunk)
    assert float(want[0]) == pytest.approx(float(got[0]), rel=1e-6)
    for a, b in zip(want[2:], got[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("block", "columns"), [(1, 7), (150, 1024), (2**25, 10**9)], ids=["rows", "blocks", "gpu"])
@pytest.mark.parametrize("kind", ["whole", "tail", "biased", "sampled", "none"])
def test_blocks_and_columns_change_nothing(
    kind: str, block: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row and column by column, or all at once as on a GPU: one result."""
    c = case(20, 50, 8, 8)
    t = HiddenTargets(c.hidden_T, c.weight_T)
    targets: dict[str, Targets | None] = {
        "whole": t,
        "tail": top_k_targets(t, 5),
        "biased": top_k_targets(t, 5, biased=True),
        "sampled": sampled_targets(t, 5, generator=torch.Generator().manual_seed(0)),
        "none": None,
    }

    def at() -> tuple[Any, ...]:
        hidden, weight = (x.clone().requires_grad_() for x in (c.hidden, c.weight))
        lam = 0.0 if kind == "none" else 0.6
        loss, parts = target_loss(hidden, weight, targets[kind], c.labels, lam=lam, z_weight=0.1, chunk=7)
        return loss.detach(), parts.sums, *torch.autograd.grad(loss, (hidden, weight))

    want = at()
    monkeypatch.setattr(loss_module, "_BLOCK_ELEMENTS", {"cpu": block})
    monkeypatch.setattr(loss_module, "_COLUMNS", columns)
    for a, b in zip(want, at(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_tensor_is_larger_than_chunk_times_vocabulary() -> None:
    """Nor than the weight's gradient; for every divergence, with and without temperature."""
    c = case(500, 1000, 4, 4)
    for divergence in DIVERGENCES:
        for tau in (1.0, 2.0):
            with Largest() as seen:
                fused(c, lam=0.5, tau=tau, divergence=divergence, chunk=10)
            assert seen.elements == 10 * 1000


def test_a_vocabulary_of_262144() -> None:
    c = case(5, 262_144, 4, 4, ignored=0).to(torch.float32)
    truth, dh, _ = dense(c.to(torch.float64), lam=0.5)
    loss, _, gh, _ = fused(c, lam=0.5)
    assert float(loss) == pytest.approx(float(truth.loss), rel=1e-6)
    torch.testing.assert_close(gh.double(), dh, rtol=1e-4, atol=1e-8)
    assert default_chunk(262_144) == 32


def test_wrong_inputs_are_refused_in_one_line() -> None:
    h, w, y = torch.zeros(4, 3), torch.zeros(7, 3), torch.zeros(4, dtype=torch.int64)
    wrong = [
        (lambda: distillation_loss(h, w, h, torch.zeros(8, 3), y), "8 and 7 classes"),
        (lambda: distillation_loss(h, w, h, torch.zeros(7, 2), y), "share their width"),
        (lambda: distillation_loss(h, torch.zeros(7, 2), h, w, y), "share their width"),
        (lambda: distillation_loss(h[None], w, h, w, y), "flatten batch and time"),
        (lambda: distillation_loss(h, w, h[:3], w, y), "4 tokens; got 3"),
        (lambda: distillation_loss(h, w, h, w, y[:3]), "4 tokens"),
        (lambda: distillation_loss(h, w, h, w, y.int()), "int64"),
        (lambda: distillation_loss(h, w, h, w, y + 7), "0 … 6 or be -100"),
        (lambda: distillation_loss(h, w, h, w, y - 1), "got -1"),
        (lambda: distillation_loss(h, w, h, w, y, lam=1.5), "lam"),
        (lambda: distillation_loss(h, w, h, w, y, lam=math.nan), "lam"),
        (lambda: distillation_loss(h, w, h, w, y, tau=0.0), "tau"),
        (lambda: distillation_loss(h, w, h, w, y, z_weight=-1.0), "z_weight"),
        (lambda: distillation_loss(h, w, h, w, y, chunk=0), "chunk"),
        (lambda: distillation_loss(h, w, h, w, y, divergence="kl"), "forward, reverse, jsd"),  # type: ignore[arg-type]
        (lambda: target_loss(h, w, None, y), "asks for a teacher"),
    ]
    for call, text in wrong:
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


PEAK = """
import re, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from reference_train import dense_loss, teacher_logprobs
from distillscale.train.loss import distillation_loss
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def step(N):
    h, w = torch.randn(N, 32, requires_grad=True), torch.randn(32768, 32, requires_grad=True)
    hT, wT, y = torch.randn(N, 32), torch.randn(32768, 32), torch.randint(32768, (N,))
    before = status("VmRSS")
    if sys.argv[1] == "dense":
        dense_loss(h, w, teacher_logprobs(hT, wT, 1.0), y, lam=1.0).loss.backward()
    else:
        distillation_loss(h, w, hT, wT, y).backward()
    return status("VmHWM") - before
step(8)
print(step(1024))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_peak_memory_is_a_fraction_of_the_dense_twins() -> None:
    """At 1,024 tokens × 32,768 classes one tensor of logits is 128 MiB; the fused loss holds 128 rows of two."""

    def extra(which: str) -> int:
        code = PEAK.format(tests=str(__file__).rsplit("/", 1)[0])
        ran = subprocess.run([sys.executable, "-c", code, which], capture_output=True, text=True, check=True)
        return int(ran.stdout)

    assert extra("dense") >= 5 * extra("fused")


@pytest.mark.slow
def test_the_value_is_right_at_full_size() -> None:
    """4,096 tokens × 32,768 classes: the loss and its parts within 1e-5 of float64, taken piece by piece."""
    c = case(4096, 32_768, 128, 64, ignored=0).to(torch.float32)
    loss, parts = distillation_loss_parts(*c[:4], c.labels, lam=0.6, z_weight=1e-4)
    sums = torch.zeros(5, dtype=torch.float64)
    for start in range(0, 4096, 256):
        part = slice(start, start + 256)
        p = teacher_logprobs(c.hidden_T[part].double(), c.weight_T.double(), 1.0)
        out = dense_loss(c.hidden[part].double(), c.weight.double(), p, c.labels[part], lam=0.6, z_weight=1e-4)
        sums += torch.stack(out) / 16
    assert float(loss) == pytest.approx(float(sums[0]), rel=1e-6)
    for got, want in zip(
        (parts.ntp, parts.kd + parts.teacher_entropy, parts.teacher_entropy, parts.z), sums[1:].tolist(), strict=True
    ):
        assert got == pytest.approx(want, rel=1e-6)
