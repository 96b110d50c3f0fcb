"""One training loop for source training, forgetting and fine-tuning, on any source of batches (``know.data.images.Samples``)."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from know.data.images import Images, Samples
from know.run.device import compiled
from know.run.unfinished import next_place
from know.seeds import derive
from know.tasks.augmentation import augmented
from know.tasks.measures import measure
from know.tasks.options import Augmentation
from know.training.reached import History, Standing
from know.training.shares import agreed, loss_of_share, seed_share, sum_gradients, summed, synchronise_batchnorm
from know.weights.batchnorm import batchnorm_layers

B = TypeVar("B")


@dataclass(frozen=True)
class Recipe:
    """How one fit runs: Adam (with ``weight_decay``, AdamW), ``epochs`` passes, ``batch_size`` images a step, learning rate ``lr``.

    ``schedule``: "constant", or "cosine" from ``lr`` to 0 over all steps.
    """

    epochs: int
    batch_size: int
    lr: float
    schedule: Literal["constant", "cosine"] = "constant"
    augment: Augmentation = "none"
    weight_decay: float = 0.0


def fit(
    net: nn.Module,
    data: Samples,
    recipe: Recipe,
    seed: int,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    validation: Images | None = None,
    patience: int | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> History:
    """Train ``net`` in place on ``data``; both are on the same device. Within a run that was stopped, go on from the last epoch
    that it kept (``know.run.unfinished``), with the same result. Within one that several processes make, all call this alike,
    and each trains on its share of every batch (``know.training.shares``).

    Args:
        parameters: the ones to train, if not all that require gradients. BatchNorm's running statistics follow the batches
            in any case.
        validation: measured after each epoch.
        patience: stop when the validation loss has not improved for this many epochs and return to the best ones'
            weights; ``recipe.epochs`` is then the most that are run.
        on_epoch: called after each epoch with its number, for learning curves; all epochs are run then, for what it saw of
            them is not kept.
    """
    trainable = [p for p in net.parameters() if p.requires_grad]
    trained = trainable if parameters is None else list(parameters)
    chosen = {id(p) for p in trained}
    for parameter in trainable:
        parameter.requires_grad_(id(parameter) in chosen)
    as_it_trains(net)
    synchronise_batchnorm(net)
    if compiled():
        net.compile()  # in place: its weights keep their names
    device = data.device
    generator = torch.Generator().manual_seed(seed)
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    optimizer = kind(trained, recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    sum_gradients(optimizer)

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss_of_share(net, *augmented(*batch, recipe.augment, generator))

    steps = recipe.epochs * math.ceil(len(data) / recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)) if recipe.schedule == "cosine" else 1.0
    )
    best = copy.deepcopy(net.state_dict()) if patience else {}
    now = Standing(net, trained, optimizer, scheduler, generator, device, History(), best)
    history, place = now.history, None if on_epoch else next_place()
    with seeded(seed, device):
        if kept := agreed(lambda: place.read() if place else None):
            now.restore(*kept)
        for epoch in range(len(history.train_loss), recipe.epochs):
            if patience and epoch - 1 - history.best_epoch >= patience:
                break
            seed_share(seed, epoch)
            total = torch.zeros((), device=device)
            batches = data.batches(recipe.batch_size, generator)
            for (images, _), value in steps_of(net, batches, loss, optimizer, scheduler):
                total += value * len(images)
            history.train_loss.append(summed(total).item() / len(data))
            if on_epoch:
                on_epoch(epoch)
            if validation is not None:
                loss_now, accuracy = agreed(partial(measure, net, validation))
                history.validation_loss.append(loss_now)
                history.validation_accuracy.append(accuracy)
                if patience and loss_now < history.best_loss:
                    now.best = copy.deepcopy(net.state_dict())
                    history.best_loss, history.best_epoch = loss_now, epoch
            if place:
                place.keep(now.saved)
    if patience:
        if history.best_epoch < 0:
            raise ValueError(
                f"training diverged: the validation loss was never finite at a learning rate of {recipe.lr}"
            )
        net.load_state_dict(now.best)
    for parameter in trainable:
        parameter.requires_grad_(True)
    return history


def as_it_trains(net: nn.Module) -> None:
    """Put its weights in the layout in which it trains."""
    if all(parameter.ndim < 5 for parameter in net.parameters()):  # 3-d convolutions have another layout
        net.to(memory_format=torch.channels_last)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What is random but not drawn from a generator, as dropout, under a seed; the caller's is as before after it."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive("dropout", seed))
        yield


def steps_of(
    net: nn.Module,
    batches: Iterable[B],
    loss: Callable[[nn.Module, B], Tensor],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Iterator[tuple[B, Tensor]]:
    """Train ``net`` in place by a step on each batch; after it, the batch and the loss that it had, a scalar."""
    net.train()
    for batch in batches:
        value = loss(net, batch)
        value.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()
        yield batch, value.detach()


def batchnorm_parameters(net: nn.Module) -> list[nn.Parameter]:
    """γ and β of all BatchNorm layers."""
    return [parameter for layer in batchnorm_layers(net) for parameter in layer.parameters()]


def reestimate_batchnorm(model: nn.Module, loader: Iterable[Tensor | Sequence[Tensor]]) -> None:
    """Average BatchNorm's running statistics anew, in place, for weights that they were not measured with.

    All other weights stay; so does whether the model is in training mode.

    Args:
        model: any module, usually with predicted weights; one without BatchNorm is left alone, and nothing is read for it.
        loader: batches of inputs, or sequences whose first entry is one, as a ``DataLoader`` yields them: some hundred
            images of the data that Θ_0 was trained on do. They are moved to the model's device.

    Raises:
        ValueError: there is not a single batch, which would leave no statistics at all.
    """
    if not batchnorm_layers(model):
        return
    first = next(iterator := iter(loader), None)
    if first is None:
        raise ValueError("BatchNorm statistics need at least one batch of inputs")
    parameter = next(model.parameters(), None)
    update_bn(itertools.chain([first], iterator), model, None if parameter is None else parameter.device)
