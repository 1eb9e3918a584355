"""Published coefficient sets as data, one TOML each, with paper, table, regime and caveats; it computes nothing.

`load(name)` gives the law, `load_set(name_or_path)` the law with its evidence, `names()` what there is.
Rules of thumb in circulation live in `published.rules`.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..lawset import Law, LawSet

__all__ = ["DEFAULT", "catalogue", "load", "load_set", "names", "read_toml", "rule_names"]

DEFAULT = "busbridge2025"
_HOME = Path(__file__).parent
_ORDER = ("busbridge2025", "busbridge2025-refit", "busbridge2025-printed")


@cache
def read_toml(name: str) -> dict[str, Any]:
    """One published file as plain values."""
    with (_HOME / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def _all_names() -> tuple[str, ...]:
    found = sorted(path.stem for path in _HOME.glob("*.toml"))
    return tuple(sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)))


def rule_names() -> tuple[str, ...]:
    """Rules of thumb, which are not laws."""
    return tuple(name for name in _all_names() if read_toml(name)["form"] == "rule")


def names() -> tuple[str, ...]:
    """Published laws, the default first."""
    return tuple(name for name in _all_names() if read_toml(name)["form"] != "rule")


def catalogue() -> list[dict[str, Any]]:
    """Every set and rule as plain values: name, form, paper, table, regime, caveats, coefficients.

    Coefficients of a law inside a law carry its name, as in `supervised.E`.
    """
    out: list[dict[str, Any]] = []
    for name in _all_names():
        data = read_toml(name)
        coefficients = dict(data["coefficients"])
        for inner in ("supervised", "base"):
            coefficients |= {f"{inner}.{key}": value for key, value in data.get(inner, {}).items()}
        entry = {key: data[key] for key in ("name", "form", "paper", "table")}
        out.append(entry | {"regime": data.get("regime", {}), "caveats": data["caveats"], "coefficients": coefficients})
    return out


def load(name: str) -> Law:
    """The law of a published set: a SupervisedLaw, DistillationLaw, DataConstrainedLaw or TransferLaw."""
    return load_set(name).law


def load_set(name_or_path: str | Path) -> LawSet:
    """A published set by name, or a law file that `fit` wrote, with its draws where it has them."""
    from ..lawset import LawSet  # here, so that listing what there is starts without NumPy

    name = str(name_or_path)
    if (_HOME / f"{name}.toml").is_file() and "/" not in name:
        return _published(name)
    path = Path(name_or_path)
    if path.is_file() or path.suffix or "/" in name:
        return LawSet.read(path)
    from difflib import get_close_matches

    near = get_close_matches(name, _all_names(), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"law {name!r} is neither a published set nor a file; {hint}published sets are {', '.join(names())}"
    )


@cache
def _published(name: str) -> LawSet:
    from ..lawset import LawSet

    data = read_toml(name)
    if data["form"] == "rule":
        raise InputError(f"law {name!r} is a rule of thumb without a loss; see `distillscale laws`, and use {DEFAULT}")
    found = LawSet.from_mapping(data, name)
    source = str(data.get("provenance", {}).get("draws_of", name))
    if not (_HOME / f"{source}.draws.csv").is_file():
        return found
    centre = found if source == name else LawSet.from_mapping(read_toml(source), source)
    draws = _read_draws(source, centre)
    return LawSet(
        **{field: getattr(found, field) for field in LawSet.__dataclass_fields__ if field not in ("draws", "centre")},
        draws=draws,
        centre=centre.law,
    )


def _read_draws(name: str, point: LawSet) -> Law:
    import numpy as np

    from ..lawset import draws_law

    with (_HOME / f"{name}.draws.csv").open(encoding="utf-8") as file:
        header = file.readline().strip().split(",")
        values = np.loadtxt(file, delimiter=",", ndmin=2)
    return draws_law(point.form, point.law, dict(zip(header, values.T, strict=True)), name)
