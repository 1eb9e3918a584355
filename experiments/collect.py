"""Writes the package's table `miniature`: the runs of all experiments that the laws describe, each once.

python experiments/collect.py
"""

from __future__ import annotations

from analysis import HERE, merged, plain, write

EXPERIMENTS = ("supervised-law", "distillation-law", "capacity-gap", "teacher-loss-only", "break-even", "extrapolation")
COLUMNS = (
    "id", "kind", "params", "tokens", "loss", "teacher_loss", "teacher_params", "teacher_tokens", "teacher", "flops",
    "flops_teacher", "seed", "lr", "batch_tokens", "curve", "schedule", "kl", "bits_per_byte", "epochs", "context",
    "vocab", "steps", "cpu_seconds",
)  # fmt: skip
OUT = HERE.parent / "distillscale" / "datasets" / "miniature.csv"


def main() -> None:
    """λ = 1, τ = 1, the whole distribution, the shared learning rate; ordered so that a new run changes one line."""
    done = [name for name in EXPERIMENTS if (HERE / name / "results.csv").exists()]
    runs = [row for row in merged(*done).values() if plain(row)]
    runs.sort(key=lambda row: (row["kind"], row["params"], row["tokens"], row["teacher"], row["seed"], row["id"]))
    write(OUT, [{name: row[name] for name in COLUMNS} for row in runs])
    print(f"{len(runs)} runs of {', '.join(done)} in {OUT}")


if __name__ == "__main__":
    main()
