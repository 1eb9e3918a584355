"""Writes results.csv: student and teacher errors over teacher size, from the closed forms, and some by descent.

python experiments/kernel-regression/run.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from kernel import by_descent, cosines, student_error, teacher, teacher_error

SIZE, T, D = 1000, 5.0, 4.5
STUDENTS = (300, 400, 500, 600, 700, 800)
TEACHERS = range(10, SIZE + 1, 10)
DESCENDED = (200, 600, 1000)


def main() -> None:
    """α_i ~ U[−1, 1] as in the paper's Figure 10."""
    alpha = np.random.default_rng(0).uniform(-1.0, 1.0, SIZE)
    basis = cosines(2 * SIZE, SIZE)
    with (Path(__file__).parent / "results.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(("id", "m", "n", "teacher_error", "student_error", "student_error_by_descent"))
        for n in STUDENTS:
            for m in TEACHERS:
                found = ""
                if m in DESCENDED:
                    seen = basis @ teacher(alpha, m, T)
                    h = np.zeros(SIZE)
                    h[:n] = by_descent(seen, basis[:, :n], D)
                    found = f"{np.linalg.norm(h - alpha):.6f}"
                errors = (teacher_error(alpha, m, T), student_error(alpha, m, n, T, D))
                out.writerow((f"m{m}-n{n}", m, n, *(f"{error:.6f}" for error in errors), found))


if __name__ == "__main__":
    main()
