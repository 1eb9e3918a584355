"""Teachers one already owns, ranked for a student; it trusts their measured losses and trains nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from .allocate import LARGEST, Limits
from .arch import CONTEXT, VOCAB, Arch, forward_flops, params_from_total
from .confidence import TOSS_UP, confidence_of, interval_of, range_warnings, standing_warnings
from .cost import TRAINING_PASSES, Scenario, bill
from .errors import InfeasibleError, InputError
from .hardware import Compute, compute
from .hfconfig import read_hf_config
from .lawset import LawSet
from .problem import Student, as_evidence, as_student, worth
from .reasons import hard_label_advice
from .units import parse_count

__all__ = ["OwnedTeacher", "RankedTeacher", "rank_teachers", "read_teachers", "teachers_from"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnedTeacher:
    """A teacher with its loss measured on the student's data, in nats per token of the student's tokenizer."""

    name: str
    params: float
    loss: float
    flops_per_token: float | None = None
    """Forward FLOPs per token where its exact shape is known, else F(params)."""
    tokens: float | None = None
    usd_per_million_tokens: float | None = None
    """Price of its outputs where they are bought; its forward passes are then not counted in FLOPs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedTeacher:
    """What one teacher would do for the student; losses in nats per token."""

    name: str
    params: float
    loss: float
    student_loss: float
    student_interval: tuple[float, float] | None
    tokens: float
    gain_nats: float
    """Against supervised training on the same student tokens."""
    gain_at_equal_flops: float
    """Against supervised training with the same total FLOPs."""
    interval_at_equal_flops: tuple[float, float] | None
    probability_at_equal_flops: float | None
    """P(gain_at_equal_flops > 0), None where the law comes without evidence."""
    regime: str
    flops: float
    usd: float | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values under the documented keys."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("student_interval", "interval_at_equal_flops", "warnings"):
            values[name] = None if values[name] is None else list(values[name])
        return values


def rank_teachers(
    law: LawSet | str,
    student: float | Arch | Student,
    teachers: Sequence[OwnedTeacher],
    *,
    tokens: float | None = None,
    budget: float | None = None,
    scenario: Scenario | None = None,
    limits: Limits | None = None,
    context: float = CONTEXT,
    vocab: float = VOCAB,
    hardware: Compute | None = None,
    seed: int = 0,
) -> list[RankedTeacher]:
    """Each teacher's student, best loss first, on `tokens` student tokens or what `budget` total FLOPs leave (Eq 27).

    The teachers exist, so only their forward passes count (scenario `inference` unless given); a teacher with a price
    per million tokens is billed in money instead.
    """
    evidence, limits, scenario = as_evidence(law), limits or Limits(), scenario or Scenario(logits=1.0)
    student, hardware = as_student(student, context, vocab), hardware or compute()
    if (tokens is None) == (budget is None):
        raise InputError(f"give either student tokens or a budget; got {'neither' if tokens is None else 'both'}")
    if not teachers:
        raise InputError("no teacher given; list at least one [[teacher]] with name, params and loss")
    evidence.distillation  # noqa: B018 - refuses a law without teachers before any work
    ranked: list[RankedTeacher] = []
    for teacher in teachers:
        F_T = teacher.flops_per_token or float(forward_flops(teacher.params, context=context, vocab=vocab))
        logits = 0.0 if teacher.usd_per_million_tokens is not None else scenario.logits
        D_S = tokens if tokens is not None else cast("float", budget) / (TRAINING_PASSES * student.flops + logits * F_T)
        D_S = min(D_S, limits.student_tokens[1])
        if not limits.student_tokens[0] <= D_S:
            raise InfeasibleError(
                f"{D_S:.3g} student tokens with teacher {teacher.name!r} are under the least of "
                f"{limits.student_tokens[0]:g} that the law covers; raise the tokens or the budget"
            )
        flops = float(bill(student.flops, D_S, F_T, 0.0, logits, 0.0).total)
        ranked.append(_rank(evidence, student, teacher, D_S, flops, limits, hardware, seed))
    return sorted(ranked, key=lambda r: r.student_loss)


def _rank(
    evidence: LawSet,
    student: Student,
    teacher: OwnedTeacher,
    D_S: float,
    flops: float,
    limits: Limits,
    hardware: Compute,
    seed: int,
) -> RankedTeacher:
    law, N_S, worth_S = evidence.distillation, student.params, float(worth(D_S, limits))
    loss, alone = float(law.loss(N_S, worth_S, teacher.loss)), float(law.supervised.loss(N_S, worth_S))
    equal = min(flops / (TRAINING_PASSES * student.flops), limits.student_tokens[1])
    D_equal = float(worth(equal, limits))
    sure = confidence_of(
        evidence, N_S=N_S, D_S=worth_S, D_supervised=D_equal, L_T=teacher.loss, teacher=None, seed=seed
    )
    usd = hardware.usd(flops)
    if teacher.usd_per_million_tokens is not None and usd is not None:
        usd += teacher.usd_per_million_tokens * D_S / 1e6
    regime = str(law.regime(N_S, worth_S, teacher.loss))
    values = {
        "student_params": N_S,
        "student_tokens": D_S,
        "tokens_per_param": D_S / N_S,
        "teacher_params": teacher.params,
        "teacher_loss": teacher.loss,
    }
    return RankedTeacher(
        name=teacher.name,
        params=teacher.params,
        loss=teacher.loss,
        student_loss=loss,
        student_interval=None if sure is None else interval_of(sure.student),
        tokens=D_S,
        gain_nats=alone - loss,
        gain_at_equal_flops=float(law.supervised.loss(N_S, D_equal)) - loss,
        interval_at_equal_flops=None if sure is None else interval_of(sure.gain),
        probability_at_equal_flops=None if sure is None else sure.probability,
        regime=regime,
        flops=flops,
        usd=usd,
        warnings=tuple(_advice(evidence, teacher, student, worth_S, loss, alone) + range_warnings(evidence, values)),
    )


def _advice(
    evidence: LawSet, teacher: OwnedTeacher, student: Student, D_S: float, loss: float, alone: float
) -> list[str]:
    law = evidence.distillation
    best = float(law.optimal_teacher_loss(student.params, D_S))
    lost = loss - float(law.loss(student.params, D_S, best))
    out = standing_warnings(evidence)
    if teacher.loss < best and lost >= TOSS_UP:
        out.append(
            f"capacity gap: it is too strong for this student, which would be {lost:.3f} nats better with a teacher of "
            f"{best:.3f} nats; take a weaker teacher or a larger student"
        )
    if loss >= alone:
        out.append(
            f"weak teacher: the student does no worse alone ({alone:.3f} nats on the same tokens); train it alone, "
            "or mix in hard labels (λ < 1)"
        )
    elif advice := hard_label_advice(teacher.params, student.params):
        out += advice
    return out


_LEAST_COUNT = 1e3
_KEYS = ("name", "params", "loss", "tokens", "config", "usd_per_million_tokens")


def read_teachers(path: Path, *, total_params_vocab: float | None = None) -> list[OwnedTeacher]:
    """`[[teacher]]` tables with `name, params, loss` and optionally `tokens, config, usd_per_million_tokens`.

    `config` is a Hugging Face config.json, relative to the file, and gives the exact parameters and FLOPs. With
    `total_params_vocab` the counts include tied embeddings of a vocabulary of that size.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"teachers file {str(path)!r} cannot be read: {error.strerror or error}; "
            "give a TOML file of [[teacher]] tables"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())
        raise InputError(f"teachers file {str(path)!r} is not TOML: {reason}; write [[teacher]] tables") from None
    return teachers_from(data, str(path), home=path.parent, total_params_vocab=total_params_vocab)


def teachers_from(
    data: Mapping[str, Any], where: str, *, home: Path | None = None, total_params_vocab: float | None = None
) -> list[OwnedTeacher]:
    """The content of such a file. A `config` is a path from `home`; without one no file is read, and it is content."""
    if unknown := [key for key in data if key != "teacher"]:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; a teachers file holds [[teacher]] tables only")
    entries = data.get("teacher")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where}: no [[teacher]] table; each needs name, params and loss")
    out = [
        _teacher(entry, f"{where}: teacher {i}", home, total_params_vocab)
        for i, entry in enumerate(cast("list[Any]", entries), 1)
    ]
    names = [teacher.name for teacher in out]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where}: two teachers are named {twice!r}; give each its own name")
    return out


def _teacher(entry: object, where: str, home: Path | None, vocab: float | None) -> OwnedTeacher:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} must be a [[teacher]] table; got {entry!r}")
    entry = cast("Mapping[str, Any]", entry)
    for key in entry:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys are {', '.join(_KEYS)}"
            raise InputError(f"{where}: unknown key {key!r}{hint}")
    needed = ("name", "loss") if "config" in entry else ("name", "params", "loss")
    if missing := [key for key in needed if key not in entry]:
        raise InputError(f"{where} lacks {', '.join(missing)}; each needs name, params (or config) and loss")
    for key in ("name", "config") if home else ("name",):
        value = entry.get(key, "a")
        if not (isinstance(value, str) and value.strip() and value.isprintable()):
            raise InputError(f"{where}: {key} must be text on one line; got {value!r:.60}; correct the file")
    flops: float | None = None
    if "config" in entry:
        arch = read_hf_config(home / entry["config"] if home else _content(entry["config"], where))
        flops, params = arch.forward_flops_per_token, float(arch.params)
    else:
        params = _count(entry, "params", where)
        params = params if vocab is None else float(params_from_total(params, vocab=vocab))
    return OwnedTeacher(
        name=str(entry["name"]),
        params=params,
        loss=_number(entry, "loss", where, 0.01, 20.0, "nats per token"),
        flops_per_token=flops,
        tokens=_count(entry, "tokens", where) if "tokens" in entry else None,
        usd_per_million_tokens=_number(entry, "usd_per_million_tokens", where, 1e-9, 1e9, "USD")
        if "usd_per_million_tokens" in entry
        else None,
    )


def _content(config: object, where: str) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise InputError(f"{where}: config names a file, which cannot be read from here; give params, or its content")
    return cast("Mapping[str, Any]", config)


def _count(entry: Mapping[str, Any], key: str, where: str) -> float:
    count = parse_count(entry[key], f"{where} {key}")
    if not _LEAST_COUNT <= count <= LARGEST:
        raise InputError(
            f"{where} {key} must be from {_LEAST_COUNT:g} to {LARGEST:g}; got {entry[key]!r:.60}; "
            "is a suffix missing? write it as 7B"
        )
    return count


def _number(entry: Mapping[str, Any], key: str, where: str, least: float, most: float, unit: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InputError(
            f"{where}: {key} must be a number from {least:g} to {most:g} {unit}; got {value!r:.60}; correct the file"
        )
    return float(value)
