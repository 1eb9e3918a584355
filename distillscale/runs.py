"""The run table: one row per training run, checked at the border; nothing here knows a law or fits one.

Columns (README, "Run table"): `params, tokens, loss`, for students also `teacher_loss`, and optionally `kind,
teacher_params, teacher_tokens, teacher, flops, seed, unique_tokens, lr, batch_tokens, study, id`. Losses are nats per
token, sizes are parameters, tokens are tokens. Other columns are kept as text and ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .runs_file import FIELDS, Source, load
from .runs_folder import load_folder
from .tracked import is_derived
from .units import parse_count

__all__ = ["COLUMNS", "KINDS", "RunTable", "read", "read_source"]

Array = NDArray[np.float64]
Labels = NDArray[np.str_]

KINDS: Final = ("supervised", "distillation")
_COUNT, _TOKENS, _LOSS, _ANY = (1e3, 1e15), (1e3, 1e18), (0.0, 20.0), (0.0, math.inf)
# Numeric columns: the plausible range, the low end of a loss excluded.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "params": _COUNT,
    "tokens": _TOKENS,
    "loss": _LOSS,
    "teacher_loss": _LOSS,
    "teacher_params": _COUNT,
    "teacher_tokens": _TOKENS,
    "flops": _ANY,
    "unique_tokens": _TOKENS,
    "lr": _ANY,
    "batch_tokens": _ANY,
}
_TEXT: Final = ("kind", "teacher", "seed", "study", "id")
COLUMNS: Final = ("kind", *_RANGES, "teacher", "seed", "study", "id")
_NOT_COUNTS: Final = frozenset({"loss", "teacher_loss", "lr"})
# What the planner calls the same things; `student_loss` in a table or a hold-out is `loss`.
_IDS: Final = {"run_id": "id", "ID": "id"}
"""What trackers call the id of a run in the tables that they export."""
_STATES: Final = ("state", "status")
_UNFINISHED: Final = frozenset({"running", "scheduled", "pending", "failed", "crashed", "killed", "preempted"})
ALIASES: Final = {"student_params": "params", "student_tokens": "tokens", "student_loss": "loss"}
_TABLE: Final = "a run table"
_LISTED: Final = 40
_PREFIX: Final = re.compile(r"(?:params|metrics|tags|scalars|hparams|config|summary)\.(?=.)|(?<=min\()\w+\.(?=.)")
_COMPARISON = re.compile(r"\s*([A-Za-z_][\w ]*?)\s*(<=|>=|==|!=|<|>|=)\s*(.+?)\s*")


@dataclass(frozen=True, kw_only=True)
class RunTable:
    """Columns of equal length; an optional column is None where the table has none, a missing cell is nan or ''."""

    params: Array
    tokens: Array
    loss: Array
    kind: Labels
    teacher_loss: Array | None = None
    teacher_params: Array | None = None
    teacher_tokens: Array | None = None
    flops: Array | None = None
    unique_tokens: Array | None = None
    lr: Array | None = None
    batch_tokens: Array | None = None
    teacher: Labels | None = None
    seed: Labels | None = None
    study: Labels | None = None
    id: Labels | None = None
    extra: Mapping[str, Labels] = field(default_factory=dict[str, Labels])
    source: str = "table"
    dropped: int = 0
    """Bad rows left out on request."""
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> RunTable:
        """The table with only these rows."""
        new: dict[str, Any] = {"extra": {name: column[rows] for name, column in self.extra.items()}}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                new[f.name] = value[rows]
        return replace(self, **new)

    def of_kind(self, kind: str) -> RunTable:
        """The supervised or the distillation rows."""
        return self.select(self.kind == kind)

    def number(self, name: str) -> Array:
        """A numeric column by name; `tokens_per_param` and `compute` (6·params·tokens) are derived."""
        name = ALIASES.get(name, name)
        if name == "tokens_per_param":
            return self.tokens / self.params
        if name == "compute":
            return 6.0 * self.params * self.tokens
        column: Array | Labels | None = getattr(self, name) if name in _RANGES else self.extra.get(name)
        if column is None:
            raise InputError(self._no_column(name, [*_RANGES, "tokens_per_param", "compute"]))
        if column.dtype.kind == "f":
            return column.astype(float)
        return np.array([_float_or_nan(cell) for cell in column])

    def labels(self, name: str) -> Labels:
        """A column as text, for grouping."""
        column: Array | Labels | None = getattr(self, name) if name in COLUMNS else self.extra.get(name)
        if column is None:
            raise InputError(self._no_column(name, COLUMNS))
        return column.astype(str) if column.dtype.kind == "U" else np.array([f"{x:.12g}" for x in column])

    def _no_column(self, name: str, known: Sequence[str]) -> str:
        have = [n for n in known if getattr(self, n, None) is not None] + list(self.extra)
        near = get_close_matches(name, have, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{self.source} has no column {name!r}; {hint}it has {', '.join(have)}"

    def where(self, expression: str) -> NDArray[np.bool_]:
        """Rows for which one comparison such as 'loss<2.3' or 'params>5e8' holds; a missing value never does."""
        found = _COMPARISON.fullmatch(expression)
        if found is None:
            raise InputError(
                f"hold-out {expression!r} is not one comparison; write a column, one of < <= > >= == !=, and a value, "
                "for example 'loss<2.3'"
            )
        name, operator, text = found[1].strip(), found[2], found[3].strip("'\"")
        try:
            value = _parse(text, count=True)
        except InputError:
            if operator not in ("==", "=", "!="):
                raise InputError(f"hold-out {expression!r}: {text!r} is not a number; write it as 2.3 or 5e8") from None
            same = self.labels(name) == text
            return ~same if operator == "!=" else same
        column = self.number(name)
        compare = {
            "<": np.less,
            "<=": np.less_equal,
            ">": np.greater,
            ">=": np.greater_equal,
            "==": np.equal,
            "=": np.equal,
            "!=": np.not_equal,
        }
        return compare[operator](column, value) & np.isfinite(column)

    def duplicates(self) -> int:
        """How many rows repeat an earlier one in every column."""
        columns = [np.asarray(getattr(self, f.name)).astype(str) for f in fields(self) if f.name in COLUMNS]
        columns = [c for c in [*columns, *self.extra.values()] if c.shape == (len(self),)]
        rows = set(zip(*columns, strict=True))
        return len(self) - len(rows)


def _float_or_nan(text: str) -> float:
    try:
        return _parse(text, count=True)
    except InputError:
        return math.nan


def _parse(text: str, *, count: bool) -> float:
    try:
        return float(text)
    except ValueError:
        if not count:
            raise InputError(f"{text!r} is not a number") from None
        return parse_count(text)


def read(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    *,
    skip_bad_rows: bool = False,
    tokens_from_flops: bool = False,
) -> RunTable:
    """Read CSV, JSON lines or Parquet, an MLflow folder or a TensorBoard log directory, and check every row.

    `columns` maps our names to the file's ({"params": "Model Size"}). `kind` sets the kind of every row; without it
    the `kind` column decides, and without that a row with a teacher's loss is a distillation run. A bad row is an
    `InputError` that names its line, or is dropped and counted with `skip_bad_rows`. With `tokens_from_flops`,
    tokens are C/(6N) where the table has no tokens of its own.
    """
    source = load_folder(Path(path)) if Path(path).is_dir() else load(Path(path))
    return read_source(source, columns, kind, skip_bad_rows=skip_bad_rows, tokens_from_flops=tokens_from_flops)


def read_source(
    source: Source,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    *,
    skip_bad_rows: bool = False,
    tokens_from_flops: bool = False,
) -> RunTable:
    """`read` from text that is already a table."""
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    names = _names(source, dict(columns or {}), tokens_from_flops)
    return _Reader(source, names, kind, tokens_from_flops).table(skip_bad_rows)


def _names(source: Source, columns: dict[str, str], tokens_from_flops: bool) -> dict[str, str]:
    """Our column name → the file's, for every column of ours that the file has."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            near = get_close_matches(ours, COLUMNS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"columns: {ours!r} is no column of a run table; {hint}there are {', '.join(COLUMNS)}")
        if theirs not in source.header:
            raise InputError(_missing(source, theirs, f"columns: {ours}={theirs}"))
    names = {name: name for name in COLUMNS if name in source.header}
    names |= {ours: theirs for theirs, ours in ALIASES.items() if theirs in source.header and ours not in names}
    names |= {ours: theirs for theirs, ours in _IDS.items() if theirs in source.header and ours not in names}
    names |= columns
    needed = ["params", "loss", *(["flops"] if tokens_from_flops and "tokens" not in names else ["tokens"])]
    for name in needed:
        if name not in names:
            raise InputError(_missing(source, name, _TABLE))
    return names


def _missing(source: Source, name: str, why: str) -> str:
    shown = [column for column in source.header if not is_derived(column)]
    near = _near(name, source.header if is_derived(name) else shown)
    hint = f"did you mean {near!r}?" if near else ""
    if why == _TABLE:
        hint += f"{' ' if hint else ''}name it with --columns {name}={near or '…'}"
    if name == "tokens" and "flops" in source.header:
        hint = "the table has flops: let tokens come from them with --tokens-from-flops"
    if any(column.endswith("__MIN") for column in source.header):
        hint = "it is the export of a chart, step by step; export the table of runs instead"
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    have = ", ".join(shown[:_LISTED])
    return f"{source.name} has no column {name!r}, which {why} needs; it has {have}{more}; {hint}".rstrip("; ")


def _near(name: str, header: Sequence[str]) -> str | None:
    """The column that a name may have meant: of the same or of similar letters behind what a tracker puts before it."""
    inner = _PREFIX.sub("", name)
    behind = {_PREFIX.sub("", column): column for column in reversed(header)}
    same = [column for tail, column in behind.items() if tail == inner or tail.endswith((f"/{inner}", f".{inner}"))]
    if same:
        return same[-1]
    found = get_close_matches(inner, behind, 1, 0.5)
    return behind[found[0]] if found else None


class _BadCell(Exception):
    """One cell that breaks a rule: the column, its value, the rule."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """Rows of text to checked columns."""

    source: Source
    names: Mapping[str, str]
    kind: str | None
    tokens_from_flops: bool

    def table(self, skip_bad_rows: bool) -> RunTable:
        good: list[dict[str, Any]] = []
        kept: list[int] = []
        bad: list[str] = []
        for index, cells in enumerate(self.source.rows):
            try:
                good.append(self._row(cells))
                kept.append(index)
            except _BadCell as error:
                message = f"{self.source.name} {self.source.places[index]}, {error}"
                if not skip_bad_rows:
                    raise InputError(f"{message}; correct it or drop bad rows with --skip-bad-rows") from None
                bad.append(message)
        if not good:
            why = f"all {len(bad)} are bad, the first: {bad[0]}" if bad else "it has a header only"
            raise InputError(f"{self.source.name} holds no usable rows: {why}; a run table needs one row a run")
        columns: dict[str, Any] = {name: self._column(name, [row[name] for row in good]) for name in good[0]}
        used = set(self.names.values())
        extra = {
            name: np.array([self.source.rows[i].get(name) or "" for i in kept])
            for name in self.source.header
            if name not in used and not is_derived(name)
        }
        table = RunTable(**columns, extra=extra, source=self.source.name, dropped=len(bad))
        return replace(table, warnings=tuple(self._warnings(table, bad)))

    def _column(self, name: str, values: list[Any]) -> Array | Labels:
        return np.array(values, float) if name in _RANGES else np.array([str(v) for v in values])

    def _row(self, cells: Mapping[str, str | None]) -> dict[str, Any]:
        if (count := cells.get(FIELDS)) is not None:
            raise _BadCell(f"it has {count} fields where the header has {len(self.source.header)}")
        for theirs, text in ((name, cells.get(name) or "") for name in self.source.header if name.lower() in _STATES):
            if text.strip().lower() in _UNFINISHED:
                raise _BadCell(f"column {theirs!r}: {text!r}: the run did not end, nor did its loss")
        row: dict[str, Any] = {}
        for name, theirs in self.names.items():
            text = (cells.get(theirs) or "").strip()
            row[name] = self._number(name, theirs, text) if name in _RANGES else text
        kind = self.kind or row.get("kind") or ("supervised" if self._no_teacher(row) else "distillation")
        if kind not in KINDS:
            raise _BadCell(f"column {self.names['kind']!r}: {kind!r} is not one of {', '.join(KINDS)}")
        row["kind"] = kind
        if kind == "distillation" and self._no_teacher(row):
            column = self.names.get("teacher_loss", "teacher_loss")
            raise _BadCell(f"column {column!r}: a distillation run needs the loss of its teacher")
        if self.tokens_from_flops and math.isnan(row.get("tokens", math.nan)):
            row["tokens"] = row.get("flops", math.nan) / (6.0 * row["params"])
            if row["tokens"] < _TOKENS[0] or row["tokens"] > _TOKENS[1]:
                raise _BadCell(f"flops/(6·params) = {row['tokens']:g} tokens, which must lie in 1e3 … 1e18")
        for name in ("params", "loss", "tokens"):
            if math.isnan(row[name]):
                column = self.names.get(name, self.names.get("flops", name))
                raise _BadCell(f"column {column!r}: the cell is empty and must hold a number")
        return row

    @staticmethod
    def _no_teacher(row: Mapping[str, Any]) -> bool:
        return math.isnan(row.get("teacher_loss", math.nan))

    def _number(self, name: str, theirs: str, text: str) -> float:
        if not text:
            return math.nan
        try:
            value = _parse(text, count=name not in _NOT_COUNTS)
        except InputError:
            raise _BadCell(f"column {theirs!r}: {text[:40]!r} is not a number") from None
        low, high = _RANGES[name]
        if not math.isfinite(value):
            raise _BadCell(f"column {theirs!r}: {text!r} must be finite")
        if low == 0.0 and not 0.0 < value <= high:
            limit = "" if high == math.inf else f" and at most {high:g} nats"
            raise _BadCell(f"column {theirs!r}: {text!r} must be positive{limit}")
        if not low <= value <= high:
            unit = " (millions? write 125M or 1.25e8)" if value < low else ""
            raise _BadCell(f"column {theirs!r}: {text!r} must lie in {low:g} … {high:g}{unit}")
        return value

    def _warnings(self, table: RunTable, bad: list[str]) -> list[str]:
        out: list[str] = []
        if bad:
            out.append(f"{len(bad)} bad row{'s' * (len(bad) > 1)} dropped; the first: {bad[0]}")
        if repeated := table.duplicates():
            rows = "1 row repeats an earlier one" if repeated == 1 else f"{repeated} rows repeat earlier ones"
            out.append(f"{rows} exactly and count again; drop copies")
        return out
