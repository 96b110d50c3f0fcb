"""One training loop for source training, forgetting and fine-tuning.

Images stay on the device as uint8; a batch is gathered, augmented and normalised there. No DataLoader, no workers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from know.data import ImageSet


@dataclass(frozen=True)
class Recipe:
    """How one fit runs: Adam, ``epochs`` passes, ``batch_size`` images a step, learning rate ``lr``.

    ``schedule``: "constant", or "cosine" from ``lr`` to 0 over all steps. ``augment``: random rotations ≤ 10°,
    shifts ≤ 15 % and zooms ≤ 30 %, the paper's.
    """

    epochs: int
    batch_size: int
    lr: float
    schedule: Literal["constant", "cosine"] = "constant"
    augment: bool = False


@dataclass
class History:
    """Losses and accuracies, one entry an epoch; validation lists are empty without validation data."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: int = -1


def normalise(images: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) to channels-last floats with values in [-1, 1]."""
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of a float batch (N, C, H, W) turned, shifted and zoomed at random, by one affine map.

    Rotation U(-10°, 10°), shift U(-15 %, 15 %) of the side and zoom U(0.7, 1.3), per axis, as in the paper; what
    comes from outside the image repeats its border. Randomness is drawn on the CPU, so that every device sees the
    same maps.
    """
    n = len(images)
    u = torch.rand(n, 5, generator=generator).mul_(2).sub_(1)
    angle, shift, zoom = u[:, 0] * math.radians(10), u[:, 1:3] * 0.3, 1 + u[:, 3:5] * 0.3
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos * zoom[:, 0], -sin * zoom[:, 0], shift[:, 0]], 1),
            torch.stack([sin * zoom[:, 1], cos * zoom[:, 1], shift[:, 1]], 1),
        ],
        1,
    ).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def batches(data: ImageSet, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch of (float images, labels), on the data's device, in batches of equal size to within one.

    A ragged last batch of a single image would be an error in BatchNorm."""
    order = torch.randperm(len(data), generator=generator).to(data.images.device)
    for index in order.tensor_split(math.ceil(len(data) / recipe.batch_size)):
        images = normalise(data.images[index])
        yield (augmented(images, generator) if recipe.augment else images), data.labels[index]


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def fit(
    net: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    seed: int,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    validation: ImageSet | None = None,
    patience: int | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> History:
    """Train ``net`` in place on ``data``; both are on the same device.

    Args:
        parameters: the ones to train (all, if not given); BatchNorm trains with them in any case.
        validation: measured after each epoch.
        patience: stop when the validation loss has not improved for this many epochs and return to the best ones'
            weights; ``recipe.epochs`` is then the most that are run.
        on_epoch: called after each epoch with its number, for learning curves.
    """
    trained = list(net.parameters() if parameters is None else parameters)
    chosen = {id(p) for p in trained}
    for parameter in net.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    net.to(memory_format=torch.channels_last)
    device = data.images.device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(trained, recipe.lr, fused=True)
    steps = recipe.epochs * math.ceil(len(data) / recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)) if recipe.schedule == "cosine" else 1.0
    )
    history, best = History(), (math.inf, copy.deepcopy(net.state_dict()) if patience else {})
    for epoch in range(recipe.epochs):
        net.train()
        total = torch.zeros((), device=device)
        for images, labels in batches(data, recipe, generator):
            with _autocast(device):
                loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            total += loss.detach() * len(labels)
        history.train_loss.append(total.item() / len(data))
        if on_epoch:
            on_epoch(epoch)
        if validation is None:
            continue
        loss_now, accuracy = measure(net, validation)
        history.validation_loss.append(loss_now)
        history.validation_accuracy.append(accuracy)
        if patience is None:
            continue
        if loss_now < best[0]:
            best, history.best_epoch = (loss_now, copy.deepcopy(net.state_dict())), epoch
        elif epoch - history.best_epoch >= patience:
            break
    if patience:
        net.load_state_dict(best[1])
    net.requires_grad_(True)
    return history


@torch.no_grad()
def measure(net: nn.Module, data: ImageSet, batch_size: int = 500) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share, 0 to 1) of ``net`` on ``data``."""
    net.eval()
    loss, right = 0.0, 0
    for images, labels in zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True):
        with _autocast(images.device):
            logits = net(normalise(images)).float()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(data), right / len(data)
