"""FLOPs into accelerator hours, money and energy; nothing here knows a law, a model or how FLOPs come about.

    hours = FLOPs / (peak FLOP/s · MFU) / 3600        usd = hours · price        kWh = hours · watts / 1000

The catalogue, `hardware.toml`, is data with a source and a date for every device and price. Hours are summed over
devices: 100 hours are one device for 100 hours or a hundred devices for one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from .errors import InputError
from .units import Budget

__all__ = [
    "DEFAULT_DEVICE",
    "DEFAULT_MFU",
    "Compute",
    "Device",
    "budget_flops",
    "compute",
    "compute_for",
    "device",
    "load_devices",
]

DEFAULT_DEVICE = "H100"
DEFAULT_MFU = 0.40
"""Model FLOPs utilisation, the share of the peak that trains: an assumption, not a measurement. Well-tuned dense
training on one cluster is usually between 0.3 and 0.5; give the figure of your own runs."""

_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One accelerator of the catalogue; None is not published or not known."""

    name: str
    title: str
    peak_flops: Mapping[str, float]
    """Dense FLOP/s by precision, `bf16` and where it exists `fp8`."""
    memory_gb: float
    source: str
    date: str
    """Year and month in which the entry was taken from its source."""
    watts: float | None = None
    """Maximum power of the device, without host and cooling."""
    usd_per_hour: float | None = None
    price_source: str | None = None
    price_date: str | None = None

    def peak(self, precision: str = "bf16") -> float:
        """Dense peak in FLOP/s."""
        if precision not in self.peak_flops:
            raise InputError(
                f"precision must be one that {self.name} has a published peak for, {' or '.join(self.peak_flops)}; "
                f"got {precision!r}; choose one of them or give the peak FLOP/s"
            )
        return self.peak_flops[precision]


@cache
def load_devices() -> Mapping[str, Device]:
    """The catalogue by name, in the order of the file; read once, on the first call."""
    import tomllib

    with open(os.path.join(os.path.dirname(__file__), "hardware.toml"), "rb") as file:
        content = tomllib.load(file)
    entries: list[dict[str, Any]] = content["device"]
    devices: dict[str, Device] = {}
    for entry in entries:
        price: dict[str, Any] = entry.pop("price", {})
        peaks: dict[str, float] = entry.pop("peak_flops")
        devices[entry["name"]] = Device(
            **entry,
            peak_flops=MappingProxyType(peaks),
            usd_per_hour=price.get("usd_per_hour"),
            price_source=price.get("source"),
            price_date=price.get("date"),
        )
    return MappingProxyType(devices)


def _known(name: str) -> Device | None:
    wanted = name.strip().lower()
    return next((entry for key, entry in load_devices().items() if key.lower() == wanted), None)


def device(name: str) -> Device:
    """The catalogue's device of that name; case does not matter."""
    if found := _known(name):
        return found
    from difflib import get_close_matches

    names = {key.lower(): key for key in load_devices()}
    near = get_close_matches(name.strip().lower(), list(names), n=1)
    hint = f"did you mean {names[near[0]]}?" if near else "choose one of them or give the peak FLOP/s by hand"
    raise InputError(f"device must be one of {', '.join(names.values())}; got {name!r}; {hint}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """What FLOPs take on one kind of device; None where price or power is unknown. See `compute`."""

    device: str
    peak_flops: float
    """Dense peak of one device, FLOP/s."""
    mfu: float = DEFAULT_MFU
    """Share of the peak that the model's FLOPs reach, in (0, 1]."""
    usd_per_hour: float | None = None
    watts: float | None = None
    precision: str = "bf16"

    def __post_init__(self) -> None:
        _positive("peak FLOP/s", self.peak_flops, "give it as 989e12, or choose a device from the catalogue")
        _positive("MFU", self.mfu, "give it as 0.4", most=1.0)
        if self.usd_per_hour is not None:
            _positive("price", self.usd_per_hour, "give US dollars per device and hour, such as 2.95")
        if self.watts is not None:
            _positive("power", self.watts, "give watts per device, such as 700")

    @property
    def flops_per_hour(self) -> float:
        """peak · MFU · 3600."""
        return self.peak_flops * self.mfu * _SECONDS

    def hours(self, flops: float) -> float:
        """Device hours that `flops` take."""
        return flops / self.flops_per_hour

    def usd(self, flops: float) -> float | None:
        """US dollars that `flops` cost; None without a price."""
        return None if self.usd_per_hour is None else self.hours(flops) * self.usd_per_hour

    def kwh(self, flops: float) -> float | None:
        """Kilowatt-hours of the devices at full power, an upper bound for them alone; None where power is unknown."""
        return None if self.watts is None else self.hours(flops) * self.watts / 1000.0

    def flops(self, *, hours: float | None = None, usd: float | None = None) -> float:
        """FLOPs that so many device hours, or so many US dollars, buy; exactly one of the two is given."""
        if hours is not None and usd is None:
            return hours * self.flops_per_hour
        if hours is not None or usd is None:
            raise InputError(f"give either hours or usd; got hours={hours!r} and usd={usd!r}; leave one out")
        if self.usd_per_hour is None:
            raise InputError(
                f"money buys FLOPs only at a price, and none is known for {self.device}; "
                "add --price USD_PER_HOUR, or give the budget in FLOPs or hours"
            )
        return usd / self.usd_per_hour * self.flops_per_hour


def _positive(what: str, value: Any, remedy: str, most: float = math.inf) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= most or value == math.inf:
        rule = f"at most {most:g}" if most < math.inf else "finite"
        raise InputError(f"{what} must be positive and {rule}; got {value!r}; {remedy}")


def compute(
    device: str = DEFAULT_DEVICE,
    *,
    peak_flops: float | None = None,
    mfu: float | None = None,
    price: float | None = None,
    precision: str = "bf16",
) -> Compute:
    """A `Compute` from the catalogue, with anything given by hand taking precedence.

    `peak_flops` is dense FLOP/s, `price` US dollars per device and hour. With `peak_flops` the device need not be in
    the catalogue; its price and power are then what is given, or unknown.
    """
    if peak_flops is None:
        entry = _device(device)
        peak_flops = entry.peak(precision)
    else:
        entry = _known(device)
    return Compute(
        device=entry.name if entry else device,
        peak_flops=peak_flops,
        mfu=DEFAULT_MFU if mfu is None else mfu,
        usd_per_hour=price if price is not None or entry is None else entry.usd_per_hour,
        watts=entry.watts if entry else None,
        precision=precision,
    )


_device = device  # `compute` has an argument of that name


def compute_for(budget: Budget, compute: Compute) -> Compute:
    """`compute`, moved to the device that the budget names if it names another: its peak, price and power."""
    if budget.device is None or budget.device.lower() == compute.device.lower():
        return compute
    entry = device(budget.device)
    peak = entry.peak(compute.precision)
    return replace(compute, device=entry.name, peak_flops=peak, usd_per_hour=entry.usd_per_hour, watts=entry.watts)


def budget_flops(budget: Budget, compute: Compute) -> float:
    """The budget in FLOPs; hours of a named device are that device's (`compute_for`), at the same MFU."""
    if budget.unit == "flops":
        return budget.amount
    if budget.unit == "usd":
        return compute.flops(usd=budget.amount)
    return compute_for(budget, compute).flops(hours=budget.amount)
