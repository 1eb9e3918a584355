"""What the experiments' tables have in common: reading them, means over seeds, paired differences, intervals.

Losses are nats per token, every interval is a 90 % one. Runs of one seed share their first weights and, where they have
the same half of the data, their batches; so differences are taken within a seed wherever they can be.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from distillscale import RunTable, read

HERE = Path(__file__).parent
LEVEL = 0.9
Row = Mapping[str, Any]

_NUMBERS = (
    "params", "tokens", "loss", "teacher_loss", "teacher_params", "teacher_tokens", "flops", "flops_teacher", "seed",
    "lr", "lam", "tau", "classes", "kl", "epochs", "cpu_seconds", "steps",
)  # fmt: skip


def rows(experiment: str) -> list[dict[str, Any]]:
    """The runs of one experiment; numbers are numbers, an empty cell is None."""
    out: list[dict[str, Any]] = []
    with (HERE / experiment / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            read: dict[str, Any] = dict(row)
            for name in _NUMBERS:
                if name in read:
                    read[name] = float(read[name]) if read[name] else None
            out.append(read)
    return out


class Mean(NamedTuple):
    """A mean with the ends of its interval, None where one value alone gives none."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        ends = "no interval" if self.low is None else f"{self.low:+.4f} to {self.high:+.4f}"
        return f"{self.value:+.4f} ({ends}, n = {self.count})"


def mean(values: Iterable[float]) -> Mean:
    """By Student's t."""
    x = np.asarray(list(values), float)
    if len(x) < 2:
        return Mean(float(x.mean()), None, None, len(x))
    half = float(student_t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Mean(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def by(table: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Groups in order of their first row."""
    out: dict[Any, list[Row]] = defaultdict(list)
    for row in table:
        out[key(row)].append(row)
    return dict(out)


def paired(left: Sequence[Row], right: Sequence[Row], column: str = "loss") -> Mean:
    """Mean of left − right over the seeds that both have."""
    of = {row["seed"]: row[column] for row in right}
    return mean(row[column] - of[row["seed"]] for row in left if row["seed"] in of)


def pooled(spreads: Iterable[float]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(list(spreads)))))


def merged(*experiments: str) -> dict[str, dict[str, Any]]:
    """Rows by id; a run that two experiments share is one run."""
    return {row["id"]: row for name in experiments for row in rows(name)}


def run_table(chosen: Iterable[Row]) -> RunTable:
    """What `distillscale.fit` takes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        write(path, list(chosen))
        return read(path)


def write(path: Path, chosen: Sequence[Row]) -> None:
    """Rows as a run table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(chosen[0]), lineterminator="\n")
        out.writeheader()
        out.writerows({name: _cell(value) for name, value in row.items()} for row in chosen)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return value


def plain(row: Row) -> bool:
    """Trained as the laws mean it: λ = 1, τ = 1, the whole distribution, the shared learning rate."""
    return row["lr"] == 0.01 and (
        row["kind"] == "supervised" or (row["lam"] == 1 and row["tau"] == 1 and row["targets"] == "online")
    )
