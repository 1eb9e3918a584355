"""What a plan costs in FLOPs and in bytes of stored logits; it knows no loss, and money only as a price per byte.

Eq 9:  FLOPs = 3 F(N_S) D_S + F(N_T) (logits · D_S + 3 · pretraining · D_T), with F the forward FLOPs per token
(training costs three forward passes, Eq 70) and `logits`, `pretraining` the shares of the teacher's cost that
this student has to pay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

__all__ = ["SCENARIOS", "Bill", "LogitStore", "Scenario", "bill", "logit_stores"]

Array = NDArray[np.float64]
TRAINING_PASSES = 3.0  # forward + backward, and backward = 2 forward (Eq 70)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Which share of the teacher this student pays for, each in [0, 1] (Table 2).

    `logits`: teacher forward passes over the student's tokens; `pretraining`: the teacher's training, 1/k when k
    students share it.
    """

    logits: float = 0.0
    pretraining: float = 0.0

    def __post_init__(self) -> None:
        for name in ("logits", "pretraining"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InputError(
                    f"{name} share must be a number in [0, 1], the part of the teacher's cost this student pays; "
                    f"got {share!r}; use 1 for all of it, 1/k when k students share it, 0 for none"
                )

    @classmethod
    def named(cls, name: str, students: int = 1) -> Scenario:
        """`free`, `inference`, `pretraining` or `both`, with the teacher's training shared by `students` students."""
        if name not in SCENARIOS:
            raise InputError(f"teacher scenario must be one of {', '.join(SCENARIOS)}; got {name!r}")
        if isinstance(students, bool) or not 1 <= students < math.inf or students != math.floor(students):
            raise InputError(f"students sharing the teacher must be a whole number of at least 1; got {students!r}")
        shares = SCENARIOS[name]
        return cls(shares.logits, shares.pretraining / students)

    @property
    def name(self) -> str:
        """The paper's name where there is one, else the shares themselves."""
        for name, shares in SCENARIOS.items():
            if shares == self:
                return name
        return f"logits={self.logits:g},pretraining={self.pretraining:g}"


SCENARIOS = {
    "free": Scenario(0, 0),
    "inference": Scenario(1, 0),
    "pretraining": Scenario(0, 1),
    "both": Scenario(1, 1),
}


class Bill(NamedTuple):
    """FLOPs by purpose."""

    student: Array
    """3 F(N_S) D_S, training the student."""
    logits: Array
    """Its share of the teacher's forward passes over the student's tokens."""
    teacher: Array
    """Its share of the teacher's training."""
    total: Array


def bill(
    F_S: ArrayLike, D_S: ArrayLike, F_T: ArrayLike, D_T: ArrayLike, logits: ArrayLike, pretraining: ArrayLike
) -> Bill:
    """Eq 9, term by term; F in FLOPs per token, D in tokens, shares in [0, 1]; broadcasts."""
    F_S, D_S, F_T = np.asarray(F_S, float), np.asarray(D_S, float), np.asarray(F_T, float)
    student = TRAINING_PASSES * F_S * D_S
    forward = F_T * D_S * np.asarray(logits, float)
    training = TRAINING_PASSES * F_T * np.asarray(D_T, float) * np.asarray(pretraining, float)
    return Bill(student, forward, training, student + forward + training)


@dataclass(frozen=True, slots=True)
class LogitStore:
    """One way to keep the teacher's outputs on disk instead of recomputing them."""

    kind: str
    bytes_per_token: float
    total_bytes: float
    usd_per_month: float
    caveat: str


# Object storage, list price of a large cloud's standard tier, USD per GB-month (2026); override it with your own.
STORAGE_USD_PER_GB_MONTH = 0.023
TOP_K = 128
"""Kept classes in the paper's truncation study (App. G.4)."""
SAMPLES = 12
"""Sampled classes that suffice in Anshumann et al. 2025 (arXiv 2503.16870)."""


def logit_stores(
    tokens: float, vocab: int, teacher_width: float, usd_per_gb_month: float = STORAGE_USD_PER_GB_MONTH
) -> list[LogitStore]:
    """Bytes and monthly price of keeping `tokens` teacher outputs, exact forms first.

    Full logits take 4 V bytes a token (App. G.4); hidden states 2 d_T bytes rebuild the same distribution; a kept
    class takes an index (17 bits up to V = 131,072) and a 16-bit value, rounded up to whole bytes.
    """
    index_bits = max(1, math.ceil(math.log2(vocab)))
    per_class = math.ceil((index_bits + 16) / 8)
    kinds = [
        ("full float32 logits", 4.0 * vocab, "exact"),
        ("teacher hidden states, float16", 2.0 * teacher_width, "exact: logits are rebuilt with the output layer"),
        (
            f"top-{TOP_K} logits",
            float(TOP_K * per_class),
            "biased: costs about 0.11 nats with pure distillation, under 0.01 with λ = 0.7 (App. G.4)",
        ),
        (f"{SAMPLES} sampled classes", float(SAMPLES * 3), "unbiased but noisier (arXiv 2503.16870)"),
    ]
    return [
        LogitStore(kind, per_token, per_token * tokens, per_token * tokens / 1e9 * usd_per_gb_month, caveat)
        for kind, per_token, caveat in kinds
    ]
