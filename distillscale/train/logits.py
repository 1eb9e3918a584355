"""What a teacher says about each token, whole or abridged: four kinds of target. Knows no loss, no file, no model.

Shapes: N tokens, V vocabulary, D teacher width, K kept classes. All masses are probabilities at the target's own
temperature tau, all logarithms natural.

`HiddenTargets`      hidden states and output weight: the exact distribution at any temperature, D numbers a token.
`TopKTailTargets`    the K most likely classes; the rest of the vocabulary is one further class. A coarser question
                     than the full distribution's, answered honestly; equal to it at K = V.
`SampledTargets`     K draws with replacement from the teacher's distribution, each of weight 1/K: gradient and
                     cross-entropy are right on average (Anshumann et al. 2025), noisy for small K.
`BiasedTopKTargets`  the K most likely classes renormalised to one (Busbridge et al. 2025, Eq 55). Cheap, common, and
                     biased: it teaches that everything outside the list is impossible.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError

__all__ = [
    "BiasedTopKTargets",
    "Classes",
    "HiddenTargets",
    "SampledTargets",
    "SparseTargets",
    "Targets",
    "TopKTailTargets",
    "sampled_targets",
    "top_k_targets",
]

ELEMENTS = 2**22  # logits held at once while abridging


class Classes(NamedTuple):
    """Teacher masses of some rows: ids_NK, mass_NK, the mass of all other ids together (None: not a class), entropy_N.

    The entropy is that of the distribution the student is compared with, in nats; NaN where it is unknown.
    """

    ids: Tensor
    mass: Tensor
    tail: Tensor | None
    entropy: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HiddenTargets:
    """z = hidden_ND · weight_VDᵀ, the teacher's logits, never stored: exact, for any temperature and divergence."""

    hidden: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        if self.hidden.ndim != 2 or self.weight.ndim != 2 or self.hidden.shape[1] != self.weight.shape[1]:
            raise InputError(
                "a teacher's hidden states (tokens, width) and output weight (vocabulary, width) share their width; "
                f"got {tuple(self.hidden.shape)} and {tuple(self.weight.shape)}; take both from one teacher"
            )

    @property
    def tokens(self) -> int:
        return self.hidden.shape[0]

    @property
    def vocab(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class _TopK:
    """ids_NK, different within a row, with logprobs_NK at temperature `tau` over the whole vocabulary of `vocab`."""

    ids: Tensor
    logprobs: Tensor
    vocab: int
    tau: float = 1.0

    def __post_init__(self) -> None:
        _check_sparse(self.ids, self.logprobs, self.vocab, self.tau)

    @property
    def tokens(self) -> int:
        return self.ids.shape[0]


class TopKTailTargets(_TopK):
    """The K most likely classes and the tail as class K + 1, of mass 1 − Σ exp(logprobs)."""

    __slots__ = ()

    def classes(self, rows: slice | Tensor, dtype: torch.dtype) -> Classes:
        """Masses p_1 … p_K and the tail's."""
        mass = self.logprobs[rows].to(dtype).exp()
        tail = (1 - mass.sum(-1)).clamp_(min=0)
        if self.ids.shape[1] == self.vocab:
            tail.zero_()  # nothing is left over, whatever rounding says
        entropy = torch.special.entr(mass).sum(-1) + torch.special.entr(tail)
        return Classes(self.ids[rows].long(), mass, tail, entropy)


class BiasedTopKTargets(_TopK):
    """The K most likely classes, renormalised: biased towards certainty. For comparison with what others do."""

    __slots__ = ()

    def classes(self, rows: slice | Tensor, dtype: torch.dtype) -> Classes:
        """Masses p_k / Σ p."""
        mass = self.logprobs[rows].to(dtype).softmax(-1)
        return Classes(self.ids[rows].long(), mass, None, torch.special.entr(mass).sum(-1))


@dataclass(frozen=True, slots=True, eq=False)
class SampledTargets:
    """ids_NK drawn with replacement (the same id may come again) and weights_NK with mean weight of an id = its mass.

    `entropy` (N) of the full distribution in nats; without it the divergence to the teacher stays unknown (NaN), the
    loss and its gradient do not need it.
    """

    ids: Tensor
    weights: Tensor
    vocab: int
    tau: float = 1.0
    entropy: Tensor | None = None

    def __post_init__(self) -> None:
        _check_sparse(self.ids, self.weights, self.vocab, self.tau)

    @property
    def tokens(self) -> int:
        return self.ids.shape[0]

    def classes(self, rows: slice | Tensor, dtype: torch.dtype) -> Classes:
        """Weights as masses; E[Σ w·f(id)] = Σ p·f for every f."""
        mass = self.weights[rows].to(dtype)
        entropy = torch.full_like(mass[:, 0], torch.nan) if self.entropy is None else self.entropy[rows].to(dtype)
        return Classes(self.ids[rows].long(), mass, None, entropy)


SparseTargets = TopKTailTargets | BiasedTopKTargets | SampledTargets
Targets = HiddenTargets | SparseTargets


def _check_sparse(ids: Tensor, values: Tensor, vocab: int, tau: float) -> None:
    if ids.ndim != 2 or ids.shape != values.shape or ids.shape[1] < 1:
        raise InputError(
            "sparse targets hold one value for each id, both (tokens, classes) with at least one class; "
            f"got ids {tuple(ids.shape)} and values {tuple(values.shape)}"
        )
    if not tau > 0:
        raise InputError(f"the temperature of targets must be positive; got {tau!r}")
    # uint16 has no comparison in torch; it holds no negative value either
    low, high = (int(x) for x in torch.aminmax(ids.long())) if ids.numel() else (0, 0)
    if low < 0 or high >= vocab:
        raise InputError(f"target ids must lie in 0 … {vocab - 1}, the teacher's vocabulary; got {low} … {high}")


@torch.no_grad()
def top_k_targets(
    teacher: HiddenTargets, k: int, *, tau: float = 1.0, biased: bool = False
) -> TopKTailTargets | BiasedTopKTargets:
    """The `k` most likely classes of each token at temperature `tau`; the tail is kept unless `biased`."""
    if not 1 <= k <= teacher.vocab:
        raise InputError(f"k must lie in 1 … {teacher.vocab}, the teacher's vocabulary; got {k}")
    best = [logprobs.topk(k, dim=-1) for logprobs in _logprobs(teacher, tau)]
    logprobs = _join([chunk.values for chunk in best], k)
    ids = _join([chunk.indices for chunk in best], k, torch.int64)
    kind = BiasedTopKTargets if biased else TopKTailTargets
    return kind(ids, logprobs, teacher.vocab, tau)


@torch.no_grad()
def sampled_targets(
    teacher: HiddenTargets, n: int, *, tau: float = 1.0, generator: torch.Generator | None = None
) -> SampledTargets:
    """`n` draws a token from softmax(z/tau), each of weight 1/n, and the exact entropy of what was drawn from."""
    if n < 1:
        raise InputError(f"at least one draw a token is needed; got {n}")
    ids: list[Tensor] = []
    entropy: list[Tensor] = []
    for logprobs in _logprobs(teacher, tau):
        p = logprobs.exp()
        ids.append(torch.multinomial(p, n, replacement=True, generator=generator))
        entropy.append(-torch.linalg.vecdot(p, logprobs))
    drawn = _join(ids, n, torch.int64)
    weights = torch.full(drawn.shape, 1 / n, device=drawn.device)
    return SampledTargets(drawn, weights, teacher.vocab, tau, torch.cat(entropy) if entropy else None)


def _logprobs(teacher: HiddenTargets, tau: float) -> Iterator[Tensor]:
    """log softmax(z/tau), at most `ELEMENTS` numbers at a time."""
    if not tau > 0:
        raise InputError(f"the temperature of targets must be positive; got {tau!r}")
    dtype = torch.promote_types(teacher.weight.dtype, torch.float32)
    weight = teacher.weight.to(dtype)
    rows = max(1, ELEMENTS // teacher.vocab)
    for start in range(0, teacher.tokens, rows):
        logits = (teacher.hidden[start : start + rows].to(dtype) / tau) @ weight.T
        yield logits.log_softmax(-1)


def _join(chunks: list[Tensor], width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.cat(chunks) if chunks else torch.empty(0, width, dtype=dtype)
