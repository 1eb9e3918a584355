"""Seconds that the runs of a study take on this machine, from a few timed steps of every shape; nothing is written.

Where the data are not prepared yet, or a teacher not trained, random ones of the same shape stand in: a step takes as
long whatever the tokens say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ..spec import RunSpec
from ..store import Store
from ..study import Planned, Study
from .data import TokenData
from .hf import LoadedTeacher, aligned, load_teacher
from .machine import pick_device
from .manifest import MANIFEST, TOKENIZER, Manifest, Shard, Split, TokenizerInfo, hash_file, quick_hash
from .rehearsal import Rehearsal, rehearse
from .student import build

__all__ = ["seconds_of"]

_STAND_IN_TOKENS = 262_144
_OVERHEAD_SECONDS = 1.0
"""Opening data and model, checkpoints and record of a small run."""


def seconds_of(
    study: Study, runs: Sequence[Planned], store: Store, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Seconds of every run by its id, with one thread each; `progress` is told the shapes timed and their number."""
    by_id = {run.id: run for run in runs}
    cases: dict[str, list[Planned]] = {}
    for run in runs:
        cases.setdefault(repr((_shape(run.spec), _teacher_shape(run, by_id))), []).append(run)
    seconds: dict[str, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ExitStack() as stack:
            data = _data(study, stack)
            for number, case in enumerate(cases.values(), 1):
                found = _rehearsed(study, case[0], by_id, store, data)
                seconds |= {run.id: _seconds(run, found) for run in case}
                if progress is not None:
                    progress(number, len(cases))
    finally:
        torch.set_num_threads(threads)
    return seconds


def _shape(spec: RunSpec) -> list[tuple[str, object]]:
    """What the time of a step depends on, and no more: lengths, rates and seeds are left out."""
    free = ("tokens", "lr", "seed", "schedule", "branch_tokens", "warmup_tokens", "teacher", "lam", "tau", "half")
    return sorted((name, value) for name, value in spec.content().items() if name not in free)


def _teacher_shape(run: Planned, by_id: dict[str, Planned]) -> object:
    return _shape(by_id[run.teacher].spec) if run.teacher in by_id else run.spec.teacher


def _seconds(run: Planned, found: Rehearsal) -> float:
    per_step = run.spec.batch_tokens / found.tokens_per_second
    evaluation = found.seconds - found.steps * per_step
    # A shared pass is paid by several: the part of it that this run pays, in proportion of the FLOPs.
    whole = (found.flops_student + found.flops_teacher) / found.steps * run.steps
    paid = (run.flops + run.flops_teacher) / whole if run.group and run.flops_teacher else 1.0
    return per_step * run.steps * paid + evaluation + _OVERHEAD_SECONDS


def _rehearsed(study: Study, run: Planned, by_id: dict[str, Planned], store: Store, data: TokenData) -> Rehearsal:
    spec = replace(run.spec, data_hash=None, unique_tokens=None, branch_tokens=(), targets="online", classes=None)
    return rehearse(spec, data=data, teacher=_teacher(study, run, by_id, store, data))


def _teacher(
    study: Study, run: Planned, by_id: dict[str, Planned], store: Store, data: TokenData
) -> LoadedTeacher | None:
    if run.spec.teacher is None:
        return None
    if run.teacher is None:
        found = load_teacher(study.file.parent / run.spec.teacher, context=run.spec.context, device=pick_device())
        return aligned(found, data.vocab, data.tokenizer_file)
    if run.teacher not in by_id:  # done: it is there
        return load_teacher(store.folder(run.teacher), context=run.spec.context, device=pick_device())
    model = build(by_id[run.teacher].spec, data.vocab, pick_device()).requires_grad_(False).eval()
    return LoadedTeacher(
        name="stand-in",
        sha="0" * 32,
        params=model.arch.params,
        flops_per_token=model.arch.forward_flops_per_token,
        context=model.arch.context,
        output_weight=model.output_weight.detach(),
        body=model,
        module=model,
        tokenizer=lambda: None,
    )


def _data(study: Study, stack: ExitStack) -> TokenData:
    if (study.data.path / MANIFEST).exists():
        return TokenData.open(study.data.path)
    folder = Path(stack.enter_context(TemporaryDirectory()))
    (folder / TOKENIZER).write_text("{}", encoding="utf-8")
    vocab = study.data.vocab
    rng, dtype = np.random.default_rng(0), "uint16" if vocab <= 1 << 16 else "uint32"
    splits: dict[str, Split] = {}
    for name in ("teacher", "student", "val"):
        path = folder / f"{name}-00000.bin"
        count = max(_STAND_IN_TOKENS, 4 * int(study.run["context"]))
        rng.integers(0, vocab, count).astype(np.dtype(dtype).newbyteorder("<")).tofile(path)
        shard = Shard(file=path.name, tokens=count, blake2b=hash_file(path), quick=quick_hash(path))
        splits[name] = Split(documents=1, tokens=count, bytes=2 * count, shards=(shard,))
    tokenizer = TokenizerInfo(kind="stand-in", vocab=vocab, eot="", eot_id=0, blake2b=hash_file(folder / TOKENIZER))
    manifest = Manifest(request={}, tokenizer=tokenizer, dtype=dtype, splits=splits)  # type: ignore[arg-type]
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return TokenData.open(folder)
