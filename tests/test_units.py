"""Units: what is written is read back, what is refused is refused in one line, and the prefix traps are closed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillscale import units
from distillscale.errors import InputError
from distillscale.units import (
    Budget,
    format_bytes,
    format_count,
    format_duration,
    format_flops,
    format_hours,
    format_money,
    parse_budget,
    parse_bytes,
    parse_count,
    parse_range,
)

HALF_PERCENT = 0.005 * (1 + 1e-9)  # three significant digits are never further away than this


def magnitudes(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(low), math.log10(high)).map(lambda x: min(max(10.0**x, low), high))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1B", 1e9),
        ("1.5e9", 1.5e9),
        ("1.5E+9", 1.5e9),
        ("300M", 3e8),
        ("300m", 3e8),
        ("4T", 4e12),
        ("2P", 2e15),
        ("7G", 7e9),
        ("20k", 2e4),
        ("20K", 2e4),
        ("3_000_000", 3e6),
        (".5B", 5e8),
        ("5.", 5.0),
        (" 1.1B ", 1.1e9),
        ("1", 1.0),
        (7, 7.0),
        (2.5e9, 2.5e9),
        (np.int64(12), 12.0),
        (np.float32(4.0), 4.0),
    ],
)
def test_counts_are_read(text: str | float, value: float) -> None:
    assert parse_count(text) == value  # exactly: 1.1B is 1100000000, not 1100000000.0000001
    assert type(parse_count(text)) is float


@pytest.mark.parametrize(
    "text",
    ["", " ", "B", "1e", "1..2", "1.2.3", "1Q", "1 B", "7 B tokens", "7Btokens", "1e9B", "1,000", "1_", "_1", "1__0",
     "0x10", "٣", "+5", "-1", "-1B", "nan", "inf", "1\n2", True, False, np.True_, None, [1], math.nan, 1 + 0j],
)  # fmt: skip
def test_what_is_not_a_count_says_how_to_write_one(text: object) -> None:
    with pytest.raises(InputError, match=r"^student .* is not a count; write it as 300M, 1.5B or 3e9$") as error:
        parse_count(text, "student")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["0", "0B", "0.5", "1e-9", "1e400", 0, -3, 0.99, math.inf, 10**400, pytest.param(10**5000, id="huge")]
)
def test_counts_outside_the_range_name_the_rule(text: str | float) -> None:
    with pytest.raises(InputError, match=r"tokens must be finite and at least 1; got .*; write it as") as error:
        parse_count(text, "tokens")
    assert len(str(error.value)) < 200


@given(magnitudes(1, 1e18))
def test_a_formatted_count_is_read_back(x: float) -> None:
    assert parse_count(format_count(x)) == pytest.approx(x, rel=HALF_PERCENT)


@given(magnitudes(1, 1e30))
def test_formatted_flops_are_read_back(x: float) -> None:
    assert parse_count(format_flops(x)) == pytest.approx(x, rel=HALF_PERCENT)
    assert parse_budget(format_flops(x) + " FLOPs").amount == pytest.approx(x, rel=HALF_PERCENT)


@given(magnitudes(1e-3, 1e14))
def test_formatted_money_is_read_back(x: float) -> None:
    budget = parse_budget(format_money(x))
    assert budget.unit == "usd"
    assert budget.amount == pytest.approx(x, rel=HALF_PERCENT)


@given(magnitudes(1e-3, 1e14), st.sampled_from([None, "H100", "B200", "v5p", "T4", "MI300X"]))
def test_formatted_hours_are_read_back(x: float, device: str | None) -> None:
    budget = parse_budget(format_hours(x, device))
    assert (budget.unit, budget.device) == ("hours", device)
    assert budget.amount == pytest.approx(x, rel=HALF_PERCENT)


@given(magnitudes(1, 1e20))
def test_formatted_bytes_are_read_back(x: float) -> None:
    assert parse_bytes(format_bytes(x)) == pytest.approx(x, rel=HALF_PERCENT)


@given(
    st.builds(
        Budget,
        magnitudes(1e9, 1e30),
        st.sampled_from(["flops"]),
    )
    | st.builds(Budget, magnitudes(1, 1e12), st.sampled_from(["usd", "hours"]))
)
def test_a_budget_reads_its_own_words(budget: Budget) -> None:
    again = parse_budget(str(budget))
    assert (again.unit, again.device) == (budget.unit, budget.device)
    assert again.amount == pytest.approx(budget.amount, rel=HALF_PERCENT)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1e21", Budget(1e21, "flops")),
        (1e21, Budget(1e21, "flops")),
        ("3e20 FLOPs", Budget(3e20, "flops")),
        ("3e20 FLOP", Budget(3e20, "flops")),
        ("3e20flops", Budget(3e20, "flops")),
        ("5000 FLOPs", Budget(5000.0, "flops")),
        ("300P", Budget(3e17, "flops")),
        ("5000 USD", Budget(5000.0, "usd")),
        ("5k usd", Budget(5000.0, "usd")),
        ("$5000", Budget(5000.0, "usd")),
        ("US$5k", Budget(5000.0, "usd")),
        ("$12,300.50", Budget(12300.5, "usd")),
        ("1.2M dollars", Budget(1.2e6, "usd")),
        ("2000 H100-hours", Budget(2000.0, "hours", "H100")),
        ("2000 H100-hour", Budget(2000.0, "hours", "H100")),
        ("1,000 v5p hours", Budget(1000.0, "hours", "v5p")),
        ("2k A100-h", Budget(2000.0, "hours", "A100")),
        ("2000 GPU-hours", Budget(2000.0, "hours")),
        ("2000 gpu hours", Budget(2000.0, "hours")),
        ("2000 hours", Budget(2000.0, "hours")),
        ("2000 h", Budget(2000.0, "hours")),
        # Device names that begin with a suffix or with a group of digits keep their letters.
        ("2000 B200-hours", Budget(2000.0, "hours", "B200")),
        ("8 T4-hours", Budget(8.0, "hours", "T4")),
        ("8 MI300X-hours", Budget(8.0, "hours", "MI300X")),
        ("2000 P100-hours", Budget(2000.0, "hours", "P100")),
        ("2GPU-hours", Budget(2.0, "hours")),
        ("8MI300X-hours", Budget(8.0, "hours", "MI300X")),
    ],
)
def test_budgets_are_read(text: str | float, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text",
    ["", "USD", "$", "5000 EUR", "€5000", "2000 H100", "5 GFLOPs", "1e21 FLOP/s", "5000 USD/day", "1,00 USD",
     "1234,000 USD", "-5 USD", "2 kk USD", "1e3k USD", "nan", "nan USD", True, None],
)  # fmt: skip
def test_what_is_not_a_budget_says_how_to_write_one(text: object) -> None:
    with pytest.raises(InputError, match=r"^budget .* is not .*; write it as 1e21 \(FLOPs\), '5000 USD' or"):
        parse_budget(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0 USD", "0 h", "$0", "1e999 USD", "0 FLOPs", "0", 0, -1e21, math.inf])
def test_budgets_are_positive_and_finite(text: str | float) -> None:
    with pytest.raises(InputError, match="a budget must be positive and finite; got"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["5000", "20k", "999M", 5000])
def test_a_small_bare_budget_has_lost_its_unit(text: str | float) -> None:
    with pytest.raises(InputError, match="a budget without a unit is FLOPs and at least 1e9; got"):
        parse_budget(text)


@pytest.mark.parametrize("amount", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_cannot_be_built_wrong(amount: float) -> None:
    with pytest.raises(InputError, match="positive and finite"):
        Budget(amount, "usd")


def test_a_range_is_log_spaced_and_holds_both_ends() -> None:
    values = parse_range("1e19:1e24:50")
    assert (len(values), values[0], values[-1]) == (50, 1e19, 1e24)
    assert np.ptp(np.diff(np.log(values))) < 1e-12
    assert values.dtype == np.float64
    np.testing.assert_array_equal(parse_range("1B:2B:2"), [1e9, 2e9])


def test_a_list_keeps_its_order() -> None:
    np.testing.assert_array_equal(parse_range("3B, 300M,1B"), [3e9, 3e8, 1e9])
    np.testing.assert_array_equal(parse_range("1B"), [1e9])


def test_a_range_is_read_by_the_parser_given() -> None:
    values = parse_range("1000 USD:100k USD:3", lambda text: parse_budget(text).amount)
    np.testing.assert_allclose(values, [1e3, 1e4, 1e5])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1e19:1e24", "low:high:count"),
        ("1:2:3:4", "low:high:count"),
        ("1e19:1e24:1", "whole number from 2"),
        ("1e19:1e24:2.5", "whole number from 2"),
        ("1e19:1e24:-5", "whole number from 2"),
        ("1e19:1e24:", "whole number from 2"),
        ("1e19:1e24:²", "whole number from 2"),
        ("1e19:1e24:100000000000", "to 100000"),
        ("1e24:1e19:5", "from low to high"),
        ("1e19:1e19:5", "from low to high"),
        ("1B,,2B", "is not a count"),
        ("1B,", "is not a count"),
        ("", "is not a count"),
        ("1:x:3", "'x' is not a count"),
    ],
)
def test_a_wrong_range_names_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        parse_range(text)


def test_bytes_know_both_kinds_of_prefix() -> None:
    assert parse_bytes("2 TB") == 2e12
    assert parse_bytes("16GiB") == 16 * 1024**3
    assert parse_bytes("512 bytes") == parse_bytes(512) == 512
    for wrong in ("", "2", "2 T", "2 iB", "-1 GB", "0 B", True, math.nan):
        with pytest.raises(InputError, match="not a positive number of bytes; write it as 2 TB"):
            parse_bytes(wrong)


def test_formats_are_what_a_reader_expects() -> None:
    cases = {
        format_count: {1.5234e9: "1.52B", 3e8: "300M", 2e4: "20k", 999_999: "1M", 512: "512", 4e12: "4T", 0: "0"}
        | {1e15: "1.00e15", math.inf: "∞", -3e9: "-3B", 0.25: "0.25"},
        format_flops: {1e21: "1.00e21", 9.999e20: "1.00e21", 3.14159e9: "3.14e9", 0: "0.00e0", math.inf: "∞"},
        format_money: {12_345: "$12,300", 0.42: "$0.42", 0.5: "$0.50", 1.2e6: "$1.2M", 4.2: "$4.20", 123.4: "$123"}
        | {0: "$0.00", 999_999: "$1M", 0.0042: "$0.0042", -7: "-$7.00", 0.9999: "$1.00", 99.996: "$100"},
        format_hours: {3.2: "3.2 GPU-hours", 1: "1 GPU-hour", 12_345: "12,300 GPU-hours", 1.234e6: "1.23M GPU-hours"},
        format_bytes: {2.1e12: "2.1 TB", 512: "512 B", 1500: "1.5 kB", 65_536: "65.5 kB"},
        format_duration: {0.85: "0.85 s", 59.97: "1 min", 245: "4 min 5 s", 3599.9: "1 h", 11_520: "3 h 12 min"}
        | {86_399: "1 d", 183_600: "2 d 3 h", 0: "0 s", math.inf: "∞"},
    }
    for write, expected in cases.items():
        assert {x: write(x) for x in expected} == expected


def test_every_public_name_exists() -> None:
    assert sorted(units.__all__) == units.__all__
    assert all(hasattr(units, name) for name in units.__all__)
