"""Intervals are honest: 90 % intervals of predictions hold the truth about 90 times in a hundred.

The quick version has a few dozen studies a design, enough to notice plain percentile intervals (which cover about 80 %
with eight clusters); the slow one has hundreds and asks for 85 to 95 %.
"""

from __future__ import annotations

import pytest
from covering import DESIGNS, measure

QUICK = {"60 supervised runs": 60, "10 teachers": 60, "60 supervised runs, 12 teachers": 30}


@pytest.mark.parametrize(("name", "studies"), QUICK.items())
def test_coverage_quickly(name: str, studies: int) -> None:
    found = measure(DESIGNS[name], studies)
    assert found.without <= 0.1 * studies
    assert 0.82 <= found.inside <= 0.98
    assert 0.82 <= found.outside <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_coverage(name: str) -> None:
    found = measure(DESIGNS[name], 400, draws=400)
    assert found.without <= 0.1 * 400
    assert 0.85 <= found.inside <= 0.95
    assert 0.85 <= found.outside <= 0.95
