"""The forms that can be fitted: their coefficients, bounds and laws; nothing here sees a loss or minimises.

A form is a law with some coefficients fixed. `chinchilla` is Eq 1 with γ = 1, `kaplan` is Eq 1 with E = 0 and β = 1,
`distillation` is Eq 8 with the gate in its exponential limit, where c1 and d1 act only through `d_eff`; with a free
`floor` (the paper's is 1) a student can beat its teacher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .coordinates import Local
from .errors import InputError
from .laws import DistillationLaw, SupervisedLaw
from .objective import DISTILLATION, SUPERVISED, Shape

__all__ = ["FORMS", "LOGARITHMIC", "NOT_IDENTIFIED", "Bounds", "Box", "Form", "box_of", "form_named"]

Array = NDArray[np.float64]
Bounds = Mapping[str, tuple[float, float]]

LOGARITHMIC: Final = frozenset({"E", "A", "B", "d_eff", "f1", "floor"})
NOT_IDENTIFIED: Final = ("c1", "d1")

# E below this share of the lowest loss cannot be told from no floor at all.
_LEAST_FLOOR = 1e-3
# log 0 for exp(): small enough to vanish, finite so that nothing becomes nan.
_LOG_ZERO = -800.0
_LIMITS: Final[dict[str, tuple[float, float]]] = {
    # (E's lower limit depends on the losses); A and B are those of centred sizes and tokens
    "E": (-math.inf, math.log(20.0)),
    "A": (-40.0, 60.0),
    "B": (-40.0, 60.0),
    "alpha": (1e-3, 10.0),
    "beta": (1e-3, 10.0),
    "gamma": (0.1, 5.0),
    "c0": (0.0, 20.0),
    "d_eff": (math.log(0.2), math.log(5.0)),
    "f1": (math.log(0.01), math.log(3.0)),
    "floor": (math.log(0.5), 0.0),
}
# Of the local coordinates in the places of A, B, alpha, beta (1/γ has the limits of γ), without and with a free floor.
_LOCAL: Final[dict[str, tuple[float, float]]] = {
    "A": (-20.0, 6.0),
    "B": (-4.0, 4.0),
    "alpha": (1e-5, 1.5),
    "beta": (1e-5, 1.5),
}
_LOCAL_FLOOR: Final = _LOCAL | {"E": (-5.0, 5.0), "A": (-7.0, -math.log(_LEAST_FLOOR))}
# exp() of more is no number
_LARGEST_LOG = 700.0
# log A and log B where they are not those of centred sizes and tokens
_UNCENTRED = (-100.0, 300.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A law to fit, by name; `fixed` coefficients are constants of the form, not estimates."""

    name: str
    shape: Shape
    fixed: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def distils(self) -> bool:
        """Whether this is a law of students (it needs `teacher_loss`)."""
        return self.shape is DISTILLATION

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the coefficients that are estimated."""
        return tuple(name for name in self.shape.names if name not in self.fixed)

    @property
    def lawset_form(self) -> str:
        """The name under which a `LawSet` knows the law: Eq 1 or Eq 8, of which the others are cases."""
        return "distillation" if self.distils else "supervised"

    def coefficients(self, natural: Array, n_mean: float, d_mean: float) -> dict[str, Array]:
        """Coefficients of full natural vectors (..., all), each of shape (...); A and B for N and D as they are."""
        out = {name: natural[..., j] for j, name in enumerate(self.shape.names)}
        out["A"] = out["A"] + out["alpha"] * n_mean
        out["B"] = out["B"] + out["beta"] * d_mean
        return {name: np.exp(np.minimum(v, _LARGEST_LOG)) if name in LOGARITHMIC else v for name, v in out.items()}

    def law(self, values: Mapping[str, Any], supervised: SupervisedLaw | None) -> SupervisedLaw | DistillationLaw:
        """The law with these coefficients (numbers, or arrays of draws)."""
        if not self.distils:
            return SupervisedLaw(**values)
        assert supervised is not None
        return DistillationLaw.from_d_eff(supervised=supervised, **values)


def _form(name: str, shape: Shape, **fixed: float) -> Form:
    return Form(name=name, shape=shape, fixed=fixed)


FORMS: Final[dict[str, Form]] = {
    form.name: form
    for form in (
        _form("chinchilla", SUPERVISED, gamma=1.0),
        _form("supervised", SUPERVISED),
        _form("kaplan", SUPERVISED, E=0.0, beta=1.0),
        _form("distillation", DISTILLATION, floor=1.0),
        # a gate that no teacher closes: Eq 8 without its broken power law
        _form("distillation-no-gate", DISTILLATION, d_eff=1e6, f1=0.1, floor=1.0),
        _form("distillation-free-floor", DISTILLATION),
    )
}


def form_named(name: str) -> Form:
    """The form of this name, or an error with the nearest one."""
    if name not in FORMS:
        near = get_close_matches(name, FORMS, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"law {name!r} is not a form that can be fitted; {hint}known are {', '.join(FORMS)}")
    return FORMS[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """Bounds of the full vector, and whether sizes and tokens are centred (not where A or B has a bound)."""

    lower: Array
    upper: Array
    centre_n: bool
    centre_d: bool
    local: Local | None
    """The coordinates of the bounds; a bound on A or B is one in natural coordinates only."""
    given: frozenset[str]

    @property
    def free(self) -> tuple[int, ...]:
        """Positions of the coefficients with room to move."""
        return tuple(int(j) for j in np.flatnonzero(self.lower < self.upper))


def box_of(form: Form, bounds: Bounds | None, least_loss: float) -> Box:
    """Default limits narrowed to the caller's `bounds` {name: (low, high)}; low = high fixes a coefficient.

    A bound on A or B is a bound on log A = a + α·mean(ln N), no box in (a, α): that column is then left uncentred.
    """
    bounds = dict(bounds or {})
    limits: dict[str, tuple[float, float]] = dict(_LIMITS) | {
        "E": (math.log(_LEAST_FLOOR * least_loss), _LIMITS["E"][1])
    }
    for name, value in form.fixed.items():
        limits[name] = (_inner(name, value), _inner(name, value))
    for name, ends in bounds.items():
        limits[name] = _checked(form, name, ends, limits.get(name))
    for name in ("A", "B"):
        if name not in bounds and name in limits:
            limits[name] = _LIMITS[name]
    local, natural = None, {*bounds, *form.fixed}
    if not {"A", "B"} & natural:
        floor = "E" in form.free and "E" not in bounds
        kept = {"alpha", "beta"} & natural
        local = form.shape.local(floor=floor, kept=kept)
        own = (_LOCAL_FLOOR if floor else _LOCAL) | {"gamma": (1.0 / limits["gamma"][1], 1.0 / limits["gamma"][0])}
        limits |= {name: ends for name, ends in own.items() if name not in kept}
    lower, upper = np.array([limits[name] for name in form.shape.names]).T
    return Box(
        lower=lower,
        upper=upper,
        centre_n="A" not in bounds,
        centre_d="B" not in bounds,
        local=local,
        given=frozenset(bounds),
    )


def _inner(name: str, value: float) -> float:
    if name not in LOGARITHMIC:
        return value
    return math.log(value) if value > 0 else _LOG_ZERO


def _checked(form: Form, name: str, ends: object, limit: tuple[float, float] | None) -> tuple[float, float]:
    if name in NOT_IDENTIFIED and form.distils:
        raise InputError(f"bounds.{name}: the data see c1 and d1 only through d_eff; bound d_eff instead")
    if limit is None or name not in form.shape.names:
        near = get_close_matches(name, form.shape.names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"bounds.{name} is no coefficient of the {form.name} law; {hint}it has {', '.join(form.shape.names)}"
        )
    if name in form.fixed:
        raise InputError(f"bounds.{name}: {name} is {form.fixed[name]:g} in the {form.name} law; fit another form")
    match ends:
        case (int() | float() as low, int() | float() as high) if 0 <= low <= high and math.isfinite(low):
            pass
        case _:
            raise InputError(f"bounds.{name} must be two numbers 0 ≤ low ≤ high; got {ends!r}")
    if low == high == 0 and name not in ("E", "c0"):
        raise InputError(f"bounds.{name}: {name} must be positive; got 0; bound it away from 0")
    inner = (_inner(name, low), _inner(name, high) if math.isfinite(high) else math.inf)
    if low == high:
        return inner
    lowest, highest = _UNCENTRED if name in ("A", "B") else limit
    clipped = (max(inner[0], lowest), min(inner[1], highest))
    if clipped[0] > clipped[1]:
        raise InputError(f"bounds.{name} = {ends!r} lies outside what the fit can represent; widen it")
    return clipped
