"""Runs in an MLflow folder (`mlruns`), read from its plain files without MLflow; what the numbers mean is not known.

    mlruns/<experiment>/<run>/meta.yaml       name, status, lifecycle_stage
                              params/NAME     one text
                              tags/NAME       one text
                              metrics/NAME    a line "time value step" for every logged value; a / in NAME is a folder

Columns are named as in MLflow's own tables: `params.NAME`, `tags.NAME`, `metrics.NAME`, `status`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .errors import InputError
from .tracked import Point, Tracked

__all__ = ["mlflow_runs"]

_META: Final = "meta.yaml"
_KINDS: Final = ("metrics", "params")
_STATES: Final = {"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}


def mlflow_runs(folder: Path) -> list[Tracked]:
    """Runs in a folder of experiments, in one experiment, or the one run; none where it is no such folder.

    Runs that were deleted there are none here.
    """
    homes = [folder, *(found for pattern in ("*", "*/*") for found in sorted(folder.glob(pattern)))]
    runs: list[Tracked] = []
    for home in homes:
        if ".trash" in home.parts or not (home / _META).is_file() or not any((home / kind).is_dir() for kind in _KINDS):
            continue
        meta = _meta(home / _META)
        if meta.get("lifecycle_stage") != "deleted":
            runs.append(_run(home, meta))
    return runs


def _meta(path: Path) -> dict[str, str]:
    """The flat part of a YAML file: `key: value` lines, quotes taken off."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, sign, value = line.partition(":")
        if sign and key.strip() == key:
            found[key] = value.strip().strip("'\"")
    return found


def _run(home: Path, meta: dict[str, str]) -> Tracked:
    state = meta.get("status", "")
    run = Tracked(home.name, {"status": _STATES.get(state, state)})
    if meta.get("run_name"):
        run.texts["run_name"] = meta["run_name"]
    for kind in ("params", "tags"):
        for name, path in _files(home / kind):
            run.texts[f"{kind}.{name}"] = _text(path).strip()
    for name, path in _files(home / "metrics"):
        if points := _points(path):
            run.series[f"metrics.{name}"] = points
    return run


def _files(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def _points(path: Path) -> list[Point]:
    points: list[Point] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        time, *rest = line.split()
        try:
            value, step = (float(rest[0]), float(rest[1]) if len(rest) > 1 else 0.0)
            points.append(Point(step, float(time), value))
        except (ValueError, IndexError):
            raise InputError(
                f"{str(path)!r} line {number} is not a metric's 'time value step'; the file is damaged"
            ) from None
    return points


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not UTF-8 text, as MLflow's files are; it is damaged") from None
