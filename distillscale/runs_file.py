"""Reading table files into rows of text, with the line of each; what the columns mean is not known here."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from .errors import InputError

__all__ = ["FIELDS", "Source", "load", "parse"]

# Key of a row with too many or too few fields; no header can hold a NUL.
FIELDS: Final = "\0fields"

_JSON_LINES: Final = frozenset({".jsonl", ".ndjson", ".json"})
_PARQUET: Final = frozenset({".parquet", ".pq"})


@dataclass(frozen=True, slots=True)
class Source:
    """Runs as text: the file's name, column names, rows {column: cell}, and where each came from ("line 3")."""

    name: str
    header: tuple[str, ...]
    rows: list[dict[str, str | None]]
    places: list[str]


def load(path: Path) -> Source:
    """Read a CSV, JSON-lines or Parquet file; every way a file can be wrong is one line that begins with its name."""
    name = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}; check the path") from None
    return parse(name, data)


def parse(name: str, data: bytes) -> Source:
    """`load` from the content of a file called `name`.

    A column of objects, as trackers export `config` and `summary`, is also there key by key: `config.lr`.
    """
    return _with_keys(_parse(name, data))


def _parse(name: str, data: bytes) -> Source:
    suffix = Path(name).suffix.lower()
    if not data.strip():
        raise InputError(f"{name} is empty; a run table needs a header and one row a run")
    if suffix in _PARQUET or data[:4] == b"PAR1":
        return _parquet(name, data)
    text = _text(name, data)
    if suffix in _JSON_LINES or text.lstrip()[:1] == "{":
        return _json_lines(name, text)
    return _csv(name, text)


def _text(name: str, data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16 text; save it as UTF-8")
    if b"\0" in data[:65536]:
        raise InputError(f"{name} is a binary file; a run table is CSV, JSON lines or Parquet")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{name} line {line} is not UTF-8 text; save the file as UTF-8") from None


def _csv(name: str, text: str) -> Source:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str | None]] = []
    places: list[str] = []
    header: tuple[str, ...] = ()
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = _header(name, [cell.strip() for cell in cells])
                continue
            row: dict[str, str | None] = dict(zip(header, cells, strict=False))
            if len(cells) != len(header):
                row[FIELDS] = str(len(cells))
            rows.append(row)
            places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise InputError(f"{name} line {reader.line_num} is not CSV: {error}; check its quotes") from None
    return Source(name, header, rows, places)


def _header(name: str, cells: list[str]) -> tuple[str, ...]:
    if len(cells) == 1:
        for mark, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if mark in cells[0]:
                raise InputError(f"{name}: columns are separated by {word}; save the table with commas")
    for cell in cells:
        if cells.count(cell) > 1:
            raise InputError(f"{name}: the header names column {cell!r} {cells.count(cell)} times; rename all but one")
    return tuple(cells)


def _json_lines(name: str, text: str) -> Source:
    rows: list[dict[str, str | None]] = []
    places: list[str] = []
    header: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record: object = json.loads(line)
        except (ValueError, RecursionError):
            raise InputError(f"{name} line {number} is not JSON; write one object a line") from None
        if not isinstance(record, Mapping):
            raise InputError(f"{name} line {number} is not a JSON object; write one object a line")
        rows.append({key: _cell(value) for key, value in cast("Mapping[str, Any]", record).items()})
        header |= dict.fromkeys(rows[-1])
        places.append(f"line {number}")
    return Source(name, tuple(header), rows, places)


def _cell(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        return json.dumps(value, default=str)
    return repr(value) if isinstance(value, float) else str(value)


def _with_keys(source: Source) -> Source:
    """The table with a column for every key of its cells that are objects; a column of that name already stays."""
    header = dict.fromkeys(source.header)
    rows = [dict(row) for row in source.rows]
    for column in source.header:
        for row in rows:
            for key, value in _flat(column, _object(row.get(column))).items():
                if key not in source.header:
                    header[key] = None
                    row[key] = value
    return replace(source, header=tuple(header), rows=rows)


def _object(cell: str | None) -> Mapping[str, Any]:
    """A cell that holds a JSON object, or a dictionary as Python prints it; else nothing."""
    text = (cell or "").strip()
    if text[:1] != "{" or text[-1:] != "}":
        return {}
    for parse in (json.loads, ast.literal_eval):  # the latter knows literals only
        try:
            found: object = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, Mapping):
            return cast("Mapping[str, Any]", found)
    return {}


def _flat(name: str, values: Mapping[str, Any]) -> dict[str, str | None]:
    """`{"model": {"width": 8}}` in column config → `config.model.width`; of {"value": 8, "desc": …} the value."""
    found: dict[str, str | None] = {}
    for key, value in values.items():
        inner = cast("object", value["value"] if isinstance(value, Mapping) and "value" in value else value)
        if isinstance(inner, Mapping):
            found |= _flat(f"{name}.{key}", cast("Mapping[str, Any]", inner))
        else:
            found[f"{name}.{key}"] = _cell(inner)
    return found


def _parquet(name: str, data: bytes) -> Source:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{name} is Parquet, which needs pyarrow; pip install 'distillscale[tables]'") from None
    try:
        records: list[dict[str, Any]] = parquet.read_table(arrow.BufferReader(data)).to_pylist()
    except arrow.ArrowException as error:
        raise InputError(f"{name} is not readable Parquet: {str(error).splitlines()[0][:80]}") from None
    header = tuple(dict.fromkeys(key for record in records for key in record))
    rows = [{key: _cell(value) for key, value in record.items()} for record in records]
    return Source(name, header, rows, [f"line {number}" for number in range(1, len(rows) + 1)])
