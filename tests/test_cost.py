"""Cost: Eq 9 and its four reduced forms, shares that are shares, and the room that stored logits take."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale.arch import VOCAB, forward_flops
from distillscale.cost import SAMPLES, SCENARIOS, TOP_K, Scenario, bill, logit_stores
from distillscale.errors import InputError

flops, tokens = st.floats(6, 14).map(lambda x: 10.0**x), st.floats(6, 17).map(lambda x: 10.0**x)
share = st.floats(0, 1)


def test_the_papers_scenarios() -> None:
    """Table 2 (and 5): which part of the teacher counts; best case, inference, pretraining, both."""
    assert {name: (s.logits, s.pretraining) for name, s in SCENARIOS.items()} == {
        "free": (0, 0),
        "inference": (1, 0),
        "pretraining": (0, 1),
        "both": (1, 1),
    }


@given(flops, tokens, flops, tokens)
def test_the_reduced_forms_of_eq_9(F_S: float, D_S: float, F_T: float, D_T: float) -> None:
    """Eq 30 to 33, in the order of Table 2."""
    forms = {
        "free": 3 * F_S * D_S,
        "inference": 3 * F_S * D_S + F_T * D_S,
        "pretraining": 3 * F_S * D_S + 3 * F_T * D_T,
        "both": 3 * F_S * D_S + F_T * (D_S + 3 * D_T),
    }
    for name, total in forms.items():
        found = bill(F_S, D_S, F_T, D_T, SCENARIOS[name].logits, SCENARIOS[name].pretraining)
        assert found.total == pytest.approx(total, rel=1e-12)
        assert found.total == pytest.approx(float(found.student + found.logits + found.teacher), rel=1e-12)


@given(flops, tokens, flops, tokens, share, share, share)
def test_a_bill_grows_with_its_shares(
    F_S: float, D_S: float, F_T: float, D_T: float, logits: float, pretraining: float, less: float
) -> None:
    whole = bill(F_S, D_S, F_T, D_T, logits, pretraining)
    assert bill(F_S, D_S, F_T, D_T, logits * less, pretraining).total <= whole.total
    assert bill(F_S, D_S, F_T, D_T, logits, pretraining * less).total <= whole.total
    assert whole.student == 3 * F_S * D_S
    assert bill(F_S, D_S, F_T, D_T, 0, 0).total == whole.student


def test_eq_27_gives_the_tokens_of_a_budget() -> None:
    """A 1B student of an existing 7.75B teacher at 1e21 FLOPs: D_S = C / (3 F(N_S) + F(N_T))."""
    F_S, F_T = forward_flops(1e9), forward_flops(7.75e9)
    D_S = 1e21 / (3 * F_S + F_T)
    found = bill(F_S, D_S, F_T, 1e12, 1, 0)
    assert found.total == pytest.approx(1e21, rel=1e-12)
    assert found.logits / found.student == pytest.approx(float(F_T / (3 * F_S)), rel=1e-12)


def test_bills_broadcast() -> None:
    found = bill(np.ones((3, 1)), 1e9, 2.0, np.ones(4), 1, np.linspace(0, 1, 4))
    assert {x.shape for x in found[2:]} == {(4,), (3, 4)}
    assert found.total.shape == (3, 4)


def test_k_students_share_a_teachers_training() -> None:
    assert Scenario.named("both", students=4) == Scenario(1, 0.25)
    assert Scenario.named("pretraining", students=10).pretraining == 0.1
    assert Scenario.named("inference", students=10) == SCENARIOS["inference"]
    for name, scenario in SCENARIOS.items():
        assert Scenario.named(name) == scenario
        assert scenario.name == name
    assert Scenario(1, 0.25).name == "logits=1,pretraining=0.25"


@pytest.mark.parametrize("value", [-0.1, 1.0001, math.nan, math.inf, True, "1", None])
@pytest.mark.parametrize("field", ["logits", "pretraining"])
def test_shares_lie_between_nothing_and_all(field: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{field} share must be a number in \[0, 1\], .*; got .*; use 1 for all"):
        Scenario(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("students", [0, -1, 1.5, True, math.nan])
def test_students_are_counted_in_whole_numbers(students: float) -> None:
    with pytest.raises(InputError, match="students sharing the teacher must be a whole number of at least 1; got"):
        Scenario.named("both", students=students)  # type: ignore[arg-type]


def test_an_unknown_scenario_is_met_with_the_four() -> None:
    with pytest.raises(InputError, match=r"must be one of free, inference, pretraining, both; got 'gratis'"):
        Scenario.named("gratis")


def test_the_papers_numbers_of_stored_logits() -> None:
    """App. G.4: 32,168 float32 logits are about 129 KB a token, and 2T tokens of them about 260 PB."""
    full = logit_stores(2e12, 32_168, 4096)[0]
    assert full.bytes_per_token == 4 * 32_168
    assert full.bytes_per_token / 1e3 == pytest.approx(129, abs=0.5)
    assert full.total_bytes / 1e15 == pytest.approx(260, abs=5)
    ours = logit_stores(2e12, VOCAB, 4096)[0]  # with the vocabulary that Table 13 needs
    assert ours.bytes_per_token / 1e3 == pytest.approx(131, abs=0.5)


def test_every_way_to_store_logits() -> None:
    stores = logit_stores(1e9, VOCAB, 2048, usd_per_gb_month=0.02)
    by_kind = {s.kind: s.bytes_per_token for s in stores}
    # A kept class is a 15-bit index and a 16-bit value, in whole bytes.
    assert by_kind == {
        "full float32 logits": 131_072,
        "teacher hidden states, float16": 4096,
        f"top-{TOP_K} logits": TOP_K * 4,
        f"{SAMPLES} sampled classes": SAMPLES * 3,
    }
    for store in stores:
        assert store.total_bytes == store.bytes_per_token * 1e9
        assert store.usd_per_month == pytest.approx(store.total_bytes / 1e9 * 0.02, rel=1e-12)
        assert store.caveat
    exact = [s for s in stores if s.caveat.startswith("exact")]
    assert exact == stores[:2]


def test_a_larger_vocabulary_takes_a_larger_index() -> None:
    def top_k(vocab: int) -> float:
        return logit_stores(1, vocab, 1)[2].bytes_per_token / TOP_K

    assert [top_k(v) for v in (256, 257, 32_768, 65_536, 65_537, 262_144)] == [3, 4, 4, 4, 5, 5]


@given(st.integers(1, 300_000), tokens)
def test_storage_is_proportional_to_tokens(vocab: int, count: float) -> None:
    for one, many in zip(logit_stores(1, vocab, 64), logit_stores(count, vocab, 64), strict=True):
        assert many.total_bytes == pytest.approx(count * one.total_bytes, rel=1e-12)
        assert many.kind == one.kind
