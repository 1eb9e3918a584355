"""The paper's two capacity gaps outside language models (App. C): what their committed tables say."""

from __future__ import annotations

import csv

from analysis import HERE, by, mean
from drawing import Found, points

from distillscale.chart import Axis, Chart, Figure, Series


def kernel_regression() -> Found:
    """Errors over teacher size, by student."""
    with (HERE / "kernel-regression" / "results.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    series: list[Series] = []
    lines: list[str] = []
    for n, mine in by(table, lambda r: int(r["n"])).items():
        m, e = [int(r["m"]) for r in mine], [float(r["student_error"]) for r in mine]
        series.append(Series.of(f"n = {n}", m, e))
        lines.append(f"n = {n}: least {min(e):.3f}, with the largest teacher {e[-1]:.3f}")
    both = [
        (float(r["student_error"]), float(r["student_error_by_descent"]))
        for r in table
        if r["student_error_by_descent"]
    ]
    lines.append(
        f"closed form against descent: at most {max(abs(a - b) for a, b in both):.1e} apart, {len(both)} cases"
    )
    chart = Chart(
        name="kernel-regression", title="Student's error over the teacher's size",
        x=Axis(label="basis functions of the teacher m"), y=Axis(label="distance from f*"), series=tuple(series),
    )  # fmt: skip
    return Found(Figure(name="kernel-regression", title="A capacity gap in closed form", charts=(chart,)), lines)


def mlp_mapping() -> Found:
    """Student loss over teacher width and over the length of a wide teacher's training."""
    with (HERE / "mlp-mapping" / "results.csv").open(encoding="utf-8", newline="") as file:
        table = [{k: v if k == "id" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    lines: list[str] = []
    widths: list[Series] = []
    lengths: list[Series] = []
    usual = {r["teacher_width"]: max(q["teacher_steps"] for q in table if q["teacher_width"] == r["teacher_width"])
             for r in table}  # fmt: skip
    for width, mine in sorted(by(table, lambda r: r["width"]).items()):
        full = [r for r in mine if r["teacher_steps"] == usual[r["teacher_width"]]]
        short = [r for r in mine if r["teacher_width"] == 512 and width == 256]
        for kept, key, into in ((full, "teacher_width", widths), (short, "teacher_steps", lengths)):
            if kept:
                ladder = dict(sorted(by(kept, lambda r, key=key: r[key]).items()))
                means = [mean(r["loss"] for r in group) for group in ladder.values()]
                into.append(points(f"student of {width:.0f}", list(ladder), means))
                lines += [f"student {width:.0f}, {key} {x:.0f}: {m}" for x, m in zip(ladder, means, strict=True)]
    loss = Axis(label="student's loss", unit="nats")
    charts = (
        Chart(name="width", title="Teachers of several widths", x=Axis(label="teacher's width", scale="log"), y=loss,
              series=tuple(widths)),
        Chart(name="length", title="A teacher of width 512", x=Axis(label="teacher's steps", scale="log"), y=loss,
              series=tuple(lengths)),
    )  # fmt: skip
    return Found(Figure(name="mlp-mapping", title="The mapping problem", charts=charts, columns=2), lines)
