"""A law together with what is known about it: source, fitted range, residual error, draws. It fits and plans nothing.

Planning consumes a `LawSet`; fitting and `published` produce one. On disk it is one JSON (or TOML) object:
`format, name, form, coefficients{}, supervised{}?, paper, table, regime{}, caveats[], residual{}, draws{}?`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .laws import DataConstrainedLaw, DistillationLaw, SupervisedLaw, TransferLaw

__all__ = ["FORMAT", "Law", "LawSet", "Residual", "coefficients_of", "law_from"]

FORMAT = "distillscale-law/1"
Array = NDArray[np.float64]
Law = SupervisedLaw | DistillationLaw | DataConstrainedLaw | TransferLaw

_NESTED = {"distillation": "supervised", "data-constrained": "base"}
_EQ1 = ("E", "A", "B", "alpha", "beta")


class _Form(NamedTuple):
    build: Callable[..., Law]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


_FORMS = {
    "chinchilla": _Form(SupervisedLaw, _EQ1),
    "supervised": _Form(SupervisedLaw, (*_EQ1, "gamma")),
    "kaplan": _Form(SupervisedLaw.kaplan, ("N_c", "D_c", "alpha_N", "alpha_D")),
    "distillation": _Form(DistillationLaw, ("A", "B", "alpha", "beta", "gamma", "c0", "c1", "f1", "d1"), ("floor",)),
    "data-constrained": _Form(DataConstrainedLaw, ("R_D", "R_N")),
    "transfer": _Form(TransferLaw, ("k", "alpha", "beta")),
}
_NESTED_FORM = _Form(SupervisedLaw, _EQ1, ("gamma",))

_LARGEST = 1e300
_EXPONENTS = frozenset({"alpha", "beta", "gamma", "alpha_N", "alpha_D", "c0", "f1"})
_LARGEST_EXPONENT = 100.0
_LARGEST_RESIDUAL = 2.0
"""No law is off by a factor of e² from run to run."""


def coefficients_of(law: Law) -> dict[str, float]:
    """The law's own coefficients by name, without those of a law nested in it, nor a floor that Eq 8 does not have."""
    own = _fields_of(law)
    return {name: x for name, x in own.items() if name != "floor" or np.ndim(x) or x != 1.0}


def _fields_of(law: Law) -> dict[str, float]:
    return {f.name: getattr(law, f.name) for f in fields(law) if f.name not in _NESTED.values()}


def law_from(form: str, data: Mapping[str, Any], where: str) -> Law:
    """A law of `form` from `{coefficients: {...}, supervised|base: {...}}`; missing or unknown names are refused."""
    if form not in _FORMS:
        raise InputError(f"{where}: form {form!r} is not one of {', '.join(_FORMS)}; correct `form`")
    values: dict[str, Any] = _numbers(_FORMS[form], data.get("coefficients"), f"{where}: coefficients")
    if nested := _NESTED.get(form):
        values[nested] = SupervisedLaw(**_numbers(_NESTED_FORM, data.get(nested), f"{where}: {nested}"))
    return _FORMS[form].build(**values)


def _numbers(form: _Form, given: object, where: str) -> dict[str, float]:
    wanted = (*form.required, *form.optional)
    if not isinstance(given, Mapping):
        raise InputError(f"{where} is missing; it must be a table of numbers {', '.join(wanted)}")
    given = cast("Mapping[str, Any]", given)
    for name, value in given.items():
        if name not in wanted:
            near = get_close_matches(name, wanted, 1, 0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{where} has an unknown coefficient {name!r}; {hint}this form has {', '.join(wanted)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
            raise InputError(f"{where}.{name} must be a finite number; got {value!r:.60}; correct the file")
        if name in _EXPONENTS and abs(value) > _LARGEST_EXPONENT:
            raise InputError(
                f"{where}.{name} is an exponent and at most {_LARGEST_EXPONENT:g}; got {value!r}; correct the file"
            )
    if missing := [name for name in form.required if name not in given]:
        raise InputError(f"{where} lacks {', '.join(missing)}; this form has {', '.join(wanted)}")
    return {name: float(value) for name, value in given.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Residual:
    """Standard deviation of log(measured loss / law) of single runs; None where it was never measured."""

    supervised: float | None = None
    distillation: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LawSet:
    """A law and the evidence behind it.

    `regime` maps a quantity (`params`, `tokens`, `tokens_per_param`, `student_params`, `student_tokens`,
    `teacher_loss`, ...) to the range it was fitted in. `draws` is the same law with array coefficients of shape
    (draws,): joint bootstrap draws, scattered around `centre` (the law itself unless the draws are borrowed).
    """

    name: str
    form: str
    law: Law
    paper: str = ""
    table: str = ""
    regime: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    caveats: tuple[str, ...] = ()
    """What to know before trusting it; every output repeats the first."""
    residual: Residual = field(default_factory=Residual)
    draws: Law | None = None
    centre: Law | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def distillation(self) -> DistillationLaw:
        """The law as Eq 8, or an error that says what was given instead."""
        if not isinstance(self.law, DistillationLaw):
            raise InputError(
                f"law {self.name!r} is a {self.form} law, which knows no teacher; a distillation law is needed: "
                "use --law busbridge2025 or fit one with --law distillation"
            )
        return self.law

    @property
    def supervised(self) -> SupervisedLaw:
        """The supervised law (Eq 1) in this set."""
        if isinstance(self.law, DistillationLaw):
            return self.law.supervised
        if isinstance(self.law, SupervisedLaw):
            return self.law
        raise InputError(f"law {self.name!r} is a {self.form} law and predicts no supervised loss; use another --law")

    @property
    def draw_count(self) -> int:
        """Number of joint draws, 0 where the set has none."""
        if self.draws is None:
            return 0
        values = [*coefficients_of(self.draws).values()]  # some may be constants
        if isinstance(self.draws, DistillationLaw):
            values += coefficients_of(self.draws.supervised).values()
        return max(int(np.size(value)) for value in values)

    def some_draws(self, count: int) -> LawSet:
        """The same set with its first `count` draws only, where it has more."""
        if self.draw_count <= count:
            return self
        assert isinstance(self.draws, SupervisedLaw | DistillationLaw)
        return replace(self, draws=self.draws.take(slice(count)))

    def student_draws(self, N_S: ArrayLike, D_S: ArrayLike, L_T: ArrayLike) -> Array:
        """Student loss under each draw, law · draw / centre, without residual error.

        The first axis is the draws: arguments are scalars, or arrays whose first axis has length 1 or `draw_count`.
        """
        centre = self.centre or self.law
        assert isinstance(self.draws, DistillationLaw)
        assert isinstance(centre, DistillationLaw)
        draws = self.draws.take(_after_draws(N_S, D_S, L_T))
        ratio = draws.loss(N_S, D_S, L_T) / centre.loss(N_S, D_S, L_T)
        return self.distillation.loss(N_S, D_S, L_T) * ratio

    def supervised_draws(self, N: ArrayLike, D: ArrayLike) -> Array:
        """Supervised loss under each draw, without residual error; axes as in `student_draws`."""
        draws, centre = self.draws, self.centre or self.law
        draws = draws.supervised if isinstance(draws, DistillationLaw) else draws
        centre = centre.supervised if isinstance(centre, DistillationLaw) else centre
        assert isinstance(draws, SupervisedLaw)
        assert isinstance(centre, SupervisedLaw)
        ratio = draws.take(_after_draws(N, D)).loss(N, D) / centre.loss(N, D)
        loss = self.supervised.loss(N, D) * ratio
        return loss + np.zeros((self.draw_count, *np.shape(loss)[1:]))

    def to_json(self) -> dict[str, Any]:
        """The set as plain JSON values, readable by `from_mapping`."""
        form = "supervised" if self.form == "kaplan" else self.form  # the law keeps Eq 1's coefficients, not Kaplan's
        known = (*_FORMS[form].required, *_FORMS[form].optional)
        out: dict[str, Any] = {"format": FORMAT, "name": self.name, "form": form}
        out |= {"coefficients": {name: x for name, x in coefficients_of(self.law).items() if name in known}}
        if nested := _NESTED.get(self.form):
            out[nested] = coefficients_of(getattr(self.law, nested))
        out |= {"paper": self.paper, "table": self.table, "caveats": list(self.caveats)}
        out["regime"] = {name: list(ends) for name, ends in self.regime.items()}
        out["residual"] = {f.name: getattr(self.residual, f.name) for f in fields(Residual)}
        if self.draws is not None:
            out["draws"] = _draws_to_json(self.draws, self.form)
        return out | {"provenance": dict(self.provenance)}

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str) -> LawSet:
        """Read what `to_json` wrote, or a published TOML; every mistake is one line that begins with `where`."""
        known = {"format", "name", "form", "coefficients", "supervised", "base", "paper", "table", "regime"}
        known |= {"caveats", "residual", "draws", "provenance"}
        if not data.keys() & {"format", "form", "coefficients"}:
            raise InputError(f"{where}: not a law file of this tool; write one with `distillscale fit --out`")
        if unknown := sorted(set(data) - known):
            near = get_close_matches(unknown[0], sorted(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}: unknown key {unknown[0]!r} in a law file{hint}")
        form = data.get("form")
        if data.get("format", FORMAT) != FORMAT or not isinstance(form, str):
            raise InputError(
                f"{where}: not a law file of this tool (format {FORMAT!r}, a `form`, `coefficients`); "
                "write one with `distillscale fit --out`"
            )
        law = law_from(form, data, where)
        residual = {k: v for k, v in _table(data, "residual", where).items() if v is not None}
        for name, value in residual.items():
            known_name, number = name in ("supervised", "distillation"), isinstance(value, int | float)
            if not known_name or not number or not 0 <= value <= _LARGEST_RESIDUAL:
                raise InputError(
                    f"{where}: residual holds supervised and distillation, standard deviations of log loss from 0 to "
                    f"{_LARGEST_RESIDUAL:g}; got {name} = {value!r:.60}; correct the file"
                )
        caveats = data.get("caveats", [])
        if not isinstance(caveats, Sequence) or isinstance(caveats, str):
            raise InputError(f"{where}: caveats must be a list of sentences; got {caveats!r}")
        return cls(
            name=str(data.get("name", where)),
            form=form,
            law=law,
            paper=str(data.get("paper", "")),
            table=str(data.get("table", "")),
            regime={name: _range(name, ends, where) for name, ends in _table(data, "regime", where).items()},
            caveats=tuple(str(c) for c in cast("Sequence[object]", caveats)),
            residual=Residual(**residual),
            draws=_draws_from(form, law, data["draws"], where) if data.get("draws") else None,
            provenance=_table(data, "provenance", where),
        )

    @classmethod
    def read(cls, path: Path) -> LawSet:
        """Read a law file (JSON)."""
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise InputError(
                f"law file {str(path)!r} cannot be read: {error.strerror or error}; name a published set "
                "(`distillscale laws`) or a file from `distillscale fit --out`"
            ) from None
        except (ValueError, RecursionError):
            raise InputError(f"law file {str(path)!r} is not JSON; write one with `distillscale fit --out`") from None
        if not isinstance(data, Mapping):
            raise InputError(
                f"law file {str(path)!r} must hold one JSON object; write one with `distillscale fit --out`"
            )
        return cls.from_mapping(cast("Mapping[str, Any]", data), str(path))


def _after_draws(*arguments: ArrayLike) -> tuple[Any, ...]:
    """The index that gives draws of shape (draws,) the trailing axes of the arguments."""
    return (..., *(None,) * (np.broadcast(*arguments).ndim - 1))


def _table(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value: object = data.get(key) or {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {key} must be a table; got {value!r}")
    return dict(cast("Mapping[str, Any]", value))


def _range(name: str, ends: object, where: str) -> tuple[float, float]:
    match ends:
        case [int() | float() as low, int() | float() as high] if 0 <= low <= high < _LARGEST and high > 0:
            return float(low), float(high)
        case _:
            raise InputError(f"{where}: regime.{name} must be [low, high], positive and finite; got {ends!r:.60}")


def _draws_to_json(draws: Law, form: str) -> dict[str, Any]:
    columns = {name: np.asarray(value) for name, value in coefficients_of(draws).items()}
    if nested := _NESTED.get(form):
        columns |= {f"{nested}.{k}": np.asarray(v) for k, v in coefficients_of(getattr(draws, nested)).items()}
    columns = {name: value for name, value in columns.items() if value.ndim}
    values = np.column_stack(list(columns.values()))
    return {"names": list(columns), "values": [[float(f"{x:.8g}") for x in row] for row in values]}


def _draws_from(form: str, law: Law, data: object, where: str) -> Law:
    """A law with array coefficients from `{names, values}`; coefficients without draws keep the point's value."""
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: draws must hold `names` and `values`")
    data = cast("Mapping[str, Any]", data)
    try:
        values = np.asarray(data["values"], float)
        names = [str(name) for name in data["names"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{where}: draws must hold `names` and a table of numbers `values`") from None
    if values.ndim != 2 or values.shape[1] != len(names) or not np.isfinite(values).all() or not len(values):
        raise InputError(f"{where}: draws.values must be finite, one row a draw and one column for each of {names}")
    return draws_law(form, law, dict(zip(names, values.T, strict=True)), where)


def draws_law(form: str, law: Law, columns: Mapping[str, Array], where: str) -> Law:
    """`law` with the named coefficients (`A`, `supervised.E`, ...) replaced by arrays of draws."""
    nested = _NESTED.get(form)
    own: dict[str, Any] = _fields_of(law)
    inner: dict[str, Any] = coefficients_of(getattr(law, nested)) if nested else {}
    for name, column in columns.items():
        table, key = (inner, name.split(".", 1)[1]) if nested and name.startswith(f"{nested}.") else (own, name)
        if key not in table:
            raise InputError(f"{where}: draws name an unknown coefficient {name!r}; a {form} law has {', '.join(own)}")
        table[key] = column
    if nested:
        own[nested] = SupervisedLaw(**inner)
    return type(law)(**own)
