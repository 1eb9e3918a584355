"""Carries out one job of a study: opens what its runs need, trains them, lets go of what nobody needs any more.

Which runs make a job, and where and when it runs, is decided elsewhere; the result is the records in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..claim import Busy
from ..errors import InputError
from ..record import RunRecord
from ..store import Store
from ..study import DataSource, Planned, Study
from . import checkpoint
from .data import TokenData
from .hf import LoadedTeacher, aligned, load_teacher
from .loop import Progress, Saving, release, run_many
from .machine import pick_device
from .manifest import MANIFEST
from .prepare import prepare
from .teaching import fill_cache

__all__ = ["carry_out", "prepared", "release_done"]


def prepared(source: DataSource, workers: int, progress: Callable[[str, int, int], None] | None = None) -> TokenData:
    """The study's data, made first where it is not there yet and the study says of what."""
    if not source.sources or (source.path / MANIFEST).exists():
        return _checked(source, TokenData.open(source.path))
    made = prepare(
        list(source.sources),
        source.path,
        vocab_size=None if source.tokenizer else source.vocab,
        tokenizer=source.tokenizer,
        eot=source.eot,
        val_fraction=source.val_fraction,
        field=source.field,
        seed=source.seed,
        workers=workers,
        progress=progress,
    )
    return _checked(source, made)


def _checked(source: DataSource, data: TokenData) -> TokenData:
    if data.vocab != source.vocab:
        raise InputError(
            f"vocab of the study is {source.vocab}, that of the data in {str(source.path)!r} is {data.vocab}; correct "
            "vocab in [data], or prepare the data with it"
        )
    return data


def carry_out(
    study: Study,
    runs: Mapping[str, Planned],
    ids: Sequence[str],
    store: Store,
    *,
    save_seconds: float = 60.0,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[RunRecord]:
    """Train the runs `ids` of the study to their records, several of them in one loop."""
    mine = [runs[id_] for id_ in ids]
    data = TokenData.open(study.data.path)
    given: dict[str, Any] = {}
    spec = mine[0].spec
    if spec.teacher is not None:
        given["teacher"] = _teacher(study, mine[0], store, data)
        if spec.targets != "online":
            given["cache"] = _cache(store, mine, data, given["teacher"])
    records = run_many(
        [run.spec for run in mine],
        data=data,
        outs=[store.folder(run.id) for run in mine],
        trunks=[_trunk(run, store) for run in mine],
        saving=Saving(seconds=save_seconds),
        progress=progress,
        stop=stop,
        study=study.name,
        **given,
    )
    release_done(runs, store, {run.trunk for run in mine if run.trunk is not None})
    return records


def _trunk(run: Planned, store: Store) -> Path | None:
    """Where the run branches off; one that is run again after its branch point was let go is trained whole instead."""
    if run.trunk is None:
        return None
    folder = store.folder(run.trunk)
    return folder if run.branch_step in checkpoint.steps(folder / "checkpoint") else None


def _teacher(study: Study, run: Planned, store: Store, data: TokenData) -> LoadedTeacher:
    path = study.file.parent / (run.spec.teacher or "") if run.teacher is None else store.folder(run.teacher)
    found = load_teacher(Path(path), context=run.spec.context, device=pick_device())
    return aligned(found, data.vocab, data.tokenizer_file)


def _cache(store: Store, runs: Sequence[Planned], data: TokenData, teacher: LoadedTeacher) -> Any:
    """The cache of the longest of the runs; another process that fills it at this moment is waited for."""
    longest = max(runs, key=lambda run: run.spec.steps)
    while True:
        try:
            return fill_cache(store.root / "caches", longest.spec, data, teacher)
        except Busy:
            time.sleep(1.0)


def release_done(runs: Mapping[str, Planned], store: Store, trunks: set[str]) -> None:
    """Delete the trunks' branch points whose every decay has its record."""
    for trunk in trunks:
        for step in runs[trunk].spec.branch_steps:
            decays = [run for run in runs.values() if run.trunk == trunk and run.branch_step == step]
            if all(store.record(run.id) is not None for run in decays):
                with suppress(InputError):  # gone already, or another process is at it
                    release(store.folder(trunk), step * runs[trunk].spec.batch_tokens)
