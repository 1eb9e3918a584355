"""Runs in its own environment: one fit with draws by `simple-scaling-laws`. Arguments: table.csv, draws."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import polars as pl
from simple_scaling_laws import fit


def main() -> None:
    N, D, L = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1).T
    ids = [str(i) for i in range(len(N))]
    frame = pl.DataFrame({"training_run_id": ids, "model_size__n": N, "dataset_size__d": D, "test_loss__ce": L})
    fit(frame, n_draws=2, seed=0)  # warm
    start = time.process_time()
    fit(frame, n_draws=int(sys.argv[2]), seed=0)
    print(json.dumps({"cpu": time.process_time() - start}))


if __name__ == "__main__":
    main()
