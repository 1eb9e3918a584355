"""Runs in an environment of its own, or in ours: whole training steps of one student, alone or under a teacher.

    by_training.py WAY FOLDER STEPS THREADS [MEETING PROCESSES]

FOLDER holds `student/` and `teacher/` (Hugging Face folders, one shape and the same weights for all ways), `corpus/`
and `tokens.npy` (sequences of the same length). Prints {"cpu": CPU seconds of a step, "wall": its seconds}, of steps
after the first ones and before the last, with everything that a user of that way pays for in each: data, logging,
clipping, optimiser; no way saves or evaluates there. With a MEETING, an empty folder, it waits after the first steps
until so many PROCESSES have come there. WAY: ours, ours-kd, ours-kd-three (students of one teacher; a step is one of
each), hf-trainer, gkd-trainer (its best settings), gkd-default (its own, with gradient checkpointing), loop-kd (Hugging
Face models in a plain loop), hand-kd (a lean model by hand).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

TOKENS, LR = 2048, 1e-3  # tokens of a step


class Clock:
    """CPU and wall seconds of steps, without the first fifth, and without the last, in which some ways end a run."""

    def __init__(self, steps: int, meet: Callable[[], None]) -> None:
        self.first, self.last, self.meet, self.count = steps // 5 + 1, steps - 1, meet, 0
        self.begun = self.ended = (0.0, 0.0)

    def tick(self) -> None:
        self.count += 1
        if self.count == self.first:
            self.meet()
            self.begun = time.process_time(), time.perf_counter()
        if self.count == self.last:
            self.ended = time.process_time(), time.perf_counter()

    def step(self) -> dict[str, float]:
        cpu, wall = (
            (end - begin) / (self.last - self.first) for begin, end in zip(self.begun, self.ended, strict=True)
        )
        return {"cpu": cpu, "wall": wall}


clock = Clock(0, lambda: None)


def tick(*_: object) -> None:
    clock.tick()


def meet(place: Path, processes: int) -> None:
    """Until all are past their first steps; one that waits in vain for a minute ends."""
    (place / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(place.iterdir())) < processes:
        if time.monotonic() > end:
            sys.exit(f"only {len(list(place.iterdir()))} of {processes} processes came")
        time.sleep(0.001)


def ours(folder: Path, steps: int, teacher: bool = False, students: int = 1) -> None:
    from distillscale.spec import RunSpec
    from distillscale.train.data import TokenData
    from distillscale.train.hf import import_model, load_teacher
    from distillscale.train.loop import run_many

    start = import_model(folder / "student")
    arch = start.arch
    more: dict[str, Any] = {"teacher": "teacher"} if teacher else {}
    specs = [RunSpec(
        tokens=steps * TOKENS, batch_tokens=TOKENS, context=arch.context, layers=arch.layers, d_model=arch.d_model,
        d_ff=arch.d_ff, heads=arch.heads, d_head=arch.d_head, lr=LR / 2**student, eval_tokens=arch.context,
        parametrisation=start.parametrisation, start="student", z_weight=0.0, **more,
    ) for student in range(students)]  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        run_many(
            specs, data=TokenData.open(folder / "corpus"), outs=[f"{out}/{i}" for i in range(students)], start=start,
            progress=tick,
            teacher=load_teacher(folder / "teacher") if teacher else None,
        )  # fmt: skip


def opened(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)


def arguments(folder: Path, out: str, steps: int) -> dict[str, Any]:
    """What a user would set for plain speed: no saving, no evaluation, no reports, the fused optimiser."""
    return {
        "output_dir": out, "max_steps": steps, "per_device_train_batch_size": Rows(folder).batch, "learning_rate": LR,
        "lr_scheduler_type": "cosine", "optim": "adamw_torch_fused", "max_grad_norm": 1.0, "save_strategy": "no",
        "report_to": "none", "logging_steps": steps, "disable_tqdm": True, "use_cpu": True,
        "gradient_checkpointing": False, "bf16": False, "dataloader_num_workers": 0,
    }  # fmt: skip


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, folder: Path) -> None:
        self.tokens = torch.from_numpy(np.load(folder / "tokens.npy").astype(np.int64))
        self.batch = TOKENS // self.tokens.shape[1]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.tokens[index]
        return {"input_ids": row, "labels": row}


def callback() -> Any:
    from transformers import TrainerCallback

    return type("Ticks", (TrainerCallback,), {"on_step_end": lambda self, *a, **k: tick()})()


def hf_trainer(folder: Path, steps: int) -> None:
    from transformers import Trainer, TrainingArguments

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=opened(folder / "student"),
            args=TrainingArguments(**arguments(folder, out, steps)),
            train_dataset=Rows(folder),
            callbacks=[callback()],
        )
        trainer.train()


def gkd_trainer(folder: Path, steps: int, checkpointing: bool = False) -> None:
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        tokens = torch.tensor([row["input_ids"] for row in rows])
        return {"input_ids": tokens, "labels": tokens.clone(), "attention_mask": torch.ones_like(tokens)}

    with tempfile.TemporaryDirectory() as out:
        settings = arguments(folder, out, steps) | {"gradient_checkpointing": checkpointing}
        config = GKDConfig(**settings, lmbda=0.0, beta=0.0, temperature=1.0, seq_kd=False)
        trainer = GKDTrainer(
            model=opened(folder / "student"),
            teacher_model=opened(folder / "teacher"),
            args=config,
            data_collator=collate,
            train_dataset=Dataset.from_dict({"input_ids": np.load(folder / "tokens.npy").tolist()}),
            processing_class=tokenizer,
            callbacks=[callback()],
        )
        trainer.train()


def plain_loop(folder: Path, steps: int, student: Any, logits: Callable[[torch.Tensor], torch.Tensor],
               logits_T: Callable[[torch.Tensor], torch.Tensor]) -> None:  # fmt: skip
    optimiser = torch.optim.AdamW(student.parameters(), lr=LR, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rows = Rows(folder)
    for step in range(steps):
        tokens = rows.tokens[step * rows.batch : (step + 1) * rows.batch]
        with torch.no_grad():
            p = logits_T(tokens).flatten(0, 1).softmax(-1)
        loss = F.kl_div(logits(tokens).flatten(0, 1).log_softmax(-1), p, reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        loss.item()
        tick()


def loop_kd(folder: Path, steps: int) -> None:
    student, teacher = opened(folder / "student"), opened(folder / "teacher")
    plain_loop(folder, steps, student, lambda x: student(x).logits, lambda x: teacher(x).logits)


def hand_kd(folder: Path, steps: int) -> None:
    """Our module with PyTorch's own norm, attention and gate in place of ours: what a careful user writes."""
    from distillscale.train import fused
    from distillscale.train.hf import import_model

    fused.pays = lambda x: False
    student, teacher = import_model(folder / "student"), import_model(folder / "teacher")
    plain_loop(folder, steps, student, lambda x: student.logits(student(x)), lambda x: teacher.logits(teacher(x)))


WAYS: dict[str, Callable[[Path, int], None]] = {
    "ours": ours,
    "ours-kd": lambda folder, steps: ours(folder, steps, teacher=True),
    "ours-kd-three": lambda folder, steps: ours(folder, steps, teacher=True, students=3),
    "hf-trainer": hf_trainer,
    "gkd-trainer": gkd_trainer,
    "gkd-default": lambda folder, steps: gkd_trainer(folder, steps, checkpointing=True),
    "loop-kd": loop_kd,
    "hand-kd": hand_kd,
}


def main() -> None:
    global clock
    way, folder, steps, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    crew = sys.argv[5:]
    clock = Clock(steps, lambda: meet(Path(crew[0]), int(crew[1])) if crew else None)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    WAYS[way](folder, steps)
    if clock.count != steps:
        sys.exit(f"{way} made {clock.count} steps of {steps}")
    print(json.dumps(clock.step()))


if __name__ == "__main__":
    main()
