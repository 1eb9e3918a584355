"""Runs in its own environment: bootstrap refits by BFGS with autograd's gradient. Arguments: table.csv, θ, count."""

from __future__ import annotations

import json
import sys
import time

import autograd.numpy as np
from autograd import grad
from autograd.scipy.special import logsumexp
from scipy.optimize import minimize

DELTA = 1e-3


def objective(theta, n, d, y):
    a, b, e, alpha, beta = (theta[k] for k in range(5))
    residual = logsumexp(np.stack([a - alpha * n, b - beta * d, e + 0.0 * n]), axis=0) - y
    size = np.abs(residual)
    return np.sum(np.where(size < DELTA, 0.5 * size * size, DELTA * (size - 0.5 * DELTA)))


def main() -> None:
    path, theta, count = sys.argv[1], np.array(json.loads(sys.argv[2])), int(sys.argv[3])
    n, d, y = np.log(np.loadtxt(path, delimiter=",", skiprows=1)).T
    draws = np.random.default_rng(0).integers(0, len(n), (count, len(n)))
    gradient = grad(objective)
    start = time.process_time()
    for at in draws:
        minimize(objective, theta, args=(n[at], d[at], y[at]), jac=gradient, method="BFGS")
    print(json.dumps({"cpu": time.process_time() - start}))


if __name__ == "__main__":
    main()
