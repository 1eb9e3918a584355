"""Whole training runs of miniature models: ours against Hugging Face's and TRL's trainers.

Pure distillation and plain pretraining of the same shapes from the same weights, 2,048 tokens a step, fp32: tokens a
CPU second of one thread, and tokens a second of the whole machine as each is used there; and what one teacher pass for
several students saves. Each way is a process of its own.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import Line, times
from rivals.venvs import answer, trainers

from distillscale.cli.options import cores

TOKENS = 2048  # of a step
Size = tuple[int, int]  # layers, d_model


class Shape(NamedTuple):
    student: Size
    teacher: Size
    vocab: int
    context: int
    steps: int

    def label(self, taught: bool) -> str:
        """The student's width, its teacher's where it has one, and the sequences."""
        under = f" under {self.teacher[1]}" if taught else ""
        return f"d = {self.student[1]}{under}, V = {self.vocab}, T = {self.context}"


SHAPES = (
    Shape((3, 64), (3, 128), 1024, 128, 60),
    Shape((3, 128), (3, 256), 1024, 128, 40),
    Shape((5, 128), (4, 320), 8192, 256, 20),
)


class Rival(NamedTuple):
    name: str
    target: float | None = None
    foreign: bool = True
    """In an environment of its own."""


class Task(NamedTuple):
    what: str
    ours: str
    taught: bool
    rivals: dict[str, Rival]


TASKS = (
    Task("distilling", "ours-kd", True, {
        "gkd-default": Rival("TRL's GKDTrainer as it comes, with gradient checkpointing", 2.2),
        "gkd-trainer": Rival("TRL's GKDTrainer without"),
        "hand-kd": Rival("a plain PyTorch loop with `F.kl_div`, lean model", 1.3, foreign=False),
        "loop-kd": Rival("a plain PyTorch loop with `F.kl_div`, Hugging Face models"),
    }),
    Task("pretraining", "ours", False, {"hf-trainer": Rival("Hugging Face's Trainer", 1.5)}),
)  # fmt: skip
CORES = cores()


def lines() -> Iterator[Line]:
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            _prepare(folder, shape)
            for compare in (_one_core, _machine):
                for task in TASKS:
                    yield from compare(folder, shape, task)
    yield _shared()


def _one_core(folder: Path, shape: Shape, task: Task) -> Iterator[Line]:
    """Tokens a CPU second of one thread, and how far above the rival any program could be on this core."""
    from training_step import peak

    # Ours before and after the others, so that a machine that warms up or fills up cannot favour either side.
    first = _measure(task.ours, folder, shape)
    others = {way: _measure(way, folder, shape, foreign=rival.foreign) for way, rival in task.rivals.items()}
    last = _measure(task.ours, folder, shape)
    at_most = max(peak() for _ in range(5))
    work = _flops(shape, taught=task.taught)
    where = f"{task.what}, {shape.label(task.taught)}, one core"
    for way, rival in task.rivals.items():
        spent = [_of(one, "cpu") for one in (first, last, others[way])]
        limit = "" if isinstance(spent[2], str) else (
            f"; the rival runs at {work / spent[2] / 1e9:.0f} of the core's {at_most / 1e9:.0f} GF/s, so at most "
            f"{times(at_most * spent[2] / work)} was to be had"
        )  # fmt: skip
        yield _line(where, rival, spent[:2], spent[2], f"CPU seconds of one thread{limit}")


def _machine(folder: Path, shape: Shape, task: Task) -> Iterator[Line]:
    """Tokens a second of all cores: a study's workers, one thread each, and a trainer whose products use every core."""
    where = f"{task.what}, {shape.label(task.taught)}, whole machine"
    note = f"wall time; {CORES} runs at once, a thread each, against one process with {CORES} threads"
    for way, rival in task.rivals.items():
        if rival.target is None:
            continue
        first = _crew(task.ours, folder, shape)
        theirs = _of(_measure(way, folder, shape, threads=CORES, foreign=rival.foreign), "wall")
        last = _crew(task.ours, folder, shape)
        yield _line(where, rival, [first, last], theirs, note)
        if way == "gkd-default":
            three = _crew("ours-kd-three", folder, shape)
            ours_each = three if isinstance(three, str) else three / 3
            yield _line(f"{where}, three students of one teacher", rival, [ours_each], theirs, f"{note}; tokens of "
                        "all students, ours in one loop with one teacher pass, theirs one after the other")  # fmt: skip


def _line(where: str, rival: Rival, ours: list[float | str], theirs: float | str, note: str) -> Line:
    """Seconds of a step against seconds of a step."""
    if broken := next((one for one in (*ours, theirs) if isinstance(one, str)), None):
        return Line(what=f"{where}: {rival.name}", note=broken)
    rates = TOKENS / statistics.mean(map(float, ours)), TOKENS / float(theirs)
    ratio = rates[0] / rates[1]
    return Line(
        what=f"{where}: {rival.name}",
        ours=f"{rates[0]:,.0f} tokens/s",
        rival=f"{rates[1]:,.0f} tokens/s",
        ratio=times(ratio),
        target="-" if rival.target is None else f"≥ {times(rival.target)}",
        met=None if rival.target is None else ratio >= rival.target,
        note=note,
    )


def _measure(
    way: str, folder: Path, shape: Shape, *, threads: int = 1, foreign: bool = False, crew: tuple[str, ...] = ()
) -> dict[str, Any] | str:
    """CPU and wall seconds of a step, or in one line why none."""
    python = trainers if foreign else lambda: sys.executable
    return answer(
        way, python, "by_training.py", way, str(folder), str(shape.steps), str(threads), *crew, seconds=900
    )  # fmt: skip


def _of(found: dict[str, Any] | str, clock: str) -> float | str:
    return found if isinstance(found, str) else float(found[clock])


def _crew(way: str, folder: Path, shape: Shape) -> float | str:
    """Wall seconds of a step of the whole machine: as many single-threaded runs at once as it has cores."""
    with tempfile.TemporaryDirectory() as meeting, ThreadPoolExecutor(CORES) as pool:
        crew = (meeting, str(CORES))
        jobs = [pool.submit(_measure, way, folder, shape, crew=crew) for _ in range(CORES)]
        found = [_of(job.result(), "wall") for job in jobs]
    broken = next((one for one in found if isinstance(one, str)), None)
    return broken or statistics.harmonic_mean(map(float, found)) / CORES


def _flops(shape: Shape, *, taught: bool) -> float:
    """Of a step: three passes of the student, one of the teacher."""
    student, teacher = (_arch(size, shape).approx_flops_per_token for size in (shape.student, shape.teacher))
    return TOKENS * (3 * student + (teacher if taught else 0.0))


def _arch(size: Size, shape: Shape) -> Any:
    from distillscale.arch import Arch

    layers, d_model = size
    return Arch(
        layers=layers, d_model=d_model, d_ff=-(-8 * d_model // 48) * 16, heads=d_model // 32, kv_heads=d_model // 32,
        d_head=32, vocab=shape.vocab, context=shape.context,
    )  # fmt: skip


def _prepare(folder: Path, shape: Shape) -> None:
    """One corpus and one pair of models for every way."""
    from distillscale.train.hf import export
    from distillscale.train.model import Transformer
    from tests.train_support import token_data

    token_data(folder / "corpus", tokens=100_000, vocab=shape.vocab)
    rows = shape.steps * TOKENS // shape.context
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, shape.vocab, (rows, shape.context)))
    for name, size in (("student", shape.student), ("teacher", shape.teacher)):
        model = Transformer(_arch(size, shape), parametrisation="standard")
        model.init_weights(0)
        export(model, folder / name)


def _shared() -> Line:
    """CPU seconds a student of three learning rates under one teacher: in one loop, and each by itself."""
    import torch

    from distillscale.spec import RunSpec
    from distillscale.train.data import TokenData
    from distillscale.train.hf import load_teacher
    from distillscale.train.loop import run, run_many

    torch.set_num_threads(1)
    shape = Shape((3, 32), (3, 128), 1024, 128, 60)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        _prepare(folder, shape)
        data, teacher = TokenData.open(folder / "corpus"), load_teacher(folder / "teacher")
        common: dict[str, Any] = {
            "layers": 3, "d_model": 32, "context": shape.context, "batch_tokens": TOKENS,
            "tokens": shape.steps * TOKENS, "eval_tokens": shape.context, "teacher": "teacher",
        }  # fmt: skip
        specs = [RunSpec(**common, lr=lr) for lr in (0.005, 0.01, 0.02)]
        given: dict[str, Any] = {"data": data, "teacher": teacher}
        apart = [run(spec, out=folder / f"apart-{spec.lr}", **given) for spec in specs]
        together = run_many(specs, outs=[folder / f"shared-{spec.lr}" for spec in specs], **given)
    spent = [sum(r.cpu_seconds for r in records) / len(specs) for records in (together, apart)]
    equal = all(one.loss == other.loss for one, other in zip(together, apart, strict=True))
    return Line(
        what="one teacher pass (d = 128) for three students (d = 32) against each by itself, a student",
        ours=f"{1e3 * spent[0] / shape.steps:.1f} ms a step",
        rival=f"{1e3 * spent[1] / shape.steps:.1f} ms a step",
        ratio=times(spent[1] / spent[0]),
        note=f"CPU seconds of training steps; the held-out losses are {'equal' if equal else '**not equal**'}",
    )
