"""The laws: reference values, gradients, inverses, limits, and what their forms promise."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from distillscale import published
from distillscale.arch import forward_flops
from distillscale.errors import InputError
from distillscale.laws import DataConstrainedLaw, DistillationLaw, SupervisedLaw, TransferLaw, effective_tokens

LAW = published.load_set("busbridge2025").distillation
PRINTED = published.load_set("busbridge2025-printed").distillation
REFIT = published.load_set("busbridge2025-refit").distillation
SUP = LAW.supervised
SUPERVISED = {name: published.load_set(name).supervised for name in ("busbridge2025", "hoffmann2022", "kaplan2020")}

# Hypothesis draws everything here from a fixed seed, and the laws are cheap.
settings.register_profile("laws", derandomize=True, deadline=None, max_examples=200)
repeatable = settings.get_profile("laws")


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: 10.0**x)


params, tokens = powers(5, 15), powers(6, 17)
usual_params, usual_tokens = powers(7, 12), powers(8, 15)
laws = st.sampled_from([LAW, PRINTED, REFIT])


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("N", "D", "loss"),
    [
        (1.983e8, 20 * 1.983e8, 2.78890),
        (1e9, 2e10, 2.37469),
        (1e9, 1e12, 2.14241),
        (7.747e9, 20 * 7.747e9, 2.00362),
        (7.747e9, 5.12e11, 1.93292),
        (1e9, np.inf, 2.07875),
    ],
)
def test_supervised_losses_of_table_6(N: float, D: float, loss: float) -> None:
    """Eq 1 with the coefficients of Table 6, worked out by hand to five decimals."""
    assert SUP.loss(N, D) == pytest.approx(loss, abs=5.1e-6)


@pytest.mark.parametrize(
    ("N_S", "D_S", "L_T", "corrected", "printed"),
    [
        (1e9, 2e10, 2.0, 2.32348, 2.27681),
        (1e9, 2e10, 2.3, 2.36716, 2.35747),
        (1e9, 2e10, 1.8, 2.33183, 2.25510),
        (5.46e8, 1.092e10, 2.2508, 2.45893, 2.42380),
        (1e10, 1e12, 1.8, 1.87658, 1.87436),
        (1.983e8, 3.966e9, 2.0036, 2.69299, 2.54362),
    ],
)
def test_student_losses_of_table_6(N_S: float, D_S: float, L_T: float, corrected: float, printed: float) -> None:
    """Eq 8 with B' = 2.4181e6 and with the printed 24181, worked out by hand to five decimals."""
    assert LAW.loss(N_S, D_S, L_T) == pytest.approx(corrected, abs=5.1e-6)
    assert PRINTED.loss(N_S, D_S, L_T) == pytest.approx(printed, abs=5.1e-6)


@pytest.mark.parametrize(
    ("N", "supervised", "distilled", "teacher"),
    [
        (1e8, 2.5331, 2.5206, 2.330),
        (3e8, 2.2923, 2.2948, 2.142),
        (1e9, 2.0788, 2.0880, 1.958),
        (3e9, 1.9213, 1.9310, 1.812),
        (1e10, 1.7816, 1.7876, 1.674),
        (3e10, 1.6786, 1.6778, 1.563),
        (1e11, 1.5873, 1.5752, 1.448),
        (1e12, 1.4602, 1.4041, 1.220),  # the best teacher is as good as any can be, L_T* = E
    ],
)
def test_limits_of_endless_data(N: float, supervised: float, distilled: float, teacher: float) -> None:
    """Eq 35 and 37 (the paper's Figure 40), from the coefficients of Table 6; B' does not matter here."""
    assert SUP.floor(N) == pytest.approx(supervised, abs=5.1e-5)
    for law in (LAW, PRINTED):
        best = law.optimal_teacher_loss(N, np.inf)
        assert best == pytest.approx(teacher, abs=0.002)  # the loss is flat there
        assert law.loss(N, np.inf, best) == pytest.approx(distilled, abs=6e-5)


BEST_TEACHERS = """\
1e8    2.209/2.866/3.006 2.204/2.711/2.791 2.339/2.550/2.572 2.333/2.532/2.548 2.330/2.521/2.533
3e8    2.080/2.588/2.671 2.198/2.457/2.498 2.162/2.334/2.342 2.150/2.309/2.311 2.142/2.295/2.292
5e8    2.053/2.471/2.537 2.128/2.350/2.381 2.086/2.246/2.251 2.070/2.219/2.217 2.061/2.202/2.196
1e9    2.017/2.323/2.375 2.025/2.217/2.240 1.988/2.139/2.142 1.970/2.107/2.103 1.958/2.088/2.079
3e9    1.880/2.118/2.158 1.868/2.033/2.050 1.849/1.994/2.001 1.827/1.955/1.952 1.812/1.931/1.921
7.75e9 1.748/1.967/2.004 1.743/1.899/1.914 1.740/1.891/1.904 1.719/1.845/1.846 1.702/1.816/1.809
1e10   1.712/1.931/1.967 1.712/1.866/1.882 1.712/1.866/1.882 1.691/1.819/1.821 1.674/1.788/1.782
3e10   1.546/1.786/1.827 1.582/1.738/1.759 1.573/1.769/1.801 1.578/1.715/1.728 1.563/1.678/1.679
"""


@pytest.mark.parametrize("line", BEST_TEACHERS.splitlines())
def test_best_teachers_of_table_6(line: str) -> None:
    """L_T*, L_S* and L̃_S at D_S = 20 N, 100 N, 1T, 10T and ∞, to three decimals (the corrected law)."""
    size, *cells = line.split()
    N = float(size)
    for D, cell in zip((20 * N, 100 * N, 1e12, 1e13, np.inf), cells, strict=True):
        teacher, student, supervised = map(float, cell.split("/"))
        best = LAW.optimal_teacher_loss(N, D)
        assert best == pytest.approx(teacher, abs=0.0015)
        assert LAW.loss(N, D, best) == pytest.approx(student, abs=0.001)
        assert SUP.loss(N, D) == pytest.approx(supervised, abs=0.001)


@given(laws, usual_params, usual_tokens, st.floats(1.25, 6))
@repeatable
def test_log_space_is_the_printed_formula(law: DistillationLaw, N: float, D: float, L_T: float) -> None:
    assert law.supervised.loss(N, D) == pytest.approx(float(reference.supervised_loss(law.supervised, N, D)), rel=1e-12)
    if law is not REFIT:  # whose c1 of 1e9 needs log space
        assert law.loss(N, D, L_T) == pytest.approx(float(reference.student_loss(law, N, D, L_T)), rel=1e-12)


@given(laws, usual_params, usual_tokens, st.floats(1.25, 6))
@repeatable
def test_the_parts_make_the_whole(law: DistillationLaw, N: float, D: float, L_T: float) -> None:
    p = law.parts(N, D, L_T)
    assert law.loss(N, D, L_T) == pytest.approx(
        float(p.teacher + p.gate * p.strength * (p.capacity + p.data) ** law.gamma), rel=1e-12
    )
    assert p.teacher == L_T
    assert p.supervised == law.supervised.loss(N, D)
    assert 0 <= p.gate < 1


# ---------------------------------------------------------------------------------------------- gradients


def central(loss: Any, x: float) -> float:
    """Fourth-order central difference in log x, as a derivative in x."""
    h = 2e-4
    up, down, up2, down2 = (loss(x * math.exp(k * h)) for k in (1, -1, 2, -2))
    return (8 * (up - down) - (up2 - down2)) / (12 * h * x)


@given(st.sampled_from(list(SUPERVISED)), usual_params, usual_tokens)
@repeatable
def test_supervised_gradients_are_central_differences(name: str, N: float, D: float) -> None:
    law = SUPERVISED[name]
    found = law.gradient(N, D)
    assert set(found) == {"N", "D", *(f.name for f in fields(law))}
    expected = {"N": central(lambda x: law.loss(x, D), N), "D": central(lambda x: law.loss(N, x), D)}
    for f in fields(law):
        if getattr(law, f.name) > 0:
            expected[f.name] = central(lambda x, f=f: replace(law, **{f.name: x}).loss(N, D), getattr(law, f.name))
    scale = {"N": N, "D": D} | {f.name: getattr(law, f.name) for f in fields(law)}
    for key, value in expected.items():  # in units of nats per relative change
        assert float(found[key]) * scale[key] == pytest.approx(value * scale[key], rel=1e-6, abs=1e-8), key


@given(st.sampled_from([LAW, PRINTED, replace(LAW, floor=0.97)]), usual_params, usual_tokens, st.floats(1.25, 5))
@settings(repeatable, max_examples=50)
def test_distillation_gradients_are_central_differences(law: DistillationLaw, N: float, D: float, L_T: float) -> None:
    found = law.gradient(N, D, L_T)
    at: dict[str, float] = {"N_S": N, "D_S": D, "L_T": L_T}
    own = [f.name for f in fields(law) if f.name != "supervised"]
    at |= {name: getattr(law, name) for name in own}
    at |= {f"supervised.{f.name}": getattr(law.supervised, f.name) for f in fields(SupervisedLaw)}
    assert set(found) == set(at)

    def loss(key: str, x: float) -> Any:
        moved = law
        if key in own:
            moved = replace(law, **{key: x})
        elif key.startswith("supervised."):
            moved = replace(law, supervised=replace(law.supervised, **{key.split(".")[1]: x}))
        where = {"N_S": N, "D_S": D, "L_T": L_T} | ({key: x} if key in ("N_S", "D_S", "L_T") else {})
        return moved.loss(**where)

    for key, x in at.items():
        difference = central(lambda v, key=key: loss(key, v), x)
        assert float(found[key]) * x == pytest.approx(difference * x, rel=1e-6, abs=2e-8), key


def test_gradients_have_the_broadcast_shape() -> None:
    N, D, L_T = np.geomspace(1e8, 1e10, 3)[:, None], np.geomspace(1e9, 1e12, 4), 2.0
    assert {x.shape for x in SUP.gradient(N, D).values()} == {(3, 4)}
    assert {x.shape for x in LAW.gradient(N, D, L_T).values()} == {(3, 4)}
    assert {x.shape for x in LAW.parts(N, D, L_T)} == {(3, 4)}
    assert LAW.loss(N, D, L_T).shape == LAW.optimal_teacher_loss(N, D).shape == LAW.regime(N, D, L_T).shape == (3, 4)


# ---------------------------------------------------------------------------------------------- inverses


@given(st.sampled_from(list(SUPERVISED)), usual_params, usual_tokens)
@repeatable
def test_tokens_and_parameters_can_be_undone(name: str, N: float, D: float) -> None:
    law = SUPERVISED[name]
    loss = law.loss(N, D)
    # Where a term is a millionth of the loss, its inverse keeps ten of sixteen digits.
    assert law.loss(N, law.tokens_for(N, loss)) == pytest.approx(float(loss), rel=1e-12)
    assert law.loss(law.params_for(D, loss), D) == pytest.approx(float(loss), rel=1e-12)
    assert law.tokens_for(N, loss) == pytest.approx(D, rel=1e-3)
    assert law.params_for(D, loss) == pytest.approx(N, rel=1e-3)


def test_a_loss_that_nothing_reaches_needs_endless_tokens() -> None:
    floor = SUP.floor(1e9)
    assert np.isfinite(SUP.tokens_for(1e9, floor * 1.0001))
    np.testing.assert_array_equal(SUP.tokens_for(1e9, [floor * 0.9999, SUP.E, 0.5, -1]), np.inf)
    np.testing.assert_array_equal(SUP.params_for(1e9, [SUP.loss(np.inf, 1e9) * 0.9999, SUP.E]), np.inf)


# ---------------------------------------------------------------------------------------------- shape of the laws


@given(laws, params, tokens)
@repeatable
def test_more_of_anything_never_hurts_a_supervised_model(law: DistillationLaw, N: float, D: float) -> None:
    sup = law.supervised
    assert sup.loss(N * 1.1, D) < sup.loss(N, D)
    assert sup.loss(N, D * 1.1) < sup.loss(N, D)
    assert sup.loss(N, D) > sup.floor(N) > sup.E


@given(laws, params, tokens, st.floats(1.22, 8))
@repeatable
def test_more_of_anything_never_hurts_a_student_of_one_teacher(
    law: DistillationLaw, N: float, D: float, L_T: float
) -> None:
    loss = law.loss(N, D, L_T)
    assert loss >= L_T  # with equality only where the gate is shut
    assert law.loss(N * 1.1, D, L_T) <= loss
    assert law.loss(N, D * 1.1, L_T) <= loss
    if law.parts(N, D, L_T).gate > 1e-9 and loss - L_T > 1e-9:
        assert law.loss(N * 1.1, D, L_T) < loss
        assert law.loss(N, D * 1.1, L_T) < loss


def test_limits_of_the_supervised_law() -> None:
    assert SUP.loss(np.inf, np.inf) == SUP.E
    assert SUP.loss(np.inf, 1e12) == pytest.approx(SUP.E + (SUP.B / 1e12**SUP.beta) ** SUP.gamma)
    assert SUP.loss(1e9, 1e30) == pytest.approx(float(SUP.floor(1e9)), abs=1e-6)
    assert SUP.floor(np.inf) == SUP.E


@pytest.mark.parametrize("law", [LAW, PRINTED, REFIT])
def test_limits_of_the_distillation_law(law: DistillationLaw) -> None:
    """Design properties of Eq 8 (section 4.3)."""
    assert law.loss(np.inf, np.inf, 2.0) == 2.0  # an unlimited student models its teacher
    assert law.loss(1e30, 1e40, 2.0) == pytest.approx(2.0, abs=1e-6)
    for L_T in (5.0, 10.0, 1e3):  # a random teacher makes a random student
        assert law.loss(1e9, 2e10, L_T) == L_T
    ratio = np.array([0.3, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 1.0, 1.1, 1.4, 2.0])
    gate = law.parts(1e9, 2e10, ratio * law.supervised.loss(1e9, 2e10)).gate
    assert np.all(np.diff(gate) < 0)
    assert gate[0] == pytest.approx(1, abs=1e-4)
    assert gate[-1] < 1e-90


def test_values_of_the_gate() -> None:
    """g at L_T/L̃_S, from Table 6 and the exact form: half shut at 0.9, shut at 1.1."""
    ratio = np.array([0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 1.0, 1.1])
    gate = LAW.parts(1e9, 2e10, ratio * SUP.loss(1e9, 2e10)).gate
    np.testing.assert_allclose(gate, [0.992, 0.958, 0.829, 0.693, 0.501, 0.371, 0.112, 0.002], atol=5.1e-4)
    np.testing.assert_allclose(gate, np.exp(-((ratio / LAW.d_eff) ** (1 / LAW.f1))), atol=0.006)


@given(laws, params, tokens, st.floats(-3, 3))
@repeatable
def test_nothing_overflows(law: DistillationLaw, N: float, D: float, log_L_T: float) -> None:
    """1e5 to 1e15 parameters, 1e6 to 1e17 tokens, teachers of 1e-3 to 1e3 nats; a warning would be an error."""
    L_T = 10.0**log_L_T
    assert np.isfinite(law.loss(N, D, L_T))
    assert np.isfinite(law.supervised.loss(N, D))
    assert all(np.isfinite(x) for x in law.parts(N, D, L_T))
    assert all(np.isfinite(x) for x in law.gradient(N, D, L_T).values())
    assert all(np.isfinite(x) for x in law.supervised.gradient(N, D).values())
    assert np.isfinite(law.optimal_teacher_loss(N, D))


# ---------------------------------------------------------------------------------------------- the best teacher


@given(st.sampled_from([LAW, PRINTED, REFIT]), params, tokens)
@settings(repeatable, max_examples=60)
def test_the_best_teacher_is_that_of_a_dense_grid(law: DistillationLaw, N: float, D: float) -> None:
    best = float(law.optimal_teacher_loss(N, D))
    losses = np.linspace(law.supervised.E, 3 * law.supervised.loss(N, D), 200_001)
    assert law.supervised.E * (1 - 1e-12) <= best <= losses[-1]
    assert law.loss(N, D, best) <= law.loss(N, D, losses).min() + 1e-9


@given(powers(7, 9.5), st.floats(5, 30))
@repeatable
def test_the_best_teacher_has_a_closed_form_while_the_gate_is_open(N: float, M: float) -> None:
    """With m = (A'/N^α' + B'/D^β')^γ': L_T* = (c0 m)^(1/(1+c0)), L_S* = L_T* (1 + 1/c0)."""
    D = M * N
    m = (LAW.A / N**LAW.alpha + LAW.B / D**LAW.beta) ** LAW.gamma
    closed = (LAW.c0 * m) ** (1 / (1 + LAW.c0))
    open_law = replace(LAW, d1=1e3 * LAW.d1)  # a gate that opens far above the student
    best = float(open_law.optimal_teacher_loss(N, D))
    if closed > SUP.E:
        assert best == pytest.approx(closed, rel=1e-5)
        assert open_law.loss(N, D, best) == pytest.approx(closed * (1 + 1 / LAW.c0), rel=1e-9)
    else:
        assert best == pytest.approx(SUP.E, rel=1e-9)
    if LAW.parts(N, D, closed).gate > 0.999:
        assert LAW.optimal_teacher_loss(N, D) == pytest.approx(closed, rel=0.01)


@given(laws, usual_params, usual_tokens, st.floats(1.23, 5))
@repeatable
def test_regimes_are_as_defined(law: DistillationLaw, N: float, D: float, L_T: float) -> None:
    best, loss = law.optimal_teacher_loss(N, D), law.loss(N, D, L_T)
    supervised = law.supervised.loss(N, D)
    match str(law.regime(N, D, L_T)):
        case "capacity-gap":
            assert best > L_T
        case "weak-teacher":
            assert best < L_T
            assert loss >= supervised
        case "helped":
            assert best <= L_T
            assert loss < supervised or best == L_T
        case other:
            pytest.fail(f"unknown regime {other}")


def test_regimes_of_one_student() -> None:
    """The 1B student on 20 tokens per parameter: its best teacher has 2.017 nats, alone it reaches 2.375."""
    assert list(LAW.regime(1e9, 2e10, [1.7, 2.0, 2.05, 2.2, 2.5])) == [
        "capacity-gap", "capacity-gap", "helped", "helped", "weak-teacher",
    ]  # fmt: skip


def test_the_gate_is_built_from_its_effective_parameter() -> None:
    assert LAW.d_eff == pytest.approx(0.930, abs=5e-4)
    names = ("supervised", "A", "B", "alpha", "beta", "gamma", "c0")
    others = {name: getattr(LAW, name) for name in names}
    for c1 in (50.0, LAW.c1, 1e4):
        again = DistillationLaw.from_d_eff(d_eff=LAW.d_eff, f1=LAW.f1, c1=c1, **others)
        assert again.d_eff == pytest.approx(LAW.d_eff, rel=1e-12)
    assert DistillationLaw.from_d_eff(d_eff=LAW.d_eff, f1=LAW.f1, c1=LAW.c1, **others).d1 == pytest.approx(LAW.d1)
    # c1 alone hardly matters: its exponential limit moves no loss by more than a digit of the fit.
    limit = DistillationLaw.from_d_eff(d_eff=LAW.d_eff, f1=LAW.f1, **others)
    N, D, L_T = (
        np.geomspace(1e8, 1e11, 13)[:, None, None],
        np.geomspace(1e9, 1e13, 13)[:, None],
        np.linspace(1.3, 4, 50),
    )
    assert np.max(np.abs(limit.loss(N, D, L_T) - LAW.loss(N, D, L_T))) < 0.01
    assert np.max(np.abs(limit.parts(N, D, L_T).gate - LAW.parts(N, D, L_T).gate)) < 0.006


# ---------------------------------------------------------------------------------------------- arrays of draws


def test_a_law_of_arrays_is_a_set_of_laws() -> None:
    rng = np.random.default_rng(0)
    factors = rng.uniform(0.9, 1.1, (2, 7))
    sup = replace(SUP, A=SUP.A * factors[0], E=SUP.E * factors[1])
    draws = replace(LAW, supervised=sup, A=LAW.A * factors[1], c0=LAW.c0 * factors[0])
    N, D, L_T = np.geomspace(1e8, 1e10, 3), 1e11, 2.0
    together = draws.take((..., None)).loss(N, D, L_T)
    best = draws.take((..., None)).optimal_teacher_loss(N, D)
    size, data = draws.take((..., None)).supervised.optimum([1e20, 1e21, 1e22])
    assert together.shape == best.shape == size.shape == data.shape == (7, 3)
    for i in range(7):
        one = draws.take(i)
        assert LAW.A * factors[1, i] == one.A
        assert SUP.A * factors[0, i] == one.supervised.A
        assert one.B == LAW.B
        np.testing.assert_allclose(one.loss(N, D, L_T), together[i], rtol=1e-14)
        np.testing.assert_allclose(one.optimal_teacher_loss(N, D), best[i], rtol=1e-9)
        np.testing.assert_allclose(one.supervised.optimum([1e20, 1e21, 1e22]), (size[i], data[i]), rtol=1e-9)
    some = draws.take(np.array([2, 5]))
    np.testing.assert_array_equal(some.c0, LAW.c0 * factors[0, [2, 5]])


# ---------------------------------------------------------------------------------------------- compute-optimal models


@pytest.mark.parametrize(
    ("flops", "N", "loss"),
    [(3e19, 0.503e9, 2.572), (1e20, 0.932e9, 2.419), (3e20, 1.64e9, 2.296), (1e21, 3.04e9, 2.177)],
)
def test_isoflop_optima_of_the_supervised_law(flops: float, N: float, loss: float) -> None:
    """Figure 36c: the optimal sizes lie between its ticks 600M and 3B; M* is 15 to 16, not 20."""
    size, data = SUP.optimum(flops)
    assert size == pytest.approx(N, rel=2e-3)
    assert SUP.loss(size, data) == pytest.approx(loss, abs=5.1e-4)
    assert 15 < data / size < 16
    assert 3 * forward_flops(size) * data == pytest.approx(flops, rel=1e-12)


@given(
    st.sampled_from(list(SUPERVISED.values())), powers(16, 28), st.sampled_from([(4096, 32768), (512, 262144), (0, 0)])
)
@repeatable
def test_the_optimum_is_that_of_a_dense_grid(law: SupervisedLaw, flops: float, shape: tuple[float, float]) -> None:
    context, vocab = shape
    size, data = law.optimum(flops, context=context, vocab=vocab)
    assert 3 * forward_flops(size, context=context, vocab=vocab) * data == pytest.approx(flops, rel=1e-12)
    N = np.geomspace(size / 100, size * 100, 20_001)
    losses = law.loss(N, flops / (3 * forward_flops(N, context=context, vocab=vocab)))
    assert law.loss(size, data) <= losses.min() * (1 + 1e-12)
    assert N[np.argmin(losses)] == pytest.approx(float(size), rel=2e-3)


@given(powers(17, 26), st.sampled_from(list(SUPERVISED.values())))
@repeatable
def test_without_attention_or_logits_the_optimum_is_the_textbooks(flops: float, law: SupervisedLaw) -> None:
    """Hoffmann et al., Eq 4: N* = G (C/6)^a, D* = (C/6)^b / G with a = β/(α+β), b = α/(α+β)."""
    a, b = law.beta / (law.alpha + law.beta), law.alpha / (law.alpha + law.beta)
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    size, data = law.optimum(flops, context=0, vocab=0)
    assert size == pytest.approx(G * (flops / 6) ** a, rel=1e-9)
    assert data == pytest.approx((flops / 6) ** b / G, rel=1e-9)


def test_tokens_per_parameter_of_optimal_models_drift_down() -> None:
    """Around 15 from 1e19 to 1e22 FLOPs, 13 at 1e26: the exponents of Eq 1 differ, a = β/(α+β) > 1/2."""
    size, data = SUP.optimum(np.geomspace(1e19, 1e22, 31))
    assert np.all((data / size > 14) & (data / size < 16))
    size, data = SUP.optimum(np.geomspace(1e22, 1e26, 31))
    assert np.all(np.diff(data / size) < 0)
    assert data[-1] / size[-1] == pytest.approx(13, abs=0.2)


# ---------------------------------------------------------------------------------------------- neighbours


def test_hoffmann_is_gamma_one() -> None:
    law = published.load_set("hoffmann2022").supervised
    assert law.gamma == 1
    N, D = 70e9, 1.4e12
    assert law.loss(N, D) == pytest.approx(law.E + law.A / N**law.alpha + law.B / D**law.beta, rel=1e-14)


@pytest.mark.parametrize(("N", "D"), [(1e9, 20.2e9), (10e9, 205e9), (67e9, 1.5e12), (175e9, 3.7e12), (280e9, 5.9e12)])
def test_hoffmanns_optimal_tokens(N: float, D: float) -> None:
    """Hoffmann et al., Table 3 (approach 1, from which approach 3 departs by up to a factor of about three)."""
    law = published.load_set("besiroglu2024").supervised
    # The replication agrees with approach 1: D* for the model that is optimal at C = 6 N D*.
    a = law.beta / (law.alpha + law.beta)
    G = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    best = N ** ((1 - a) / a) * G ** (-1 / a)
    assert best == pytest.approx(D, rel=0.35)


def test_kaplan_is_a_case_of_eq_1() -> None:
    law = published.load_set("kaplan2020").supervised
    assert (law.E, law.beta) == (0, 1)
    N, D = np.geomspace(1e6, 1e12, 7)[:, None], np.geomspace(1e7, 1e13, 7)
    written_out = ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103
    np.testing.assert_allclose(law.loss(N, D), written_out, rtol=1e-12)
    # Its limits, Eq 1.1 and 1.2.
    np.testing.assert_allclose(law.loss(N, np.inf), (6.4e13 / N) ** 0.076, rtol=1e-12)
    np.testing.assert_allclose(law.loss(np.inf, D), (1.8e13 / D) ** 0.103, rtol=1e-12)


@given(powers(6, 13), powers(6, 15), st.floats(1, 50))
@repeatable
def test_worth_of_repeated_tokens(unique: float, D: float, R: float) -> None:
    found = float(effective_tokens(D, unique, R))
    assert found == pytest.approx(float(reference.worth(D, unique)) if R == reference.R_D else found)
    if unique >= D:
        assert found == D
    else:
        assert unique <= found <= min(D, unique * (1 + R)) * (1 + 1e-12)
        assert effective_tokens(D * 1.01, unique, R) >= found
        assert effective_tokens(D, unique * 1.01, R) >= found


def test_repeats_saturate_and_four_epochs_are_nearly_free() -> None:
    R = reference.R_D
    assert effective_tokens(1e20, 1e9, R) == pytest.approx(1e9 * (1 + R), rel=1e-12)
    assert effective_tokens(np.inf, 1e9, R) == pytest.approx(1e9 * (1 + R), rel=1e-12)
    assert float(effective_tokens(4e9, 1e9, R)) / 4e9 == pytest.approx(0.93, abs=0.005)
    assert float(effective_tokens(44e9, 1e9, R)) / 44e9 < 0.4
    np.testing.assert_array_equal(effective_tokens([1e6, 1e9, 1e15], np.inf, R), [1e6, 1e9, 1e15])
    mixed = effective_tokens(1e12, np.array([np.inf, 1e11]), R)  # no warning for the endless one
    np.testing.assert_allclose(mixed, [1e12, reference.worth(1e12, 1e11)])


def test_the_data_constrained_law_is_its_base_on_worth() -> None:
    law = published.load("muennighoff2023")
    assert isinstance(law, DataConstrainedLaw)
    N, U = 1e9, 1e11
    U_N = float(law.optimal_params(U))
    assert pytest.approx(0.051, abs=0.0015) == U_N / U  # the ratio the paper quotes
    # Compute-optimal under 6ND for those tokens: nudging N against D never lowers the base law.
    for k in (0.9, 1.1):
        assert law.base.loss(U_N, U) <= law.base.loss(U_N * k, U / k)
    assert law.loss(N, U / 2, U) == law.base.loss(N, U / 2)  # nothing repeats, nothing is in excess
    excess = N * 10
    D_eff = reference.worth(4 * U, U)
    N_eff = U_N + U_N * law.R_N * (1 - math.exp(-(excess / U_N - 1) / law.R_N))
    assert law.loss(excess, 4 * U, U) == pytest.approx(float(law.base.loss(N_eff, D_eff)), rel=1e-12)
    four, fresh, once = (float(law.loss(N, D, unique)) for D, unique in ((4 * U, U), (4 * U, 4 * U), (U, U)))
    assert four - fresh < 0.12 * (once - fresh)  # four epochs do most of what four times the data do
    assert law.loss(N, 1e20, U) == pytest.approx(float(law.base.loss(N, U * (1 + law.R_D))), rel=1e-9)


def test_the_transfer_law() -> None:
    law = published.load("hernandez2021")
    assert isinstance(law, TransferLaw)
    assert law.transferred_tokens(1e6, 1e8) == pytest.approx(1.9e4 * 1e6**0.18 * 1e8**0.38, rel=1e-12)
    ratio = law.transferred_tokens(1e6, 1e9) / law.transferred_tokens(1e6, 1e8)
    assert ratio == pytest.approx(10**0.38)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["A", "B", "alpha", "beta", "gamma"])
def test_supervised_coefficients_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"SupervisedLaw.{name} must be finite and positive; got {value:g}; check"):
        replace(SUP, **{name: value})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["A", "B", "alpha", "beta", "gamma", "c1", "f1", "d1"])
def test_distillation_coefficients_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"DistillationLaw.{name} must be finite and positive; got {value:g}; check"):
        replace(LAW, **{name: value})


def test_some_coefficients_may_be_zero() -> None:
    assert replace(SUP, E=0).floor(np.inf) == 0
    assert replace(LAW, c0=0).c0 == 0
    with pytest.raises(InputError, match=r"SupervisedLaw.E must be finite and zero or positive; got -1"):
        replace(SUP, E=-1)
    with pytest.raises(InputError, match=r"DistillationLaw.c0 must be finite and zero or positive; got -1"):
        replace(LAW, c0=-1)
    with pytest.raises(InputError, match=r"DataConstrainedLaw.R_D must be finite and positive"):
        DataConstrainedLaw(base=SUP, R_D=0, R_N=1)
    with pytest.raises(InputError, match=r"TransferLaw.k must be finite and positive"):
        TransferLaw(k=-1, alpha=0.1, beta=0.1)


def test_one_bad_draw_is_refused() -> None:
    with pytest.raises(InputError, match=r"SupervisedLaw.A must be finite and positive"):
        replace(SUP, A=np.array([1.0, 2.0, np.nan]))
