"""The batched optimiser and the objective: derivatives against differences, minima against SciPy, bounds held."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import CHINCHILLA, DISTILLATION, SUPERVISED, student_study, supervised_study
from scipy.optimize import minimize

from distillscale.estimate import Prepared, prepare
from distillscale.forms import form_named
from distillscale.newton import minimise
from distillscale.starts import starting_points

Array = NDArray[np.float64]


def prepared(form: str, *, delta: float = 1e-3, noise: float = 0.004, bounds: dict | None = None) -> Prepared:
    rng = np.random.default_rng(3)
    kind = form_named(form)
    if kind.distils:
        table, law = student_study(DISTILLATION, rng, noise=noise), SUPERVISED
    else:
        table, law = supervised_study(SUPERVISED, rng, noise=noise), None
    return prepare(table, kind, delta=delta, supervised=law, bounds=bounds)


def one(problem, theta: Array) -> tuple[float, Array, Array]:
    value, gradient, hessian = problem.evaluate(theta[None], np.zeros(1, np.intp))
    return value[0], gradient[0], hessian[0]


CASES = [
    ("chinchilla", None),
    ("supervised", None),
    ("kaplan", None),
    ("distillation", None),
    ("distillation-no-gate", None),
    ("distillation-free-floor", None),
    ("supervised", {"alpha": (0.1, 0.9)}),
    ("supervised", {"A": (10.0, 1e6), "gamma": (0.4, 0.9)}),
    ("chinchilla", {"E": (1.0, 2.0)}),
    ("distillation", {"gamma": (0.7, 0.7), "c0": (0.0, 4.0)}),
    ("distillation", {"alpha": (0.3, 0.3)}),
]


@pytest.mark.parametrize(("form", "bounds"), CASES)
@pytest.mark.parametrize("kinked", [True, False])
def test_gradient_and_hessian_are_those_of_the_value(form: str, bounds: dict | None, kinked: bool) -> None:
    """Central differences with h = 1e-6 carry about 1e-9 of rounding; Huber's δ lies where no row is near."""
    ready = prepared(form, bounds=bounds)
    for theta in starting_points(ready.problem, ready.box.lower, ready.box.upper, 3):
        sizes = np.sort(np.abs(ready.problem.residuals(theta[None])[0]))
        gap = int(np.argmax(np.diff(sizes[2:-2]))) + 2
        problem = ready.problem.with_delta(float(sizes[gap : gap + 2].mean()) if kinked else math.inf)
        _, gradient, hessian = one(problem, theta)
        for j in range(len(theta)):
            step = 1e-6 * np.eye(len(theta))[j]
            up, down = one(problem, theta + step), one(problem, theta - step)
            assert (up[0] - down[0]) / 2e-6 == pytest.approx(gradient[j], abs=1e-6 * (1 + np.abs(gradient).max()))
            assert (up[1] - down[1]) / 2e-6 == pytest.approx(hessian[:, j], abs=1e-6 * np.abs(hessian).max())


@pytest.mark.parametrize("form", ["chinchilla", "supervised", "distillation", "distillation-free-floor"])
def test_row_slopes_are_those_of_the_residuals(form: str) -> None:
    ready = prepared(form)
    theta = starting_points(ready.problem, ready.box.lower, ready.box.upper, 1)[0]
    step = 1e-6 * np.eye(len(theta))
    differences = (ready.problem.residuals(theta + step) - ready.problem.residuals(theta - step)).T / 2e-6
    assert ready.problem.slopes(theta) == pytest.approx(differences, abs=1e-7)


@pytest.mark.parametrize("form", ["chinchilla", "supervised", "kaplan", "distillation", "distillation-no-gate"])
@pytest.mark.parametrize("delta", [1e-3, math.inf])
def test_the_search_is_never_worse_than_scipy(form: str, delta: float) -> None:
    """BFGS from the same starts may stop early on the kinks; it must not find anything lower."""
    ready = prepared(form)
    problem = ready.problem.with_delta(delta)
    ready = prepare_again(ready, problem)
    ours = ready.search()
    box = list(zip(ready.box.lower[list(problem.free)], ready.box.upper[list(problem.free)], strict=True))
    theirs = [
        minimize(lambda x: one(problem, x)[0] * 1e3, start, jac=lambda x: one(problem, x)[1] * 1e3, bounds=box).fun
        for start in starting_points(problem, ready.box.lower, ready.box.upper, 5)
    ]
    mine = one(problem, ours.theta)[0] * 1e3
    assert mine <= min(theirs) * (1 + 1e-9)
    assert mine == pytest.approx(min(theirs), rel=2e-2)  # and SciPy comes near, so both solve the same problem


def prepare_again(ready: Prepared, problem) -> Prepared:
    return Prepared(**{**ready.__dict__, "problem": problem})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_convex_quadratic_is_solved_exactly_in_every_item(batch: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(batch, size, size))
    hessian = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(size)
    centre = rng.normal(size=(batch, size))

    def evaluate(theta: Array, items: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        off = theta - centre[items]
        gradient = (hessian[items] @ off[..., None])[..., 0]
        return 1.0 + 0.5 * (off * gradient).sum(1), gradient, hessian[items].copy()

    wide = np.full(size, 1e6)
    found = minimise(evaluate, np.zeros((batch, size)), -wide, wide)
    assert found.converged.all()
    assert found.theta == pytest.approx(centre, abs=1e-5)


def test_bounds_hold_and_the_rest_is_minimal_there() -> None:
    """(x − 2)² + (y + x)² on x ≤ 1: the bound is active and y = −1."""

    def evaluate(theta: Array, items: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        x, y = theta.T
        gradient = np.column_stack([2 * (x - 2) + 2 * (y + x), 2 * (y + x)])
        return (x - 2) ** 2 + (y + x) ** 2, gradient, np.tile([[4.0, 2.0], [2.0, 2.0]], (len(x), 1, 1))

    found = minimise(evaluate, np.array([[-5.0, 3.0], [0.5, 9.0]]), np.array([-9.0, -9.0]), np.array([1.0, 9.0]))
    assert found.converged.all()
    assert found.theta == pytest.approx(np.array([[1.0, -1.0]] * 2), abs=1e-7)


def test_a_saddle_is_left_and_a_flat_item_does_not_disturb_its_batch() -> None:
    """x⁴ − x² + y² has minima at ±1/√2 and a saddle at 0; the second item is constant."""

    def evaluate(theta: Array, items: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        x, y = theta.T
        live = (items == 0).astype(float)
        gradient = live[:, None] * np.column_stack([4 * x**3 - 2 * x, 2 * y])
        hessian = np.zeros((len(x), 2, 2))
        hessian[:, 0, 0], hessian[:, 1, 1] = live * (12 * x**2 - 2), live * 2
        return 1.0 + live * (x**4 - x**2 + y**2), gradient, hessian

    wide = np.full(2, 10.0)
    found = minimise(evaluate, np.array([[0.1, 1.0], [3.0, 3.0]]), -wide, wide)
    assert abs(found.theta[0, 0]) == pytest.approx(math.sqrt(0.5), abs=1e-6)
    assert found.theta[1] == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize("form", ["chinchilla", "supervised", "distillation"])
def test_local_coordinates_and_back(form: str) -> None:
    ready = prepared(form)
    local = ready.problem.local
    assert local is not None
    rng = np.random.default_rng(0)
    natural = np.tile(ready.problem.full(ready.search().theta[None]), (50, 1))
    natural[:, list(local.bracket)] *= np.exp(0.3 * rng.normal(size=(50, 5)))
    assert local.to_natural(local.from_natural(natural)) == pytest.approx(natural, rel=1e-10, abs=1e-10)


def test_planted_law_is_the_minimum_of_its_own_data() -> None:
    table = supervised_study(CHINCHILLA, np.random.default_rng(0))
    ready = prepare(table, form_named("chinchilla"))
    assert ready.search().certificate.value < 1e-20
