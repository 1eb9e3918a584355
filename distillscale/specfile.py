"""Reads a run's specification from TOML or JSON, every key known or refused; it knows what a run is and runs none.

    [run]                                  [distill]                  only for a student
    data = "data/sotu"                     teacher = "runs/teacher"
    out = "runs/student"                   lam = 1.0
    layers = 3                             tau = 1.0
    d_model = 64
    tokens = "1M"

Paths are relative to the file. What decides the numbers goes into the `RunSpec`, where things lie into the `Job`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from .errors import InputError
from .spec import RULES, RunSpec, nearest
from .units import parse_count

__all__ = ["TABLES", "Job", "read_job", "spec_of"]

_PATHS: Final = {"data": "run", "out": "run", "trunk": "run", "cache": "distill"}
TABLES: Final = {
    table: tuple(name for name, home in ({n: r.table for n, r in RULES.items()} | _PATHS).items() if home == table)
    for table in ("run", "distill")
}
_REQUIRED: Final = {"tokens": '"1M"', "batch_tokens": 2048, "context": 128}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A spec and where its inputs and its results lie."""

    spec: RunSpec
    data: Path
    out: Path
    teacher: Path | None = None
    """A run's folder or a Hugging Face one."""
    trunk: Path | None = None
    """The folder of the run whose branch point this one starts from."""
    cache: Path | None = None
    """Teacher outputs made beforehand."""
    start: Path | None = None


def read_job(path: Path) -> Job:
    """The spec file's job; a wrong key, value or table is one line that names it."""
    spec, paths = _parsed(path)
    for name in ("data", "out"):
        if name not in paths:
            raise InputError(f'{path}: [run] lacks {name}; write {name} = "path of a folder"')
    return Job(
        spec=spec,
        data=paths["data"],
        out=paths["out"],
        teacher=None if spec.teacher is None else path.parent / spec.teacher,
        trunk=paths.get("trunk"),
        cache=paths.get("cache"),
        start=None if spec.start is None else path.parent / spec.start,
    )


def spec_of(path: Path) -> RunSpec:
    """The spec alone, from a spec file or from the spec.json of a run's folder."""
    return _parsed(path)[0]


def _parsed(path: Path) -> tuple[RunSpec, dict[str, Path]]:
    tables = _tables(path)
    values: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    for table, entries in tables.items():
        for name, value in entries.items():
            where = f"{path}: [{table}] {name}"
            if name not in TABLES[table]:
                raise InputError(f"{where} is not a key; {_hint(name, table)}")
            if name in _PATHS:
                paths[name] = _path(where, value, path.parent)
            else:
                values[name] = _value(where, name, value)
    for name, example in _REQUIRED.items():
        if name not in values:
            raise InputError(f"{path}: [run] lacks {name}; write for example {name} = {example}")
    if "distill" in tables and "teacher" not in values:
        raise InputError(f'{path}: [distill] lacks teacher; write teacher = "path of its folder"')
    try:
        return RunSpec(**values), paths
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _tables(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"spec file {str(path)!r} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"spec file {str(path)!r} is not text in UTF-8; write TOML or JSON") from None
    try:
        found: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise InputError(f"spec file {str(path)!r} is not {kind}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"spec file {str(path)!r} must hold the tables run and distill; got a {type(found).__name__}")
    tables = cast("dict[str, object]", found)
    for name, entries in tables.items():
        if name not in TABLES:
            home = next((t for t, names in TABLES.items() if name in names), None)
            hint = f"it belongs in the table [{home}]" if home else nearest(name, tuple(TABLES))
            raise InputError(f"{path}: {name!r} is not a table; {hint}")
        if not isinstance(entries, dict):
            raise InputError(f"{path}: {name} must be a table; got {entries!r}; write [{name}] above its keys")
    if "run" not in tables:
        raise InputError(f"{path}: there is no table [run]; it needs data, out, a size, {', '.join(_REQUIRED)}")
    return cast("dict[str, Mapping[str, Any]]", tables)


def _hint(name: str, table: str) -> str:
    other = next((t for t, names in TABLES.items() if t != table and name in names), None)
    return f"it belongs in the table [{other}]" if other else nearest(name, TABLES[table])


def _path(where: str, value: object, home: Path) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{where} must be a path; got {value!r}; write it in quotes")
    return home / value


def _value(where: str, name: str, value: Any) -> Any:
    """Counts written as `1.5M` become whole numbers; everything else is left to `RunSpec` to judge."""
    kind = RULES[name].kind
    if kind == "counts" and isinstance(value, list):
        return [_count(where, item) for item in cast("list[Any]", value)]
    return _count(where, value) if kind == "whole" else value


def _count(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    count = parse_count(value, where)
    if count != int(count):
        raise InputError(f"{where} must be a whole number; got {value!r}; write it as 1M or 1_000_000")
    return int(count)
