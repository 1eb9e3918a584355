"""A law and its evidence: what is written reads back, and every mistake in a file is one line that names it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale.errors import InputError
from distillscale.laws import DistillationLaw, SupervisedLaw
from distillscale.lawset import FORMAT, LawSet, Residual, coefficients_of
from distillscale.published import load_set, names

SUP = SupervisedLaw(E=1.2, A=3000, B=18000, alpha=0.4, beta=0.43, gamma=0.45)
DIST = DistillationLaw(
    supervised=SUP, A=2200, B=2.4e6, alpha=0.32, beta=0.64, gamma=0.76, c0=2.5, c1=500, f1=0.09, d1=1.3
)
RNG = np.random.default_rng(0)
DRAWN = replace(DIST, A=DIST.A * RNG.uniform(0.9, 1.1, 5), supervised=replace(SUP, E=SUP.E * RNG.uniform(0.9, 1.1, 5)))
WHOLE = LawSet(
    name="mine",
    form="distillation",
    law=DIST,
    paper="a paper, arXiv 0000.00000",
    table="Table 1",
    regime={"student_params": (1e8, 1e10), "teacher_loss": (1.9, 2.8)},
    caveats=("one corpus", "two sizes"),
    residual=Residual(supervised=0.01, distillation=0.004),
    draws=DRAWN,
    provenance={"rows": 40, "seed": 0},
)


def valid() -> dict[str, Any]:
    return json.loads(json.dumps(WHOLE.to_json()))


def written(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------ round trips


def test_a_set_reads_back_from_its_file(tmp_path: Path) -> None:
    again = LawSet.read(written(tmp_path / "law.json", WHOLE.to_json()))
    for name in ("name", "form", "law", "paper", "table", "regime", "caveats", "residual", "provenance"):
        assert getattr(again, name) == getattr(WHOLE, name), name
    assert again.draw_count == 5
    assert isinstance(again.draws, DistillationLaw)
    np.testing.assert_allclose(again.draws.A, DRAWN.A, rtol=1e-7)  # eight digits are kept of draws
    np.testing.assert_allclose(again.draws.supervised.E, DRAWN.supervised.E, rtol=1e-7)
    assert again.draws.B == DIST.B


@pytest.mark.parametrize("name", names())
def test_every_published_set_reads_back(name: str, tmp_path: Path) -> None:
    found = load_set(name)
    again = LawSet.read(written(tmp_path / "law.json", found.to_json()))
    assert again.law == found.law
    assert (again.regime, again.caveats, again.residual) == (found.regime, found.caveats, found.residual)
    assert again.draw_count == found.draw_count


@given(st.lists(st.floats(1e-3, 99), min_size=16, max_size=16))
def test_coefficients_read_back_to_the_last_bit(values: list[float]) -> None:
    sup = SupervisedLaw(**dict(zip(("E", "A", "B", "alpha", "beta", "gamma"), values, strict=False)))
    names = ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1", "floor")
    own = dict(zip(names, values[6:], strict=True))
    law = DistillationLaw(supervised=sup, **own)
    found = LawSet(name="x", form="distillation", law=law)
    assert LawSet.from_mapping(json.loads(json.dumps(found.to_json())), "x").law == law


def test_what_may_be_left_out() -> None:
    bare = LawSet.from_mapping({"form": "supervised", "coefficients": coefficients_of(SUP)}, "here")
    assert (bare.name, bare.law, bare.regime, bare.caveats, bare.draw_count) == ("here", SUP, {}, (), 0)
    assert bare.residual == Residual()
    coefficients = {"E": 1, "A": 1, "B": 1, "alpha": 0.3, "beta": 0.3}
    hoffmann = LawSet.from_mapping({"form": "chinchilla", "coefficients": coefficients}, "here")
    assert hoffmann.supervised.gamma == 1


def test_a_set_gives_the_law_that_is_asked_for() -> None:
    assert WHOLE.distillation is DIST
    assert WHOLE.supervised is SUP
    assert load_set("hoffmann2022").supervised is load_set("hoffmann2022").law
    with pytest.raises(InputError, match=r"law 'hoffmann2022' is a chinchilla law, which knows no teacher; .*--law"):
        _ = load_set("hoffmann2022").distillation
    with pytest.raises(InputError, match=r"law 'hernandez2021' is a transfer law and predicts no supervised loss"):
        _ = load_set("hernandez2021").supervised


# ------------------------------------------------------------------------------------------------ draws


def test_draws_scatter_around_their_law() -> None:
    N, D, L_T = 1e9, np.array([[2e10, 2e11, 2e12]]), 2.1
    found = WHOLE.student_draws(N, D, L_T)
    assert found.shape == (5, 3)
    for i in range(5):
        np.testing.assert_allclose(found[i], DRAWN.take(i).loss(N, D[0], L_T), rtol=1e-14)
    alone = WHOLE.supervised_draws(N, D)
    for i in range(5):
        np.testing.assert_allclose(alone[i], DRAWN.supervised.take(i).loss(N, D[0]), rtol=1e-14)
    assert WHOLE.student_draws(N, 2e10, L_T).shape == WHOLE.supervised_draws(N, 2e10).shape == (5,)
    # An argument may differ from draw to draw, as a teacher's loss does.
    np.testing.assert_allclose(
        WHOLE.student_draws(N, 2e10, WHOLE.supervised_draws(N, 2e12)),
        [DRAWN.take(i).loss(N, 2e10, DRAWN.supervised.take(i).loss(N, 2e12)) for i in range(5)],
        rtol=1e-14,
    )


def test_borrowed_draws_count_as_deviations_from_their_own_centre() -> None:
    """law · draw / centre: the lender's bias does not move the borrower, its spread does."""
    lent = replace(DIST, A=2 * DIST.A)
    borrower = replace(WHOLE, law=lent, centre=DIST)
    where = (1e9, 2e11, 2.1)
    np.testing.assert_allclose(
        borrower.student_draws(*where) / lent.loss(*where), WHOLE.student_draws(*where) / DIST.loss(*where), rtol=1e-14
    )
    same = replace(borrower, draws=replace(DIST, A=np.full(5, DIST.A)))  # draws without spread
    np.testing.assert_allclose(same.student_draws(*where), lent.loss(*where), rtol=1e-14)


def test_draws_of_a_supervised_law() -> None:
    found = LawSet(name="s", form="supervised", law=SUP, draws=replace(SUP, A=SUP.A * np.array([0.9, 1.0, 1.1])))
    assert found.draw_count == 3
    again = LawSet.from_mapping(json.loads(json.dumps(found.to_json())), "s")
    draws = again.supervised_draws(1e9, [[1e10, 1e11]])
    assert draws.shape == (3, 2)
    np.testing.assert_allclose(draws[1], SUP.loss(1e9, [1e10, 1e11]), rtol=1e-12)
    assert np.all(np.diff(draws, axis=0) > 0)


# ------------------------------------------------------------------------------------------------ mistakes


def without(key: str, **path: str) -> dict[str, Any]:
    data = valid()
    del (data[path["table"]] if path else data)[key]
    return data


def having(table: str | None, **changes: Any) -> dict[str, Any]:
    data = valid()
    (data[table] if table else data).update(changes)
    return data


MISTAKES: list[tuple[Any, str]] = [
    # the file
    ([1, 2], "must hold one JSON object"),
    ("text", "must hold one JSON object"),
    (None, "must hold one JSON object"),
    ({}, "not a law file of this tool"),
    ({"rows": 3}, "not a law file of this tool"),
    (having(None, format="somebody-elses/1"), "not a law file of this tool"),
    (having(None, form=None), "not a law file of this tool"),
    (having(None, form="broken"), "form 'broken' is not one of chinchilla, supervised, kaplan, distillation"),
    (having(None, caveat=["x"]), "unknown key 'caveat' in a law file; did you mean 'caveats'"),
    (having(None, zzz=1), "unknown key 'zzz' in a law file"),
    (having(None, caveats="one string"), "caveats must be a list of sentences; got 'one string'"),
    # coefficients
    (without("coefficients"), "coefficients is missing; it must be a table of numbers A, B, alpha"),
    (having(None, coefficients=[1, 2]), "coefficients is missing; it must be a table"),
    (without("c0", table="coefficients"), "coefficients lacks c0; this form has A, B"),
    (having("coefficients", C0=1.0), "unknown coefficient 'C0'; did you mean 'c0'"),
    (having("coefficients", aplha=0.3), "unknown coefficient 'aplha'; did you mean 'alpha'"),
    (having("coefficients", E=1.0), "unknown coefficient 'E'"),
    (having("coefficients", A="2243"), "coefficients.A must be a finite number; got '2243'"),
    (having("coefficients", A=None), "coefficients.A must be a finite number; got None"),
    (having("coefficients", A=True), "coefficients.A must be a finite number; got True"),
    (having("coefficients", A=math.nan), "coefficients.A must be a finite number; got nan"),
    (having("coefficients", A=math.inf), "coefficients.A must be a finite number; got inf"),
    (having("coefficients", A=[1.0]), "coefficients.A must be a finite number; got"),
    (having("coefficients", A=-1.0), "DistillationLaw.A must be finite and positive; got -1"),
    (having("coefficients", beta=0), "DistillationLaw.beta must be finite and positive; got 0"),
    # the law inside
    (without("supervised"), "supervised is missing; it must be a table of numbers E, A"),
    (without("E", table="supervised"), "supervised lacks E"),
    (having("supervised", gama=1), "unknown coefficient 'gama'; did you mean 'gamma'"),
    (having("supervised", E=-1), "SupervisedLaw.E must be finite and zero or positive"),
    # evidence
    (having("regime", student_params=[1e10, 1e8]), "student_params must be [low, high], positive and finite; got"),
    (having("regime", student_params=[1e8]), "regime.student_params must be [low, high]"),
    (having("regime", student_params="wide"), "regime.student_params must be [low, high]"),
    (having(None, regime=[1, 2]), "regime must be a table"),
    (having("residual", supervised=-0.1), "residual"),
    (having("residual", student=0.1), "residual"),
    (having("residual", supervised="small"), "residual"),
    (having(None, provenance=3), "provenance must be a table"),
    # draws
    (having(None, draws=[1, 2]), "draws must hold `names` and `values`"),
    (having(None, draws={"names": ["A"]}), "draws must hold `names` and a table of numbers `values`"),
    (having(None, draws={"names": ["A"], "values": [["x"]]}), "draws must hold `names` and a table of numbers"),
    (having(None, draws={"names": ["A"], "values": [[1, 2]]}), "draws.values must be finite, one row a draw"),
    (having(None, draws={"names": ["A", "B"], "values": [[1, 2], [3]]}), "draws must hold `names` and a table"),
    (having(None, draws={"names": ["A"], "values": []}), "draws.values must be finite"),
    (having(None, draws={"names": ["A"], "values": [[math.nan]]}), "draws.values must be finite"),
    (having(None, draws={"names": ["A1"], "values": [[1.0]]}), "draws name an unknown coefficient 'A1'"),
    (having(None, draws={"names": ["supervised.Q"], "values": [[1.0]]}), "unknown coefficient 'supervised.Q'"),
    (having(None, draws={"names": ["A"], "values": [[-1.0]]}), "DistillationLaw.A must be finite and positive"),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES, ids=lambda x: x[:50] if isinstance(x, str) else None)
def test_every_mistake_is_one_line_that_names_it(data: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        LawSet.read(written(tmp_path / "law.json", data))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"form = 'supervised'", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_not_json_is_said_to_be_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not JSON; write one with `distillscale fit --out`"):
        LawSet.read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"law file '.*nowhere.json' cannot be read: No such file or directory"):
        LawSet.read(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        LawSet.read(tmp_path)


def test_the_format_has_a_version() -> None:
    assert WHOLE.to_json()["format"] == FORMAT == "distillscale-law/1"
