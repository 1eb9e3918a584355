"""The paper's experimental protocols as generators of run specs; files, folders and what came out are not known here.

A protocol crosses sizes with lengths, seeds and whatever other fields are lists, and students with teachers besides
(Busbridge et al. 2025, §4.1, App. E):

    supervised           sizes × lengths                                        fits Eq 1
    isoflop-students     teachers of fixed length × students on FLOP budgets    Fig 2
    isoflop-teachers     teachers on FLOP budgets × students of fixed length    Fig 3
    fixed-ratio          teachers of fixed length × students of several ratios  Fig 4, the U-shape

A length is tokens D, a ratio M = D/N, or a budget of training FLOPs C = 3 F(N) D, solved for D by the exact shape.
Every D is rounded to whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from .cost import TRAINING_PASSES
from .errors import InputError
from .spec import RunSpec
from .units import format_count, format_flops

__all__ = ["KINDS", "Lengths", "Made", "Protocol", "Size", "made_by"]

KINDS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = MappingProxyType(
    {
        "supervised": (("tokens", "ratios", "budgets"), ()),
        "isoflop-students": (("budgets",), ("teacher_tokens", "teacher_ratios")),
        "isoflop-teachers": (("tokens", "ratios"), ("teacher_budgets",)),
        "fixed-ratio": (("tokens", "ratios"), ("teacher_tokens", "teacher_ratios")),
    }
)
"""Of each protocol, how the lengths of its runs may be given, and those of its teachers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A shape by the name it has in the study: RunSpec's fields of it."""

    name: str
    shape: Mapping[str, Any]


class Lengths(NamedTuple):
    """How long runs are: `tokens`, `ratios` of tokens to parameters, or `budgets` of FLOPs."""

    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One grid; `fields` are RunSpec's, a list of values each, and apply to the runs, not to their teachers."""

    kind: str
    sizes: tuple[Size, ...]
    lengths: Lengths
    seeds: tuple[int, ...]
    teachers: tuple[Size, ...] = ()
    teacher_lengths: Lengths | None = None
    teacher_seeds: tuple[int, ...] = ()
    teacher_folders: tuple[str, ...] = ()
    """Models from outside the study, each by the path it was given by."""
    fields: Mapping[str, tuple[Any, ...]]


class Made(NamedTuple):
    """A run, and its teacher where that is a run of the study too."""

    spec: RunSpec
    teacher: RunSpec | None


def made_by(protocol: Protocol, run: Mapping[str, Any], distill: Mapping[str, Any], vocab: int) -> Iterator[Made]:
    """The protocol's runs with their teachers, the fields of `run` (and of `distill` in students) shared by all."""
    teachers: list[tuple[str | None, RunSpec | None]] = [(folder, None) for folder in protocol.teacher_folders]
    if protocol.teacher_lengths is not None:
        for size, seed in product(protocol.teachers, protocol.teacher_seeds):
            for spec in _of_size(size, protocol.teacher_lengths, {**run, "seed": seed}, vocab):
                teachers.append((spec.id, spec))
    if protocol.kind == "supervised":
        teachers = [(None, None)]
    names = sorted(protocol.fields)
    for values in product(*(protocol.fields[name] for name in names)):
        fields = dict(zip(names, values, strict=True))
        for size, seed, (teacher, taught_by) in product(protocol.sizes, protocol.seeds, teachers):
            given = {**run, **({} if teacher is None else distill), **fields, "seed": seed, "teacher": teacher}
            for spec in _of_size(size, protocol.lengths, given, vocab):
                yield Made(spec, taught_by)


def _of_size(size: Size, lengths: Lengths, fields: Mapping[str, Any], vocab: int) -> Iterator[RunSpec]:
    """The size's runs, one a length."""
    given: dict[str, Any] = {**fields, **size.shape, "vocab": vocab}
    if given.get("half") == ("student" if given.get("teacher") else "teacher"):
        del given["half"]  # what it is by default: the same run has one id
    try:
        batch = int(given["batch_tokens"])
        # The shape is known before the length is; a warm-up may well be longer than the one batch that stands for it.
        probe: dict[str, Any] = given | {"warmup_tokens": None, "tokens": batch}
        arch = RunSpec(**probe).arch(vocab)
        per_unit = {"tokens": 1.0, "ratios": float(arch.params)}
        per_unit["budgets"] = 1.0 / (TRAINING_PASSES * arch.forward_flops_per_token)
        for value in lengths.values:
            tokens = value * per_unit[lengths.unit]
            if 2 * tokens < batch:
                shown = format_flops(value) if lengths.unit == "budgets" else format_count(value)
                raise InputError(
                    f"{lengths.unit} {shown} leaves {tokens:.0f} tokens, under half a batch of {batch}; give more, or "
                    "smaller batches"
                )
            yield RunSpec(**given, tokens=max(1, round(tokens / batch)) * batch)
    except InputError as error:
        raise InputError(f"size {size.name!r}: {error}") from None
