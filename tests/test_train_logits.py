"""Targets of every kind: equal to their twins, unbiased where they say so, and whole or named when read from disk."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_train import (
    dense_loss,
    renormalised_top_k_rows,
    sampled_rows,
    teacher_logprobs,
    top_k_tail_rows,
)
from torch import Tensor

from distillscale.errors import InputError
from distillscale.train.cache import CacheKey, CacheWriter, TargetCache
from distillscale.train.logits import (
    BiasedTopKTargets,
    HiddenTargets,
    SampledTargets,
    Targets,
    TopKTailTargets,
    sampled_targets,
    top_k_targets,
)
from distillscale.train.loss import target_loss


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher(
    tokens: int, vocab: int, width: int = 6, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> HiddenTargets:
    g = seeded(seed)
    hidden = torch.randn(tokens, width, generator=g, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=g, dtype=torch.float64) * 2 * width**-0.5
    return HiddenTargets(hidden.to(dtype), weight.to(dtype))


def student(tokens: int, vocab: int, width: int = 4, *, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, output weight, labels."""
    one = teacher(tokens, vocab, width, seed=seed)
    return one.hidden, one.weight, torch.randint(vocab, (tokens,), generator=seeded(seed))


def gradients(loss: Callable[[Tensor, Tensor], Tensor], hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    value = loss(*inputs)
    return (value.detach(), *torch.autograd.grad(value, inputs))


def close(a: tuple[Tensor, ...], b: tuple[Tensor, ...], rtol: float = 1e-9) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=1e-12)


# ---------------------------------------------------------------- against twins


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(1, 12),
    vocab=st.integers(2, 60),
    k=st.integers(1, 60),
    kind=st.sampled_from(["tail", "biased", "sampled"]),
    lam=st.floats(0.01, 1),
    tau=st.sampled_from([0.7, 1.0, 3.0]),
    z_weight=st.floats(0, 0.5),
    chunk=st.integers(1, 13),
    seed=st.integers(0, 2**20),
)
def test_sparse_losses_equal_their_dense_twins(
    tokens: int, vocab: int, k: int, kind: str, lam: float, tau: float, z_weight: float, chunk: int, seed: int
) -> None:
    t = teacher(tokens, vocab, seed=seed)
    hidden, weight, labels = student(tokens, vocab, seed=seed + 1)
    log_p = teacher_logprobs(t.hidden, t.weight, tau)
    k = min(k, vocab)
    targets: Targets
    if kind == "sampled":
        drawn = sampled_targets(t, k, tau=tau, generator=seeded(seed))
        targets = SampledTargets(drawn.ids, drawn.weights.double(), vocab, tau)
    else:
        targets = top_k_targets(t, k, tau=tau, biased=kind == "biased")

    def twin(h: Tensor, w: Tensor) -> Tensor:
        log_q = (h @ w.T / tau).log_softmax(-1)
        if isinstance(targets, SampledTargets):
            rows = sampled_rows(targets.ids, targets.weights, log_q)
        else:
            rows = (renormalised_top_k_rows if kind == "biased" else top_k_tail_rows)(log_p, log_q, k)
        plain = dense_loss(h, w, None, labels, lam=lam, z_weight=z_weight)
        return plain.loss + lam * tau**2 * rows.mean()

    def ours(h: Tensor, w: Tensor) -> Tensor:
        return target_loss(h, w, targets, labels, lam=lam, tau=tau, z_weight=z_weight, chunk=chunk)[0]

    close(gradients(ours, hidden, weight), gradients(twin, hidden, weight), rtol=1e-7)


@pytest.mark.parametrize("kind", ["tail", "biased", "sampled"])
def test_gradcheck(kind: str) -> None:
    t = teacher(5, 9)
    hidden, weight, labels = student(5, 9)
    targets = (
        sampled_targets(t, 3, generator=seeded()) if kind == "sampled" else top_k_targets(t, 3, biased=kind == "biased")
    )
    inputs = hidden.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: target_loss(h, w, targets, labels, lam=0.7, z_weight=0.1)[0], inputs)


def test_top_k_with_tail_is_the_whole_distribution_at_k_equal_to_v() -> None:
    t = teacher(20, 50)
    hidden, weight, labels = student(20, 50)
    for tau in (1.0, 2.0):
        whole = gradients(lambda h, w: target_loss(h, w, t, labels, tau=tau)[0], hidden, weight)  # noqa: B023
        every = top_k_targets(t, 50, tau=tau)
        close(gradients(lambda h, w: target_loss(h, w, every, labels, tau=tau)[0], hidden, weight), whole)  # noqa: B023
        coarse = target_loss(hidden, weight, every, labels, tau=tau)[1]
        fine = target_loss(hidden, weight, t, labels, tau=tau)[1]
        assert coarse.kd == pytest.approx(fine.kd, rel=1e-9)


def test_divergence_over_top_k_and_tail_grows_with_k_towards_the_whole() -> None:
    """Merging classes never raises a KL (data processing): each k is a lower bound of the next."""
    t = teacher(40, 200)
    hidden, weight, labels = student(40, 200)
    kl = [target_loss(hidden, weight, top_k_targets(t, k), labels)[1].kd for k in (1, 2, 5, 20, 80, 150, 200)]
    assert kl == sorted(kl)
    assert kl[0] > 0
    assert kl[-1] == pytest.approx(target_loss(hidden, weight, t, labels)[1].kd, rel=1e-9)


# ---------------------------------------------------------------- bias and variance


def mean_gradient(make: Callable[[int], Targets], inputs: tuple[Tensor, ...], times: int) -> tuple[Tensor, Tensor]:
    """Mean over `times` draws of the gradient at the hidden states, and the standard error of each number of it."""
    hidden, weight, labels = inputs
    drawn = torch.stack(
        [gradients(lambda h, w: target_loss(h, w, make(i), labels)[0], hidden, weight)[1] for i in range(times)]  # noqa: B023
    )
    return drawn.mean(0), drawn.std(0) / math.sqrt(times)


def test_sampled_targets_are_unbiased_and_their_variance_falls_as_one_over_n() -> None:
    """The mean of many gradients is the full gradient within its error; n draws have 1/n of one draw's variance."""
    t, inputs = teacher(6, 40), student(6, 40)
    full = gradients(lambda h, w: target_loss(h, w, t, inputs[2])[0], *inputs[:2])[1]
    spread = {}
    for n in (2, 32):
        mean, error = mean_gradient(lambda i, n=n: sampled_targets(t, n, generator=seeded(i)), inputs, 1500)  # type: ignore[misc]
        score = (mean - full) / error
        assert score.abs().max() < 4.5  # of 24 numbers; a bias of a few per cent of the spread would show
        assert 0.5 < float(score.square().mean()) < 2
        spread[n] = float(error.square().sum())
    assert spread[2] / spread[32] == pytest.approx(16, rel=0.2)


def test_the_mean_of_sampled_losses_is_the_full_cross_entropy() -> None:
    t, (hidden, weight, labels) = teacher(300, 50), student(300, 50)
    want = target_loss(hidden, weight, t, labels)[1]
    got = [target_loss(hidden, weight, sampled_targets(t, 12, generator=seeded(i)), labels)[1] for i in range(60)]
    kl = np.array([part.kd for part in got])
    assert abs(kl.mean() - want.kd) < 4 * kl.std(ddof=1) / math.sqrt(len(kl))
    assert got[0].teacher_entropy == pytest.approx(want.teacher_entropy, rel=1e-6)


def optimum(targets: Callable[[HiddenTargets], Targets], t: HiddenTargets) -> Tensor:
    """The distribution that free logits reach under a target: one row of logits a token, plain gradient steps."""
    tokens, vocab = t.tokens, t.vocab
    logits = torch.zeros(tokens, vocab, dtype=torch.float64)
    labels = torch.zeros(tokens, dtype=torch.int64)
    eye = torch.eye(vocab, dtype=torch.float64)
    goal = targets(t)
    for _ in range(1500):
        grad = gradients(lambda h, w: target_loss(h, w, goal, labels)[0] * tokens, logits, eye)[1]
        logits = logits - 2 * grad
    return logits.softmax(-1)


def test_what_each_kind_teaches_in_the_end() -> None:
    """Free logits end at the teacher (whole), at its masses for the list (tail), at nothing outside it (biased)."""
    t = teacher(4, 12)
    p = teacher_logprobs(t.hidden, t.weight, 1.0).exp()
    best = p.topk(3).indices
    torch.testing.assert_close(optimum(lambda t: t, t), p, rtol=0, atol=1e-3)
    tail = optimum(lambda t: top_k_targets(t, 3), t)
    torch.testing.assert_close(tail.gather(1, best), p.gather(1, best), rtol=0, atol=1e-3)
    outside = 1 - optimum(lambda t: top_k_targets(t, 3, biased=True), t).gather(1, best).sum(-1)
    assert outside.max() < 0.02 < 0.05 < (1 - p.gather(1, best).sum(-1)).min()


def test_renormalised_top_k_is_biased_and_more_classes_shrink_the_bias() -> None:
    """A student that already is its teacher should stay there: whole, tail and (on average) draws leave it alone."""
    t = teacher(200, 300)
    labels = torch.zeros(200, dtype=torch.int64)

    def pull(targets: Targets) -> float:
        got = gradients(lambda h, w: target_loss(h, w, targets, labels)[0], t.hidden, t.weight)[1]
        return float(got.norm())

    scale = pull(top_k_targets(t, 1, biased=True))
    biased = [pull(top_k_targets(t, k, biased=True)) / scale for k in (1, 4, 16, 64, 256)]
    assert biased == sorted(biased, reverse=True)
    assert biased[2] > 0.1
    assert pull(top_k_targets(t, 300, biased=True)) < 1e-9
    for k in (1, 4, 16, 64, 256):
        assert pull(top_k_targets(t, k)) < 1e-9 * scale
    assert pull(t) < 1e-9 * scale


def test_renormalised_top_k_is_off_by_less_with_more_classes() -> None:
    """Away from the teacher too: the error of its gradient is fixed, whatever the draw, and falls with k."""
    t, (hidden, weight, labels) = teacher(200, 300), student(200, 300)

    def at(targets: Targets) -> Tensor:
        return gradients(lambda h, w: target_loss(h, w, targets, labels)[0], hidden, weight)[1]

    full = at(t)
    for biased in (True, False):
        off = [float((at(top_k_targets(t, k, biased=biased)) - full).norm() / full.norm()) for k in (1, 4, 16, 64, 256)]
        assert off == sorted(off, reverse=True)
        assert off[1] > 0.1
        assert off[-1] < 0.02


# ---------------------------------------------------------------- refusals


def test_wrong_targets_are_refused_in_one_line() -> None:
    t = teacher(4, 9)
    hidden, weight, labels = student(4, 9)
    ids, logprobs = torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2)
    top, drawn = top_k_targets(t, 3), sampled_targets(t, 3)
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: HiddenTargets(t.hidden, t.weight[:, :2]), "share their width"),
        (lambda: TopKTailTargets(ids, logprobs[:3], 9), "one value for each id"),
        (lambda: BiasedTopKTargets(ids + 9, logprobs, 9), "0 … 8"),
        (lambda: SampledTargets(ids - 1, logprobs, 9), "got -1"),
        (lambda: TopKTailTargets(ids, logprobs, 9, 0.0), "temperature"),
        (lambda: top_k_targets(t, 10), "1 … 9"),
        (lambda: sampled_targets(t, 0), "at least one draw"),
        (lambda: top_k_targets(t, 1, tau=-1.0), "temperature"),
        (lambda: target_loss(hidden, weight, top, labels, tau=2.0), "temperature they were made at, 1; got tau=2"),
        (lambda: target_loss(hidden, weight, drawn, labels, divergence="jsd"), "whole distribution"),
        (lambda: target_loss(hidden, weight[:8], top, labels % 8), "9 and 8 classes"),
        (lambda: target_loss(hidden[:3], weight, top, labels[:3]), "3 tokens; got 4"),
    ]
    for call, text in wrong:
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_sampled_targets_without_entropy_train_and_say_that_the_divergence_is_unknown() -> None:
    t = teacher(4, 9)
    hidden, weight, labels = student(4, 9)
    drawn = sampled_targets(t, 3, generator=seeded())
    bare = SampledTargets(drawn.ids, drawn.weights, 9)
    loss, parts = target_loss(hidden, weight, bare, labels)
    assert math.isnan(parts.kd)
    assert float(loss) == pytest.approx(float(target_loss(hidden, weight, drawn, labels)[0]))


# ---------------------------------------------------------------- on disk

VOCAB, WIDTH, CONTEXT = 70, 6, 5
COMMON: dict[str, Any] = {"teacher": "t0", "tokenizer": "k0", "data": "d0", "vocab": VOCAB, "context": CONTEXT}
KEYS = [
    CacheKey(kind="hidden", width=WIDTH, dtype="float32", **COMMON),
    CacheKey(kind="topk", classes=7, dtype="float32", **COMMON),
    CacheKey(kind="sampled", classes=4, seed=3, **COMMON),
]


def hidden_of(sample: int, width: int = WIDTH) -> Tensor:
    return torch.randn(CONTEXT, width, generator=seeded(1000 + sample))


def weight_of() -> Tensor:
    return torch.randn(VOCAB, WIDTH, generator=seeded(7))


def write(root: Path, key: CacheKey, samples: list[int], *, shard_samples: int = 4) -> Path:
    """Batches of three."""
    size = shard_samples * key.bytes_per_token * CONTEXT
    with CacheWriter(root, key, weight_of(), shard_bytes=size) as writer:
        for start in range(0, len(samples), 3):
            part = samples[start : start + 3]
            writer.add(part, torch.stack([hidden_of(i) for i in part]))
    return writer.folder


def same(a: Targets, b: Targets) -> bool:
    names = [name for name in ("hidden", "weight", "ids", "logprobs", "weights", "entropy") if hasattr(a, name)]
    return type(a) is type(b) and all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kind)
def test_a_cache_gives_back_what_was_put_in_whatever_the_order(key: CacheKey, tmp_path: Path) -> None:
    samples = [9, 2, 400, 3, 77, 1, 8, 10, 2**40]
    cache = TargetCache(write(tmp_path, key, samples))
    other = TargetCache(write(tmp_path / "other", key, samples[::-1], shard_samples=2))
    cache.check()
    assert cache.key == key
    assert cache.tokens == len(samples) * CONTEXT
    assert (77 in cache, 78 in cache) == (True, False)
    asked = [77, 2, 2**40, 77]
    got = cache.targets(asked)
    assert same(got, other.targets(np.array(asked)))
    whole = HiddenTargets(torch.cat([hidden_of(i) for i in asked]), weight_of())
    if key.kind == "hidden":
        assert same(got, whole)
    elif key.kind == "topk":
        want = top_k_targets(whole, 7)
        assert same(got, want)
        assert isinstance(cache.targets(asked, biased=True), BiasedTopKTargets)
    else:
        assert isinstance(got, SampledTargets)
        assert torch.equal(got.ids[:CONTEXT], got.ids[-CONTEXT:])  # the same sample draws the same classes
        assert not torch.equal(got.ids[:CONTEXT], got.ids[CONTEXT : 2 * CONTEXT])
        assert torch.allclose(got.weights, torch.tensor(1 / 4))
    payload = sum(path.stat().st_size for path in cache.folder.glob("0*.safetensors"))
    assert 0 < payload - cache.tokens * key.bytes_per_token < 400 * len(list(cache.folder.glob("0*.safetensors")))


def test_a_key_names_its_folder_and_every_field_counts() -> None:
    key = KEYS[1]
    changes: dict[str, Any] = {
        "teacher": "t1", "tokenizer": "k1", "data": "d1", "vocab": 71, "context": 6, "classes": 8, "tau": 2.0,
        "dtype": "float16", "seed": 1, "kind": "sampled",
    }  # fmt: skip
    fields: dict[str, Any] = {**COMMON, "kind": "topk", "classes": 7, "dtype": "float32"}
    ids = {CacheKey(**{**fields, name: value}).id for name, value in changes.items()} | {key.id}
    assert len(ids) == len(changes) + 1
    assert all(len(i) == 12 for i in ids)
    assert CacheKey(**fields).id == key.id


def test_hidden_states_of_float16_move_the_distribution_by_a_millionth_of_a_nat(tmp_path: Path) -> None:
    """What `exact` means: float32 keeps every bit; float16 and bfloat16 round, and this is how much that is."""
    width, vocab = 64, 2000
    hidden = torch.randn(40, CONTEXT, width, generator=seeded(1))  # final-normed: of size one
    weight = torch.randn(vocab, width, generator=seeded(2)) * 3 * width**-0.5
    off = {}
    for dtype in ("float32", "float16", "bfloat16"):
        key = CacheKey(kind="hidden", width=width, dtype=dtype, **{**COMMON, "vocab": vocab})
        with CacheWriter(tmp_path, key, weight) as writer:
            writer.add(range(40), hidden)
        got = TargetCache.find(tmp_path, key).targets(range(40))
        assert isinstance(got, HiddenTargets)
        p = teacher_logprobs(hidden.flatten(0, 1).double(), weight.double(), 1.0)
        q = teacher_logprobs(got.hidden.double(), got.weight.double(), 1.0)
        off[dtype] = float((p.exp() * (p - q)).sum(-1).mean())
    assert off["float32"] == 0
    assert 0 < off["float16"] < 1e-6
    assert off["float16"] < off["bfloat16"] < 1e-4


def test_a_cache_teaches_what_its_teacher_teaches(tmp_path: Path) -> None:
    """Loss and gradient through the cache equal those at the teacher itself, at any temperature."""
    cache = TargetCache(write(tmp_path, KEYS[0], list(range(8))))
    t = HiddenTargets(torch.cat([hidden_of(i) for i in (5, 1)]), weight_of())
    hidden, weight, labels = student(2 * CONTEXT, VOCAB)
    for tau in (1.0, 3.0):

        def at(targets: Targets, tau: float = tau) -> tuple[Tensor, ...]:
            return gradients(lambda h, w: target_loss(h, w, targets, labels, tau=tau)[0], hidden, weight)

        close(at(cache.targets([5, 1])), at(t))


def test_writing_resumes_and_adds_only_what_is_missing(tmp_path: Path) -> None:
    key = KEYS[0]
    folder = write(tmp_path, key, [1, 2, 3, 4, 5])
    before = {path.name: path.read_bytes() for path in folder.glob("0*")}
    with CacheWriter(tmp_path, key, weight_of()) as writer:
        assert writer.missing([5, 6, 1]).tolist() == [False, True, False]
        writer.add([5, 6, 6], torch.stack([hidden_of(99), hidden_of(6), hidden_of(6)]))
    assert before.items() <= {path.name: path.read_bytes() for path in folder.glob("0*")}.items()
    cache = TargetCache(folder)
    assert cache.sample_ids.tolist() == [1, 2, 3, 4, 5, 6]
    got = cache.targets([5, 6])
    assert isinstance(got, HiddenTargets)
    assert torch.equal(got.hidden, torch.cat([hidden_of(5), hidden_of(6)]))


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_train_logits import KEYS, CONTEXT, hidden_of, weight_of
from distillscale.train.cache import CacheWriter
torch.set_num_threads(1)
with CacheWriter(Path(sys.argv[1]), KEYS[0], weight_of(), shard_bytes=4 * 24 * CONTEXT) as writer:
    for i in range(11):
        writer.add([i], hidden_of(i)[None])
    (writer.folder / "00009.safetensors.1.draft").write_bytes(b"half")   # as if killed while writing
    (writer.folder / "00002.safetensors").write_bytes(b"no receipt yet")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_loses_at_most_its_last_shard(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent))
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -signal.SIGKILL
    folder = tmp_path / KEYS[0].id
    assert TargetCache(folder).sample_ids.tolist() == list(range(8))  # two shards of four; three samples were waiting
    write(tmp_path, KEYS[0], list(range(11)))
    cache = TargetCache(folder)
    cache.check()
    assert cache.sample_ids.tolist() == list(range(11))
    assert not list(folder.glob("*.draft"))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda f: flip(f / "00000.safetensors", -1), "00000.safetensors.*does not match its hash"),
        (lambda f: flip(f / "00000.safetensors", 12), "00000.safetensors.*does not match its hash"),
        (lambda f: os.truncate(f / "00000.safetensors", 100), "00000.safetensors.*cut short"),
        (lambda f: (f / "00000.safetensors").unlink(), "00000.safetensors.*cannot be read"),
        (lambda f: flip(f / "weight.safetensors", -1), "weight.safetensors.*does not match its hash"),
        (lambda f: flip(f / "00000.json", 30), "00000.json.*damaged"),
        (lambda f: (f / "cache.json").write_text("{"), "cache.json.*damaged"),
        (lambda f: (f / "cache.json").unlink(), "holds no cache.json"),
        (lambda f: (f / "00001.safetensors").replace(f / "00000.safetensors"), "00000.safetensors"),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_damaged_file_is_named_and_never_served(harm: Callable[[Path], Any], text: str, tmp_path: Path) -> None:
    folder = write(tmp_path, KEYS[0], list(range(7)))
    harm(folder)
    with pytest.raises(InputError, match=text) as caught:
        TargetCache(folder).targets([0])
    assert "\n" not in str(caught.value)


def test_damage_is_repaired_as_the_message_says(tmp_path: Path) -> None:
    folder = write(tmp_path, KEYS[0], list(range(7)))
    flip(folder / "00000.safetensors", -1)
    with pytest.raises(InputError, match=r"delete it and 00000\.json"):
        TargetCache(folder).check()
    (folder / "00000.safetensors").unlink()
    (folder / "00000.json").unlink()
    write(tmp_path, KEYS[0], list(range(7)))
    TargetCache(folder).check()
    assert TargetCache(folder).sample_ids.tolist() == list(range(7))


def test_a_receipt_of_another_cache_is_refused(tmp_path: Path) -> None:
    one, other = (write(tmp_path, key, [1, 2, 3]) for key in KEYS[:2])
    (one / "00000.json").write_bytes((other / "00000.json").read_bytes())
    with pytest.raises(InputError, match="belongs to cache"):
        TargetCache(one)


def test_wrong_uses_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, KEYS[0], [1, 2, 3])
    cache = TargetCache(folder)
    key = CacheKey(kind="hidden", width=WIDTH, dtype="float16", **COMMON)

    def writing(key: CacheKey, weight: Tensor, hidden: Tensor) -> None:
        with CacheWriter(tmp_path, key, weight) as writer:
            writer.add([4], hidden)

    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: cache.targets([1, 9]), "lacks 1 of 2 samples asked for, such as 9"),
        (lambda: cache.targets([]), "at least one id"),
        (lambda: cache.targets([1], biased=True), "kind 'topk'"),
        (lambda: cache.require(data="other"), "made with data 'd0', the run has 'other'"),
        (lambda: TargetCache(tmp_path), "holds no cache.json"),
        (lambda: writing(KEYS[0], weight_of(), torch.zeros(1, CONTEXT + 1, WIDTH)), "samples, context, width"),
        (lambda: writing(KEYS[0], weight_of()[:9], torch.zeros(1, CONTEXT, WIDTH)), "vocabulary, width"),
        (lambda: writing(KEYS[0], weight_of() + 1, torch.zeros(1, CONTEXT, WIDTH)), "another output weight"),
        (lambda: writing(key, weight_of(), torch.full((1, CONTEXT, WIDTH), 1e6)), "not finite as float16"),
        (lambda: CacheKey(kind="logits", classes=3, **COMMON), "one of hidden, topk, sampled"),
        (lambda: CacheKey(kind="hidden", **COMMON), "width"),
        (lambda: CacheKey(kind="hidden", width=4, tau=2.0, **COMMON), "tau"),
        (lambda: CacheKey(kind="topk", **COMMON), "classes"),
        (lambda: CacheKey(kind="topk", classes=71, **COMMON), "1 … 70"),
        (lambda: CacheKey(kind="topk", classes=3, dtype="int8", **COMMON), "dtype"),
    ]
    for call, text in wrong:
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    cache.require(data="d0", context=CONTEXT, vocab=VOCAB)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        CacheWriter(tmp_path, KEYS[0], weight_of()),
        pytest.raises(InputError, match="in the hands of"),
        CacheWriter(tmp_path, KEYS[0], weight_of()),
    ):
        pass


def test_a_cache_holds_no_pickle_and_no_path(tmp_path: Path) -> None:
    folder = write(tmp_path, KEYS[2], [1, 2, 3])
    for path in folder.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert str(tmp_path).encode() not in path.read_bytes()
    assert json.loads((folder / "cache.json").read_text())["key"]["teacher"] == "t0"
