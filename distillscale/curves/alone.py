"""Curves of the supervised law alone, and what endless data make of both laws; nothing here plans."""

from __future__ import annotations

import numpy as np

from ..chart import Axis, Chart, Figure, Series
from ..units import format_count
from .scope import LOSS, Scope, flops_text, size_axis, token_axis

__all__ = ["endless_data", "isoflop_supervised", "supervised_loss"]

_SUPERVISED = Axis(label="loss", unit="nats/token")


def _models(scope: Scope, N: object, D: object) -> dict[str, object]:
    """A supervised run's place in the fitted range, under the names of either kind of law."""
    ratio = np.asarray(D, float) / np.asarray(N, float)
    return {"params": N, "tokens": D, "student_params": N, "student_tokens": D, "tokens_per_param": ratio}


def isoflop_supervised(scope: Scope) -> Figure:
    """L(N, D) at constant 3 F(N) D, with the optimum of Eq 2."""
    law, N = scope.evidence.supervised, scope.axis(scope.grid.sizes)
    series: list[Series] = []
    told: list[str] = []
    for C in scope.grid.isoflops:
        name, D = flops_text(C), scope.tokens_at(C, N)
        series += scope.curve(name, N, law.loss(N, D), _models(scope, N, D))  # pyright: ignore[reportArgumentType]
        best, tokens = law.optimum(C, context=scope.context, vocab=scope.vocab)
        if N[0] < best < N[-1]:
            series.append(Series.of(name, [float(best)], [float(law.loss(best, tokens))], "points"))
        told.append(f"{name}: {format_count(float(best))} on {format_count(float(tokens))} tokens")
    chart = Chart(
        name="isoflop", title="", x=size_axis("model size"), y=_SUPERVISED,
        series=tuple(series), told="; ".join(told),
    )  # fmt: skip
    return Figure(
        name="figure-36-isoflop-supervised",
        title="IsoFLOP curves of supervised training",
        charts=(chart,),
        caption=f"Eq 1 at constant training compute; points are the optima of Eq 2. {scope.holds}",
        source=scope.source("Figure 36c of the paper"),
    )


def supervised_loss(scope: Scope) -> Figure:
    """L(N, D) over tokens for several sizes, with what endless data reach."""
    law, D = scope.evidence.supervised, scope.axis(scope.grid.tokens)
    series: list[Series] = []
    for N in scope.grid.planned:
        values = _models(scope, N, D)
        series += scope.curve(scope.label(N), D, law.loss(N, D), values)  # pyright: ignore[reportArgumentType]
    told = "; ".join(f"{scope.label(N)}: at best {float(law.floor(N)):.3f} nats" for N in scope.grid.planned)
    chart = Chart(name="loss", title="", x=token_axis("data"), y=_SUPERVISED, series=tuple(series), told=told)
    return Figure(
        name="supervised-loss",
        title="The supervised law",
        charts=(chart,),
        caption=f"Eq 1. {scope.holds}",
        source=scope.source("Eq 1 of the paper"),
    )


def endless_data(scope: Scope) -> Figure:
    """Eq 35 beside Eq 37: L(N, ∞) and the student of the optimal teacher at D_S = ∞."""
    law = scope.evidence.distillation
    N = scope.axis((scope.grid.sizes[0], 10 * scope.grid.sizes[1]))
    best = law.optimal_teacher_loss(N, np.inf)
    inside = {"student_params": N}
    distilled = law.loss(N, np.inf, best)
    series = scope.curve("supervised", N, law.supervised.floor(N), inside)
    series += scope.curve("distilled from the best teacher", N, distilled, inside)
    apart = float(np.max(np.abs(distilled / law.supervised.floor(N) - 1)))
    chart = Chart(
        name="endless-data", title="", x=size_axis("student size"), y=LOSS, series=series,
        told=f"the two differ by at most {apart:.2%} here",
    )  # fmt: skip
    return Figure(
        name="figure-40-endless-data",
        title="With endless data, distillation and supervision meet",
        charts=(chart,),
        caption=f"Eq 35 and Eq 37. The range says how far students were fitted; no run had endless data. {scope.holds}",
        source=scope.source("Figure 40 of the paper"),
    )
