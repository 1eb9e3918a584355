"""Intervals are honest: 90 % intervals of predictions hold the truth about 90 times in a hundred.

The quick version has a few dozen studies a design, enough to notice intervals that are badly off; the slow one has
hundreds and asks for 85 to 95 %, which plain percentiles miss with eight teachers (83 and 84 %).
"""

from __future__ import annotations

import pytest
from covering import DESIGNS, measure

QUICK = {"60 supervised runs": 40, "10 teachers": 40, "60 supervised runs, 12 teachers": 24}


@pytest.mark.parametrize(("name", "studies"), QUICK.items())
def test_coverage_quickly(name: str, studies: int) -> None:
    found = measure(DESIGNS[name], studies)
    assert found.without <= 0.1 * studies
    assert found.inside >= 0.80
    assert found.outside >= 0.80
    assert found.hits.mean() <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_coverage(name: str) -> None:
    found = measure(DESIGNS[name], 400, draws=400)
    assert found.without <= 0.1 * 400
    assert 0.85 <= found.inside <= 0.95
    assert 0.85 <= found.outside <= 0.95
