"""Questions as JSON: which fields each takes, what they may hold, how they are read; it answers nothing.

The fields are the command line's options, by the same names with `_`, and are checked by the same rules. Text from a
client is never a path: a law is a published name or the id of an upload, a student a count or a row of the family, a
config.json arrives as content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from .. import asking, published
from ..errors import InputError
from ..published import DEFAULT
from ..runs import KINDS

if TYPE_CHECKING:
    from ..problem import Student

__all__ = [
    "DEFAULTS",
    "FIELDS",
    "HARDWARE",
    "LIMITS",
    "MOST_TEACHERS",
    "SCENARIO",
    "SHAPE",
    "fit_options",
    "in_fields",
    "named_field",
    "read_fields",
    "student_from",
]

SHAPE = ("context", "vocab", "total_params")
SCENARIO = ("teacher", "logits_share", "pretraining_share", "share_students")
LIMITS = (
    "teacher_params",
    "max_teacher_params",
    "teacher_tokens",
    "max_teacher_tokens",
    "max_student_tokens",
    "unique_tokens",
)
HARDWARE = ("device", "peak_flops", "mfu", "price", "precision")
_WHO, _LAW = ("student", "config"), ("law", "seed")

FIELDS: Mapping[str, tuple[str, ...]] = {
    "predict": (*_WHO, "tokens", "teacher_loss", "teacher_params", "teacher_tokens", *SHAPE, *_LAW),
    "plan": (*_WHO, "budget", "target_loss", *SCENARIO, *LIMITS, *SHAPE, *HARDWARE, *_LAW),
    "answer": (*_WHO, "budget", "target_loss", "owned", *SCENARIO, *LIMITS, *SHAPE, *HARDWARE, *_LAW),
    "break-even": (*_WHO, "tolerance", *SCENARIO, *LIMITS, *SHAPE, *_LAW),
    "teachers": (*_WHO, "owned", "tokens", "budget", "logits_share", *SHAPE, *HARDWARE, *_LAW),
    "fit": (
        "law",
        "kind",
        "columns",
        "hold_out",
        "cluster",
        "supervised",
        "bootstrap",
        "seed",
        "name",
        "skip_bad_rows",
        "tokens_from_flops",
    ),
    "frontier": ("students", "budgets", "scenarios", "share_students", *LIMITS, *SHAPE, "law"),
}
"""Of each question. `owned` is a list of teachers, `config` the content of a config.json."""

DEFAULTS: Mapping[str, Any] = {
    "share_students": 1,
    "device": "H100",
    "precision": "bf16",
    "law": DEFAULT,
    "seed": 0,
    "tolerance": 0.01,
    "total_params": False,
}
"""As on the command line (a test compares them); other fields are absent."""

MOST_TEACHERS = 100
_LONGEST_TEXT = 400
_MOST_LIST = 400


def read_fields(question: str, body: object) -> dict[str, Any]:
    """Every field of the question: read by its rule, its default, or None."""
    if not isinstance(body, Mapping):
        raise InputError(f"the body must be a JSON object with the fields of a question; got {_kind(body)}")
    body = cast("Mapping[str, Any]", body)
    known = FIELDS[question]
    for name in body:
        if name not in known:
            near = get_close_matches(name[:40], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise InputError(f"{question} has no field {name!r:.60}; {hint}")
    return {name: _read(name, body.get(name)) for name in known}


def _read(name: str, value: Any) -> Any:
    if value is None or value == "":
        return DEFAULTS.get(name)
    if rule := asking.RULES.get(name):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InputError(f"{name} must be a number or its text; got {_kind(value)}")
        return rule.read(_short(name, value), name)
    return _READERS.get(name, _text)(name, value)


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(name: str, value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise InputError(f"{name} must be text of at most {_LONGEST_TEXT} characters; got {len(value)}")
    if isinstance(value, int) and abs(value) > 10**40:  # beyond any count, and slow to print
        raise InputError(f"{name} must be at most 1e40; got a number of more digits; check its exponent")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise InputError(f"{name} must be text on one line; got {_kind(value)}")
    return _short(name, value)


def _quantity(name: str, value: Any) -> str | float:
    """A student or a budget: text, or a plain number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{name} must be text such as 1e21 or 3B, or a number; got {_kind(value)}")
    return _text(name, value) if isinstance(value, str) else _short(name, value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false; got {_kind(value)}")
    return value


def _who_pays(name: str, value: Any) -> str:
    text = _text(name, value)
    if text not in asking.SCENARIOS:
        raise InputError(f"{name} must be one of {', '.join(asking.SCENARIOS)}; got {text!r:.60}")
    return text


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be the content of a config.json, an object; got {_kind(value)}")
    return cast("Mapping[str, Any]", value)


def _rows(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of teachers with name, params and loss; got {_kind(value)}")
    rows = cast("list[Any]", value)
    if len(rows) > MOST_TEACHERS:
        raise InputError(f"{name} may hold at most {MOST_TEACHERS} teachers; got {len(rows)}; keep the likeliest")
    return [_filled(cast("Mapping[str, Any]", row)) if isinstance(row, Mapping) else row for row in rows]


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its empty cells."""
    return {key: _short(key, value) for key, value in row.items() if value is not None and value != ""}


def _grid(name: str, value: Any) -> list[str | float]:
    """A range such as 1e19:1e24:50 becomes its text; a list stays one."""
    if isinstance(value, str):
        return [_text(name, value)]
    values = cast("list[Any]", value if isinstance(value, list) else [])
    if not values:
        got = _kind(cast("object", value))
        raise InputError(f"{name} must be a list, or text such as 300M,1B or 1e19:1e24:50; got {got}")
    if len(values) > _MOST_LIST:
        raise InputError(f"{name} may hold at most {_MOST_LIST} values; got {len(values)}; take fewer")
    return [_quantity(name, entry) for entry in values]


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "student": _quantity,
    "budget": _quantity,
    "config": _mapping,
    "total_params": _flag,
    "teacher": _who_pays,
    "owned": _rows,
    "students": _grid,
    "budgets": _grid,
    "scenarios": _grid,
}


def student_from(values: Mapping[str, Any]) -> Student:
    """The student of a question: `student` as a count or a row of the family, or the shape in `config`."""
    from ..hfconfig import read_hf_config

    context, text, config = values["context"], values["student"], values["config"]
    if (text is None) == (config is None):
        got = "neither" if text is None else "both"
        raise InputError(f"student must be given as a count, a row such as paper:546M, or by its config; got {got}")
    if config is not None:
        arch = read_hf_config(config, context=None if context is None else int(context))
        text = "config.json"
    else:
        arch = asking.row_from(str(text), context)
    return asking.student_of(
        text, arch, context=context, vocab=values["vocab"], total_params=bool(values["total_params"])
    )


MOST_RESAMPLES = 1_000
_FIT_DEFAULTS = {"law": "chinchilla", "bootstrap": 200, "seed": 0, "name": "table.csv"}


def fit_options(query: Mapping[str, str]) -> dict[str, Any]:
    """The options of `distillscale fit` from the address of a request; the table is its body."""
    known = FIELDS["fit"]
    if unknown := next((name for name in query if name not in known), None):
        raise InputError(f"fit has no field {unknown!r:.60}; it has {', '.join(known)}")
    values: dict[str, Any] = {name: query.get(name) or _FIT_DEFAULTS.get(name) for name in known}
    for name in ("kind", "columns", "hold_out", "cluster", "supervised"):
        values[name] = None if values[name] is None else _text(name, values[name])
    for name in ("skip_bad_rows", "tokens_from_flops"):
        if values[name] not in (None, "true", "false"):
            raise InputError(f"{name} must be true or false; got {values[name]!r:.60}")
        values[name] = values[name] == "true"
    for name in ("bootstrap", "seed"):
        values[name] = asking.RULES[name].read(_short(name, values[name]), name)
    if values["bootstrap"] > MOST_RESAMPLES:
        raise InputError(f"bootstrap must be at most {MOST_RESAMPLES} here; got {values['bootstrap']}")
    _one_of("law", values["law"], asking.FORMS)
    if values["kind"] is not None:
        _one_of("kind", values["kind"], KINDS)
    if values["supervised"] is not None:
        _one_of("supervised", values["supervised"], published.names())
    values["columns"] = asking.pairs_from(values["columns"], "columns", "OURS=THEIRS")
    if not re.fullmatch(r"\w[\w .()+-]{0,79}\.(csv|txt|jsonl|ndjson)", values["name"]):
        values["name"] = _FIT_DEFAULTS["name"]
    return values


def _one_of(name: str, text: str, known: Sequence[str]) -> None:
    if text not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}; got {text!r:.60}")


_OPTION = re.compile(r"--([a-z][a-z-]*[a-z])")


def in_fields(message: str) -> str:
    """A message of the library in the words of this side: `max_teacher_params` for `--max-teacher-params`."""
    return _OPTION.sub(lambda found: found[1].replace("-", "_"), message)


def named_field(message: str, question: str) -> str | None:
    """The first field of the question that the message names, for a page to point at."""
    words = re.findall(r"[a-z_]+", in_fields(message).replace("MFU", "mfu"))
    return next((word for word in words if word in FIELDS[question]), None)
