"""The planner's answers: verdicts, intervals, warnings, targets, break-even, owned teachers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillscale import (
    Arch,
    InfeasibleError,
    InputError,
    Limits,
    OwnedTeacher,
    Scenario,
    break_even,
    compute,
    forward_flops,
    frontier,
    plan,
    predict,
    published,
    rank_teachers,
)
from distillscale.confidence import confidence_of, interval_of
from distillscale.lawset import LawSet, Residual
from distillscale.plan import PRACTICAL_TEACHER_TOKENS, verdict_of
from distillscale.published import rules

BUSBRIDGE = published.load_set("busbridge2025")
SCENARIOS = [Scenario.named(name) for name in ("free", "inference", "pretraining", "both")]
log_sizes = st.floats(8.0, 10.5)
log_budgets = st.floats(20.0, 24.0)


@given(log_N=log_sizes, log_C=log_budgets, scenario=st.sampled_from(SCENARIOS))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_plan_says_what_the_law_says(log_N: float, log_C: float, scenario: Scenario) -> None:
    """Losses, FLOPs and shares of the answer follow from its own sizes and tokens."""
    N, C = 10**log_N, 10**log_C
    answer = plan(BUSBRIDGE, N, C, scenario)
    side, law = answer.distillation, BUSBRIDGE.distillation
    assert side.teacher.loss == pytest.approx(float(law.supervised.loss(side.teacher.params, side.teacher.tokens)))
    assert side.student_loss == pytest.approx(float(law.loss(N, side.tokens, side.teacher.loss)))
    F_S, F_T = float(forward_flops(N)), float(forward_flops(side.teacher.params))
    paid = 3 * F_S * side.tokens + F_T * (
        scenario.logits * side.tokens + 3 * scenario.pretraining * side.teacher.tokens
    )
    assert side.flops.total == pytest.approx(paid)
    assert paid == pytest.approx(C, rel=1e-9)
    assert sum(side.shares.values()) == pytest.approx(1)
    assert answer.supervised.loss == pytest.approx(float(law.supervised.loss(N, C / (3 * F_S))))
    assert answer.gain_nats == pytest.approx(answer.supervised.loss - side.student_loss)
    assert answer.verdict == verdict_of(answer.gain_nats)
    assert answer.probability is not None
    assert answer.gain_interval is not None
    assert answer.gain_interval[0] < answer.gain_nats < answer.gain_interval[1]
    json.dumps(answer.to_json(), allow_nan=False)


def test_differences_under_a_hundredth_are_a_toss_up() -> None:
    assert [verdict_of(gain) for gain in (0.0101, 0.0099, 0.0, -0.0099, -0.0101)] == [
        "distill",
        "toss-up",
        "toss-up",
        "toss-up",
        "supervised",
    ]


@given(log_N=st.floats(7.0, 12.0), log_ratio=st.floats(-2.0, 5.0), scenario=st.sampled_from(SCENARIOS))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_verdict_outside_the_fitted_range_says_so(log_N: float, log_ratio: float, scenario: Scenario) -> None:
    """143M to 12.6B parameters, at least a token per parameter, up to 515B tokens, teacher losses of 1.895 to 2.755."""
    N = 10**log_N
    budget = 3 * float(forward_flops(N)) * N * 10**log_ratio
    if 10 ** (log_N + log_ratio) < 2e6:
        return
    try:
        answer = plan(BUSBRIDGE, N, budget, scenario)
    except InfeasibleError:
        return
    side = answer.distillation
    inside = (
        143e6 <= N <= 12.6e9
        and 1e9 <= side.tokens <= 515e9
        and 1 <= side.tokens / N <= 3600
        and 1.895 <= side.teacher.loss <= 2.755
        and 143e6 <= side.teacher.params <= 12.6e9
        and 1e9 <= side.teacher.tokens <= 515e9
        and answer.supervised.tokens <= 515e9
    )
    assert any("extrapolation" in warning for warning in answer.warnings) != inside


def test_a_warning_names_the_range_and_by_how_much() -> None:
    answer = plan(BUSBRIDGE, 30e9, 1e23, SCENARIOS[3])
    text = next(w for w in answer.warnings if "student parameters" in w)
    assert text == "extrapolation: student parameters 30B is 2.38 times above the fitted range 143M to 12.6B"


def test_the_corrected_coefficient_is_said_once_in_every_answer() -> None:
    answers = [
        plan("busbridge2025", 1e9, 1e21, SCENARIOS[1]).warnings,
        break_even("busbridge2025", 1e9, SCENARIOS[1]).warnings,
        predict("busbridge2025", 1e9, 2e10).warnings,
        frontier("busbridge2025", [1e9], [1e21], SCENARIOS).warnings,
        rank_teachers("busbridge2025", 1e9, [OwnedTeacher(name="a", params=7e9, loss=2.0)], tokens=2e11)[0].warnings,
    ]
    for warnings in answers:
        assert sum("B' is corrected" in warning for warning in warnings) == 1


def test_an_existing_teacher_on_the_bound_comes_with_a_practical_one() -> None:
    """An existing teacher wants D_T = 1e17; the reasons also give the plan with at most 15T tokens."""
    answer = plan(BUSBRIDGE, 3e9, 1e21, SCENARIOS[1])
    assert answer.distillation.teacher.tokens == pytest.approx(1e17)
    assert answer.practical is not None
    assert answer.practical.teacher.tokens == pytest.approx(PRACTICAL_TEACHER_TOKENS)
    assert 0 < answer.practical.student_loss - answer.distillation.student_loss < 0.005
    assert any("with at most 15T" in reason for reason in answer.reasons)
    assert plan(BUSBRIDGE, 3e9, 1e21, SCENARIOS[3]).practical is None


def test_reasons_name_what_binds_the_teacher_the_break_even_and_the_popular_rule() -> None:
    text = "\n".join(plan(BUSBRIDGE, 1e9, 1e21, SCENARIOS[3]).reasons)
    for fragment in ("binds", "capacity gap", "break-even: none, because", "popular rule", "shar", "hidden states"):
        assert fragment in text
    folk = f"{rules.folk_breakeven_flops(1e9):.2e}".replace("e+", "e")
    assert f"3e20 · N_S/1e9 = {folk}" in text


@pytest.mark.parametrize(("student", "budget"), [(1e10, 1e21), (1e10, 1e22)])
def test_sharing_the_teacher_changes_the_verdict_at_about_the_known_count(student: float, budget: float) -> None:
    """n identical students at C each: a 10B student breaks even at n ≈ 10 (1e21) and ≈ 100 (1e22); computed from the
    law with own logits paid. The reason names where the gain reaches 0.01 nats, a little later."""
    gains = [plan(BUSBRIDGE, student, budget, Scenario.named("both", n)).gain_nats for n in (1, 10, 100, 1000)]
    assert gains == sorted(gains)
    crossing = 10 if budget == 1e21 else 100
    assert gains[[1, 10, 100, 1000].index(crossing)] == pytest.approx(0, abs=0.006)
    assert any("shared by about" in reason for reason in plan(BUSBRIDGE, student, budget, SCENARIOS[3]).reasons)


def test_a_one_billion_student_never_pays_for_its_own_teacher_however_shared() -> None:
    """1B at 1e21 to 1e23: never."""
    for budget in (1e21, 1e22, 1e23):
        assert any("not even 1000" in r for r in plan(BUSBRIDGE, 1e9, budget, SCENARIOS[3]).reasons)


@given(log_N=st.floats(8.5, 10.0), loss=st.floats(2.1, 2.8), scenario=st.sampled_from(SCENARIOS))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_target_is_reached_by_the_cheapest_budget_and_no_cheaper(
    log_N: float, loss: float, scenario: Scenario
) -> None:
    N = 10**log_N
    try:
        answer = plan(BUSBRIDGE, N, None, scenario, target_loss=loss)
    except InfeasibleError:
        assert loss < float(BUSBRIDGE.supervised.floor(N))
        return
    goal = answer.target
    assert goal is not None
    if goal.distillation_flops is not None:
        at, under = (plan(BUSBRIDGE, N, goal.distillation_flops * f, scenario) for f in (1, 1 - 1e-4))
        assert at.distillation.student_loss <= loss + 1e-9
        assert under.distillation.student_loss > loss
    if goal.supervised_flops is not None:
        tokens = float(BUSBRIDGE.supervised.tokens_for(N, loss))
        assert goal.supervised_flops == pytest.approx(3 * float(forward_flops(N)) * tokens, rel=1e-6)
    assert answer.budget_flops == min(x for x in (goal.distillation_flops, goal.supervised_flops) if x is not None)


def test_break_even_is_a_root_of_the_gain() -> None:
    even = break_even(BUSBRIDGE, 3e9, SCENARIOS[1])
    assert even.budget_flops is not None
    assert even.negligible_from_flops is not None
    assert plan(BUSBRIDGE, 3e9, even.budget_flops, SCENARIOS[1]).gain_nats == pytest.approx(0, abs=1e-4)
    at = plan(BUSBRIDGE, 3e9, even.negligible_from_flops, SCENARIOS[1]).gain_nats
    assert at == pytest.approx(even.tolerance_nats, abs=1e-4)
    assert even.interval is not None
    assert (even.interval[0] or 0) < even.budget_flops < (even.interval[1] or math.inf)
    assert even.folk_rule_flops == 9e20


def test_where_distillation_is_ahead_only_of_large_budgets_the_break_even_says_so() -> None:
    """The solver's smallest teacher, 1e6 parameters, is dear for a student of 40k: its logits alone eat the budget."""
    found = break_even("miniature", 4e4, Scenario.named("inference"), context=128, vocab=512)
    assert found.budget_flops is None
    assert found.behind_until_flops is not None
    for factor, ahead in ((0.98, False), (1.02, True)):
        answer = plan(
            "miniature", 4e4, factor * found.behind_until_flops, Scenario.named("inference"), context=128, vocab=512
        )
        assert (answer.gain_nats > 0) is ahead
    assert "stays ahead" not in found.reason
    assert "supervised training is ahead up to" in found.reason
    assert "one token per parameter" not in found.reason
    assert plan("miniature", 4e4, 4e12, Scenario.named("inference"), context=128, vocab=512).gain_nats < 0


def test_break_even_can_say_none_and_why() -> None:
    even = break_even(BUSBRIDGE, 1e9, SCENARIOS[3])
    assert even.budget_flops is None
    assert even.negligible_from_flops is None
    assert even.reason.startswith("none, because supervised training is at least as good at every budget")
    ahead = break_even(BUSBRIDGE, 1e11, SCENARIOS[0])
    assert ahead.budget_flops is None
    assert ahead.reason.startswith("none, because distillation")


def test_a_dearer_scenario_never_gains_more() -> None:
    for N in (3e8, 3e9):
        gains = [plan(BUSBRIDGE, N, 1e21, s).gain_nats for s in SCENARIOS]
        assert gains[0] >= gains[1] >= gains[3]
        assert gains[0] >= gains[2] >= gains[3]


def test_a_law_without_evidence_gives_no_interval_and_says_so() -> None:
    answer = plan(BUSBRIDGE.distillation, 1e9, 1e21, SCENARIOS[1])
    assert answer.probability is answer.gain_interval is answer.student_interval is None
    assert any("no intervals" in warning for warning in answer.warnings)


def test_intervals_are_those_of_draws_and_residual_errors() -> None:
    """With exact coefficients the gain's spread is that of independent log-normal errors, to Monte-Carlo accuracy."""
    bare = LawSet(
        name="x", form="distillation", law=BUSBRIDGE.law, residual=Residual(supervised=0.01, distillation=0.005)
    )
    sure = confidence_of(bare, N_S=1e9, D_S=2e10, D_supervised=2e10, L_T=2.2, teacher=None, seed=3)
    assert sure is not None
    law = BUSBRIDGE.distillation
    expected = math.hypot(0.01 * float(law.supervised.loss(1e9, 2e10)), 0.005 * float(law.loss(1e9, 2e10, 2.2)))
    assert np.std(sure.gain) == pytest.approx(expected, rel=0.05)
    low, high = interval_of(sure.gain)
    assert high - low == pytest.approx(2 * 1.645 * expected, rel=0.07)


def test_borrowed_draws_scatter_around_the_borrower() -> None:
    refit = published.load_set("busbridge2025-refit")
    at = (1e9, 2e10, 2.2)
    ours, theirs = BUSBRIDGE.student_draws(*at), refit.student_draws(*at)
    assert np.std(ours) / BUSBRIDGE.distillation.loss(*at) == pytest.approx(
        np.std(theirs) / refit.distillation.loss(*at), rel=1e-9
    )
    assert np.median(ours) == pytest.approx(float(BUSBRIDGE.distillation.loss(*at)), rel=2e-3)


def test_the_same_seed_gives_the_same_interval_and_another_moves_only_the_interval() -> None:
    a, b, c = (plan(BUSBRIDGE, 1e9, 1e21, SCENARIOS[1], seed=seed) for seed in (1, 1, 2))
    assert a.gain_interval == b.gain_interval != c.gain_interval
    assert a.gain_nats == c.gain_nats


def test_unique_data_cost_both_sides_and_beyond_four_epochs_it_is_said() -> None:
    rich = plan(BUSBRIDGE, 1e9, 1e22, SCENARIOS[1])
    poor = plan(BUSBRIDGE, 1e9, 1e22, SCENARIOS[1], limits=Limits(unique_tokens=2e10))
    assert poor.distillation.student_loss > rich.distillation.student_loss
    assert poor.supervised.loss > rich.supervised.loss
    assert any("epochs over 20B unique tokens" in warning for warning in poor.warnings)
    enough = plan(BUSBRIDGE, 1e9, 1e20, SCENARIOS[1], limits=Limits(unique_tokens=1e13))
    assert not any("epochs" in warning for warning in enough.warnings)


def test_an_exact_shape_pays_its_own_flops() -> None:
    arch = Arch.from_depth(21, vocab=256_000)
    answer = plan(BUSBRIDGE, arch, 1e21, SCENARIOS[0])
    assert answer.distillation.params == arch.params
    assert answer.distillation.tokens == pytest.approx(1e21 / (3 * arch.forward_flops_per_token))


def test_money_and_hours_follow_from_the_hardware() -> None:
    rate = compute("H100", mfu=0.5, price=2.0)
    side = plan(BUSBRIDGE, 1e9, 1e21, SCENARIOS[0], hardware=rate).to_json()["distillation"]
    assert side["gpu_hours"] == pytest.approx(1e21 / (989.4e12 * 0.5 * 3600))
    assert side["usd"] == pytest.approx(2 * side["gpu_hours"])
    unpriced = plan(BUSBRIDGE, 1e9, 1e21, SCENARIOS[0], hardware=compute("A100")).to_json()
    assert unpriced["distillation"]["usd"] is None


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"budget": 1e12}, "too small to train anything"),
        ({"budget": math.nan}, "budget must be positive and finite"),
        ({"budget": None}, "either a budget or a target loss"),
        ({"budget": 1e21, "target_loss": 2.0}, "either a budget or a target loss"),
        ({"budget": None, "target_loss": 1.0}, "out of reach"),
        ({"budget": None, "target_loss": 15.0}, "reached before anything is trained"),
        ({"budget": None, "target_loss": -1.0}, "target loss must be positive"),
    ],
)
def test_hopeless_requests_are_refused_in_one_line(arguments: dict[str, float | None], fragment: str) -> None:
    budget = arguments.pop("budget")
    with pytest.raises((InputError, InfeasibleError), match=fragment) as caught:
        plan(BUSBRIDGE, 1e9, budget, SCENARIOS[1], **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_owned_teachers_are_ranked_by_the_student_and_warned_about() -> None:
    law = BUSBRIDGE.distillation
    best = float(law.optimal_teacher_loss(2e8, 4e9))
    owned = [
        OwnedTeacher(name="drowning", params=70e9, loss=1.6),
        OwnedTeacher(name="right", params=3e9, loss=best),
        OwnedTeacher(name="weak", params=1e8, loss=3.2),
    ]
    ranked = rank_teachers(BUSBRIDGE, 2e8, owned, tokens=4e9)
    assert [t.name for t in ranked] == ["right", "drowning", "weak"]
    assert [t.student_loss for t in ranked] == sorted(t.student_loss for t in ranked)
    by_name = {t.name: t for t in ranked}
    assert by_name["drowning"].regime == "capacity-gap"
    assert any("capacity gap" in w for w in by_name["drowning"].warnings)
    assert by_name["weak"].regime == "weak-teacher"
    assert any("λ < 1" in w for w in by_name["weak"].warnings)
    assert by_name["right"].gain_nats == pytest.approx(
        float(law.supervised.loss(2e8, 4e9)) - by_name["right"].student_loss
    )


def test_a_bought_teacher_is_billed_in_money_and_a_budget_leaves_its_tokens() -> None:
    free, bought = (OwnedTeacher(name=str(p), params=7e9, loss=2.0, usd_per_million_tokens=p) for p in (None, 0.1))
    a, b = rank_teachers(BUSBRIDGE, 1e9, [free, bought], tokens=2e11)
    usd = {t.name: t.usd for t in (a, b)}
    student = compute().usd(3 * float(forward_flops(1e9)) * 2e11)
    assert student is not None
    assert usd["0.1"] == pytest.approx(student + 0.1 * 2e5)
    budget = rank_teachers(BUSBRIDGE, 1e9, [free], budget=1e21)[0]
    assert budget.tokens == pytest.approx(1e21 / (3 * float(forward_flops(1e9)) + float(forward_flops(7e9))))


def test_a_frontier_is_its_plans() -> None:
    grid = frontier(BUSBRIDGE, [3e8, 3e9], [1e20, 1e22], SCENARIOS)
    assert len(grid) == 16
    for row in grid.rows():
        scenario = Scenario.named(str(row["scenario"]))
        answer = plan(BUSBRIDGE, float(row["student_params"] or 0), float(row["budget_flops"] or 0), scenario)
        assert row["student_loss"] == pytest.approx(answer.distillation.student_loss, abs=1e-9)
        assert row["supervised_loss"] == pytest.approx(answer.supervised.loss)
        # where the loss is flat the split itself is only found to the accuracy of the first-order condition
        assert row["share_logits"] == pytest.approx(answer.distillation.shares["logits"], abs=1e-5)
    header, *lines = grid.to_csv().splitlines()
    assert header.startswith("student_params,budget_flops,scenario,student_loss,supervised_loss")
    assert len(lines) == 16


def test_an_infeasible_row_of_a_frontier_is_empty_not_zero() -> None:
    grid = frontier(BUSBRIDGE, [1e12], [1e15, 1e22], SCENARIOS[:1])
    first, second = grid.rows()
    assert first["student_loss"] is first["supervised_loss"] is first["teacher_params"] is None
    assert second["student_loss"] is not None
    assert ",,," in grid.to_csv().splitlines()[1]
    assert grid.summary()["infeasible"] == 1


def test_a_law_that_knows_no_teacher_cannot_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows no teacher"):
        plan("hoffmann2022", 1e9, 1e21, SCENARIOS[1])
    path = tmp_path / "law.json"
    path.write_text(json.dumps(BUSBRIDGE.to_json()), encoding="utf-8")
    again = plan(str(path), 1e9, 1e21, SCENARIOS[1])
    assert again.gain_nats == pytest.approx(plan(BUSBRIDGE, 1e9, 1e21, SCENARIOS[1]).gain_nats, abs=1e-12)


def test_unknown_supervised_error_is_not_silence() -> None:
    """A law whose supervised part was never measured must not look certain of it."""
    blind = replace(BUSBRIDGE, residual=Residual(distillation=0.005))
    answer = plan(blind, 1e9, 1e21, SCENARIOS[1])
    assert any("supervised" in w and "too narrow" in w for w in answer.warnings)
