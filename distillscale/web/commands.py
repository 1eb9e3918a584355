"""The same question as a command line and as Python, to copy; it asks and answers nothing itself.

A file that was dropped on the page stands in the command by a plain name: `law.json`, `config.json`, `teachers.toml`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import asking
from ..allocate import Limits
from ..hardware import Compute
from .fields import DEFAULTS, HARDWARE, LIMITS, SCENARIO, SHAPE

if TYPE_CHECKING:
    from ..answer import Plan
    from ..cost import Scenario
    from ..problem import Student

__all__ = ["LAW_FILE", "commands_for", "teachers_toml"]

LAW_FILE, CONFIG_FILE, TEACHERS_FILE = "law.json", "config.json", "teachers.toml"


def commands_for(
    values: Mapping[str, Any], law: str, found: Plan, student: Student, scenario: Scenario, limits: Limits
) -> dict[str, str]:
    """`cli`, `python`, and `teachers` with its `teachers_toml` where teachers are owned, each by numbers alone."""
    law = LAW_FILE if str(values["law"]).startswith("upload:") else law
    asked = ("budget", "target_loss", *SCENARIO, *LIMITS, *SHAPE, *HARDWARE)
    out = {
        "cli": _line("plan", values, asked, law),
        "python": _python(values, law, found, student, scenario, limits),
    }
    rows: list[Any] = values["owned"] or []
    if rows and not any("config" in row for row in rows):
        budget = repr(found.budget_flops) if values["budget"] is None else values["budget"]
        priced = {**values, "budget": budget}
        out["teachers"] = _line("teachers", priced, ("budget", *SHAPE, *HARDWARE), law, TEACHERS_FILE)
        if scenario.logits != 1:
            out["teachers"] += f" --logits-share {scenario.logits:g}"
        out["teachers_toml"] = teachers_toml(rows)
    return out


def _line(command: str, values: Mapping[str, Any], names: tuple[str, ...], law: str, *files: str) -> str:
    student = CONFIG_FILE if values["student"] is None else values["student"]
    words = ["distillscale", command, *files, "--student", _shown(student)]
    for name in names:
        value = values[name]
        if value is None or value == DEFAULTS.get(name):
            continue
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, _shown(value)]
    if law != DEFAULTS["law"]:
        words += ["--law", law]
    if values["seed"]:
        words += ["--seed", str(values["seed"])]
    return " ".join(shlex.quote(word) for word in words)


def _shown(value: Any) -> str:
    """A value as an option takes it; whole numbers without a decimal point."""
    return f"{value:.17g}" if isinstance(value, float) else str(value)


def _python(
    values: Mapping[str, Any], law: str, found: Plan, student: Student, scenario: Scenario, limits: Limits
) -> str:
    names, imports = {"Scenario", "plan"}, list[str]()
    arguments = [repr(law)]
    context = values["context"]
    if values["config"] is not None:
        imports.append("from distillscale.hfconfig import read_hf_config")
        at = "" if context is None else f", context={int(context)}"
        arguments.append(f'read_hf_config("{CONFIG_FILE}"{at})')
    elif str(values["student"]).startswith("paper:"):
        imports.append("from distillscale.arch import family_row")
        row = f"family_row({str(values['student']).removeprefix('paper:')!r})"
        if context is not None:
            imports.insert(0, "from dataclasses import replace")
            row = f"replace({row}, context={int(context)})"
        arguments.append(row)
    else:
        arguments.append(repr(student.params))
    arguments.append("None" if found.target is not None else repr(found.budget_flops))
    arguments.append(f"Scenario({scenario.logits!r}, {scenario.pretraining!r})")
    if found.target is not None:
        arguments.append(f"target_loss={found.target.loss!r}")
    if limits != Limits():
        names.add("Limits")
        arguments.append(f"limits={_limits(limits)}")
    for name, value in asking.shape_from(context, values["vocab"]).items():
        if values[name] is not None:
            arguments.append(f"{name}={value!r}")
    if hardware := _hardware(found.compute):
        names.add("compute")
        arguments.append(f"hardware={hardware}")
    if values["seed"]:
        arguments.append(f"seed={values['seed']}")
    imports.append(f"from distillscale import {', '.join(sorted(names, key=str.lower))}")
    call = f"answer = plan({', '.join(arguments)})"
    return "\n".join([*imports, "", call, "print(answer.verdict, answer.gain_nats)"])


def _limits(limits: Limits) -> str:
    default = Limits()
    kept = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    changed = [f"{name}={value!r}" for name, value in kept.items() if value != getattr(default, name)]
    return f"Limits({', '.join(changed)})"


def _hardware(used: Compute) -> str:
    """The call of `compute` that gives this hardware; empty where it is the default."""
    from ..hardware import compute, load_devices

    if used == compute():
        return ""
    arguments, known = [repr(used.device)], load_devices().get(used.device)
    listed = known is not None and used.precision in known.peak_flops
    plain = compute(used.device, precision=used.precision) if listed else None
    if plain is None or plain.peak_flops != used.peak_flops:
        arguments.append(f"peak_flops={used.peak_flops!r}")
    if used.mfu != compute().mfu:
        arguments.append(f"mfu={used.mfu!r}")
    if used.usd_per_hour is not None and (plain is None or used.usd_per_hour != plain.usd_per_hour):
        arguments.append(f"price={used.usd_per_hour!r}")
    if used.precision != "bf16":
        arguments.append(f"precision={used.precision!r}")
    return f"compute({', '.join(arguments)})"


def teachers_toml(rows: list[Any]) -> str:
    """Rows of owned teachers as the file that `distillscale teachers` reads; a TOML string is a JSON string."""
    tables: list[str] = []
    for row in rows:
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in row.items()]
        tables.append("\n".join(["[[teacher]]", *lines]))
    return "\n\n".join(tables) + "\n"
