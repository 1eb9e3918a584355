"""What people write (counts, budgets, who pays, limits) as the planner's values; it knows no terminal, web or file.

A field is named as on the command line (`--mfu`) in every message; its rule has one home, `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from .errors import InputError

if TYPE_CHECKING:  # NumPy takes longer to load than `--help` takes
    from .allocate import Limits
    from .arch import Arch
    from .cost import Scenario
    from .hardware import Compute
    from .problem import Student

__all__ = [
    "FEWEST",
    "FORMS",
    "LOSS",
    "RULES",
    "SCENARIOS",
    "Count",
    "Number",
    "Whole",
    "budget_from",
    "count_from",
    "flops_from",
    "hardware_from",
    "limits_from",
    "pairs_from",
    "range_from",
    "row_from",
    "scenario_from",
    "shape_from",
    "student_of",
    "within",
]

SCENARIOS = ("free", "inference", "pretraining", "both")
FORMS = ("chinchilla", "supervised", "distillation")
"""What `fit` fits: Eq 1 with γ = 1, Eq 1, Eq 8."""

_MOST_COUNT = 1e17
"""What the planner searches up to; more parameters, tokens or context than this are a slip of the pen."""
_MOST_FLOPS = 1e36
"""Beyond it no bound on tokens leaves anything to buy."""
FEWEST = 1e3
"""Parameters or tokens; fewer are a forgotten suffix, here as in run tables."""


def within(count: float, what: str, given: object, least: float = 1.0) -> float:
    """The count, or an error where a suffix or an exponent must be wrong."""
    if count < least:
        raise InputError(f"{what} must be at least {least:g}; got {given!r}; is a suffix missing? write it as 300M")
    if count > _MOST_COUNT:
        raise InputError(f"{what} must be at most {_MOST_COUNT:g}; got {given!r}; check its exponent or suffix")
    return count


@dataclass(frozen=True, slots=True)
class Count:
    """A count such as 1.5B; `least` catches a forgotten suffix, the most a slip in the exponent."""

    least: float = 1.0
    most: float = _MOST_COUNT

    def read(self, value: Any, what: str) -> float:
        """The count in `value`, a number or text."""
        from .units import parse_count

        return within(parse_count(value, what), what, value, self.least)


@dataclass(frozen=True, slots=True)
class Number:
    """A number between two ends, written plainly."""

    least: float
    most: float
    unit: str = ""
    example: str = "2.1"

    def read(self, value: Any, what: str) -> float:
        """The number in `value`, itself or text."""
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if self.least <= number <= self.most:
            return number
        rule = f"a number from {self.least:g} to {self.most:g}{self.unit and ' '}{self.unit}"
        raise InputError(f"{what} must be {rule}; got {value!r:.60}; write {self.example}")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two ends."""

    least: int
    most: int | None = None

    def read(self, value: Any, what: str) -> int:
        """The whole number in `value`, itself or text."""
        try:
            number = int(value)
        except (ValueError, OverflowError):
            number = self.least - 1
        if self.least <= number and (self.most is None or number <= self.most):
            return number
        rule = f"of at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"
        raise InputError(f"{what} must be a whole number {rule}; got {value!r:.60}; write {self.least + 1}")


LOSS = Number(0.01, 20.0, "nats per token")
_QUANTITY, _SHARE = Count(FEWEST), Number(0.0, 1.0, example="0.5")

RULES: Mapping[str, Count | Number | Whole] = {
    "tokens": _QUANTITY,
    "target_loss": LOSS,
    "teacher_loss": LOSS,
    "tolerance": Number(0.0, 1.0, "nats", "0.01"),
    "logits_share": _SHARE,
    "pretraining_share": _SHARE,
    "share_students": Whole(1, 1_000_000),
    "teacher_params": _QUANTITY,
    "max_teacher_params": _QUANTITY,
    "teacher_tokens": _QUANTITY,
    "max_teacher_tokens": _QUANTITY,
    "max_student_tokens": _QUANTITY,
    "unique_tokens": _QUANTITY,
    "context": Count(),
    "vocab": Count(),
    "peak_flops": Number(1e6, 1e20, "FLOP/s", "989e12"),
    "mfu": Number(1e-4, 1.0, example="0.4"),
    "price": Number(1e-6, 1e6, "USD", "2.95"),
    "seed": Whole(0),
    "bootstrap": Whole(0, 100_000),
}
"""Fields of a question that are numbers, by name, with what each may be."""


class Shape(TypedDict):
    """What F(N) depends on beside N."""

    context: float
    vocab: float


def shape_from(context: float | None, vocab: float | None) -> Shape:
    """Context and vocabulary with the paper's defaults."""
    from .arch import CONTEXT, VOCAB

    return {"context": context or CONTEXT, "vocab": vocab or VOCAB}


def hardware_from(options: dict[str, Any]) -> Compute:
    """The hardware fields as a `Compute`, taken out of `options`."""
    from .hardware import compute

    names = ("device", "peak_flops", "mfu", "price", "precision")
    return compute(**{name: options.pop(name) for name in names})


def row_from(text: str, context: float | None) -> Arch | None:
    """`paper:546M`, a row of the paper's family; None for anything else."""
    from dataclasses import replace

    from .arch import family_row

    if not text.startswith("paper:"):
        return None
    row = family_row(text.removeprefix("paper:"))
    return row if context is None else replace(row, context=int(context))


def student_of(
    text: str, arch: Arch | None, *, context: float | None, vocab: float | None, total_params: bool
) -> Student:
    """A student from its exact shape, called `text`, or from `text` as a count."""
    from .problem import Student

    if arch is not None:
        if total_params:
            raise InputError(f"--total-params applies to counts; {text!r} is an exact shape; drop the option")
        if vocab is not None:
            raise InputError(f"--vocab applies to counts; {text!r} has its own vocabulary; drop the option")
        return Student.of_arch(arch, text)
    return Student.of_size(count_from(text, "--student", vocab, total_params), **shape_from(context, vocab))


def count_from(value: str | float, what: str, vocab: float | None, total_params: bool) -> float:
    """Non-embedding parameters from a count that may include the embeddings."""
    from .arch import VOCAB, params_from_total
    from .units import format_count, parse_count

    count = within(parse_count(value, what), what, value, FEWEST)
    if not total_params:
        return count
    left = float(params_from_total(count, vocab=vocab or VOCAB))
    if left < FEWEST:
        raise InputError(
            f"{what} {format_count(count)} leaves no parameters beside the embeddings of "
            f"{format_count(vocab or VOCAB)} words; write a larger count, its --vocab, or drop --total-params"
        )
    return left


def budget_from(text: str | float, hardware: Compute) -> tuple[float, Compute]:
    """FLOPs from --budget, and the hardware moved to the device that it names."""
    from .hardware import budget_flops, compute_for
    from .units import parse_budget

    money = parse_budget(text)
    hardware = compute_for(money, hardware)
    return _spendable(budget_flops(money, hardware), "--budget", text), hardware


def flops_from(text: str | float, what: str) -> float:
    """FLOPs of a grid, where money and hours would need a device."""
    from .units import parse_budget

    budget = parse_budget(text)
    if budget.unit != "flops":
        raise InputError(f"{what} {text!r} is not FLOPs; write a grid as 1e19:1e24:50 or 1e20,1e21")
    return _spendable(budget.amount, what, text)


def _spendable(flops: float, what: str, given: object) -> float:
    if flops > _MOST_FLOPS:
        raise InputError(f"{what} must be at most {_MOST_FLOPS:g} FLOPs; got {given!r}; check its exponent and unit")
    return flops


def range_from(text: str, what: str, parse: Callable[[str], float]) -> list[float]:
    """A list or a range of an option, each value read by `parse`; an error names the option."""
    from .units import parse_range

    try:
        return [float(x) for x in parse_range(text, parse)]
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(what) else f"{what}: {message}") from None


def pairs_from(text: str | None, option: str, shape: str) -> dict[str, str]:
    """`a=b,c=d` as a mapping."""
    pairs: dict[str, str] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, sign, value = part.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise InputError(f"{option} {part.strip()!r} is not {shape}; separate several by commas")
        pairs[name.strip()] = value.strip()
    return pairs


def scenario_from(teacher: str | None, options: dict[str, Any]) -> Scenario:
    """--teacher with the shares that override it, taken out of `options`."""
    from .cost import Scenario

    logits, pretraining = options.pop("logits_share"), options.pop("pretraining_share")
    students = options.pop("share_students")
    if teacher is None and (logits is None or pretraining is None):
        raise InputError(
            f"--teacher is missing; say who pays for it: {', '.join(SCENARIOS)}, "
            "or give both --logits-share and --pretraining-share"
        )
    named = Scenario.named(teacher) if teacher else Scenario()
    shares = Scenario(
        named.logits if logits is None else logits, named.pretraining if pretraining is None else pretraining
    )
    return Scenario(shares.logits, shares.pretraining / students)


def limits_from(options: dict[str, Any], *, vocab: float | None, total_params: bool) -> Limits:
    """The fields of limits as `Limits`, taken out of `options`."""
    from .allocate import Limits

    def ends(fixed: str, most: str) -> tuple[float, float]:
        default = Limits.__dataclass_fields__[fixed].default
        exact, cap = options.pop(fixed), options.pop(most)
        if exact is not None and cap is not None:
            raise InputError(f"give --{fixed.replace('_', '-')} or --{most.replace('_', '-')}, not both")
        if exact is not None:
            return exact, exact
        return (default[0], default[1] if cap is None else cap)

    params, tokens = ends("teacher_params", "max_teacher_params"), ends("teacher_tokens", "max_teacher_tokens")
    if total_params:
        low, high = (x if x in Limits().teacher_params else count_from(x, "teacher", vocab, True) for x in params)
        params = (low, high)
    most, default = options.pop("max_student_tokens"), Limits().student_tokens
    student = (default[0], default[1] if most is None else most)
    return Limits(
        teacher_params=params, teacher_tokens=tokens, student_tokens=student, unique_tokens=options.pop("unique_tokens")
    )
