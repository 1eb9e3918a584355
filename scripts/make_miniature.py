"""Fit both laws to the package's table `miniature` and write the set of that name with its draws.

    python scripts/make_miniature.py

The supervised law is of the table's supervised rows; students are resampled by teacher.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from make_refit import HOME, told, write_draws

from distillscale import Fit, fit, read
from distillscale.datasets import load

NAME, DRAWS, SEED = "miniature", 500, 0
CAVEATS = (
    "transformers of 9k to 1.3M parameters: what they teach of real ones is the shape of the law, not its numbers",
    "nats per token of a tokenizer of 512 tokens, 2.1 bytes each, on English books; other data need their own fit",
    "FLOPs of F(N) are of the paper's family with its context and vocabulary: say --context 128 --vocab 512",
    "A', B' and the exponents trade off against each other: trust predictions, not coefficient values",
)


def toml(found: Fit) -> str:
    """The set as a published TOML."""
    first = found.supervised_fit
    assert first is not None
    return f'''# Our fit of Eq 1 and Eq 8 to our own runs. Written by scripts/make_miniature.py.
format = "distillscale-law/1"
name = "{NAME}"
form = "distillation"
paper = "the forms of Busbridge et al., Distillation Scaling Laws, ICML 2025, arXiv 2502.08606v2"
table = "{first.rows} supervised and {found.rows} distillation runs of this project's experiments"
{told(found, CAVEATS)}
[residual]
# Standard deviations of log(measured / law): the central 90 % of the runs over 1.645, with the fit's freedom.
supervised = {first.residual_sd:.4f}
distillation = {found.residual_sd:.4f}

[provenance]
source = "distillscale datasets miniature"
licence = "Apache-2.0"
command = "python scripts/make_miniature.py"
outcome = "{found.outcome.value}"
clusters = {found.clusters}
cluster = "{found.cluster}"
objective = "{found.objective}"
delta = {found.delta!r}
bootstrap = {found.bootstrap}
draws = {found.bootstrap - found.failed_draws}
seed = {found.seed}
'''


def main() -> int:
    """Fit, resample, write both files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        path.write_text(load(NAME), encoding="utf-8")
        table = read(path)
    found = fit(table, "distillation", bootstrap=DRAWS, cluster="teacher", seed=SEED).require()
    (HOME / f"{NAME}.toml").write_text(toml(found), encoding="utf-8")
    write_draws(found, HOME / f"{NAME}.draws.csv")
    print({name: np.round(ends, 4) for name, ends in found.intervals.items() if ends is not None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
