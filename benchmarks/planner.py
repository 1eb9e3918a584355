"""Plans: `allocate` and `frontier` against the paper's own solver, SLSQP from 20 starts (tests/reference.py)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import numpy as np
from report import Line, cpu, faster, no_worse, seconds, times

from distillscale import published
from distillscale.allocate import allocate
from distillscale.arch import CONTEXT, VOCAB, forward_flops
from distillscale.cost import Scenario
from distillscale.plan import frontier, plan
from tests.reference import slsqp_plan

PAIRS = ((300e6, 1e20), (3e9, 1e21), (10e9, 1e23))  # student parameters, total FLOPs
SCENARIOS = ("free", "inference", "pretraining", "both")
STARTS = 20


def lines() -> Iterator[Line]:
    evidence = published.load_set(published.DEFAULT)
    law = evidence.distillation
    ratios: dict[str, list[float]] = {name: [] for name in SCENARIOS}
    fast: list[float] = []
    slow: list[float] = []
    excess: list[float] = []
    for N_S, C in PAIRS:
        for name in SCENARIOS:
            who_pays = Scenario.named(name)
            problem = (law, N_S, C, who_pays.logits, who_pays.pretraining)
            ours = cpu(lambda problem=problem: allocate(*problem), repeats=7, loops=10)
            start = time.process_time()
            best = slsqp_plan(
                law, N_S, float(forward_flops(N_S)), C, *problem[3:], CONTEXT, VOCAB, starts=STARTS, seed=0
            )
            fast.append(ours)
            slow.append(time.process_time() - start)
            ratios[name].append(slow[-1] / ours)
            excess.append(float(allocate(*problem).student_loss) - best.loss)
    every = [x for row in ratios.values() for x in row]
    middle = ", ".join(f"{name} {times(statistics.median(row))}" for name, row in ratios.items())
    own = statistics.median(fast)
    yield faster(
        f"one optimal plan against SLSQP from {STARTS} starts",
        own,
        own * statistics.median(every),
        100,
        note=f"CPU seconds, medians of {len(every)} problems ({len(PAIRS)} students × {len(SCENARIOS)} scenarios); "
        f"medians by who pays for the teacher: {middle}; least {times(min(every))}. SLSQP in logs of (N_T, D_T, D_S), "
        "bounds 1e6 to 1e17, FLOPs = budget, objective in plain Python floats",
    )
    yield no_worse(
        "the same, student loss above SLSQP's best",
        "-",
        "-",
        max(excess),
        1e-6,
        note=f"nats per token, worst of the {len(every)} problems",
    )
    whole = cpu(lambda: plan(evidence, 3e9, 1e21, Scenario.named("inference")), repeats=5, loops=3)
    yield faster(
        "one whole `plan()` against the optimum alone by SLSQP",
        whole,
        statistics.median(slow),
        note="CPU seconds; `plan()` adds intervals, break-even, bill and reasons",
    )
    sizes, budgets = np.geomspace(1e8, 3e10, 50), np.geomspace(1e20, 1e25, 50)
    scenarios = [Scenario.named(name) for name in SCENARIOS]
    count = len(sizes) * len(budgets) * len(scenarios)
    total = cpu(lambda: frontier(evidence, sizes, budgets, scenarios), repeats=3)
    yield faster(
        f"`frontier` of {count:,} plans, per plan, against the same",
        total / count,
        statistics.mean(slow),
        1000,
        note=f"CPU seconds; {seconds(total)} in all, the four scenarios in equal shares on both sides",
    )
