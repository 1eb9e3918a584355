"""Runs in its own environment: one fit by `chinchilla`. Arguments: table.csv, points a side of its README's grid."""

from __future__ import annotations

import json
import resource
import sys
import tempfile

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from chinchilla import Chinchilla


def spent() -> float:
    """CPU seconds of this process and of the pool it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    N, D, L = np.loadtxt(sys.argv[1], delimiter=",", skiprows=1).T
    side = int(sys.argv[2])
    with tempfile.TemporaryDirectory() as home:
        table = np.column_stack([6 * N * D, N, D, L])
        np.savetxt(f"{home}/df.csv", table, delimiter=",", header="C,N,D,loss", comments="", fmt="%.17g")
        grid = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}
        cc = Chinchilla(home, param_grid={k: np.linspace(*ends, side) for k, ends in grid.items()}, log_level=50)
        start = spent()
        cc.fit()
        print(json.dumps({"cpu": spent() - start}))


if __name__ == "__main__":
    main()
