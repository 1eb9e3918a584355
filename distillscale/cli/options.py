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

    _FloatType, _StringType = click.ParamType[float], click.ParamType[str]
else:  # subscripted by type checkers only: older releases of click cannot be
    _FloatType = _StringType = click.ParamType

__all__ = [
    "COUNT",
    "NUMBER",
    "SCENARIOS",
    "hardware_options",
    "json_option",
    "law_option",
    "limit_options",
    "limits_from",
    "output_path",
    "scenario_from",
    "scenario_options",
    "seed_option",
    "shape_options",
    "student_from",
    "student_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])
SCENARIOS = ("free", "inference", "pretraining", "both")


class _Count(_FloatType):
    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from ..units import parse_count

        return parse_count(value, param.opts[0] if param else "count")


class _Number(_FloatType):
    """A finite positive number, written plainly."""

    name = "number"

    def __init__(self, most: float = float("inf"), unit: str = "") -> None:
        self.most, self.unit = most, unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if 0 < number <= self.most and number != float("inf"):
            return number
        rule = "a positive number" + (f" of at most {self.most:g}" if self.most < float("inf") else "")
        raise InputError(f"{param.opts[0] if param else 'value'} must be {rule} {self.unit}; got {value!r}; write 2.1")


class _LawName(_StringType):
    name = "law"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ..published import names

        return [CompletionItem(name) for name in names() if name.startswith(incomplete)] + [
            CompletionItem(incomplete, type="file")
        ]


COUNT, NUMBER = _Count(), _Number
LOSS = _Number(20.0, "nats per token")


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws behind intervals."
)
law_option = click.option(
    "--law",
    type=_LawName(),
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
    click.option("--logits-share", type=float, help="Share of the teacher's forward passes paid for, 0 to 1."),
    click.option("--pretraining-share", type=float, help="Share of the teacher's training paid for, 0 to 1."),
    click.option(
        "--share-students",
        type=click.IntRange(1),
        default=1,
        metavar="K",
        help="K students share the teacher's training.",
    ),
)
limit_options = _stack(
    click.option("--teacher-params", type=COUNT, help="Fix the teacher's size."),
    click.option("--max-teacher-params", type=COUNT, help="Largest teacher."),
    click.option("--teacher-tokens", type=COUNT, help="Fix the teacher's training tokens."),
    click.option("--max-teacher-tokens", type=COUNT, help="Most teacher tokens."),
    click.option("--max-student-tokens", type=COUNT, help="Most student tokens."),
    click.option("--unique-tokens", type=COUNT, help="Distinct tokens one run can draw from; repeats count less."),
)
hardware_options = _stack(
    click.option("--device", default="H100", show_default=True, help="Accelerator that turns FLOPs into hours."),
    click.option("--peak-flops", type=NUMBER(unit="FLOP/s"), help="Dense peak of one device by hand."),
    click.option("--mfu", type=NUMBER(1.0), help="Model FLOPs utilisation.  [default: 0.4, an assumption]"),
    click.option("--price", type=NUMBER(unit="USD"), help="USD per device-hour by hand."),
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
    from ..hfconfig import read_hf_config

    tokens = None if context is None else int(context)
    if text.startswith("paper:"):
        row = family_row(text.removeprefix("paper:"))
        return row if tokens is None else replace(row, context=tokens)
    if text.endswith(".json") or os.path.isdir(text):
        return read_hf_config(text, context=tokens)
    return None


def count_from(value: str | float, what: str, vocab: float | None, total_params: bool) -> float:
    """Non-embedding parameters from a count that may include the embeddings."""
    from ..arch import VOCAB, params_from_total
    from ..units import parse_count

    count = parse_count(value, what)
    return float(params_from_total(count, vocab=vocab or VOCAB)) if total_params else count


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


def output_path(text: str | None) -> Path | None:
    """A path that can be written, checked before any work is done."""
    if text is None:
        return None
    path = Path(text)
    if path.is_dir():
        raise InputError(f"--out {text!r} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"--out {text!r}: the folder {str(path.parent)!r} does not exist; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"--out {text!r} cannot be written: permission denied; choose another place")
    return path
