"""The processes of one run: who takes part, what they agree on and what they add up; knows no model, file or loss.

One process is a world of its own, `ALONE`, in which every method below returns at once. With torchrun there are more:
`rank` 0 owns the run's folder and does what is done once, the others learn how that went. Numbers and small values go
over gloo between CPUs, also where gradients and weights go over NCCL between GPUs.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from ..errors import DistillscaleError, InputError
from .machine import pick_device

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["ALONE", "World", "joined"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """This process among those of its run; every method but `says` is for all of them to call together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of this machine."""
    local_size: int = 1
    store: Any = None
    """torch's key-value store between the processes."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Each process has a GPU of its own, where there are any."""
        found = pick_device()
        return torch.device(found.type, self.local_rank) if self.size > 1 and found.type == "cuda" else found

    def mesh(self) -> DeviceMesh:
        """All processes in a row, as tensors are cut."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self.device.type, (self.size,))

    def first_does(self, act: Callable[[], _T]) -> _T:
        """What `act` gives in the first process, in all of them; what it raises there, all raise."""
        if self.size == 1:
            return act()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = act()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    @contextmanager
    def together(self) -> Generator[None]:
        """What any process refuses in this block, all refuse; nothing in it may wait for another process."""
        error: DistillscaleError | None = None
        try:
            yield
        except DistillscaleError as refusal:
            error = refusal
        for found in self.gather(error):
            if found is not None:
                raise found

    def gather(self, value: _T) -> list[_T]:
        """Everyone's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """Everyone's tensor of one shape, in the first process and on the CPU where there are others."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor, device="cpu") for _ in range(self.size)] if self.first else None
        dist.gather(tensor.cpu(), found, dst=0)
        return found or []

    def add(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, bit for bit the same in each."""
        if self.size == 1:
            return numbers
        total = numbers.to("cpu", copy=True)
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether it is so anywhere."""
        return flag if self.size == 1 else bool(self.add(torch.tensor(int(flag))))

    def says(self, message: str) -> bool:
        """True in the first process that asks: it tells the user, so that nobody reads the same line twice."""
        name = blake2b(message.encode(), digest_size=16).hexdigest()
        return self.size == 1 or self.store.add(f"said {name}", 1) == 1


ALONE = World()
_LETTING_GO = 0.1
"""Seconds for what takes microseconds, on a machine busy with other things."""


@contextmanager
def joined() -> Generator[World]:
    """The world that torchrun's environment variables describe; `ALONE` without them."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        yield ALONE
        return
    try:
        store, rank, count = next(iter(rendezvous("env://")))
        world = World(rank, count, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), store)
    except (ValueError, KeyError) as error:
        raise InputError(f"WORLD_SIZE is {size!r}, which torchrun sets with other variables; got {error}") from None
    backend = "gloo"
    if world.device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
        if world.local_size > torch.cuda.device_count():
            raise InputError(
                f"{world.local_size} processes were started on a machine with {torch.cuda.device_count()} GPUs; start "
                "one for each with --nproc-per-node"
            )
        torch.cuda.set_device(world.device)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistBackendError) and "gloo" not in str(error):
            raise
        raise InputError(
            "another process of this run ended before its time; what it said is the reason, and the same command goes "
            f"on from the last checkpoint ({str(error).splitlines()[0][:200]})"
        ) from error
    finally:
        dist.destroy_process_group()
        # gloo's threads outlive the group as long as torch's caches hold its mesh, and take the interpreter's lock once
        # more to let go of the last collectives' tensors: an interpreter that ends meanwhile aborts (SIGABRT).
        time.sleep(_LETTING_GO)
