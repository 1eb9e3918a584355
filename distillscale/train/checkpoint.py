"""Tensors and a little JSON in a folder that is either whole or absent; knows no model, optimiser or schedule.

    checkpoint/step-000000488/  model.safetensors  optimizer.safetensors  checkpoint.json

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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..record import write_json
from ..units import format_bytes
from .manifest import canonical, hash_file

__all__ = ["Checkpoint", "discard", "load", "prune", "save", "steps", "sweep"]

FORMAT = "distillscale-checkpoint/1"
_STATE = "checkpoint.json"
_NAME = re.compile(r"step-(\d{9,})")
_DRAFT = ".draft-"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was saved: groups of tensors by name, and the state beside them."""

    step: int
    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]


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
    final, draft = folder_of(home, step), home / f"{_DRAFT}{step}-{os.getpid()}"
    if final.is_dir():  # a run that was resumed before this step arrives here with the same content
        return final
    try:
        draft.mkdir(parents=True)
        write_folder(draft, {"step": step, "state": dict(state)}, tensors)
        os.rename(draft, final)
        _flush(home)
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
    return final


def write_folder(folder: Path, body: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """The files of a checkpoint, flushed to disk; `checkpoint.json` last."""
    files: dict[str, Any] = {}
    for name, group in tensors.items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().contiguous() for key, tensor in group.items()}, path)
        _flush(path)
        files[path.name] = {"bytes": path.stat().st_size, "blake2b": hash_file(path)}
    body = {"format": FORMAT, **body, "files": files}
    write_json(folder / _STATE, {**body, "blake2b": _seal(body)})
    _flush(folder)


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
    tensors: dict[str, Tensors] = {}
    for name in body["files"]:
        path = folder / name
        try:
            tensors[path.stem] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())}; {remedy}") from None
    return Checkpoint(body["step"], tensors, body["state"])


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


def _flush(path: Path) -> None:
    """Everything written to a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
