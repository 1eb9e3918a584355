"""A study's records as a run table, in CSV or Parquet; what the numbers mean to a law is not known here."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from .errors import InputError
from .files import write_atomically
from .record import RunRecord
from .spec import default
from .store import Store
from .study import Planned, Study

__all__ = ["COLUMNS", "cluster_of", "rows_of", "rows_to_fit", "schedule_pairs", "write_table"]

# The run table's own columns first (runs.py), then what else a reader may ask of a run.
_RECORD: Final = (
    "kind", "params", "tokens", "loss", "teacher_loss", "teacher_params", "teacher_tokens", "teacher", "flops", "seed",
    "unique_tokens", "lr", "batch_tokens", "study", "id",
)  # fmt: skip
_SPEC: Final = ("schedule", "lam", "tau", "divergence", "targets", "classes")
_MORE: Final = (
    "kl", "bits_per_byte", "epochs", "context", "vocab", "steps", "eval_tokens", "branched_at", "sharing",
    "flops_teacher", "wall_seconds", "cpu_seconds", "other_seconds", "mfu", "sessions",
)  # fmt: skip
COLUMNS: Final[tuple[str, ...]] = (*_RECORD, "roles", "curve", *_SPEC, *_MORE)
"""`curve` is the trunk that a run branched off, or the run itself: rows of one curve are not independent."""


def rows_of(runs: Sequence[Planned], store: Store) -> list[dict[str, Any]]:
    """One row a run that is done, in the study's order, but for trunks; a teacher's tokens are its own record's."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        record = store.record(run.id)
        if run.is_trunk or record is None or record.outcome != "completed":
            continue
        row = {name: getattr(record, name) for name in (*_RECORD, *_MORE)}
        teacher = None if run.teacher is None else store.record(run.teacher)
        if teacher is not None:
            row |= {"teacher_tokens": teacher.tokens, "teacher_params": teacher.params}
        distilled = run.spec.teacher is not None
        row |= {name: getattr(run.spec, name) if distilled or name == "schedule" else None for name in _SPEC}
        row |= {"roles": " ".join(run.roles), "curve": _curve(run, record)}
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def rows_to_fit(study: Study, runs: Sequence[Planned], store: Store) -> list[dict[str, Any]]:
    """The rows that a law of the study is fitted to: those of the schedule of [run], without those for comparison."""
    schedule = study.run.get("schedule", default("schedule"))
    return [row for row in rows_of(runs, store) if row["schedule"] == schedule]


def cluster_of(rows: Sequence[dict[str, Any]], form: str) -> str | None:
    """What is resampled together: the decays of one trunk, where runs are decays and no teacher binds them."""
    branched = any(row["curve"] != row["id"] for row in rows)
    return "curve" if branched and form != "distillation" else None


def _curve(run: Planned, record: RunRecord) -> str:
    return run.id if record.branched_at is None or run.trunk is None else run.trunk


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The whole table or nothing, by the file's ending; `distillscale fit` reads either."""
    if path.suffix.lower() in (".parquet", ".pq"):
        content = _parquet(path, rows)
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
        content = text.getvalue().encode()
    write_atomically(path, content)


def _cell(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _parquet(path: Path, rows: Sequence[dict[str, Any]]) -> bytes:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(f"{str(path)!r} is Parquet, which needs pyarrow; pip install 'distillscale[tables]'") from None
    table = arrow.table({name: arrow.array([row[name] for row in rows]) for name in COLUMNS})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def schedule_pairs(runs: Sequence[Planned], store: Store) -> list[dict[str, Any]]:
    """Runs alike but for wsd against cosine: what the schedule that saves costs in loss, where both ran."""
    pairs: dict[str, dict[str, RunRecord]] = defaultdict(dict)
    for run in runs:
        record = store.record(run.id)
        if record is not None and record.outcome == "completed" and run.spec.schedule in ("wsd", "cosine"):
            content = {
                k: v for k, v in run.spec.content().items() if k not in ("schedule", "decay_fraction", "warmup_tokens")
            }
            pairs[repr(sorted(content.items()))][run.spec.schedule] = record
    return [
        {
            "params": pair["wsd"].params,
            "tokens": pair["wsd"].tokens,
            "seed": pair["wsd"].seed,
            "wsd_loss": pair["wsd"].loss,
            "cosine_loss": pair["cosine"].loss,
            "difference_nats": (pair["wsd"].loss or 0.0) - (pair["cosine"].loss or 0.0),
        }
        for pair in pairs.values()
        if len(pair) == 2
    ]
