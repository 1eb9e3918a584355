"""Processes that form a world, as torchrun would start them, and what the tests have them do."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from train_support import spec

from distillscale.errors import InputError
from distillscale.train import ledger, student
from distillscale.train.data import TokenData
from distillscale.train.hf import LoadedTeacher, load_teacher
from distillscale.train.loop import Interrupted, Saving, run
from distillscale.train.parallel import shard_teacher
from distillscale.train.world import World, joined

__all__ = ["command", "in_processes", "load", "train"]

_SECONDS = 90  # no test waits longer for its processes
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["distillscale.train.loop", "distillscale.train.shards", "torch._dynamo", "torch.distributed.fsdp"]
)


def in_processes(act: Callable[..., Any], *args: Any, size: int = 2, device: str = "cpu", **named: Any) -> list[Any]:
    """`act(world, *args, **named)` in every process of a world: what each returned, or its exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    members: list[tuple[Any, Connection]] = []
    for rank in range(size):
        here, there = _server.Pipe(duplex=False)
        process = _server.Process(target=_member, args=(rank, size, port, device, there, act, args, named))
        process.start()
        there.close()
        members.append((process, here))
    found: list[Any] = []
    for _, connection in members:
        try:
            found.append(connection.recv() if connection.poll(_SECONDS) else "it hangs")
        except EOFError:
            found.append(None)
    for i, (process, _) in enumerate(members):
        process.join(_SECONDS if found[i] != "it hangs" else 0)
        process.kill()
        process.join()
        found[i] = process.exitcode if found[i] is None else found[i]
    return found


def _member(
    rank: int,
    size: int,
    port: int,
    device: str,
    told: Connection,
    act: Callable[..., Any],
    args: tuple[Any, ...],
    named: dict[str, Any],
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": "test"}
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if act is command:  # which joins for itself
        told.send(command(rank, *args))
        return
    try:
        with joined() as world:
            assert world.device.type == device
            found = act(world, *args, **named)
    except InputError as error:
        found = str(error).partition(";")[0]
    told.send(found)


def load(world: World, folder: Path, shard: bool) -> LoadedTeacher:
    teacher = load_teacher(folder, device="cpu" if shard else world.device)
    return shard_teacher(teacher, world) if shard else teacher


def train(
    world: World,
    home: Path,
    name: str,
    changes: dict[str, Any],
    *,
    shard: bool = False,
    teacher: bool = False,
    stop_at: int | None = None,
    saving: int = 10**6,
    harm: str = "",
) -> Any:
    """Run `home/name` on `home/data`: its record as JSON, "stopped", or what it was refused for.

    `stop_at`: after so many steps the last process is told to stop. `harm`: what is done to the last process.
    """
    last = world.rank == world.size - 1
    calls = itertools.count(1)

    def stop() -> bool:
        step = next(calls)
        if harm == "killed" and last and step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if harm == "full" and last and step == 9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # less than its shares
        return last and step == stop_at

    if harm == "busy" and last:  # as if it had a million threads at work
        ledger.time = SimpleNamespace(perf_counter=time.perf_counter, process_time=lambda: 1e6 * time.perf_counter())  # type: ignore[assignment]
    if harm == "nan" and last:
        _poison(4)
    try:
        record = run(
            spec(**changes),
            data=TokenData.open(home / "data"),
            out=home / name,
            teacher=load(world, home / "teacher", shard) if teacher else None,
            saving=Saving(steps=saving),
            stop=stop,
            world=world,
            shard=shard,
        )
    except Interrupted:
        return "stopped"
    except InputError as error:
        return str(error)
    return record.to_json()


def _poison(passes: int) -> None:
    """From the so-manieth forward pass on the loss is no number."""
    real, count = student.target_loss, itertools.count()

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        loss, parts = real(*args, **kwargs)
        return (loss * float("nan") if next(count) >= passes else loss), parts

    student.target_loss = poisoned  # type: ignore[assignment]


def command(rank: int, home: Path, *args: str) -> Any:
    """`distillscale args` in `home`: exit code and what was printed go to files of this process."""
    from distillscale.cli import main

    os.chdir(home)
    sys.argv = ["distillscale", *args]
    with open(f"out-{rank}", "w") as out, open(f"err-{rank}", "w") as err, redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            return stop.code
    return None
