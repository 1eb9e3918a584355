"""Run tables that come with the package, each with its source and licence; what they say is for `fit` to find out.

A table is `NAME.csv` beside this file, in run-table format, with an entry `[NAME]` in tables.toml: `what` it is, its
`source` with a date, its `licence`.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, cast

from ..errors import InputError

__all__ = ["Dataset", "datasets", "load"]

_INDEX: Final = "tables.toml"
_KEYS: Final = ("what", "source", "licence")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One table: its name, what it is, where it is from, what may be done with it, how many rows and which columns."""

    name: str
    what: str
    source: str
    licence: str
    rows: int
    columns: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field's names."""
        return asdict(self) | {"columns": list(self.columns)}


def _home() -> Traversable:
    return files(__name__)


def _index() -> Mapping[str, Mapping[str, str]]:
    path = _home() / _INDEX
    if not path.is_file():
        return {}
    entries = cast("dict[str, dict[str, str]]", tomllib.loads(path.read_text(encoding="utf-8")))
    return {name: entry for name, entry in entries.items() if (_home() / f"{name}.csv").is_file()}


def datasets() -> list[Dataset]:
    """Every table that there is, by name."""
    return [_described(name, entry) for name, entry in sorted(_index().items())]


def _described(name: str, entry: Mapping[str, str]) -> Dataset:
    header, *rows = csv.reader(io.StringIO(load(name), newline=""))
    return Dataset(name=name, rows=len(rows), columns=tuple(header), **{key: entry[key] for key in _KEYS})


def load(name: str) -> str:
    """The CSV text of a table; an unknown name is named with the nearest."""
    known = list(_index())
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        there = f"there are {', '.join(known)}" if known else "this version comes with none"
        raise InputError(f"there is no dataset {name!r}; {hint}{there}")
    return (_home() / f"{name}.csv").read_text(encoding="utf-8")
