"""Options that several commands share, and how their values are read; nothing is computed here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .. import asking
from ..errors import InputError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..problem import Student

    _FloatType, _IntType, _StringType = click.ParamType[float], click.ParamType[int], click.ParamType[str]
else:  # subscripted by type checkers only: older releases of click cannot be
    _FloatType = _IntType = _StringType = click.ParamType

__all__ = [
    "COUNT",
    "LAW",
    "NUMBER",
    "QUANTITY",
    "WHOLE",
    "cores",
    "forward_options",
    "hardware_options",
    "json_option",
    "law_option",
    "limit_options",
    "output_path",
    "ruled",
    "scenario_options",
    "seed_option",
    "shape_options",
    "student_from",
    "student_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Count(_FloatType):
    """A count such as 1.5B, by its rule."""

    name = "count"

    def __init__(self, least: float = 1.0) -> None:
        self.rule = asking.Count(least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return self.rule.read(value, _option(param))


class _Number(_FloatType):
    """A number between two ends, by its rule."""

    name = "number"

    def __init__(self, least: float, most: float, unit: str = "", example: str = "2.1") -> None:
        self.rule = asking.Number(least, most, unit, example)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return self.rule.read(value, _option(param))


class _Whole(_IntType):
    """A whole number between two ends, by its rule."""

    name = "number"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.rule = asking.Whole(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return self.rule.read(value, _option(param))


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


COUNT, QUANTITY, NUMBER, WHOLE, LAW = _Count(), _Count(asking.FEWEST), _Number, _Whole, _LawName()


def ruled(field: str) -> _Count | _Number | _Whole:
    """The type of an option whose rule is one of `asking.RULES`."""
    match asking.RULES[field]:
        case asking.Count(least=least):
            return _Count(least)
        case asking.Number(least=low, most=high, unit=unit, example=example):
            return _Number(low, high, unit, example)
        case asking.Whole(least=fewest, most=most):
            return _Whole(fewest, most)


def _stack(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else.")
seed_option = click.option(
    "--seed", type=ruled("seed"), default=0, show_default=True, help="Of the draws behind intervals."
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
forward_options = _stack(
    click.option(
        "--context", type=ruled("context"), default=None, metavar="TOKENS", help="Context in F(N).  [default: 4096]"
    ),
    click.option(
        "--vocab", type=ruled("vocab"), default=None, metavar="COUNT", help="Vocabulary in F(N).  [default: 32768]"
    ),
)
shape_options = _stack(
    forward_options,
    click.option("--total-params", is_flag=True, help="Counts given here include the (tied) embeddings."),
)
scenario_options = _stack(
    click.option(
        "--logits-share", type=ruled("logits_share"), help="Share of the teacher's forward passes paid for, 0 to 1."
    ),
    click.option(
        "--pretraining-share", type=ruled("pretraining_share"), help="Share of the teacher's training paid for, 0 to 1."
    ),
    click.option(
        "--share-students",
        type=ruled("share_students"),
        default=1,
        metavar="K",
        help="K students share the teacher's training.",
    ),
)
limit_options = _stack(
    click.option("--teacher-params", type=ruled("teacher_params"), help="Fix the teacher's size."),
    click.option("--max-teacher-params", type=ruled("max_teacher_params"), help="Largest teacher."),
    click.option("--teacher-tokens", type=ruled("teacher_tokens"), help="Fix the teacher's training tokens."),
    click.option("--max-teacher-tokens", type=ruled("max_teacher_tokens"), help="Most teacher tokens."),
    click.option("--max-student-tokens", type=ruled("max_student_tokens"), help="Most student tokens."),
    click.option(
        "--unique-tokens",
        type=ruled("unique_tokens"),
        help="Distinct tokens one run can draw from; repeats count less.",
    ),
)
hardware_options = _stack(
    click.option("--device", default="H100", show_default=True, help="Accelerator that turns FLOPs into hours."),
    click.option("--peak-flops", type=ruled("peak_flops"), help="Dense peak of one device by hand."),
    click.option("--mfu", type=ruled("mfu"), help="Model FLOPs utilisation.  [default: 0.4, an assumption]"),
    click.option("--price", type=ruled("price"), help="USD per device-hour by hand."),
    click.option("--precision", default="bf16", show_default=True, help="Precision of the peak."),
)


def student_from(text: str, *, context: float | None, vocab: float | None, total_params: bool) -> Student:
    """A count, `paper:546M`, or a config.json (or its folder)."""
    arch = asking.row_from(text, context)
    if arch is None and (text.endswith(".json") or os.path.isdir(text)):
        from ..hfconfig import read_hf_config

        arch = read_hf_config(text, context=None if context is None else int(context))
    return asking.student_of(text, arch, context=context, vocab=vocab, total_params=total_params)


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
