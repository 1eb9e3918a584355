"""Hardware: the catalogue is complete and sourced, the conversions undo each other, and wrong input is named."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale import hardware
from distillscale.errors import InputError
from distillscale.hardware import Compute, Device, budget_flops, compute, compute_for, device, load_devices
from distillscale.units import Budget, parse_budget

positive = st.floats(1e-3, 1e3)
amounts = st.floats(0, 30).map(lambda x: 10.0**x)

# Dense peaks in TFLOP/s. NVIDIA A100, H100 whitepapers (SXM), H200 datasheet, Blackwell technical brief (HGX B200);
# AMD MI300X datasheet; Google Cloud TPU v5p documentation.
DATASHEETS = {
    "A100": {"bf16": 312},
    "H100": {"bf16": 989.4, "fp8": 1978.9},
    "H200": {"bf16": 989.4, "fp8": 1978.9},
    "B200": {"bf16": 2250, "fp8": 4500},
    "MI300X": {"bf16": 1307.4, "fp8": 2614.9},
    "v5p": {"bf16": 459},
}


def test_the_catalogue_has_the_dense_peaks_of_the_datasheets() -> None:
    found = {
        name: {key: peak / 1e12 for key, peak in entry.peak_flops.items()} for name, entry in load_devices().items()
    }
    assert found == {name: pytest.approx(peaks) for name, peaks in DATASHEETS.items()}


@pytest.mark.parametrize("name", DATASHEETS)
def test_every_entry_is_sourced_and_dated(name: str) -> None:
    entry = device(name)
    assert entry.name == name
    assert entry.source
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", entry.date)
    assert 16 <= entry.memory_gb <= 1024
    assert entry.watts is None or 100 <= entry.watts <= 3000
    if entry.usd_per_hour is None:
        assert entry.price_source is None
    else:
        assert 0.1 < entry.usd_per_hour < 100
        assert entry.price_source
        assert entry.price_date
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", entry.price_date)
    # fp8 is twice bf16 on every device that has it; a figure "with sparsity" would make it four times.
    assert entry.peak_flops.get("fp8", 2 * entry.peak("bf16")) == pytest.approx(2 * entry.peak("bf16"), rel=1e-3)


def test_prices_seen_in_november_2026() -> None:
    prices = {name: entry.usd_per_hour for name, entry in load_devices().items()}
    assert prices == {"A100": None, "H100": 2.95, "H200": 3.5, "B200": 44 / 8, "MI300X": 1.85, "v5p": None}


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        load_devices()["H100"] = device("A100")  # type: ignore[index]
    with pytest.raises(TypeError):
        device("H100").peak_flops["bf16"] = 1.0  # type: ignore[index]
    assert load_devices() is load_devices()


def test_names_are_found_whatever_their_case() -> None:
    assert device("h100") is device(" H100 ") is load_devices()["H100"]
    assert device("V5P").name == "v5p"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("H10", r"device must be one of A100, H100, .*; got 'H10'; did you mean H100\?"),
        ("mi300", r"got 'mi300'; did you mean MI300X\?"),
        ("abacus", r"got 'abacus'; choose one of them or give the peak FLOP/s by hand"),
        ("", r"got ''; choose one of them"),
    ],
)
def test_an_unknown_device_is_met_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        device(name)
    with pytest.raises(InputError, match=message):
        compute(name)


def test_one_h100_hour_by_hand() -> None:
    c = compute()
    assert c == compute("h100", mfu=0.4, precision="bf16")
    assert c.flops(hours=1) == pytest.approx(989.4e12 * 0.4 * 3600)  # 1.42e18
    assert c.hours(1e21) == pytest.approx(701.9, rel=1e-4)
    assert c.usd(1e21) == pytest.approx(701.9 * 2.95, rel=1e-4)
    assert c.kwh(1e21) == pytest.approx(701.9 * 0.7, rel=1e-4)


@given(amounts, st.floats(1e9, 1e18), st.floats(0.01, 1), positive, positive)
def test_conversions_undo_each_other(flops: float, peak: float, mfu: float, price: float, watts: float) -> None:
    c = Compute(device="mine", peak_flops=peak, mfu=mfu, usd_per_hour=price, watts=watts)
    assert c.flops(hours=c.hours(flops)) == pytest.approx(flops, rel=1e-12)
    usd, kwh = c.usd(flops), c.kwh(flops)
    assert usd is not None
    assert kwh is not None
    assert c.flops(usd=usd) == pytest.approx(flops, rel=1e-12)
    assert usd / price == pytest.approx(c.hours(flops), rel=1e-12)
    assert kwh * 1000 / watts == pytest.approx(c.hours(flops), rel=1e-12)


@given(amounts, st.floats(0.01, 0.5))
def test_a_better_mfu_takes_fewer_hours(flops: float, mfu: float) -> None:
    assert compute(mfu=2 * mfu).hours(flops) == pytest.approx(compute(mfu=mfu).hours(flops) / 2, rel=1e-12)


def test_what_is_given_by_hand_wins() -> None:
    c = compute("H100", peak_flops=5e14, mfu=0.5, price=1.0)
    assert c == Compute(device="H100", peak_flops=5e14, mfu=0.5, usd_per_hour=1.0, watts=700)
    assert compute("H100", precision="fp8").peak_flops == 1978.9e12
    own = compute("laptop", peak_flops=1e12)
    assert (own.device, own.usd_per_hour, own.watts) == ("laptop", None, None)
    assert own.usd(1e18) is None
    assert own.kwh(1e18) is None
    assert own.hours(1e18) > 0
    assert compute("v5p").kwh(1e18) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mfu": 0}, "MFU must be positive and at most 1; got 0; give it as 0.4"),
        ({"mfu": -0.1}, "MFU must be positive and at most 1; got -0.1"),
        ({"mfu": 1.01}, "MFU must be positive and at most 1; got 1.01"),
        ({"mfu": 40}, "MFU must be positive and at most 1; got 40"),
        ({"mfu": math.nan}, "MFU must be positive and at most 1; got nan"),
        ({"mfu": True}, "MFU must be positive and at most 1; got True"),
        ({"price": 0}, "price must be positive and finite; got 0; give US dollars per device and hour"),
        ({"price": math.inf}, "price must be positive and finite; got inf"),
        ({"price": "3"}, "price must be positive and finite; got '3'"),
        ({"peak_flops": -1e15}, r"peak FLOP/s must be positive and finite; got -1000000000000000.0; give it as"),
        ({"peak_flops": math.nan}, "peak FLOP/s must be positive and finite; got nan"),
        ({"device": "A100", "precision": "fp8"}, "one that A100 has a published peak for, bf16; got 'fp8'; choose"),
        ({"precision": "fp4"}, "one that H100 has a published peak for, bf16 or fp8; got 'fp4'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        compute(**options)
    assert "\n" not in str(error.value)


def test_wrong_power_is_refused() -> None:
    with pytest.raises(InputError, match="power must be positive and finite; got -1"):
        Compute(device="mine", peak_flops=1e12, watts=-1)


@pytest.mark.parametrize("given_", [{}, {"hours": 1.0, "usd": 1.0}])
def test_flops_are_bought_with_one_thing(given_: dict[str, float]) -> None:
    with pytest.raises(InputError, match="give either hours or usd; got"):
        compute().flops(**given_)


def test_budgets_become_flops() -> None:
    h100 = compute("H100")
    per_hour = 989.4e12 * 0.4 * 3600
    assert budget_flops(parse_budget("1e21"), h100) == 1e21
    assert budget_flops(parse_budget("2000 GPU-hours"), h100) == pytest.approx(2000 * per_hour)
    assert budget_flops(parse_budget("2000 h100-hours"), h100) == pytest.approx(2000 * per_hour)
    assert budget_flops(parse_budget("5900 USD"), h100) == pytest.approx(2000 * per_hour)
    assert budget_flops(parse_budget("5900 USD"), compute("H100", price=5.9)) == pytest.approx(1000 * per_hour)


def test_hours_of_a_named_device_are_that_devices() -> None:
    h100 = compute("H100", mfu=0.5, price=9.0)
    budget = parse_budget("2000 a100-hours")
    assert budget_flops(budget, h100) == pytest.approx(2000 * 312e12 * 0.5 * 3600)
    moved = compute_for(budget, h100)
    assert moved == compute("A100", mfu=0.5)
    assert moved.hours(budget_flops(budget, h100)) == pytest.approx(2000)
    assert compute_for(Budget(1.0, "hours"), h100) is h100
    assert compute_for(Budget(1.0, "hours", "h100"), h100) is h100
    own = compute("laptop", peak_flops=1e12)
    assert budget_flops(parse_budget("10 laptop-hours"), own) == pytest.approx(10 * 1e12 * 0.4 * 3600)
    with pytest.raises(InputError, match=r"device must be one of .*; got 'H10'; did you mean H100\?"):
        budget_flops(parse_budget("10 H10-hours"), h100)
    with pytest.raises(InputError, match="A100 has a published peak for, bf16; got 'fp8'"):
        budget_flops(budget, compute("H100", precision="fp8"))


def test_money_without_a_price_says_how_to_give_one() -> None:
    with pytest.raises(InputError, match="none is known for v5p; add --price USD_PER_HOUR"):
        budget_flops(parse_budget("$5000"), compute("v5p"))


def test_every_public_name_exists() -> None:
    assert all(hasattr(hardware, name) for name in hardware.__all__)
    assert isinstance(device("H100"), Device)
