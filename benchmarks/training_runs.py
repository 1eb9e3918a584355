"""Whole training runs of miniature models, tokens a CPU second: ours against Hugging Face's and TRL's trainers.

Pure distillation and plain pretraining of the same shapes from the same weights, 2,048 tokens a step, one thread,
fp32; and what one teacher pass for several students saves. Each way is a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import Line, times
from rivals.venvs import answer, trainers

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
RIVALS = {
    "gkd-default": ("TRL's GKDTrainer as it comes, with gradient checkpointing", 2.2, True),
    "gkd-trainer": ("TRL's GKDTrainer without", None, True),
    "hand-kd": ("a plain PyTorch loop with `F.kl_div`, lean model", 1.3, False),
    "loop-kd": ("a plain PyTorch loop with `F.kl_div`, Hugging Face models", None, True),
}


def lines() -> Iterator[Line]:
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home)
            _prepare(folder, shape)
            yield from _compare(folder, shape, "distilling", "ours-kd", RIVALS)
            yield from _compare(
                folder, shape, "pretraining", "ours", {"hf-trainer": ("Hugging Face's Trainer", 1.5, True)}
            )
    yield _shared()


def _compare(
    folder: Path, shape: Shape, what: str, ours: str, rivals: dict[str, tuple[str, float | None, bool]]
) -> Iterator[Line]:
    # Ours before and after the others, so that a machine that warms up or fills up cannot favour either side.
    first = _measure(ours, folder, shape, foreign=False)
    others = {way: _measure(way, folder, shape, foreign=foreign) for way, (_, _, foreign) in rivals.items()}
    last = _measure(ours, folder, shape, foreign=False)
    where = shape.label(taught=ours == "ours-kd")
    for way, (name, target, _) in rivals.items():
        found = (first, last, others[way])
        if broken := next((one for one in found if isinstance(one, str)), None):
            yield Line(what=f"{what}, {where}: {name}", note=broken)
            continue
        seconds = [float(one) for one in found]
        rates = 2 * TOKENS / (seconds[0] + seconds[1]), TOKENS / seconds[2]
        ratio = rates[0] / rates[1]
        yield Line(
            what=f"{what}, {where}: {name}",
            ours=f"{rates[0]:,.0f} tokens/s",
            rival=f"{rates[1]:,.0f} tokens/s",
            ratio=times(ratio),
            target="-" if target is None else f"≥ {times(target)}",
            met=None if target is None else ratio >= target,
            note=f"CPU seconds, {TOKENS} tokens a step, student of {shape.student[0]} layers, teacher of "
            f"{shape.teacher[0]}; {shape.steps} steps with data, logging, clipping and AdamW",
        )


def _prepare(folder: Path, shape: Shape) -> None:
    """One corpus and one pair of models for every way."""
    from distillscale.arch import Arch
    from distillscale.train.hf import export
    from distillscale.train.model import Transformer
    from tests.train_support import token_data

    token_data(folder / "corpus", tokens=100_000, vocab=shape.vocab)
    rows = shape.steps * TOKENS // shape.context
    np.save(folder / "tokens.npy", np.random.default_rng(0).integers(0, shape.vocab, (rows, shape.context)))
    for name, (layers, d_model) in (("student", shape.student), ("teacher", shape.teacher)):
        arch = Arch(
            layers=layers, d_model=d_model, d_ff=-(-8 * d_model // 48) * 16, heads=d_model // 32,
            kv_heads=d_model // 32, d_head=32, vocab=shape.vocab, context=shape.context,
        )  # fmt: skip
        model = Transformer(arch, parametrisation="standard")
        model.init_weights(0)
        export(model, folder / name)


def _measure(way: str, folder: Path, shape: Shape, *, foreign: bool) -> float | str:
    """CPU seconds of a step, or in one line why none."""
    python = trainers if foreign else lambda: sys.executable
    found = answer(way, python, "by_training.py", way, str(folder), str(shape.steps), seconds=900)
    return found if isinstance(found, str) else float(found["cpu"])


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
