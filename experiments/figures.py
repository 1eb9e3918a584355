"""Draws every experiment's figure from its committed table and prints what it found.

python experiments/figures.py [NAME…]
"""

from __future__ import annotations

import sys

from analysis import HERE
from findings import FINDINGS

from distillscale.figures import render


def main(names: list[str]) -> None:
    """Writes experiments/NAME/figure.svg."""
    for name in names or [name for name in FINDINGS if (HERE / name / "results.csv").exists()]:
        found = FINDINGS[name]()
        (HERE / name / "figure.svg").write_bytes(render(found.figure, "svg"))
        print(f"\n## {name}", *found.lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
