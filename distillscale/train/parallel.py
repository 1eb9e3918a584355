"""How a model lies over the processes of a world: whole in each, or cut between them; knows no loss, data or file.

    replicated   every process has the whole model; gradients are averaged (DistributedDataParallel)
    sharded      every process keeps a share of each tensor, of its gradient and its moments; a block is put together
                 while it computes (FSDP2, `fully_shard`)

Either way each process sees its own sequences of a batch and the step is that of one process with the whole batch.
"""

# torch's functions are partly untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .world import World

if TYPE_CHECKING:
    from .hf import LoadedTeacher

__all__ = ["clip_gradients", "shard_teacher", "spread", "synchronised", "whole"]


def spread(model: nn.Module, world: World, *, shard: bool, compiled: bool) -> Callable[[Tensor], Tensor]:
    """The model's forward pass, after laying it over the world's processes; in one process the model itself."""
    if shard and world.size > 1:
        if compiled:
            for block in _blocks(model):
                block.compile()
        _shard(model, world, set(), reshard=False)
        return model
    forward = torch.compile(model) if compiled else model
    if world.size > 1:
        forward = nn.parallel.DistributedDataParallel(cast("nn.Module", forward), gradient_as_bucket_view=True)
    return cast("Callable[[Tensor], Tensor]", forward)


def _shard(model: nn.Module, world: World, kept: set[nn.Parameter], *, reshard: bool) -> None:
    """Cut every block of `model`, then the rest of it; the parameters in `kept` stay whole.

    Weights go to the device block by block. Without `reshard` the root's own tensors stay whole after a forward pass,
    until the backward pass has used them: the loss multiplies by the output weight outside of the model.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = world.mesh()
    for block in _blocks(model):
        fully_shard(block, mesh=mesh, ignored_params=kept)
    model.register_forward_hook(_copied)  # FSDP hangs its backward pass on what is returned, and warns of a view
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard, ignored_params=kept)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The list of layers that holds most of the model."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=()))


def _copied(module: nn.Module, inputs: object, output: Any) -> Any:
    del module, inputs
    return output.clone() if isinstance(output, Tensor) and output.requires_grad else output


def synchronised(forward: Any, last: bool) -> AbstractContextManager[Any]:
    """Gradients of one forward and backward pass are exchanged where it is the `last` before the step."""
    if hasattr(forward, "set_requires_gradient_sync"):
        forward.set_requires_gradient_sync(last)
    elif hasattr(forward, "no_sync") and not last:
        return forward.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together, where processes have a share each: for all of them to call."""
    return cast("Any", tensor).full_tensor() if is_shard(tensor) else tensor


def is_shard(tensor: Tensor) -> bool:
    """Whether this process has a share of the tensor only."""
    return hasattr(tensor, "full_tensor")


def clip_gradients(parameters: Iterable[Tensor], most: float) -> float:
    """The norm of all gradients together, over all shares, before they were scaled down to `most`."""
    return float(whole(nn.utils.clip_grad_norm_(parameters, most)))


def shard_teacher(teacher: LoadedTeacher, world: World) -> LoadedTeacher:
    """The teacher cut between the processes, except for its output weight, which every loss needs whole.

    All processes must then ask for hidden states together, equally often.
    """
    if world.size == 1:
        return teacher
    weight, device = teacher.output_weight, world.device
    kept = {p for p in teacher.module.parameters() if p.data_ptr() == weight.data_ptr()}
    for parameter in kept:  # the output weight itself, or the embedding that it is tied to
        parameter.data = parameter.data.to(device)
        weight = parameter.detach()[: teacher.vocab]
    _shard(teacher.module, world, kept, reshard=True)
    return replace(teacher, output_weight=weight.to(device))
