"""Registers a forecast of runs that are not made yet: forecast.csv with id, predicted, low, high (nats per token).

    python experiments/extrapolation/forecast.py supervised|distillation

The laws are fitted to the tables of supervised-law and distillation-law alone. A student's forecast uses its teacher's
forecast, not its measured loss. Rows that are registered are never rewritten.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from analysis import merged, plain, run_table  # noqa: E402

from distillscale import fit, predict  # noqa: E402
from distillscale.study import planned  # noqa: E402
from distillscale.studyfile import read_study  # noqa: E402

COLUMNS = ("id", "kind", "params", "tokens", "predicted", "low", "high")


def main(kind: str) -> None:
    """Appends the runs of one kind."""
    study = read_study(HERE / "study.toml")
    runs = {run.id: run for run in planned(study) if not run.is_trunk}
    sources = ("supervised-law",) if kind == "supervised" else ("supervised-law", "distillation-law")
    table = run_table(row for row in merged(*sources).values() if plain(row))
    cluster = "curve" if kind == "supervised" else "teacher"
    law = fit(table, kind, cluster=cluster, bootstrap=1000).require().to_lawset("miniature")
    path = HERE / "forecast.csv"
    known: set[str] = set()
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            known = {row["id"] for row in csv.DictReader(file)}
    else:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with path.open("a", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        for run in sorted(runs.values(), key=lambda run: run.spec.tokens):
            if run.spec.kind != kind or run.id in known:
                continue
            N, D = float(run.params), float(run.spec.tokens)
            if run.teacher is None:
                found = predict(law, N, D)
                value, ends = found.supervised_loss, found.supervised_interval
            else:
                teacher = runs[run.teacher]
                size = {"teacher_params": float(teacher.params), "teacher_tokens": float(teacher.spec.tokens)}
                found = predict(law, N, D, **size)
                value, ends = found.student_loss, found.interval
            assert value is not None
            assert ends is not None
            out.writerow((run.id, kind, run.params, run.spec.tokens, *(f"{x:.5f}" for x in (value, *ends))))


if __name__ == "__main__":
    main(sys.argv[1])
