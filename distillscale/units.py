"""How counts, FLOPs, money, time and bytes are written and read; nothing here knows a law, a model or a device.

Strings are parsed once, at the border, and formatted once, on the way out; inside, quantities are plain floats.
Reading is strict: one way to be right, and everything else is refused in one line that says how to write it.

    number     300, 1.5e9, 3_000_000           suffix   k M B T P (G is B), either case, attached: 300M, 1.5b
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal

from .errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Budget",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_flops",
    "format_hours",
    "format_money",
    "parse_budget",
    "parse_bytes",
    "parse_count",
    "parse_range",
]

BudgetUnit = Literal["flops", "usd", "hours"]

_POWER = {"": 0, "k": 3, "m": 6, "b": 9, "g": 9, "t": 12, "p": 15, "e": 18}
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = rf"(?P<number>(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?)"
# A suffix ends its word, so that the B of "2000 B200-hours" and the T of "8 T4-hours" stay part of the device.
_SUFFIX = r"(?:(?P<suffix>[kmbgtp])(?![0-9a-z_.]))?"
_GROUPED = r"(?<![0-9,.])([0-9]{1,3}(?:,[0-9]{3})+)(?=[^0-9,]|$)"

_COUNT = _NUMBER + _SUFFIX
_FLOPS = _NUMBER + _SUFFIX + r"(?P<unit>\s*flops?)?"
_MONEY = rf"(?P<sign>(?:US)?\$\s*)?{_NUMBER}{_SUFFIX}(?P<unit>\s*(?:USD|dollars?))?"
_HOURS = _NUMBER + _SUFFIX + r"\s*(?:(?P<device>[a-z][0-9a-z._]*?)[-\s]?)?(?:hours?|hrs?|h)"
_BYTES = _NUMBER + r"\s*(?P<prefix>[kmgtpe]?)(?P<binary>i?)b(?:ytes?)?"

_ANY_DEVICE = {"gpu", "tpu", "device", "accelerator"}
# Nobody plans to spend fewer FLOPs than one forward pass of one token; a bare number this small lacks its unit.
_SMALLEST_BARE_FLOPS = 1e9
_LONGEST_RANGE = 100_000

_WRITE_COUNT = "write it as 300M, 1.5B or 3e9"
_WRITE_BUDGET = "write it as 1e21 (FLOPs), '5000 USD' or '2000 H100-hours'"
_WRITE_RANGE = "write it as 300M,1B,3B or 1e19:1e24:50"


def _show(text: object) -> str:
    """The input as it may appear in a one-line message."""
    try:
        shown = repr(text)
    except ValueError:  # an int of more digits than Python will print
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _match(pattern: str, text: str) -> re.Match[str] | None:
    """A whole-text match; patterns are compiled on first use, so that importing this module costs nothing."""
    return re.fullmatch(pattern, text.strip(), re.IGNORECASE)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Real) and not isinstance(value, bool)


def _number(found: re.Match[str]) -> float:
    """The value of a match of `_NUMBER` and `_SUFFIX`, nan where an exponent and a suffix are both present."""
    number, power = found["number"].replace("_", ""), _POWER[(found["suffix"] or "").lower()]
    if power and "e" in number.lower():
        return math.nan
    return float(f"{number}e{power}") if power else float(number)


def parse_count(text: str | float, what: str = "count") -> float:
    """A count (parameters, tokens, FLOPs) of at least 1, from a number or a string such as `1.5B`, `3e9`, `20k`.

    A suffix (k M B T P, G for B, either case) is attached to the number and not mixed with an exponent; digits may
    be grouped by `_`. A comma is refused because it separates the items of a list. `what` names it in the error.

    >>> parse_count("1.5B"), parse_count("3_000_000"), parse_count(2e10)
    (1500000000.0, 3000000.0, 20000000000.0)
    """
    if _is_number(text):
        value = _float(text)
    elif isinstance(text, str) and (found := _match(_COUNT, text)):
        value = _number(found)
    else:
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{what} {_show(text)} is not a count; {_WRITE_COUNT}")
    if not 1 <= value < math.inf:
        raise InputError(f"{what} must be finite and at least 1; got {_show(text)}; {_WRITE_COUNT}")
    return value


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an int beyond the range of float64
        return math.inf


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent: `amount` FLOPs, US dollars, or accelerator hours (`device` None is whichever is in use)."""

    amount: float
    unit: BudgetUnit
    device: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.amount < math.inf:
            raise InputError(f"a budget must be positive and finite; got {self.amount:g} {self.unit}; {_WRITE_BUDGET}")

    def __str__(self) -> str:
        if self.unit == "usd":
            return format_money(self.amount)
        if self.unit == "hours":
            return format_hours(self.amount, self.device)
        return f"{format_flops(self.amount)} FLOPs"


def parse_budget(text: str | float) -> Budget:
    """A budget in FLOPs (`1e21`, `3e20 FLOPs`), money (`$5000`, `5k USD`) or hours (`2000 H100-hours`, `GPU-hours`).

    Thousands may be grouped by commas (`$12,300`). A bare number is FLOPs, and below 1e9 it is refused, because
    then its unit was forgotten.

    >>> parse_budget("5k USD")
    Budget(amount=5000.0, unit='usd', device=None)
    >>> parse_budget("2000 H100-hours")
    Budget(amount=2000.0, unit='hours', device='H100')
    """
    if _is_number(text):
        return _flops_budget(text, _float(text), bare=True)
    if not isinstance(text, str):
        raise InputError(f"budget {_show(text)} is not a budget; {_WRITE_BUDGET}")
    plain = re.sub(_GROUPED, lambda group: group[1].replace(",", ""), text.strip())
    if found := _match(_FLOPS, plain):
        return _flops_budget(text, _number(found), bare=not found["unit"])
    if (found := _match(_MONEY, plain)) and (found["sign"] or found["unit"]):
        return Budget(_spendable(text, _number(found)), "usd")
    if found := _match(_HOURS, plain):
        device = found["device"]
        any_device = device is None or device.lower() in _ANY_DEVICE
        return Budget(_spendable(text, _number(found)), "hours", None if any_device else device)
    raise InputError(f"budget {_show(text)} is not FLOPs, USD or accelerator hours; {_WRITE_BUDGET}")


def _spendable(text: object, amount: float) -> float:
    if math.isnan(amount):
        raise InputError(f"budget {_show(text)} is not a number with a unit; {_WRITE_BUDGET}")
    if not 0 < amount < math.inf:
        raise InputError(f"a budget must be positive and finite; got {_show(text)}; {_WRITE_BUDGET}")
    return amount


def _flops_budget(text: object, amount: float, bare: bool) -> Budget:
    amount = _spendable(text, amount)
    if bare and amount < _SMALLEST_BARE_FLOPS:
        raise InputError(f"a budget without a unit is FLOPs and at least 1e9; got {_show(text)}; {_WRITE_BUDGET}")
    return Budget(amount, "flops")


def parse_range(text: str, parse: Callable[[str], float] = parse_count) -> NDArray[np.float64]:
    """Values from `low:high:count` (log-spaced, both ends included) or from a comma list, each read by `parse`.

    >>> parse_range("1e19:1e21:3").tolist()
    [1e+19, 1e+20, 1e+21]
    >>> parse_range("300M,1B").tolist()
    [300000000.0, 1000000000.0]
    """
    import numpy as np  # here, so that reading and writing counts starts without NumPy

    if ":" not in text:
        return np.array([parse(item) for item in text.split(",")], float)
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"a range is low:high:count; got {_show(text)}; {_WRITE_RANGE}")
    low, high, count = parse(parts[0]), parse(parts[1]), parts[2].strip()
    if not (count.isascii() and count.isdigit() and len(count) < 9 and 2 <= int(count) <= _LONGEST_RANGE):
        raise InputError(
            f"a range's count is a whole number from 2 to {_LONGEST_RANGE}; got {_show(text)}; {_WRITE_RANGE}"
        )
    if not low < high:
        raise InputError(f"a range goes from low to high; got {_show(text)}; swap its ends or give one value")
    return np.geomspace(low, high, int(count))


def parse_bytes(text: str | float) -> float:
    """Bytes from a number or a string: `2 TB` (powers of 1000), `16 GiB` (powers of 1024), `512 B`.

    >>> parse_bytes("2 TB"), parse_bytes("1 KiB")
    (2000000000000.0, 1024.0)
    """
    value = math.nan
    if _is_number(text):
        value = _float(text)
    elif isinstance(text, str) and (found := _match(_BYTES, text)):
        power = _POWER[found["prefix"].lower()]
        if not (found["binary"] and not power):
            value = float(found["number"].replace("_", "")) * (
                1024.0 ** (power // 3) if found["binary"] else 10.0**power
            )
    if not 0 < value < math.inf:
        raise InputError(f"size {_show(text)} is not a positive number of bytes; write it as 2 TB, 16 GiB or 512 MB")
    return value


def _three_digits(x: float) -> tuple[float, int]:
    """x rounded to three significant digits, with the power of 1000 it belongs to after rounding."""
    rounded = float(f"{x:.2e}")
    power = 3 * (math.floor(math.log10(abs(rounded))) // 3) if rounded else 0
    return rounded, power


def _plain(x: float) -> str:
    """Up to three significant digits without an exponent and without trailing zeros."""
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else str(x)
    decimals = max(0, 2 - math.floor(math.log10(abs(x))))
    shown = f"{x:,.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def _special(x: float) -> str | None:
    """How a value that has no digits is written, else None."""
    if math.isnan(x):
        return "nan"
    return None if math.isfinite(x) else ("∞" if x > 0 else "-∞")


def _suffixed(x: float, suffixes: dict[int, str]) -> str:
    """Three significant digits and a suffix; an exponent above the largest suffix."""
    rounded, power = _three_digits(x)
    power = max(power, 0)
    if power > max(suffixes):
        return format_flops(x)
    return _plain(float(f"{rounded / 10.0**power:.3g}")) + suffixes[power]


def format_count(x: float) -> str:
    """Three significant digits, which `parse_count` reads back: 1.52B, 300M, 20k, 512, 1.00e15 and beyond.

    >>> format_count(1.5234e9), format_count(3e8), format_count(999_999)
    ('1.52B', '300M', '1M')
    """
    return _special(x) or _suffixed(x, {0: "", 3: "k", 6: "M", 9: "B", 12: "T"})


def format_flops(x: float) -> str:
    """Three significant digits and an exponent: 1.00e21.

    >>> format_flops(1e21), format_flops(6.2e9)
    ('1.00e21', '6.20e9')
    """
    if special := _special(x):
        return special
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def format_money(x: float) -> str:
    """US dollars to about three digits: $0.42, $4.20, $123, $12,300, $1.2M.

    >>> format_money(0.42), format_money(4.2), format_money(12_345), format_money(1.2e6)
    ('$0.42', '$4.20', '$12,300', '$1.2M')
    """
    if special := _special(x):
        return f"${special}"
    sign, x = ("-" if x < 0 else ""), abs(x)
    rounded, _ = _three_digits(x)
    if rounded >= 1e6:
        shown = _suffixed(x, {6: "M", 9: "B", 12: "T"})
    elif rounded >= 100:
        shown = f"{rounded:,.0f}"
    elif rounded >= 1:
        shown = f"{x:.2f}"
    else:  # three digits, and at least the cents
        whole, _, cents = _plain(rounded).partition(".")
        shown = f"{whole}.{cents:0<2}"
    return f"{sign}${shown}"


def format_hours(x: float, device: str | None = None) -> str:
    """Accelerator hours: 3.2 GPU-hours, 12,300 H100-hours, 1.23M GPU-hours.

    >>> format_hours(3.2), format_hours(12_345, "H100"), format_hours(1)
    ('3.2 GPU-hours', '12,300 H100-hours', '1 GPU-hour')
    """
    if not (shown := _special(x)):
        rounded, _ = _three_digits(x)
        shown = _plain(rounded) if abs(rounded) < 1e6 else _suffixed(x, {6: "M", 9: "B", 12: "T"})
    return f"{shown} {device or 'GPU'}-hour{'' if shown == '1' else 's'}"


def format_bytes(x: float) -> str:
    """Powers of 1000, three significant digits: 2.1 TB, 512 B.

    >>> format_bytes(2.1e12), format_bytes(512)
    ('2.1 TB', '512 B')
    """
    return _special(x) or _suffixed(x, {0: " B", 3: " kB", 6: " MB", 9: " GB", 12: " TB", 15: " PB", 18: " EB"})


def format_duration(seconds: float) -> str:
    """Wall time in its two largest units: 0.85 s, 12.3 s, 4 min 5 s, 3 h 12 min, 2 d 3 h.

    >>> format_duration(0.85), format_duration(245), format_duration(11_520), format_duration(183_600)
    ('0.85 s', '4 min 5 s', '3 h 12 min', '2 d 3 h')
    """
    if special := _special(seconds):
        return special
    if seconds < 59.95:  # each limit is where rounding would reach the next unit
        return f"{_plain(float(f'{seconds:.3g}'))} s"
    if seconds < 3_599.5:
        return _two_units(seconds, ("min", 60), ("s", 1))
    if seconds < 86_370:
        return _two_units(seconds, ("h", 3_600), ("min", 60))
    return _two_units(seconds, ("d", 86_400), ("h", 3_600))


def _two_units(seconds: float, large: tuple[str, int], small: tuple[str, int]) -> str:
    count, rest = divmod(round(seconds / small[1]), large[1] // small[1])
    return f"{count:,} {large[0]}" + (f" {rest} {small[0]}" if rest else "")
