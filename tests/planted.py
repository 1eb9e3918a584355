"""Studies made of a known law plus noise: the trainer of fitting tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distillscale import published
from distillscale.laws import DistillationLaw, SupervisedLaw
from distillscale.runs import RunTable

Array = NDArray[np.float64]

CHINCHILLA = SupervisedLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
SUPERVISED = SupervisedLaw(E=1.22, A=3355.0, B=18186.0, alpha=0.408, beta=0.431, gamma=0.452)
DISTILLATION = DistillationLaw.from_d_eff(
    supervised=SUPERVISED, A=3100.0, B=5200.0, alpha=0.355, beta=0.352, gamma=0.763, c0=2.35, d_eff=0.92, f1=0.10
)


def supervised_study(
    law: SupervisedLaw,
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    sizes: int = 6,
    lengths: int = 5,
    seeds: int = 1,
) -> RunTable:
    """A grid of sizes 1e8 … 3e9 and 8 … 160 tokens per parameter, log-normal noise of single runs."""
    N, M = np.meshgrid(np.geomspace(1e8, 3e9, sizes), np.geomspace(8, 160, lengths), indexing="ij")
    N, D = np.repeat(N.ravel(), seeds), np.repeat((M * N).ravel(), seeds)
    loss = law.loss(N, D) * np.exp(noise * rng.normal(size=len(N)))
    seed = np.array([str(i % seeds) for i in range(len(N))])
    return RunTable(params=N, tokens=D, loss=loss, kind=np.full(len(N), "supervised"), seed=seed)


def student_study(
    law: DistillationLaw,
    rng: np.random.Generator,
    *,
    noise: float = 0.0,
    teacher_noise: float = 0.0,
    teachers: int = 12,
) -> RunTable:
    """Four sizes and three lengths under every teacher; a teacher's students share an offset."""
    sizes, ratios = np.array([2e8, 5e8, 1.2e9, 3e9]), np.array([10.0, 30.0, 90.0])
    L_T = np.linspace(1.95, 2.6, teachers)
    which, N, M = np.meshgrid(np.arange(teachers), sizes, ratios, indexing="ij")
    which, N, M = which.ravel(), N.ravel(), M.ravel()
    offset = teacher_noise * rng.normal(size=teachers)[which] + noise * rng.normal(size=len(N))
    return RunTable(
        params=N,
        tokens=N * M,
        loss=law.loss(N, N * M, L_T[which]) * np.exp(offset),
        kind=np.full(len(N), "distillation"),
        teacher_loss=L_T[which],
        teacher=np.array([f"t{i}" for i in which]),
    )


def joined(supervised: RunTable, students: RunTable) -> RunTable:
    """One table of both kinds."""
    blank = np.full(len(supervised), np.nan)
    assert students.teacher_loss is not None
    assert students.teacher is not None
    return RunTable(
        params=np.concatenate([supervised.params, students.params]),
        tokens=np.concatenate([supervised.tokens, students.tokens]),
        loss=np.concatenate([supervised.loss, students.loss]),
        kind=np.concatenate([supervised.kind, students.kind]),
        teacher_loss=np.concatenate([blank, students.teacher_loss]),
        teacher=np.concatenate([np.full(len(supervised), ""), students.teacher]),
    )


def write_runs(path: Path) -> None:
    """A run table as CSV made by the published law with 0.3 % of noise, one offset a teacher: no data of anybody's."""
    law = published.load("busbridge2025")
    assert isinstance(law, DistillationLaw)
    rng = np.random.default_rng(0)
    lines = ["kind,params,tokens,loss,teacher,teacher_loss"]
    for N in np.geomspace(1.5e8, 8e9, 6):
        for ratio in (5, 20, 80):
            loss = law.supervised.loss(N, ratio * N) * np.exp(0.003 * rng.normal())
            lines.append(f"supervised,{N:.4g},{ratio * N:.4g},{loss:.6f},,")
    for L_T in np.linspace(1.95, 2.7, 10):
        offset = 0.002 * rng.normal()
        for N in np.geomspace(1.5e8, 4e9, 5):
            for ratio in (20, 80):
                loss = law.loss(N, ratio * N, L_T) * np.exp(offset + 0.002 * rng.normal())
                lines.append(f"distillation,{N:.4g},{ratio * N:.4g},{loss:.6f},t{L_T:.2f},{L_T:.4f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
