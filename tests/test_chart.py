"""Figures as values."""

import math

import pytest

from distillscale.chart import Axis, Chart, Mark, Series
from distillscale.errors import InputError


def test_a_chart_is_its_numbers_as_json_and_as_rows() -> None:
    series = Series(name="a", x=(1.0, 2.0), y=(3.0, None), low=(2.0, None), high=(4.0, None))
    chart = Chart(
        name="c", title="C", x=Axis(label="N", scale="log"), y=Axis(label="loss", unit="nats/token"),
        series=(series, Series.of("b", [1.0], [math.inf], "points")), marks=(Mark(label="here", x=1.0),),
    )  # fmt: skip
    assert chart.y.title == "loss, nats/token"
    assert chart.x.title == "N"
    assert list(chart.rows()) == [
        {"series": "a", "style": "line", "x": 1.0, "y": 3.0, "low": 2.0, "high": 4.0},
    ]
    assert chart.to_json()["series"][0]["high"] == (4.0, None)
    exact = Chart(name="d", title="", x=chart.x, y=chart.y, series=(Series.of("a", [1 / 3], [2 / 3]),))
    assert exact.to_screen() | {"series": ()} == exact.to_json() | {"series": ()}
    assert exact.to_screen()["series"][0]["x"] == [0.33333333]
    assert exact.to_screen()["series"][0]["y"] == [0.66666667]
    assert chart.to_json()["marks"] == ({"label": "here", "x": 1.0, "y": None},)


@pytest.mark.parametrize("ends", [{"y": (1.0, 2.0)}, {"y": (1.0,), "low": (0.5,)}, {"y": (1.0,), "high": (0.5,)}])
def test_series_of_unequal_lengths_are_refused(ends: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(InputError, match="one length"):
        Series(name="a", x=(1.0,), **ends)  # pyright: ignore[reportArgumentType]
