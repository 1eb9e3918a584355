"""Trains the mapping problem's teachers and students, one line of results.csv a run; run again, it goes on.

    python experiments/mlp-mapping/run.py

As in App. C.2 of the paper: two hidden layers of one width, ReLU, Adam at 3e-4 with 5 % warm-up and a cosine, batches
of 512 fresh samples, max(500 batches, 20 samples a parameter). The paper does not say how contexts are drawn; here the
value at the marked position is 0, 1 or 2 alike, and where it is not 0 exactly one other position holds it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

CLASSES: Final = 8
BATCH: Final = 512
PEAK: Final = 3e-4
EVAL: Final = 65_536
STUDENTS: Final = (128, 256)
TEACHERS: Final = (64, 90, 128, 181, 256, 362, 512)
TRIALS: Final = 4
WIDE: Final = 512
LENGTHS: Final = (64, 128, 256, 512, 1024, 2048, 4096)
"""Steps of the wide teacher whose length is varied, under the 256-wide student."""
COLUMNS: Final = ("id", "trial", "teacher_width", "teacher_steps", "width", "steps", "loss", "accuracy", "teacher_loss")


class Net(NamedTuple):
    """A width and how long it is trained."""

    width: int
    steps: int


def full(width: int) -> Net:
    """The paper's number of steps for a width."""
    params = (2 * CLASSES) * width + width * width + width * CLASSES + 2 * width + CLASSES
    return Net(width, max(500, math.ceil(20 * params / BATCH)))


def samples(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (count, 2·8) and labels (count,)."""
    rows = torch.arange(count)
    marked = torch.randint(CLASSES, (count,), generator=generator)
    value = torch.randint(3, (count,), generator=generator)
    context = torch.randint(3, (count, CLASSES), generator=generator)
    # Where the value is 1 or 2, it stands at the mark and at one partner only; the others hold one of the other two.
    others = (value[:, None] + torch.randint(1, 3, (count, CLASSES), generator=generator)) % 3
    context = torch.where((value > 0)[:, None], others, context)
    partner = (marked + torch.randint(1, CLASSES, (count,), generator=generator)) % CLASSES
    context[rows, marked] = value
    context[rows, partner] = torch.where(value > 0, value, context[rows, partner])
    inputs = torch.cat([context, one_hot(marked, CLASSES)], dim=1).float()
    return inputs, torch.where(value > 0, partner, marked)


def mlp(width: int) -> nn.Sequential:
    """16 → width → width → 8."""
    return nn.Sequential(
        nn.Linear(2 * CLASSES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def trained(net: Net, seed: int, teacher: nn.Module | None = None) -> nn.Sequential:
    """The net after its training, on labels or on the teacher's whole distribution (forward KL at τ = 1)."""
    torch.manual_seed(seed)
    model = mlp(net.width)
    generator = torch.Generator().manual_seed(seed + 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=PEAK)
    warmup = max(1, round(0.05 * net.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / net.steps))),
    )
    for _ in range(net.steps):
        inputs, labels = samples(BATCH, generator)
        with torch.no_grad():
            targets = labels if teacher is None else teacher(inputs).softmax(1)
        optimiser.zero_grad(set_to_none=True)
        cross_entropy(model(inputs), targets).backward()
        optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def scores(model: nn.Module) -> tuple[float, float]:
    """Cross-entropy in nats and accuracy on the same fresh samples for every net."""
    inputs, labels = samples(EVAL, torch.Generator().manual_seed(12345))
    logits = model(inputs)
    return float(cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())


def ladder(trial: int) -> Iterator[tuple[Net, tuple[Net, ...]]]:
    """Each teacher with its students; without students it is measured alone."""
    for width in TEACHERS:
        yield full(width), tuple(full(student) for student in STUDENTS)
    for steps in LENGTHS:
        yield Net(WIDE, steps), (full(256),)


def main() -> None:
    """Every run that results.csv does not have yet."""
    torch.set_num_threads(1)
    path = Path(__file__).parent / "results.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with path.open(encoding="utf-8") as file:
        done = {row["id"] for row in csv.DictReader(file)}
    for trial in range(TRIALS):
        for net, students in ladder(trial):
            ids = {student: f"t{trial}-T{net.width}x{net.steps}-S{student.width}" for student in students}
            if done >= set(ids.values()):
                continue
            teacher = trained(net, 1000 * trial)
            teacher_loss = scores(teacher)[0]
            for student, name in ids.items():
                if name not in done:
                    loss, accuracy = scores(trained(student, 1000 * trial + 500, teacher))
                    row = (name, trial, *net, *student, f"{loss:.6f}", f"{accuracy:.6f}", f"{teacher_loss:.6f}")
                    with path.open("a", encoding="utf-8", newline="") as file:
                        csv.writer(file, lineterminator="\n").writerow(row)


if __name__ == "__main__":
    main()
