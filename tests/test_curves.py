"""The paper's figures as values: their numbers are the library's, and they show what the paper says they show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distillscale import published
from distillscale.arch import family, forward_flops
from distillscale.chart import Chart, Figure, Series, Table
from distillscale.cost import SCENARIOS, Scenario
from distillscale.curves import CATALOGUE, Scope, chosen
from distillscale.curves.answer import against_budget, against_teacher_loss
from distillscale.curves.tables import in_words
from distillscale.errors import InputError
from distillscale.laws import DistillationLaw
from distillscale.lawset import LawSet
from distillscale.plan import plan

PAPER = Scope.of("busbridge2025")
LAW = PAPER.evidence.distillation
SUP = LAW.supervised


def made(name: str, scope: Scope = PAPER) -> Any:
    (entry,) = chosen(name)
    return entry.make(scope)


def whole(chart: Chart, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One curve of a chart, its pieces inside and outside the fitted range put together."""
    pieces = [s for s in chart.series if s.name == name and s.style != "points"]
    assert pieces
    y = np.full(len(pieces[0].x), np.nan)
    for piece in pieces:
        given = np.array([np.nan if v is None else v for v in piece.y])
        y = np.where(np.isfinite(given), given, y)
    return np.array(pieces[0].x), y


def points(chart: Chart, name: str) -> list[tuple[float, float | None]]:
    return [p for s in chart.series if s.name == name and s.style == "points" for p in zip(s.x, s.y, strict=True)]


def names(chart: Chart) -> list[str]:
    return list(dict.fromkeys(s.name for s in chart.series))


@pytest.fixture(scope="module")
def own() -> LawSet:
    """A law of a team with small models: the miniature's range, the paper's exponents."""
    regime = {
        "student_params": (1e4, 6e5), "student_tokens": (5e5, 8e6), "tokens_per_param": (5.0, 400.0),
        "teacher_loss": (2.6, 3.6),
    }  # fmt: skip
    law = DistillationLaw(
        supervised=SUP.__class__(E=1.6, A=60.0, B=500.0, alpha=0.35, beta=0.4, gamma=0.8),
        A=200.0, B=3e4, alpha=0.32, beta=0.6, gamma=0.75, c0=2.0, c1=LAW.c1, f1=LAW.f1, d1=LAW.d1,
    )  # fmt: skip
    return LawSet(name="ours", form="distillation", law=law, regime=regime)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_entry_can_be_made_and_is_complete(entry: Any, own: LawSet) -> None:
    """For the paper's law and for a small one of one's own: finite numbers, units, a caption with the range."""
    for scope in (PAPER, Scope.of(own), Scope.of("busbridge2025-refit"), Scope.of(own.law)):
        found = entry.make(scope)
        assert found.name == entry.name
        assert found.title
        assert found.source
        if entry.name != "table-13":
            assert scope.evidence.name in found.caption
        if isinstance(found, Table):
            assert found.cells
            assert {len(row) for row in found.cells} == {len(found.columns)}
            continue
        for chart in found.charts:
            assert chart.x.unit
            assert chart.y.unit
            assert chart.series, chart.title
            for series in chart.series:
                values = [v for v in series.y if v is not None]
                assert values
                assert all(math.isfinite(v) for v in (*values, *series.x))


def test_names_of_entries_are_unique_files_and_found_by_their_beginning() -> None:
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    assert chosen("figure-6")[0].name == "figure-6-given-teacher-over-tokens"
    assert chosen("figure-1")[0].name == "figure-1-u-shape"
    assert chosen("all") == CATALOGUE
    with pytest.raises(InputError, match="did you mean 'table-13'"):
        chosen("tabel-13")


def test_what_a_supervised_law_cannot_give_is_said() -> None:
    scope = Scope.of("hoffmann2022")
    missing = {entry.name: entry.missing(scope) for entry in CATALOGUE}
    assert {name for name, why in missing.items() if why is None} == {
        "figure-36-isoflop-supervised", "supervised-loss", "table-13",
    }  # fmt: skip
    assert "chinchilla law, which knows no teacher" in (missing["figure-1-u-shape"] or "")


def test_curves_are_solid_inside_the_fitted_range_and_dashed_outside() -> None:
    """Figure 1: the runs' teacher losses end at 1.895 and 2.755; pieces meet and do not overlap."""
    (chart,) = made("figure-1").charts
    solid, dashed = (
        next(s for s in chart.series if s.name == "546M student" and s.style == k) for k in ("line", "dashed")
    )
    low, high = PAPER.evidence.regime["teacher_loss"]
    for x, inner, outer in zip(solid.x, solid.y, dashed.y, strict=True):
        assert (inner is not None) == (low <= x <= high)
        assert inner is not None or outer is not None
    both = [x for x, a, b in zip(solid.x, solid.y, dashed.y, strict=True) if a is not None and b is not None]
    assert len(both) == 2  # where they meet


def test_figure_1_is_eq_8_and_its_minimum_is_the_optimal_teacher() -> None:
    (chart,) = made("figure-1").charts
    for name in ("198M", "546M", "975M", "1.82B"):
        N = family()[name].params
        x, y = whole(chart, f"{name} student")
        np.testing.assert_allclose(y, LAW.loss(N, 20 * N, x), rtol=1e-14)
        ((best, loss),) = points(chart, f"{name} student")
        assert best == pytest.approx(float(LAW.optimal_teacher_loss(N, 20 * N)), rel=1e-12)
        assert loss is not None
        assert loss <= y.min() + 1e-12
        assert x[int(np.argmin(y))] == pytest.approx(best, abs=2 * (x[1] - x[0]))
        assert y[0] > loss < y[-1]  # U


def test_figure_2_minima_are_those_of_the_paper() -> None:
    """Figure 2, 7.75B teacher: minima near 0.75B/2.493, 1.2B/2.344, 3B/2.229, 5B/2.126, read off the paper; the law's
    are 0.72B/2.491, 1.4B/2.354, 2.3B/2.244, 4.0B/2.144."""
    chart = made("figure-2").charts[-1]
    assert "7.75B" in chart.title
    law = {"3e19": (0.72e9, 2.491), "1e20": (1.4e9, 2.354), "3e20": (2.3e9, 2.244), "1e21": (4.0e9, 2.144)}
    for C, (size, loss) in law.items():
        ((N, L),) = points(chart, f"{C} FLOPs")
        assert pytest.approx(size, rel=0.06) == N
        assert pytest.approx(loss, abs=0.007) == L  # theirs with the measured loss of the teacher
        x, y = whole(chart, f"{C} FLOPs")
        D = float(C) / (3 * forward_flops(x))
        N_T = family()["7.75B"].params
        np.testing.assert_allclose(y, LAW.loss(x, D, SUP.loss(N_T, 20 * N_T)), rtol=1e-13)
    for C, loss in {"3e19": 2.493, "1e20": 2.344, "3e20": 2.229, "1e21": 2.126}.items():
        assert points(chart, f"{C} FLOPs")[0][1] == pytest.approx(loss, rel=0.01)  # "≲ 1 %"


def test_figure_3_small_students_gain_from_more_teachers() -> None:
    """Section 4.1: every teacher of 1e20 FLOPs or more helps a 198M student, only the best of 1e21 a 1.82B one."""
    charts = {chart.title: chart for chart in made("figure-3").charts}
    for title, helped in (("198M student", ("1e20", "3e20", "1e21")), ("1.82B student", ())):
        chart = charts[title]
        (rule,) = chart.marks
        assert rule.y is not None
        for C in helped:
            x, y = whole(chart, f"{C} FLOPs")
            assert np.all(y[x > 3e8][:-20] < rule.y)
        for C in set() if helped else ("3e19", "1e20", "3e20"):
            assert np.all(whole(chart, f"{C} FLOPs")[1] > rule.y)
    assert whole(charts["1.82B student"], "1e21 FLOPs")[1].min() < charts["1.82B student"].marks[0].y


def test_figure_4_shows_the_u_shape_in_teacher_size() -> None:
    for chart, N in zip(made("figure-4").charts, ("143M", "198M", "546M"), strict=True):
        assert chart.title == f"{N} student"
        assert names(chart) == [f"M_S = {M}" for M in (20, 40, 80, 160, 320)]
        for M in (20, 320):
            N_T, y = whole(chart, f"M_S = {M}")
            size = family()[N].params
            np.testing.assert_allclose(y, LAW.loss(size, M * size, SUP.loss(N_T, 20 * N_T)), rtol=1e-13)
    small = made("figure-4").charts[0]
    (best, _), *_ = points(small, "M_S = 20")
    assert family()["975M"].params < best < family()["12.6B"].params


# Student tokens at which supervised training overtakes, fixed M_T = 20, teacher free (computed from the law by hand).
OVERTAKES = {
    ("546M", "546M"): 7.2e9, ("975M", "546M"): 21e9, ("1.82B", "546M"): 97e9, ("2.72B", "546M"): 360e9,
    ("4.82B", "546M"): 3.3e12, ("7.75B", "546M"): 900e9, ("546M", "143M"): 57e9, ("975M", "143M"): 2.7e12,
}  # fmt: skip


def test_figure_6_crosses_zero_where_supervised_training_catches_up() -> None:
    """Figure 6 and the computed table: the points are the curves' own crossings."""
    figure = made("figure-6")
    assert len(figure.charts) == 6  # six teachers
    for chart, N_T in zip(figure.charts, ("546M", "975M", "1.82B", "2.72B", "4.82B", "7.75B"), strict=True):
        assert chart.title.startswith(f"{N_T} teacher")
        x, y = whole(chart, "546M student")
        assert x[0] == 1e9
        assert x[-1] == pytest.approx(1e13)
        N = family()["546M"].params
        teacher = family()[N_T].params
        np.testing.assert_allclose(y, LAW.loss(N, x, SUP.loss(teacher, 20 * teacher)) - SUP.loss(N, x), atol=1e-12)
        ((at, zero),) = points(chart, "546M student")
        assert zero == 0.0
        assert np.interp(math.log(at), np.log(x), y) == pytest.approx(0, abs=1e-3)
        assert at == pytest.approx(OVERTAKES[N_T, "546M"], rel=0.08)
        assert y[0] < 0  # "modest token budget: distillation is better"


def test_figures_6_and_14_stay_within_the_papers_scales() -> None:
    """Figure 14 spans −0.15 to +0.06 nats over 1e19 to 1e22 student FLOPs; so does the law under strong teachers."""
    for chart in made("figure-14").charts[4:]:
        for name in names(chart):
            x, y = whole(chart, name)
            assert (x[0], x[-1]) == (1e19, pytest.approx(1e22))
            assert y.min() > -0.16
            assert y.max() < 0.06


def test_the_break_even_table_repeats_the_computed_one() -> None:
    table = made("given-teacher-break-even")
    rows = {str(row["teacher"]).split()[0]: row for row in table.rows()}
    from distillscale.units import parse_count

    for (N_T, N), tokens in OVERTAKES.items():
        assert parse_count(str(rows[N_T][f"{N} student"])) == pytest.approx(tokens, rel=0.08)
    assert rows["1.82B"]["143M student"] == "distilled always"  # "always wins up to 100T"


def test_the_optimal_difference_has_the_known_break_evens() -> None:
    """Figures 8 and 17: with inference paid, level at 1.6e21 (1B), 8.0e21 (3B), 1.0e23 FLOPs (10B); with pretraining
    counted distillation never wins by more than rounding where students have a token per parameter."""
    charts = {chart.name: chart for chart in made("optimal-difference-over-compute").charts}
    assert set(charts) == set(SCENARIOS)
    for N, C in (("1B", 1.60e21), ("3B", 8.03e21), ("10B", 1.02e23)):
        ((at, _),) = points(charts["inference"], f"{N} student")
        assert at == pytest.approx(C, rel=0.09)
        _, y = whole(charts["inference"], f"{N} student")
        assert y[0] < 0 < y[-1] + 1e-9
        assert np.all(whole(charts["both"], f"{N} student")[1] > -0.01)
        assert np.all(y <= whole(charts["both"], f"{N} student")[1] + 1e-6)  # paying more never helps
        assert abs(whole(charts["both"], f"{N} student")[1][-1]) < 0.02  # "coincide at very large compute"


def test_figure_15_has_the_readings_of_the_paper() -> None:
    """30B student: L_T* at 261B, 379B, 574B, 871B, 1.32T tokens."""
    over_tokens, over_sizes = made("figure-15").charts
    x, y = whole(over_tokens, "30B student")
    for D, L in ((261e9, 1.453), (379e9, 1.486), (574e9, 1.542), (871e9, 1.569), (1.32e12, 1.578)):
        assert np.interp(math.log(D), np.log(x), y) == pytest.approx(L, abs=0.004)
    N, L_T = whole(over_sizes, names(over_sizes)[2])
    assert np.all(np.diff(L_T[N < 1e9]) < 0)


def test_figure_16_prefers_weak_large_teachers_at_small_budgets() -> None:
    """Section 5.1: at a small budget the best large teacher is weaker than at a large budget."""
    charts = {chart.title: chart for chart in made("figure-16").charts}
    assert len(charts) == 16
    for N in ("10B", "30B"):
        best = [points(charts[f"{N}, {C} FLOPs"], "100B teacher")[0][0] for C in ("1e21", "1e22", "1e23")]
        assert best[0] > best[1]
    x, y = whole(charts["3B, 1e22 FLOPs"], "10B teacher")
    D = 1e22 / (3 * forward_flops(3e9) + forward_flops(1e10))
    np.testing.assert_allclose(y, LAW.loss(3e9, D, x), rtol=1e-13)


@pytest.mark.parametrize(("number", "scenario"), [(19, "free"), (21, "inference"), (24, "pretraining"), (27, "both")])
def test_allocations_are_the_planners(number: int, scenario: str) -> None:
    figure = made(f"figure-{number}")
    charts = {chart.name: chart for chart in figure.charts}
    x, loss = whole(charts["student-loss"], "1B student")
    at = 20
    answer = plan("busbridge2025", 1e9, float(x[at]), SCENARIOS[scenario])
    side = answer.distillation
    values = {
        "student-loss": side.student_loss, "student-tokens": side.tokens, "teacher-loss": side.teacher.loss,
        "teacher-params": side.teacher.params, "teacher-tokens": side.teacher.tokens,
    }  # fmt: skip
    for name, value in values.items():
        assert whole(charts[name], "1B student")[1][at] == pytest.approx(value, rel=1e-4)
    assert np.all(np.diff(loss) < 0)
    if scenario == "inference":  # "overtrained": D_T at the solver's bound
        np.testing.assert_allclose(whole(charts["teacher-tokens"], "1B student")[1], 1e17)
    if scenario == "pretraining":  # supervised-compute-optimal: M constant
        ratio = whole(charts["teacher-tokens"], "1B student")[1] / whole(charts["teacher-params"], "1B student")[1]
        assert np.all((ratio > 13) & (ratio < 17))


def test_shares_sum_to_all_and_move_as_the_paper_says() -> None:
    charts = {chart.title: chart for chart in made("compute-shares").charts}
    for chart in charts.values():
        parts = [whole(chart, name)[1] for name in names(chart)]
        np.testing.assert_allclose(np.sum(parts, axis=0), 100, rtol=1e-9)
    student = whole(charts["3B, inference"], "student training")[1]
    assert student[0] > student[-1]  # "student share falls, logits share rises"
    teacher = whole(charts["300M, pretraining"], "teacher training")[1]
    assert teacher[0] > teacher[-1]
    np.testing.assert_allclose(whole(charts["3B, free"], "student training")[1], 100)


def test_table_3_says_what_the_paper_says() -> None:
    """≲3B, ≲1e21: mostly teacher pretraining; ≲3B, ≳1e25: evenly student and inference, much less teacher; ≳10B, ≲1e21:
    mostly student; ≳10B, ≳1e25: equally all three. (3B at 1e20 is not yet there: 55 % student, 41 % teacher.)"""
    rows = {(str(row["student"]), str(row["total compute"]).split()[0]): row for row in made("table-3").rows()}

    def shares(N: str, C: str) -> list[int]:
        row = rows[N, C]
        return [
            int(str(row[f"{name}"]).rstrip("%"))
            for name in ("student training", "teacher inference", "teacher training")
        ]

    for N, C in (("300M", "1e20"), ("1B", "1e20"), ("300M", "1e21"), ("1B", "1e21"), ("3B", "1e21")):
        student, logits, teacher = shares(N, C)
        assert teacher >= max(student, logits)
        assert rows[N, C]["the paper's words"] == "mostly teacher pretraining"
    for N in ("300M", "1B", "3B"):
        student, logits, teacher = shares(N, "1e25")
        assert 0.7 < student / logits < 1.5
        assert teacher < 10
    for N, C in (("10B", "1e20"), ("10B", "1e21"), ("30B", "1e20"), ("30B", "1e21")):
        assert shares(N, C)[0] > 50
    for N in ("10B", "30B"):
        assert all(20 < share < 50 for share in shares(N, "1e25"))
        assert rows[N, "1e25"]["allocation"] == "all three alike"


def test_words_of_shares() -> None:
    assert in_words((0.33, 0.33, 0.34)) == "all three alike"
    assert in_words((0.05, 0.05, 0.9)) == "mostly teacher training"
    assert in_words((0.5, 0.45, 0.05)) == "student training, then teacher inference"


def test_table_13_prints_the_papers_digits() -> None:
    """A few rows of Table 13 of the paper, to its printed digits."""
    rows = {row["name"]: row for row in made("table-13").rows()}
    assert len(rows) == 33
    for name, N, total, C, approx, error in (
        ("103M", 0.1028, 0.1363, 0.3411, 0.3398, "-39.7%"), ("975M", 0.9755, 1.047, 2.4, 2.397, "-18.7%"),
        ("7.75B", 7.747, 7.889, 17.0, 16.99, "-8.9%"), ("12.6B", 12.61, 12.78, 27.24, 27.23, "-7.4%"),
    ):  # fmt: skip
        row = rows[name]
        assert (float(row["N, B"]), float(row["N total, B"])) == (N, total)
        assert float(row["C_fwd, GFLOPs"]) == pytest.approx(C, rel=1e-3)
        assert float(row["approximation"]) == pytest.approx(approx, rel=4e-4)
        assert float(row["2N error"].rstrip("%")) == pytest.approx(float(error.rstrip("%")), abs=0.11)  # heads unknown


def test_figure_36_marks_the_supervised_optimum() -> None:
    """Figure 36c: N* = 0.503B, 0.932B, 1.64B, 3.04B at losses 2.572, 2.419, 2.296, 2.177."""
    (chart,) = made("figure-36").charts
    for C, N, L in (
        ("3e19", 0.503e9, 2.572),
        ("1e20", 0.932e9, 2.419),
        ("3e20", 1.64e9, 2.296),
        ("1e21", 3.04e9, 2.177),
    ):
        ((size, loss),) = points(chart, f"{C} FLOPs")
        assert size == pytest.approx(N, rel=0.004)
        assert loss == pytest.approx(L, abs=6e-4)
        assert loss is not None
        assert loss <= whole(chart, f"{C} FLOPs")[1].min() + 1e-9


def test_figure_40_endless_data_meet_within_one_percent() -> None:
    (chart,) = made("figure-40").charts
    N, alone = whole(chart, "supervised")
    distilled = whole(chart, "distilled from the best teacher")[1]
    inside = (N >= 1e8) & (N <= 1e11)
    assert np.max(np.abs(distilled / alone - 1)[inside]) < 0.01


def test_an_own_law_is_drawn_over_its_own_range(own: LawSet) -> None:
    scope = Scope.of(own)
    assert not scope.is_papers
    low, high = own.regime["student_params"]
    assert all(low * 0.95 <= N <= high * 1.05 for N in scope.grid.students)
    solid = 0
    for name in ("figure-1", "figure-2", "figure-36"):
        for chart in made(name, scope).charts:
            solid += any(s.style == "line" for s in chart.series)
            x = [v for s in chart.series for v in s.x]
            assert max(x) < 1e8
    assert solid > 3
    for teacher in scope.teachers():
        assert float(own.supervised.loss(teacher.params, teacher.tokens)) == pytest.approx(teacher.loss, abs=1e-9)


def test_a_published_law_of_small_models_is_drawn_over_its_own_range() -> None:
    scope = Scope.of("miniature")
    assert not scope.is_papers
    assert scope.grid.students[-1] < 2e6
    assert Scope.of("busbridge2025-printed").is_papers


def test_a_law_that_states_half_a_range_is_refused() -> None:
    law = LawSet(name="half", form="distillation", law=published.load("busbridge2025"), regime={"teacher_loss": (2, 3)})
    with pytest.raises(InputError, match=r"regime\.student_params is missing"):
        Scope.of(law)


@pytest.mark.parametrize("scenario", [Scenario(), Scenario(1, 0), Scenario(1, 0.25)])
def test_the_curves_of_a_plan_go_through_the_plan(scenario: Scenario) -> None:
    answer = plan("busbridge2025", 3e9, 1e21, scenario)
    teacher = against_teacher_loss(answer)
    x, y = whole(teacher, "distilled")
    chosen_x, chosen_y = points(teacher, "the plan")[0]
    assert np.interp(chosen_x, x, y) == pytest.approx(chosen_y, abs=1e-3)
    assert chosen_y == answer.distillation.student_loss
    budget = against_budget(answer)
    for name, loss in (("distilled", answer.distillation.student_loss), ("supervised", answer.supervised.loss)):
        x, y = whole(budget, name)
        assert y[len(y) // 2] == pytest.approx(loss, abs=1e-6)
        assert points(budget, name) == [(1e21, loss)]
    marks = {mark.label: mark for mark in budget.marks}
    level = answer.break_even.budget_flops if answer.break_even else None
    if level and "break-even" in marks:
        gap = np.interp(math.log(level), np.log(x), whole(budget, "distilled")[1] - y)
        assert gap == pytest.approx(0, abs=2e-3)
    interval: Series = next(s for s in budget.series if s.name == "distilled" and s.style == "points")
    assert (interval.low[0], interval.high[0]) == answer.student_interval


def test_figures_give_their_rows() -> None:
    figure: Figure = made("figure-4")
    rows = list(figure.rows())
    assert {row["chart"] for row in rows} == {"student-1", "student-2", "student-3"}
    assert rows[0]["x_axis"] == "teacher size, parameters"
    assert rows[0]["y_axis"] == "student loss, nats/token"
