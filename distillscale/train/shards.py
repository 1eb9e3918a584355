"""Checkpoints whose tensors are cut between processes: each writes its share, any number of processes reads them.

torch's distributed checkpoint with safetensors for storage (its own default pickles what it knows of the tensors):

    checkpoint/step-000000488/  model/shard-00001-model-00001-of-00001.safetensors  …  optimizer/…  checkpoint.json

Each file says where its pieces lie in the whole tensors; a file of whole tensors reads the same way, so that one
process and many go on from each other's checkpoints. Draft, hashes and rename are those of `checkpoint`.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from ..errors import InputError
from . import checkpoint
from .checkpoint import Checkpoint
from .world import World

__all__ = ["read_into", "save", "whole_groups"]

Tensors = Mapping[str, Tensor]


def save(home: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any], world: World) -> None:
    """`checkpoint.save` by all processes together; where one cannot write, all refuse and the draft is gone."""
    draft = world.first_does(lambda: checkpoint.begin(home, step, tensors))
    if draft is None:
        return
    files: dict[str, Any] = {}
    with world.together(), checkpoint.undone(draft, home, step, tensors):
        for name, group in tensors.items():
            _write(draft / name, group)
            for path in (draft / name).glob(f"shard-{world.rank + 1:05d}-*"):
                files[f"{name}/{path.name}"] = checkpoint.settled(path)
    every = world.gather(files)

    def finish() -> None:
        with checkpoint.undone(draft, home, step, tensors):
            found = {name: facts for each in every for name, facts in each.items()}
            for name in tensors:
                checkpoint.flush(draft / name)
            checkpoint.seal(draft, {"step": step, "state": dict(state)}, found)
            checkpoint.publish(draft, home, step)

    world.first_does(finish)


def _write(folder: Path, tensors: Tensors) -> None:
    """Each process its share; what fails in one is an OSError in all."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise first if isinstance(first, OSError) else OSError(" ".join(str(first).split())) from None


def read_into(found: Checkpoint, wanted: Mapping[str, Tensors]) -> None:
    """Fill tensors, whole or shares, from a checkpoint of either kind; each process reads what it needs."""
    if not found.sharded:
        _fill(found.folder, {key: tensor for group in wanted.values() for key, tensor in group.items()}, "checkpoint")
        return
    for name, group in wanted.items():
        _fill(found.folder / name, group, name)


def whole_groups(found: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """The tensors of a sharded checkpoint, put together."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name in {file.partition("/")[0] for file in found.files}:
        known = _metadata(found.folder / name).state_dict_metadata
        groups[name] = {key: torch.empty(facts.size, dtype=facts.properties.dtype) for key, facts in known.items()}
        _fill(found.folder / name, groups[name], name)
    return groups


def _metadata(folder: Path) -> Any:
    return HuggingFaceStorageReader(str(folder)).read_metadata()


def _fill(folder: Path, wanted: Tensors, what: str) -> None:
    known = _metadata(folder).state_dict_metadata
    checkpoint.same_shapes(wanted, {name: facts.size for name, facts in known.items()}, what)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # each process reads for itself and waits for none: `no_dist` is meant
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
            state_dict_loader.load(dict(wanted), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise InputError(f"{str(folder)!r} cannot be read: {' '.join(str(first).split())}") from None
