"""A fit beside its runs: measured against predicted losses; the fit and its scores are the fitting side's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..chart import Axis, Chart, Series
from ..estimate import predict
from ..fitted import Fit
from ..forms import form_named
from ..runs import RunTable

__all__ = ["measured_against_predicted"]

Array = NDArray[np.float64]


def measured_against_predicted(found: Fit, runs: RunTable) -> Chart:
    """Each run of the form's kind at (predicted, measured); on the dashed line the law is exact."""
    law = found.require().law
    assert law is not None
    rows = runs.of_kind("distillation" if form_named(found.form).distils else "supervised")
    told, measured = predict(law, rows), rows.loss
    off = np.abs(measured / told - 1)
    low, high = float(min(told.min(), measured.min())), float(max(told.max(), measured.max()))
    return Chart(
        name="measured-against-predicted",
        title="Measured against predicted loss",
        x=Axis(label="predicted loss", unit="nats/token"),
        y=Axis(label="measured loss", unit="nats/token"),
        series=(
            Series.of("runs", told.tolist(), measured.tolist(), "points"),
            Series.of("exact", [low, high], [low, high], "dashed"),
        ),
        caption=f"{found.form} law, coefficients of all {found.rows} runs it was fitted to.",
        source=found.source,
        told=f"Half of the runs lie within {np.median(off):.2%} of the law, the worst is {off.max():.2%} off.",
    )
