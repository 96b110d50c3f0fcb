"""A training by several processes (``know.run.spread``): each computes its share of every batch, and takes its step by the sum of
all their gradients, which is that of the batch. In one process the share is the batch, and nothing is added to it.

They sum gradients themselves, for ``DistributedDataParallel`` averages them, whatever the sizes of the shares, and wraps the net, whose
weights would have other names and whose hooks would outlive a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

from know.run.device import together
from know.seeds import derive
from know.tasks.loss import loss_of
from know.weights.batchnorm import batchnorm_layers

T = TypeVar("T")

LEAST = 2
"""Images in a share: of one, BatchNorm may have no statistics. All processes compute all of a batch that is too small for that."""


def loss_of_share(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """What this process adds to the loss of a batch: they sum to ``loss_of`` it."""
    group = together()
    if group is None:
        return loss_of(net, images, targets)
    count, rank = group.num_processes, group.process_index
    if len(images) < LEAST * count:
        return loss_of(net, images, targets) / count
    return loss_of(net, images.tensor_split(count)[rank], targets.tensor_split(count)[rank], targets)


def summed(value: Tensor) -> Tensor:
    """The sum of all processes' values."""
    group = together()
    return value if group is None else group.reduce(value, "sum")


def sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimizer's steps be by the sum of all processes' gradients."""
    if together() is not None:
        optimizer.register_step_pre_hook(lambda optimizer, *_: _sum_gradients(optimizer))


def _sum_gradients(optimizer: torch.optim.Optimizer) -> None:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    own = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = summed(torch.cat([gradient.flatten() for gradient in own]))
    for gradient, part in zip(own, total.split([gradient.numel() for gradient in own]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed(make: Callable[[], T]) -> T:
    """What the first process makes, in all of them: none decides by numbers of its own."""
    group = together()
    if group is None:
        return make()
    from accelerate.utils import broadcast_object_list

    made = [make() if group.is_main_process else None]
    return broadcast_object_list(made)[0]


def seed_share(seed: int, epoch: int) -> None:
    """Let what a net draws, as dropout, be of this process's own, and in this epoch the same after a stop, which keeps the first
    process's generators alone."""
    group = together()
    if group is not None and not group.is_main_process:
        torch.manual_seed(derive("dropout", seed, group.process_index, epoch))


def synchronise_batchnorm(net: nn.Module) -> None:
    """On CUDA, let BatchNorm in ``net`` see whole batches. PyTorch has no such layer for the CPU: there it sees its own share,
    and the first process's running statistics are kept.

    Raises:
        ValueError: a layer is a BatchNorm of another library, which PyTorch would replace by a plain one.
    """
    group = together()
    if group is None or group.device.type != "cuda":
        return
    plain = (batchnorm.BatchNorm1d, batchnorm.BatchNorm2d, batchnorm.BatchNorm3d, nn.SyncBatchNorm)
    if other := [type(layer) for layer in batchnorm_layers(net) if type(layer) not in plain]:
        raise ValueError(
            f"compute.processes: got {group.num_processes}; allowed: 1 for a net with {other[0].__module__}.{other[0].__name__}"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(net)
