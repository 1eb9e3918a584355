"""Eq 7 fused with both output projections; knows hidden states and output weights, not models, data or optimisers.

    loss = mean over counted tokens of (1 − λ)·NTP + λ·τ²·KD + λ_z·Z        [nats; Busbridge et al. 2025, Eq 7]

The logits of a few tokens exist at a time (`chunk` of them, times the vocabulary), the gradient is computed with the
value, and the backward pass only scales it: no logits are kept, none are computed twice. Values are summed in float64;
softmaxes are taken in float32 at least. Every kind of target goes through this one implementation (`softrows` has the
formulas, `logits` the kinds). A label of −100 is not counted; where none is counted the loss is 0 with zero gradients,
so that such a batch changes nothing in a sum over batches or processes.

Shapes: N tokens, V vocabulary, D width (the teacher may have another), R rows of a chunk.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import InputError
from .logits import Classes, HiddenTargets, Targets
from .softrows import Divergence, Terms, Values, loss_rows

__all__ = [
    "IGNORED",
    "LossParts",
    "distillation_loss",
    "distillation_loss_parts",
    "evaluate_loss",
    "next_token_loss",
    "target_loss",
]

IGNORED = -100
_CHUNK_ELEMENTS = {"cpu": 2**22}  # logits at once: 16 MiB of float32 for each model, half of a usual last-level cache
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
_BLOCK_ELEMENTS = {"cpu": 2**19}  # logits treated at once between the products: they stay in a near cache
_BLOCK_ELEMENTS_ELSEWHERE = 2**25
_COLUMNS = 1024  # outputs a product makes at once on a CPU; a wider weight is packed worse


@dataclass(frozen=True, slots=True, eq=False)
class LossParts:
    """What the loss was made of, mean over the counted tokens; reading one waits for the device, not reading does not.

    `kd` is the divergence itself at the loss's temperature, without τ²: KL(teacher ‖ student) for "forward", where the
    loss holds the cross-entropy `kd + teacher_entropy` of Eq 6. Without a teacher both are 0; NaN where a sparse target
    does not know its entropy. With no token counted everything is 0.
    """

    sums: Tensor
    """Sums over tokens of NTP, KD as in the loss, teacher entropy and Z: float64 (4,)."""
    tokens: int
    divergence: Divergence

    def _mean(self, index: int) -> float:
        return float(self.sums[index]) / max(self.tokens, 1)

    @property
    def ntp(self) -> float:
        """Cross-entropy on the data, nats a token, whatever λ is."""
        return self._mean(0)

    @property
    def kd(self) -> float:
        """Divergence from the teacher, nats a token."""
        return self._mean(1) - (self._mean(2) if self.divergence == "forward" else 0.0)

    @property
    def teacher_entropy(self) -> float:
        """Of the teacher at temperature τ (of its classes, for a sparse target), nats a token."""
        return self._mean(2)

    @property
    def z(self) -> float:
        """(log Σ exp z)², before λ_z."""
        return self._mean(3)


def distillation_loss(
    hidden_S: Tensor,
    weight_S: Tensor,
    hidden_T: Tensor,
    weight_T: Tensor,
    labels: Tensor,
    *,
    lam: float = 1.0,
    tau: float = 1.0,
    z_weight: float = 0.0,
    divergence: Divergence = "forward",
    chunk: int | None = None,
) -> Tensor:
    """Eq 7 for a teacher at hand: hidden (tokens, width), weight (vocabulary, width), labels (tokens,) int64; nats.

    Logits are hidden · weightᵀ. The gradient goes to `hidden_S` and `weight_S`. `chunk` bounds the tokens whose logits
    exist at once (None: chosen for the device). With lam = 0 the teacher is not looked at.
    """
    targets = HiddenTargets(hidden_T, weight_T)
    terms = Terms(lam=lam, tau=tau, z_weight=z_weight, divergence=divergence)
    _check(hidden_S, weight_S, targets, labels, terms, chunk)
    return _loss(hidden_S, weight_S, targets if lam > 0 else None, labels, terms, chunk)[0]


def distillation_loss_parts(
    hidden_S: Tensor,
    weight_S: Tensor,
    hidden_T: Tensor,
    weight_T: Tensor,
    labels: Tensor,
    *,
    lam: float = 1.0,
    tau: float = 1.0,
    z_weight: float = 0.0,
    divergence: Divergence = "forward",
    chunk: int | None = None,
) -> tuple[Tensor, LossParts]:
    """`distillation_loss` and what it was made of; the divergence is known for lam = 0 too."""
    return target_loss(
        hidden_S,
        weight_S,
        HiddenTargets(hidden_T, weight_T),
        labels,
        lam=lam,
        tau=tau,
        z_weight=z_weight,
        divergence=divergence,
        chunk=chunk,
    )


def target_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Targets | None,
    labels: Tensor,
    *,
    lam: float = 1.0,
    tau: float = 1.0,
    z_weight: float = 0.0,
    divergence: Divergence = "forward",
    chunk: int | None = None,
) -> tuple[Tensor, LossParts]:
    """Eq 7 for any kind of target, or for none (lam = 0), and what it was made of."""
    terms = Terms(lam=lam, tau=tau, z_weight=z_weight, divergence=divergence)
    _check(hidden, weight, targets, labels, terms, chunk)
    return _loss(hidden, weight, targets, labels, terms, chunk)


def next_token_loss(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, z_weight: float = 0.0, chunk: int | None = None
) -> Tensor:
    """NTP + λ_z·Z, mean over counted tokens, nats: Eq 7 with λ = 0."""
    return target_loss(hidden, weight, None, labels, lam=0.0, z_weight=z_weight, chunk=chunk)[0]


def evaluate_loss(hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk: int | None = None) -> tuple[float, int]:
    """Sum of NTP over the counted tokens in nats, added up in float64, and how many tokens that is."""
    with torch.no_grad():
        parts = target_loss(hidden, weight, None, labels, lam=0.0, chunk=chunk)[1]
    return float(parts.sums[0]), parts.tokens


def _check(
    hidden: Tensor, weight: Tensor, targets: Targets | None, labels: Tensor, terms: Terms, chunk: int | None
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise InputError(
            "hidden states (tokens, width) and output weight (vocabulary, width) share their width; "
            f"got {tuple(hidden.shape)} and {tuple(weight.shape)}; flatten batch and time first"
        )
    tokens, vocab = hidden.shape[0], weight.shape[0]
    if labels.shape != (tokens,) or labels.dtype != torch.int64:
        raise InputError(
            f"labels hold one int64 for each of the {tokens} tokens; got {tuple(labels.shape)} of {labels.dtype}"
        )
    if chunk is not None and chunk < 1:
        raise InputError(f"chunk, the tokens treated at once, must be at least 1; got {chunk}")
    if targets is None:
        if terms.lam:
            raise InputError(f"λ = {terms.lam:g} asks for a teacher and there is none; give targets, or lam=0")
        return
    if targets.vocab != vocab:
        raise InputError(
            f"teacher and student need one vocabulary; got {targets.vocab} and {vocab} classes; "
            "align padded ones, or take a teacher with the student's tokenizer"
        )
    if targets.tokens != tokens:
        raise InputError(f"targets must cover the student's {tokens} tokens; got {targets.tokens}")
    if not isinstance(targets, HiddenTargets):
        if targets.tau != terms.tau:
            raise InputError(
                f"sparse targets fit the temperature they were made at, {targets.tau:g}; got tau={terms.tau:g}; "
                "make them anew, or keep hidden states, which fit any"
            )
        if terms.divergence != "forward":
            raise InputError(
                f"divergence {terms.divergence!r} needs the teacher's whole distribution; got an abridged one; "
                "use 'forward', or keep hidden states"
            )


def _loss(
    hidden: Tensor, weight: Tensor, targets: Targets | None, labels: Tensor, terms: Terms, chunk: int | None
) -> tuple[Tensor, LossParts]:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # the products run in the precision that the caller chose for products
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        if isinstance(targets, HiddenTargets):
            targets = HiddenTargets(targets.hidden.to(dtype), targets.weight.to(dtype))
    rows = _counted(labels, weight.shape[0])
    tokens = len(labels) if rows is None else len(rows)
    job = _Job(targets, labels, rows, tokens, terms, chunk or default_chunk(weight.shape[0], device))
    with torch.autocast(device, enabled=False):
        loss, sums = cast(tuple[Tensor, Tensor], _Fused.apply(hidden, weight, job, torch.is_grad_enabled()))
    return loss, LossParts(sums, tokens, terms.divergence)


def default_chunk(vocab: int, device: str = "cpu") -> int:
    """Tokens whose logits exist at once: 128 at a vocabulary of 32,768 on a CPU; at least 32, or products get slow."""
    return max(32, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS_ELSEWHERE) // vocab)


def _counted(labels: Tensor, vocab: int) -> Tensor | None:
    """Indices of the counted tokens; None where all are."""
    counts = labels != IGNORED
    wrong = counts & ((labels < 0) | (labels >= vocab))
    if bool(wrong.any()):
        raise InputError(
            f"labels must lie in 0 … {vocab - 1} or be {IGNORED} (not counted); got {int(labels[wrong][0])}"
        )
    return None if bool(counts.all()) else counts.nonzero()[:, 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """All that a pass needs beside the two differentiable inputs."""

    targets: Targets | None
    labels: Tensor
    rows: Tensor | None
    """Indices of counted tokens; None: all."""
    tokens: int
    terms: Terms
    chunk: int


class _Gradients(NamedTuple):
    hidden: Tensor | None
    weight: Tensor | None


class _Fused(torch.autograd.Function):
    """(hidden, weight) → (mean loss, float64 sums of its parts); the gradients wait in `ctx`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, job: _Job, enabled: bool) -> tuple[Tensor, Tensor]:
        wanted = tuple(enabled and needed for needed in ctx.needs_input_grad[:2])
        sums, gradients = _run(hidden, weight, job, wanted)
        ctx.save_for_backward(hidden, weight)
        ctx.job, ctx.gradients = job, gradients
        ctx.mark_non_differentiable(sums)
        terms = job.terms
        total = (1 - terms.lam) * sums[0] + terms.z_weight * sums[3]
        if job.targets is not None and terms.lam:
            total = total + terms.kd_factor * sums[1]
        return (total / max(job.tokens, 1)).to(_wide(hidden, weight)), sums

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, above: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors  # complains where the graph was freed or an input has changed since
        gradients, ctx.gradients = ctx.gradients, None  # given away: nobody else holds them, so no copy is made
        if gradients is None:  # a second pass through a graph that was kept
            gradients = _run(hidden, weight, ctx.job, ctx.needs_input_grad[:2])[1]
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(above)
        return gradients.hidden, gradients.weight, None, None


def _run(hidden: Tensor, weight: Tensor, job: _Job, wanted: tuple[bool, ...]) -> tuple[Tensor, _Gradients]:
    """Sums over tokens of the four parts, and the mean loss's gradients that are `wanted`."""
    work = _Work(hidden, weight, job, wanted)
    for start in range(0, job.tokens, job.chunk):
        stop = min(start + job.chunk, job.tokens)
        work.chunk(slice(start, stop) if job.rows is None else job.rows[start:stop], stop - start)
    return work.finish()


class _Work:
    """The buffers of one pass: logits of a chunk for each model, gradients, sums."""

    def __init__(self, hidden: Tensor, weight: Tensor, job: _Job, wanted: tuple[bool, ...]) -> None:
        self.hidden, self.job = hidden, job
        self.dtype, self.device = _wide(hidden, weight), hidden.device
        self.kinds = hidden.dtype, weight.dtype
        self.product = torch.bfloat16 if self.kinds == (torch.bfloat16,) * 2 else self.dtype
        self.weight = weight.to(self.product)
        vocab, width = weight.shape
        rows = min(job.chunk, max(job.tokens, 1))
        elements = _BLOCK_ELEMENTS.get(self.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
        self.block = min(rows, max(1, elements // vocab))
        self.logits = self._empty(rows, vocab)
        teacher = job.targets if isinstance(job.targets, HiddenTargets) else None
        self.teacher = None if teacher is None else (teacher, teacher.weight.to(self._teacher_product(teacher)))
        self.teacher_logits = self.logits if teacher is None else self._empty(rows, vocab)
        self.scratch = self._empty(self.block if teacher is not None else 1, vocab)
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.grad_hidden = self._empty(*hidden.shape).zero_() if wanted[0] else None
        self.grad_weight = self._empty(vocab, width).zero_() if wanted[1] else None

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _teacher_product(self, teacher: HiddenTargets) -> torch.dtype:
        return torch.bfloat16 if teacher.weight.dtype == torch.bfloat16 == teacher.hidden.dtype else self.dtype

    def chunk(self, rows: slice | Tensor, count: int) -> None:
        """Add what these tokens contribute."""
        hidden = self.hidden[rows].to(self.product)
        logits = self.logits[:count]
        _project(hidden, self.weight, logits)
        gradient = self.grad_hidden is not None or self.grad_weight is not None
        teacher = self._teacher_side(rows, count)
        labels = self.job.labels[rows]
        for at in range(0, count, self.block):
            part = slice(at, min(at + self.block, count))
            side = teacher[part] if isinstance(teacher, Tensor) else _part(teacher, part)
            z = logits[part]
            self._add(loss_rows(z, side, labels[part], self.job.terms, self.scratch[: len(z)], gradient=gradient))
        scale = 1 / self.job.tokens
        if self.grad_hidden is not None:
            self._pull_hidden(rows, logits, scale)
        if self.grad_weight is not None:
            if self.product == self.dtype:
                self.grad_weight.addmm_(logits.T, hidden, alpha=scale)
            else:
                self.grad_weight.add_(logits.to(self.product).T @ hidden, alpha=scale)

    def _teacher_side(self, rows: slice | Tensor, count: int) -> Tensor | Classes | None:
        if self.teacher is not None:
            targets, weight = self.teacher
            logits = self.teacher_logits[:count]
            hidden = targets.hidden[rows].to(self.dtype) / self.job.terms.tau
            _project(hidden.to(weight.dtype), weight, logits)
            return logits
        targets = self.job.targets
        return None if targets is None or isinstance(targets, HiddenTargets) else targets.classes(rows, self.dtype)

    def _add(self, values: Values) -> None:
        self.sums += torch.stack(values).sum(-1, dtype=torch.float64)

    def _pull_hidden(self, rows: slice | Tensor, gradient: Tensor, scale: float) -> None:
        assert self.grad_hidden is not None
        if isinstance(rows, slice) and self.product == self.dtype:
            out = self.grad_hidden[rows]
            torch.addmm(out, gradient, self.weight, beta=0, alpha=scale, out=out)
        else:
            self.grad_hidden[rows] = (gradient.to(self.product) @ self.weight).to(self.dtype) * scale

    def finish(self) -> tuple[Tensor, _Gradients]:
        """The sums, and the gradients as their inputs' types."""
        hidden, weight = (
            None if gradient is None else gradient.to(kind)
            for gradient, kind in zip((self.grad_hidden, self.grad_weight), self.kinds, strict=True)
        )
        return self.sums, _Gradients(hidden, weight)


def _part(classes: Classes | None, rows: slice) -> Classes | None:
    if classes is None:
        return None
    ids, mass, tail, entropy = classes
    return Classes(ids[rows], mass[rows], None if tail is None else tail[rows], entropy[rows])


def _wide(*tensors: Tensor) -> torch.dtype:
    """Precision of softmax, sums and loss: float32, or float64 where an input has it."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _project(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = hidden · weightᵀ, all (rows, vocabulary)."""
    step = _COLUMNS if hidden.device.type == "cpu" else weight.shape[0]
    for start in range(0, weight.shape[0], step):
        part = weight[start : start + step].T
        if hidden.dtype == out.dtype:
            torch.mm(hidden, part, out=out[:, start : start + step])
        else:
            out[:, start : start + step] = hidden @ part
