"""The miniature paper: its tables are of the runs that its study files ask for, and its closed forms hold."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale import DistillationLaw, RunTable, SupervisedLaw, fit, read
from distillscale.estimate import predict
from distillscale.study import planned
from distillscale.studyfile import read_study

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
STUDIES = sorted(path.parent.name for path in EXPERIMENTS.glob("*/study.toml"))
DONE = [name for name in STUDIES if (EXPERIMENTS / name / "results.csv").exists()]


def module(path: str) -> ModuleType:
    """A file of the experiments as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXPERIMENTS / path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


def table(name: str) -> list[dict[str, str]]:
    with (EXPERIMENTS / name / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_beforehand_what_it_expects(name: str) -> None:
    study = read_study(EXPERIMENTS / name / "study.toml")
    assert study.question.endswith("?")
    assert len(study.prediction) > 40


@pytest.mark.parametrize("name", DONE)
def test_results_are_of_the_runs_that_the_study_asks_for(name: str) -> None:
    """An id is the hash of a run's spec: nothing was swapped, and nothing left out in silence."""
    asked = {run.id: run for run in planned(read_study(EXPERIMENTS / name / "study.toml")) if not run.is_trunk}
    rows = table(name)
    assert {row["id"] for row in rows} <= set(asked)
    missing = len(asked) - len(rows)
    readme = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    assert not missing or f"{missing} of {len(asked)} runs" in readme
    for row in rows:
        assert int(row["params"]) == asked[row["id"]].params
        assert int(row["tokens"]) == asked[row["id"]].spec.tokens


@pytest.mark.parametrize("name", DONE)
def test_every_result_is_written_up(name: str) -> None:
    readme = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    assert [word for word in ("Question", "Prediction", "Result", "Verdict") if f"**{word}.**" not in readme] == []
    assert f"]({name}/)" in (EXPERIMENTS / "README.md").read_text(encoding="utf-8")


def test_forecasts_were_registered_for_runs_of_the_study() -> None:
    asked = {run.id: run for run in planned(read_study(EXPERIMENTS / "extrapolation" / "study.toml"))}
    with (EXPERIMENTS / "extrapolation" / "forecast.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert int(row["params"]) == asked[row["id"]].params
            assert float(row["low"]) < float(row["predicted"]) < float(row["high"])


kernel = module("kernel-regression/kernel.py")
sizes = st.integers(1, 12)


@given(sizes, sizes, st.floats(0.2, 3), st.floats(0.2, 1), st.integers(0, 2**32 - 1))
def test_kernel_students_in_closed_form_are_those_of_descent(m: int, n: int, T: float, share: float, seed: int) -> None:
    """Projected gradient descent on the teacher's values knows nothing of Eq 16 to 22."""
    alpha = np.random.default_rng(seed).uniform(-1, 1, 12)
    D = share * T
    basis = kernel.cosines(40, 12)
    g = np.zeros(12)
    g[:m] = kernel.by_descent(basis @ alpha, basis[:, :m], T)
    h = np.zeros(12)
    h[:n] = kernel.by_descent(basis @ g, basis[:, :n], D)
    assert np.linalg.norm(g - alpha) == pytest.approx(kernel.teacher_error(alpha, m, T), abs=1e-6)
    assert np.linalg.norm(h - alpha) == pytest.approx(kernel.student_error(alpha, m, n, T, D), abs=1e-6)
    assert kernel.student(alpha, m, n, T, D) == pytest.approx(h, abs=1e-6)


@given(sizes, st.floats(0.2, 3), st.floats(0.2, 1), st.integers(0, 2**32 - 1))
def test_kernel_students_gain_up_to_their_size_and_lose_after_the_plateau(
    n: int, T: float, share: float, seed: int
) -> None:
    alpha = np.random.default_rng(seed).uniform(-1, 1, 12)
    errors = np.array([kernel.student_error(alpha, m, n, T, share * T) for m in range(1, 13)])
    assert np.all(np.diff(errors[:n]) <= 1e-12)
    assert np.all(np.diff(errors[n - 1 :]) >= -1e-12)
    end = kernel.plateau_end(alpha, n, T, share * T)
    flat = errors[n - 1 : 12 if end is None else end]
    assert np.ptp(flat) <= 1e-9


def test_kernel_regression_has_the_numbers_of_the_paper_s_setting() -> None:
    """T = 5, D = 4.5, α ~ U[−1, 1] of 1,000 with NumPy's seed 0: for n = 500 flat from m = 500 to 631."""
    alpha = np.random.default_rng(0).uniform(-1, 1, 1000)
    assert kernel.student_error(alpha, 500, 500, 5, 4.5) == pytest.approx(15.12, abs=0.005)
    assert kernel.student_error(alpha, 1000, 500, 5, 4.5) == pytest.approx(15.65, abs=0.005)
    assert kernel.plateau_end(alpha, 500, 5, 4.5) == 631
    assert kernel.plateau_end(alpha, 800, 5, 4.5) is None
    for row in table("kernel-regression"):
        m, n = int(row["m"]), int(row["n"])
        assert float(row["student_error"]) == pytest.approx(kernel.student_error(alpha, m, n, 5, 4.5), abs=1e-6)


def test_the_mapping_problem_is_the_one_described() -> None:
    torch = pytest.importorskip("torch")
    run = module("mlp-mapping/run.py")
    inputs, labels = run.samples(4000, torch.Generator().manual_seed(0))
    context, marked = inputs[:, :8].long(), inputs[:, 8:].argmax(1)
    assert (inputs[:, 8:].sum(1) == 1).all()
    value = context.gather(1, marked[:, None])[:, 0]
    same = context == value[:, None]
    assert (labels[value == 0] == marked[value == 0]).all()
    moved = value > 0
    assert (same[moved].sum(1) == 2).all()
    assert (labels[moved] != marked[moved]).all()
    assert same.gather(1, labels[:, None])[moved].all()
    assert [int((value == v).sum()) for v in (0, 1, 2)] == pytest.approx([4000 / 3] * 3, rel=0.1)


README = (EXPERIMENTS.parent / "README.md").read_text(encoding="utf-8")


def misses(law: SupervisedLaw | DistillationLaw, runs: RunTable) -> float:
    """Root mean square of log(law/measured) in percent."""
    return 100 * float(np.sqrt(np.mean(np.log(predict(law, runs) / runs.loss) ** 2)))


def test_the_readme_s_numbers_are_those_of_the_committed_tables(tmp_path: Path) -> None:
    """Fitted again, not copied: both laws, the gate, and every forecast against its outcome."""
    supervised = table("supervised-law")
    students = [row for row in table("distillation-law") if row["kind"] == "distillation"]
    path = tmp_path / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(supervised[0]))
        out.writeheader()
        out.writerows({row["id"]: row for row in (*supervised, *table("distillation-law"))}.values())
    both = read(path)
    rows = both.select(np.isin(both.id, [row["id"] for row in supervised]))
    first, found = fit(rows, "supervised"), fit(both, "distillation")
    assert isinstance(first.law, SupervisedLaw)
    assert isinstance(found.law, DistillationLaw)
    assert f"| {misses(first.law, rows):.2f} % |" in README
    assert f"| {first.coefficients['gamma']:.2f} (" in README
    assert len(students) == 104
    assert f"| {misses(found.law, both.of_kind('distillation')):.2f} % |" in README
    assert f"| {found.coefficients['d_eff']:.3f} (" in README


def test_every_forecast_came_true_within_a_percent() -> None:
    came = {row["id"]: float(row["loss"]) for row in table("extrapolation")}
    with (EXPERIMENTS / "extrapolation" / "forecast.csv").open(encoding="utf-8", newline="") as file:
        forecasts = list(csv.DictReader(file))
    assert {row["id"] for row in forecasts} == set(came)
    for row in forecasts:
        assert float(row["low"]) < came[row["id"]] < float(row["high"])
        assert abs(float(row["predicted"]) / came[row["id"]] - 1) < 0.01
