"""What one training run is, as a value with an id; nothing here reads a file, trains, or knows what came out.

A spec holds everything that decides the numbers and nothing about where files lie, so the same content has the same
id on every machine. Counts are tokens or parameters, learning rates are AdamW's at the base width, losses are nats per
token. The defaults of the optimiser are the paper's (Busbridge et al. 2025, §4.1, App. I).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, cast

from .arch import ASPECT, Arch
from .cost import TRAINING_PASSES
from .errors import InputError

__all__ = ["BATCH_FIELDS", "RULES", "Rule", "RunSpec", "default", "nearest"]

Half = Literal["teacher", "student", "all"]
_WARMUP_STEPS: Final = 2000
"""The paper's linear warm-up; shorter runs warm up over a tenth of theirs."""


class Rule(NamedTuple):
    """What one field may hold: a `kind`, its ends, or its choices."""

    kind: str
    low: float = 0.0
    high: float = math.inf
    choices: tuple[str, ...] = ()
    table: str = "run"
    """The table of a spec file that the field is written in."""

    def needs(self) -> str:
        """The rule in words."""
        if self.kind == "choice":
            return f"must be one of {', '.join(self.choices)}"
        if self.kind in ("flag", "text"):
            return {"flag": "must be true or false", "text": "must be a text that is not empty"}[self.kind]
        ends = f"from {self.low:g} to {self.high:g}" if self.high < math.inf else f"of at least {self.low:g}"
        noun = {"whole": "a whole number", "number": "a number", "counts": "a list of whole numbers, each"}
        return f"must be {noun[self.kind]} {ends}"


_DIM = Rule("whole", 1, 1e6)
_TOKENS = Rule("whole", 1, 1e18)
_DISTILL = "distill"
RULES: Final[Mapping[str, Rule]] = {
    "tokens": _TOKENS,
    "batch_tokens": Rule("whole", 1, 1e12),
    "context": Rule("whole", 1, 1e7),
    "params": Rule("whole", 1, 1e15),
    "aspect": _DIM,
    "layers": _DIM,
    "d_model": _DIM,
    "d_ff": Rule("whole", 1, 1e7),
    "heads": _DIM,
    "kv_heads": _DIM,
    "d_head": _DIM,
    "vocab": Rule("whole", 2, 1e8),
    "tied": Rule("flag"),
    "qk_norm": Rule("choice", choices=("head", "none")),
    "parametrisation": Rule("choice", choices=("mup", "standard")),
    "base_width": _DIM,
    "rope_base": Rule("number", 1.0, 1e12),
    "data_hash": Rule("text"),
    "half": Rule("choice", choices=("teacher", "student", "all")),
    "unique_tokens": _TOKENS,
    "lr": Rule("number", 1e-9, 100.0),
    "schedule": Rule("choice", choices=("cosine", "wsd", "constant")),
    "warmup_tokens": Rule("whole", 0, 1e18),
    "decay_fraction": Rule("number", 0.0, 1.0),
    "final_lr_ratio": Rule("number", 0.0, 1.0),
    "weight_decay": Rule("number", 0.0, 1.0),
    "beta1": Rule("number", 0.0, 0.999999),
    "beta2": Rule("number", 0.0, 0.99999999),
    "eps": Rule("number", 1e-30, 1.0),
    "clip": Rule("number", 1e-6, 1e9),
    "z_weight": Rule("number", 0.0, 1e3),
    "micro_batch_tokens": Rule("whole", 1, 1e12),
    "branch_tokens": Rule("counts", 1, 1e18),
    "seed": Rule("whole", 0, 2**63 - 1),
    "precision": Rule("choice", choices=("auto", "fp32", "bf16")),
    "compile": Rule("flag"),
    "eval_tokens": _TOKENS,
    "start": Rule("text"),
    "teacher": Rule("text", table=_DISTILL),
    "lam": Rule("number", 0.0, 1.0, table=_DISTILL),
    "tau": Rule("number", 1e-3, 1e3, table=_DISTILL),
    "divergence": Rule("choice", choices=("forward", "reverse", "jsd"), table=_DISTILL),
    "targets": Rule("choice", choices=("online", "hidden", "topk", "sampled", "biased-topk"), table=_DISTILL),
    "classes": Rule("whole", 1, 1e8, table=_DISTILL),
}
"""Every field of `RunSpec`; the readers of spec files go by it too."""


BATCH_FIELDS: Final = (
    "context", "batch_tokens", "micro_batch_tokens", "seed", "unique_tokens", "data_half", "teacher", "targets",
)  # fmt: skip
"""What decides a run's batches and how its teacher sees them: runs that share a teacher's pass agree in all of it."""


def nearest(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """`did you mean 'tokens'?`, or the list of what there is."""
    near = get_close_matches(name, list(known), 1, 0.55)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What one run trains, on how much of which data, and how."""

    tokens: int
    """D; the run makes round(tokens / batch_tokens) steps."""
    batch_tokens: int
    context: int
    params: int | None = None
    """N of the nearest member of the family of fixed `aspect`; or give `layers` and `d_model`."""
    aspect: int = ASPECT
    layers: int | None = None
    d_model: int | None = None
    d_ff: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    d_head: int | None = None
    vocab: int | None = None
    """None takes the data's."""
    tied: bool = True
    qk_norm: str = "head"
    parametrisation: str = "mup"
    base_width: int = 128
    """Width at which `lr` is what every matrix gets (µP)."""
    rope_base: float = 500_000.0
    data_hash: str | None = None
    """Where given, the run refuses data whose hash does not begin with it."""
    half: str | None = None
    """Which half of the data; None is `student` for a distilled run and `teacher` for a supervised one."""
    unique_tokens: int | None = None
    """Repeat the first so many tokens of the half; None draws from all of it."""
    lr: float = 0.01
    schedule: str = "cosine"
    warmup_tokens: int | None = None
    """None is a tenth of the run, at most 2,000 steps."""
    decay_fraction: float = 0.2
    """Share of the steps in which `wsd` decays."""
    final_lr_ratio: float = 1e-3
    """Last learning rate over the peak."""
    weight_decay: float = 1e-4
    """Decoupled from the learning rate."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global norm of the gradient."""
    z_weight: float = 1e-4
    """λ_z of Eq 7."""
    micro_batch_tokens: int | None = None
    """Tokens of one forward pass; None is the whole batch."""
    branch_tokens: tuple[int, ...] = ()
    """Points of a trunk at which its checkpoint is kept for decays."""
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    eval_tokens: int = 131_072
    """Most held-out tokens that the loss is measured on."""
    start: str | None = None
    """Weights to start from, instead of random ones."""
    teacher: str | None = None
    """The teacher's name: a run's id, or a path as it was written. None trains on text alone."""
    lam: float = 1.0
    tau: float = 1.0
    divergence: str = "forward"
    targets: str = "online"
    """From the teacher at hand, or of which kind of cache."""
    classes: int | None = None
    """Kept classes of `topk` and `biased-topk`, draws of `sampled`."""

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), rule, name in _OPTIONAL))
        self._check_shape()
        self._check_tokens()
        self._check_distillation()

    def _check_distillation(self) -> None:
        if self.teacher is None:
            for name in ("lam", "tau", "divergence", "targets", "classes"):
                if getattr(self, name) != _DEFAULTS[name]:
                    raise InputError(f"{name} needs a teacher; got {getattr(self, name)!r}; name one, or leave it out")
        if (self.classes is None) != (self.targets in ("online", "hidden")):
            said = "needs classes, the number kept of each token" if self.classes is None else "takes no classes"
            raise InputError(f"targets {self.targets!r} {said}; got {self.classes}; correct the two together")

    def _check_shape(self) -> None:
        by_hand = [n for n in ("layers", "d_model", "d_ff", "heads", "kv_heads", "d_head") if getattr(self, n)]
        if self.params is not None and by_hand:
            raise InputError(f"give params or a shape by hand, not both; got params and {', '.join(by_hand)}")
        if self.params is None and self.aspect != ASPECT:
            raise InputError(f"aspect belongs to params; got aspect {self.aspect} without them; give params too")
        if self.params is None and (self.layers is None or self.d_model is None):
            missing = "a size" if not by_hand else "layers" if self.layers is None else "d_model"
            raise InputError(f"the model lacks {missing}; give params, or layers and d_model")
        arch = self._shape(2)
        if self.params is not None and abs(math.log(arch.params / self.params)) > math.log(2):
            raise InputError(
                f"params {self.params} has no member of the family with aspect {self.aspect} within a factor of "
                f"two (nearest: {arch.params}); give layers and d_model, or another aspect"
            )
        if arch.d_head % 2:
            raise InputError(f"d_head must be even for rotary positions; got {arch.d_head}; choose other heads")

    def _check_tokens(self) -> None:
        for name in ("batch_tokens", "micro_batch_tokens"):
            size = getattr(self, name)
            if size is not None and size % self.context:
                near = max(1, round(size / self.context)) * self.context
                raise InputError(
                    f"{name} must be a multiple of context ({self.context}); got {size}; {near} is the nearest"
                )
        if self.micro_batch_tokens is not None and self.batch_tokens % self.micro_batch_tokens:
            raise InputError(
                f"batch_tokens must be a multiple of micro_batch_tokens; got {self.batch_tokens} and "
                f"{self.micro_batch_tokens}; choose a divisor"
            )
        if 2 * self.tokens < self.batch_tokens:
            raise InputError(f"tokens must fill a batch of {self.batch_tokens}; got {self.tokens}; give more")
        if self.unique_tokens is not None and self.unique_tokens < self.context:
            raise InputError(
                f"unique_tokens must hold one sequence of {self.context}; got {self.unique_tokens}; give more"
            )
        if self.warmup_steps > self.steps:
            raise InputError(
                f"warmup_tokens must be at most tokens ({self.tokens}); got {self.warmup_tokens}; give fewer"
            )
        for point in self.branch_tokens:
            if not 1 <= round(point / self.batch_tokens) <= self.steps:
                raise InputError(f"branch_tokens must lie within the run's {self.tokens} tokens; got {point}")

    @property
    def kind(self) -> str:
        """`distillation` with a teacher, else `supervised`."""
        return "supervised" if self.teacher is None else "distillation"

    @property
    def data_half(self) -> Half:
        """The half of the data that the run draws from."""
        return cast("Half", self.half) if self.half else "teacher" if self.teacher is None else "student"

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.tokens / self.batch_tokens))

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises linearly."""
        if self.warmup_tokens is not None:
            return round(self.warmup_tokens / self.batch_tokens)
        return min(_WARMUP_STEPS, self.steps // 10)

    @property
    def branch_steps(self) -> tuple[int, ...]:
        """The declared branch points in steps."""
        return tuple(sorted({round(point / self.batch_tokens) for point in self.branch_tokens}))

    @property
    def sequences(self) -> int:
        """Sequences in a batch."""
        return self.batch_tokens // self.context

    @property
    def micro_sequences(self) -> int:
        """Sequences in one forward pass."""
        return (self.micro_batch_tokens or self.batch_tokens) // self.context

    def arch(self, vocab: int) -> Arch:
        """The exact shape; by hand, heads are of 32 (64 from width 512) and d_ff = 8/3 d_model rounded up to 16.

        From width 1,024 the rounding is to 128, as in the paper's family.
        """
        if self.vocab is not None and vocab != self.vocab:
            raise InputError(
                f"vocab of the spec is {self.vocab}, the data's is {vocab}; drop vocab or prepare the data with it"
            )
        return self._shape(vocab)

    def _shape(self, vocab: int) -> Arch:
        if self.params is not None:
            arch = Arch.nearest(self.params, vocab=vocab, context=self.context, aspect=self.aspect)
            return replace(arch, tied=self.tied, qk_norm=self.qk_norm)  # pyright: ignore[reportArgumentType]
        d = self.d_model or 0
        if self.d_head is None and self.heads is not None and d % self.heads:
            raise InputError(f"heads must divide d_model; got {self.heads} and {d}; change one, or give d_head")
        d_head = self.d_head or (d // self.heads if self.heads else math.gcd(64 if d >= 512 else 32, d))
        heads = self.heads or max(1, d // d_head)
        multiple = 128 if d >= 1024 else 16
        return Arch(
            layers=self.layers or 0,
            d_model=d,
            d_ff=self.d_ff or -(-8 * d // (3 * multiple)) * multiple,
            heads=heads,
            kv_heads=self.kv_heads or heads,
            d_head=d_head,
            vocab=vocab,
            context=self.context,
            tied=self.tied,
            qk_norm=self.qk_norm,  # pyright: ignore[reportArgumentType]
        )

    def flops(self, vocab: int) -> float:
        """3 F D, FLOPs that training this model costs, without its teacher (Eq 70)."""
        return TRAINING_PASSES * self.arch(vocab).forward_flops_per_token * self.steps * self.batch_tokens

    def content(self) -> dict[str, Any]:
        """Fields that differ from their defaults, as plain JSON values."""
        values: dict[str, Any] = {name: getattr(self, name) for name in RULES}
        changed = {name: value for name, value in values.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
        return changed | ({"branch_tokens": list(self.branch_tokens)} if self.branch_tokens else {})

    @property
    def id(self) -> str:
        """12 hex digits of the content; a new field with a default keeps old ids."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=6).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The spec as its file writes it: a `run` table and, with a teacher, a `distill` table."""
        tables: dict[str, Any] = {"run": {}}
        for name, value in self.content().items():
            tables.setdefault(RULES[name].table, {})[name] = value
        return tables


_DEFAULTS: Final = {f.name: f.default for f in fields(RunSpec) if f.name not in ("tokens", "batch_tokens", "context")}
_OPTIONAL: Final = frozenset(name for name, value in _DEFAULTS.items() if value is None)


def default(name: str) -> Any:
    """What a field is where nothing is said."""
    return _DEFAULTS[name]


def _checked(name: str, value: Any, rule: Rule, optional: bool) -> Any:
    """The value in its canonical type, or one line that says what it must be."""
    if value is None and optional:
        return None
    refused = InputError(f"{name} {rule.needs()}; got {value!r}; correct it")
    if rule.kind == "flag":
        if not isinstance(value, bool):
            raise refused
        return value
    if rule.kind in ("text", "choice"):
        if not isinstance(value, str) or not value.strip() or (rule.choices and value not in rule.choices):
            raise refused
        return value
    if rule.kind == "counts":
        if not isinstance(value, list | tuple):
            raise refused
        items = cast("list[Any]", value)
        return tuple(_checked(name, item, Rule("whole", rule.low, rule.high), False) for item in items)
    if isinstance(value, bool) or not isinstance(value, int | float) or not rule.low <= value <= rule.high:
        raise refused
    if rule.kind == "number":
        return float(value)
    if value != math.floor(value):
        raise refused
    return int(value)
