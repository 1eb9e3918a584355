"""Draw docs/coverage.svg: measured coverage of 90 % intervals against the number of clusters.

    python scripts/coverage_figure.py [STUDIES]

Simulates studies with a known law (tests/covering.py), fits and resamples them as a user would, and counts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np

HOME = Path(__file__).parent.parent
sys.path.insert(0, str(HOME / "tests"))

from covering import DESIGNS, measure  # noqa: E402

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "coverage"
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402


def main() -> int:
    """Measure every design and draw one figure."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    found = {name: measure(design, studies, draws=400) for name, design in DESIGNS.items()}
    figure, axes = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    axes.axvspan(85, 95, color="0.92", lw=0)
    axes.axvline(90, color="0.6", lw=1)
    places = np.arange(len(found))[::-1]
    for offset, part, colour in ((0.12, "inside", "#1b5e8c"), (-0.12, "outside", "#c2571a")):
        share = np.array([getattr(one, part) for one in found.values()])
        # predictions of one study are not independent: the error bar counts studies, not predictions
        error = 1.96 * np.sqrt(share * (1 - share) / studies)
        label = "in range" if part == "inside" else "extrapolated 2–3×"
        axes.errorbar(100 * share, places + offset, xerr=100 * error, fmt="o", color=colour, label=label, capsize=2)
    axes.set_yticks(places, list(found))
    axes.set_xlim(75, 100)
    axes.set_xlabel("90 % intervals that hold the planted truth, %")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    caption = (
        f"{studies} simulated studies a row, 400 resamples each: a planted law, 0.3 % noise per run and per teacher "
        "(supervised alone: 0.4 % per run).\nMade by scripts/coverage_figure.py."
    )
    figure.supxlabel(caption, fontsize=7, color="0.35")
    figure.savefig(HOME / "docs" / "coverage.svg", metadata={"Date": None})
    for name, one in found.items():
        print(f"{name:36s} in range {one.inside:.3f}  extrapolated {one.outside:.3f}  no intervals {one.without}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
