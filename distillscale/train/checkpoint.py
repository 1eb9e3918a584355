"""Tensors and a little JSON in a folder that is either whole or absent; knows no model, optimiser or schedule.

    checkpoint/step-000000488/  model.safetensors  optimizer.safetensors  checkpoint.json

Where tensors are cut between processes, folders `model/` and `optimizer/` hold one file of each process (`shards`).

A checkpoint is written into a draft folder, flushed to disk and renamed, so that a process killed at any moment leaves
the previous one. `checkpoint.json` holds the state, the size and the hash of every file, and a hash of itself; a file
that does not match is named, and nothing falls back to an older checkpoint in silence. No pickle is read or written.
"""

# safetensors and torch are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..record import write_json
from ..units import format_bytes
from .manifest import canonical, hash_file

__all__ = ["Checkpoint", "copy_into", "discard", "load", "prune", "save", "steps", "sweep"]

FORMAT = "distillscale-checkpoint/1"
_STATE = "checkpoint.json"
_NAME = re.compile(r"step-(\d{9,})")
_DRAFT = ".draft-"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint: where its tensors lie, and the state beside them."""

    step: int
    folder: Path
    files: tuple[str, ...]
    state: Mapping[str, Any]

    @property
    def sharded(self) -> bool:
        """Written by several processes, a share of each tensor by each; see `shards`."""
        return any("/" in name for name in self.files)

    @property
    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Groups of whole tensors by name, read anew."""
        if self.sharded:
            from .shards import whole_groups

            return whole_groups(self)
        return {Path(name).stem: _read(self.folder / name) for name in self.files}


def folder_of(home: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return home / f"step-{step:09d}"


def steps(home: Path) -> list[int]:
    """Steps of the checkpoints in `home`, ascending; drafts are none."""
    try:
        found = [_NAME.fullmatch(entry.name) for entry in home.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in found if match)


def save(home: Path, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
    """Write the checkpoint of `step`, durably and all at once; where the disk refuses, nothing else is touched."""
    draft = begin(home, step, tensors)
    if draft is not None:
        with undone(draft, home, step, tensors):
            write_folder(draft, {"step": step, "state": dict(state)}, tensors)
            publish(draft, home, step)
    return folder_of(home, step)


def begin(home: Path, step: int, tensors: Mapping[str, Tensors]) -> Path | None:
    """A draft's folder, or None where the checkpoint is there: a run resumed before this step comes by it again."""
    if folder_of(home, step).is_dir():
        return None
    draft = home / f"{_DRAFT}{step}-{os.getpid()}"
    with undone(draft, home, step, tensors):
        draft.mkdir(parents=True)
    return draft


def publish(draft: Path, home: Path, step: int) -> None:
    """The draft becomes the checkpoint in one move."""
    os.rename(draft, folder_of(home, step))
    flush(home)


@contextmanager
def undone(draft: Path, home: Path, step: int, tensors: Mapping[str, Tensors]) -> Generator[None]:
    """A failure in this block deletes the draft and says in one line what is left to go on from."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        size = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
        left = steps(home)
        kept = f"the one of step {left[-1]} is intact and resumes" if left else "the run has none yet and begins anew"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"the checkpoint of step {step} could not be written to {str(home)!r}: {reason}; {kept} when "
            f"there is room for {format_bytes(size)}; free it and start the run again"
        ) from None


def write_folder(folder: Path, body: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """The files of a checkpoint, flushed to disk; `checkpoint.json` last."""
    files: dict[str, Any] = {}
    for name, group in tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous() for key, tensor in group.items()}, path)
        files[path.name] = settled(path)
    seal(folder, body, files)


def settled(path: Path) -> dict[str, Any]:
    """What a file is recognised by, once it is on the disk."""
    flush(path)
    return {"bytes": path.stat().st_size, "blake2b": hash_file(path)}


def seal(folder: Path, body: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """`checkpoint.json`, by which the folder is whole."""
    body = {"format": FORMAT, **body, "files": dict(files)}
    write_json(folder / _STATE, {**body, "blake2b": _seal(body)})
    flush(folder)


def load(home: Path, step: int) -> Checkpoint:
    """Read and verify the checkpoint of `step`."""
    others = [other for other in steps(home) if other != step]
    remedy = (
        f"delete that folder to resume from step {others[-1]}"
        if others
        else "restore it from a copy, or delete the run's folder to start from zero"
    )
    folder = folder_of(home, step)
    body = read_folder(folder, remedy)
    return Checkpoint(body["step"], folder, tuple(body["files"]), body["state"])


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {' '.join(str(error).split())}; restore it from a copy"
        ) from None


def copy_into(wanted: Tensors, saved: Tensors, what: str) -> None:
    """Copy tensors into others, all of them and nothing else."""
    same_shapes(wanted, {name: tensor.shape for name, tensor in saved.items()}, what)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])


def same_shapes(wanted: Tensors, saved: Mapping[str, Sequence[int]], what: str) -> None:
    """Refuse a file that is of another model, by the first name or shape that differs."""
    if strange := sorted(set(wanted).symmetric_difference(saved)):
        raise InputError(f"{what} and its file differ in {strange[0]!r}; the file is of another shape of model")
    for name, tensor in wanted.items():
        if tuple(saved[name]) != tuple(tensor.shape):
            raise InputError(
                f"{what}: {name!r} has shape {tuple(tensor.shape)}, its file {tuple(saved[name])}; the file "
                "is of another size of model"
            )


def read_folder(folder: Path, remedy: str) -> dict[str, Any]:
    """`checkpoint.json` of a folder, after every file in it was held against its hash."""
    path = folder / _STATE
    try:
        found: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"checkpoint {str(folder)!r} has lost its {_STATE}; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is damaged ({' '.join(str(error).split())}); {remedy}") from None
    body = cast("dict[str, Any]", found if isinstance(found, dict) else {})
    if body.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} has format {body.get('format')!r}, this release reads {FORMAT!r}; use the release it is of"
        )
    if body.pop("blake2b", None) != _seal(body):
        raise InputError(f"{str(path)!r} is damaged: it does not match its own hash; {remedy}")
    for name, facts in body["files"].items():
        _verify(folder / name, facts, remedy)
    return body


def _verify(path: Path, facts: Mapping[str, Any], remedy: str) -> None:
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            what = f"has {size} bytes instead of {facts['bytes']}: it is cut short or replaced"
        elif hash_file(path) != facts["blake2b"]:
            what = "is damaged: it does not match its hash"
        else:
            return
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
    raise InputError(f"{str(path)!r} {what}; {remedy}")


def prune(home: Path, keep: set[int]) -> None:
    """Delete every checkpoint but those of the steps in `keep`."""
    for step in steps(home):
        if step not in keep:
            discard(home, step)


def discard(home: Path, step: int) -> None:
    """Delete one checkpoint: first out of the way in one move, so that no half of it is ever taken for a whole."""
    gone = home / f"{_DRAFT}gone-{step}-{os.getpid()}"
    with suppress(FileNotFoundError):
        os.rename(folder_of(home, step), gone)
        shutil.rmtree(gone, ignore_errors=True)


def sweep(home: Path) -> None:
    """Delete what killed processes left half written; only the one process that owns the run may do so."""
    with suppress(FileNotFoundError):
        for entry in home.iterdir():
            if entry.name.startswith(_DRAFT):
                shutil.rmtree(entry, ignore_errors=True)


def _seal(body: Mapping[str, Any]) -> str:
    return blake2b(canonical(body), digest_size=16).hexdigest()


def flush(path: Path) -> None:
    """Everything written to a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
