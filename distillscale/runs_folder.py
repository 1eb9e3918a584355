"""Folders in which other tools keep their runs, as rows of text; what the columns mean is not known here.

An MLflow folder (mlruns.py), or a log directory of TensorBoard: every folder with event files is a run, its name the
path to it. Columns are `scalars.TAG` and `hparams.NAME`. Hyperparameters in a folder of their own below a run, as some
writers leave them, are that run's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .errors import InputError
from .eventfile import EventFile, read_events
from .mlruns import mlflow_runs
from .runs_file import Source
from .tracked import Tracked

__all__ = ["load_folder"]

_EVENTS: Final = "tfevents"


def load_folder(folder: Path) -> Source:
    """The runs in a folder; one without any is one line that says what it could have been."""
    runs = mlflow_runs(folder) or _logged(folder)
    if not runs:
        raise InputError(
            f"{folder} is a directory without runs; give the table itself (CSV, JSONL or Parquet), an MLflow folder "
            "(mlruns) or a TensorBoard log directory"
        )
    return _source(str(folder), runs)


def _source(name: str, runs: Sequence[Tracked]) -> Source:
    rows = [run.cells() for run in runs]
    header = tuple(dict.fromkeys(column for row in rows for column in row))
    return Source(name, header, rows, [f"run {run.id!r}" for run in runs])


def _logged(folder: Path) -> list[Tracked]:
    """The runs of a log directory, in the order of their names."""
    found: dict[Path, EventFile] = {}
    for path in sorted(folder.rglob(f"*{_EVENTS}*")):
        if path.is_file():
            read_events(path, found.setdefault(path.parent, EventFile()))
    _give_back(found)
    runs: list[Tracked] = []
    for home, events in sorted(found.items()):
        name = home.relative_to(folder).as_posix() if home != folder else folder.resolve().name
        texts = {f"hparams.{key}": value for key, value in events.hparams.items()}
        runs.append(Tracked(name, texts, {f"scalars.{tag}": points for tag, points in events.scalars.items()}))
    return runs


def _give_back(found: dict[Path, EventFile]) -> None:
    """Hyperparameters of the one folder below a run that has none of its own, with the values kept beside them."""
    for home in [home for home, events in found.items() if not events.hparams]:
        below = [path for path, events in found.items() if path.parent == home and events.hparams]
        if len(below) == 1:
            events = found.pop(below[0])
            found[home].hparams.update(events.hparams)
            for tag, points in events.scalars.items():
                found[home].scalars.setdefault(tag, points)
