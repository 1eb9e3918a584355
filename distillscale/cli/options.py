"""Options that several commands share, and how their values are read; nothing is computed here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from ..errors import InputError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..allocate import Limits
    from ..arch import Arch
    from ..cost import Scenario
    from ..hardware import Compute
    from ..problem import Student

    _FloatType, _IntType, _StringType = click.ParamType[float], click.ParamType[int], click.ParamType[str]
else:  # subscripted by type checkers only: older releases of click cannot be
    _FloatType = _IntType = _StringType = click.ParamType

__all__ = [
    "COUNT",
    "LAW",
    "NUMBER",
    "QUANTITY",
    "SCENARIOS",
    "WHOLE",
    "budget_from",
    "cores",
    "count_from",
    "flops_from",
    "hardware_from",
    "hardware_options",
    "json_option",
    "law_option",
    "limit_options",
    "limits_from",
    "output_path",
    "range_from",
    "scenario_from",
    "scenario_options",
    "seed_option",
    "shape_from",
    "shape_options",
    "student_from",
    "student_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
SCENARIOS = ("free", "inference", "pretraining", "both")


class _Count(_FloatType):
    """A count such as 1.5B; `least` catches a forgotten suffix, `most` a slip in the exponent."""

    name = "count"

    def __init__(self, least: float = 1.0) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from ..units import parse_count

        what = _option(param)
        return within(parse_count(value, what), what, value, self.least)


class _Number(_FloatType):
    """A number between two ends, written plainly."""

    name = "number"

    def __init__(self, least: float, most: float, unit: str = "", example: str = "2.1") -> None:
        self.least, self.most, self.unit, self.example = least, most, unit, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if self.least <= number <= self.most:
            return number
        rule = f"a number from {self.least:g} to {self.most:g}{self.unit and ' '}{self.unit}"
        raise InputError(f"{_option(param)} must be {rule}; got {value!r}; write {self.example}")


class _Whole(_IntType):
    """A whole number between two ends."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = self.least - 1
        if self.least <= number and (self.most is None or number <= self.most):
            return number
        rule = f"of at least {self.least}" if self.most is None else f"from {self.least} to {self.most}"
        raise InputError(f"{_option(param)} must be a whole number {rule}; got {value!r}; write {self.least + 1}")


class _LawName(_StringType):
    name = "law"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value).strip():
            raise InputError(f"{_option(param)} is empty; name a published set (`distillscale laws`) or a law file")
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ..published import names

        return [CompletionItem(name) for name in names() if name.startswith(incomplete)] + [
            CompletionItem(incomplete, type="file")
        ]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _option(param: click.Parameter | None) -> str:
    return max(param.opts, key=len) if param else "value"


def within(count: float, what: str, given: object, least: float = 1.0) -> float:
    """The count, or an error where a suffix or an exponent must be wrong."""
    if count < least:
        raise InputError(f"{what} must be at least {least:g}; got {given!r}; is a suffix missing? write it as 300M")
    if count > _MOST_COUNT:
        raise InputError(f"{what} must be at most {_MOST_COUNT:g}; got {given!r}; check its exponent or suffix")
    return count


_MOST_COUNT = 1e17
"""What the planner searches up to; more parameters, tokens or context than this are a slip of the pen."""
_MOST_FLOPS = 1e36
"""Beyond it no bound on tokens leaves anything to buy."""
FEWEST = 1e3
"""Parameters or tokens; fewer are a forgotten suffix, here as in run tables."""

COUNT, QUANTITY, NUMBER, WHOLE, LAW = _Count(), _Count(FEWEST), _Number, _Whole, _LawName()
LOSS = _Number(0.01, 20.0, "nats per token")
_SHARE = _Number(0.0, 1.0, example="0.5")


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")
seed_option = click.option(
    "--seed", type=_Whole(0), default=0, show_default=True, help="Of the draws behind intervals."
)
law_option = click.option(
    "--law",
    type=LAW,
    default="busbridge2025",
    show_default=True,
    metavar="NAME_OR_FILE",
    help="A published set (see `distillscale laws`) or a file from `fit --out`.",
)
student_option = click.option(
    "--student",
    required=True,
    metavar="COUNT|ROW|CONFIG",
    help="Non-embedding parameters (1.5B), a row of the paper's family (paper:546M) or a config.json.",
)
shape_options = _stack(
    click.option("--context", type=COUNT, default=None, metavar="TOKENS", help="Context in F(N).  [default: 4096]"),
    click.option("--vocab", type=COUNT, default=None, metavar="COUNT", help="Vocabulary in F(N).  [default: 32768]"),
    click.option("--total-params", is_flag=True, help="Counts given here include the (tied) embeddings."),
)
scenario_options = _stack(
    click.option("--logits-share", type=_SHARE, help="Share of the teacher's forward passes paid for, 0 to 1."),
    click.option("--pretraining-share", type=_SHARE, help="Share of the teacher's training paid for, 0 to 1."),
    click.option(
        "--share-students",
        type=_Whole(1, 1_000_000),
        default=1,
        metavar="K",
        help="K students share the teacher's training.",
    ),
)
limit_options = _stack(
    click.option("--teacher-params", type=QUANTITY, help="Fix the teacher's size."),
    click.option("--max-teacher-params", type=QUANTITY, help="Largest teacher."),
    click.option("--teacher-tokens", type=QUANTITY, help="Fix the teacher's training tokens."),
    click.option("--max-teacher-tokens", type=QUANTITY, help="Most teacher tokens."),
    click.option("--max-student-tokens", type=QUANTITY, help="Most student tokens."),
    click.option("--unique-tokens", type=QUANTITY, help="Distinct tokens one run can draw from; repeats count less."),
)
hardware_options = _stack(
    click.option("--device", default="H100", show_default=True, help="Accelerator that turns FLOPs into hours."),
    click.option("--peak-flops", type=_Number(1e6, 1e20, "FLOP/s", "989e12"), help="Dense peak of one device by hand."),
    click.option(
        "--mfu", type=_Number(1e-4, 1.0, example="0.4"), help="Model FLOPs utilisation.  [default: 0.4, an assumption]"
    ),
    click.option("--price", type=_Number(1e-6, 1e6, "USD", "2.95"), help="USD per device-hour by hand."),
    click.option("--precision", default="bf16", show_default=True, help="Precision of the peak."),
)


class Shape(TypedDict):
    """What F(N) depends on beside N."""

    context: float
    vocab: float


def shape_from(context: float | None, vocab: float | None) -> Shape:
    """Context and vocabulary with the paper's defaults."""
    from ..arch import CONTEXT, VOCAB

    return {"context": context or CONTEXT, "vocab": vocab or VOCAB}


def hardware_from(options: dict[str, Any]) -> Compute:
    """The hardware options as a `Compute`, taken out of `options`."""
    from ..hardware import compute

    names = ("device", "peak_flops", "mfu", "price", "precision")
    return compute(**{name: options.pop(name) for name in names})


def student_from(text: str, *, context: float | None, vocab: float | None, total_params: bool) -> Student:
    """A count, `paper:546M`, or a config.json (or its folder)."""
    from ..problem import Student

    shape = shape_from(context, vocab)
    arch = _arch(text, context)
    if arch is not None:
        if total_params:
            raise InputError(f"--total-params applies to counts; {text!r} is an exact shape; drop the option")
        if vocab is not None:
            raise InputError(f"--vocab applies to counts; {text!r} has its own vocabulary; drop the option")
        return Student.of_arch(arch, text)
    return Student.of_size(count_from(text, "--student", vocab, total_params), **shape)


def _arch(text: str, context: float | None) -> Arch | None:
    from dataclasses import replace

    from ..arch import family_row

    tokens = None if context is None else int(context)
    if text.startswith("paper:"):
        row = family_row(text.removeprefix("paper:"))
        return row if tokens is None else replace(row, context=tokens)
    if text.endswith(".json") or os.path.isdir(text):
        from ..hfconfig import read_hf_config

        return read_hf_config(text, context=tokens)
    return None


def count_from(value: str | float, what: str, vocab: float | None, total_params: bool) -> float:
    """Non-embedding parameters from a count that may include the embeddings."""
    from ..arch import VOCAB, params_from_total
    from ..units import format_count, parse_count

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


def budget_from(text: str, hardware: Compute) -> tuple[float, Compute]:
    """FLOPs from --budget, and the hardware moved to the device that it names."""
    from ..hardware import budget_flops, compute_for
    from ..units import parse_budget

    money = parse_budget(text)
    hardware = compute_for(money, hardware)
    return _spendable(budget_flops(money, hardware), "--budget", text), hardware


def _spendable(flops: float, what: str, given: str) -> float:
    if flops > _MOST_FLOPS:
        raise InputError(f"{what} must be at most {_MOST_FLOPS:g} FLOPs; got {given!r}; check its exponent and unit")
    return flops


def range_from(text: str, what: str, parse: Callable[[str], float]) -> list[float]:
    """A list or a range of an option, each value read by `parse`; an error names the option."""
    from ..units import parse_range

    try:
        return [float(x) for x in parse_range(text, parse)]
    except InputError as error:
        message = str(error)
        raise InputError(message if message.startswith(what) else f"{what}: {message}") from None


def flops_from(text: str, what: str) -> float:
    """FLOPs of a grid, where money and hours would need a device."""
    from ..units import parse_budget

    budget = parse_budget(text)
    if budget.unit != "flops":
        raise InputError(f"{what} {text!r} is not FLOPs; write a grid as 1e19:1e24:50 or 1e20,1e21")
    return _spendable(budget.amount, what, text)


def scenario_from(teacher: str | None, options: dict[str, Any]) -> Scenario:
    """--teacher with the shares that override it, taken out of `options`."""
    from ..cost import Scenario

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
    """The limit options as `Limits`, taken out of `options`."""
    from ..allocate import Limits

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


def output_path(text: str | None, source: Path | None = None) -> Path | None:
    """A path that can be written, checked before any work is done; `source` is what the command reads."""
    if text is None:
        return None
    if not text.strip():
        raise InputError("--out is empty; name a file, or leave it out to write none")
    path = Path(text)
    if path.is_dir():
        raise InputError(f"--out {text!r} is a directory; name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"--out {text!r} is a device or a pipe, not a file; name a file, or leave it out and use '>'")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"--out {text!r} would overwrite the table it is made from; name another file")
    if not path.parent.is_dir():
        raise InputError(f"--out {text!r}: the folder {str(path.parent)!r} does not exist; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--out {text!r} cannot be written: permission denied; choose another place")
    return path
