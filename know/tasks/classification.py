"""Image classification: loss, augmentation, and what a net is worth on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from know.data.images import Samples
from know.tasks.options import Augmentation


def augmented(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """A float batch (N, C, H, W), each image augmented at random; what is random is drawn on the CPU, so that every device
    sees the same."""
    return {"none": lambda *_: images, "affine": _affine, "crop-flip": _crop_flip}[how](images, generator)


def _crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """A crop of the image padded by an eighth of its side with mid-grey, mirrored or not (He et al., 2016: 4 of 32 pixels)."""
    n, _, height, width = images.shape
    pad = height // 8
    top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=generator)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(n, width)
    rows, columns = top + torch.arange(height), left + columns.where(~flipped, columns.flip(1))
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(i.to(images.device) for i in index)].permute(0, 3, 1, 2)


def _affine(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, shifted and zoomed by one affine map.

    Rotation U(-10°, 10°), shift U(-15 %, 15 %) of the side and zoom U(0.7, 1.3), per axis, as in the paper; what
    comes from outside the image repeats its border.
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


def autocast(device: torch.device) -> torch.autocast:
    """bf16 on CUDA, full precision elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def loss_of(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of a batch."""
    with autocast(images.device):
        return F.cross_entropy(net(images), labels)


@torch.no_grad()
def logits_of(net: nn.Module, data: Samples, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Of each of the N samples, in their order: logits, float (N, classes), and label (N,)."""
    net.eval()
    logits, labels = [], []
    for images, right in data.batches(batch_size):
        with autocast(data.device):
            logits.append(net(images).float())
        labels.append(right)
    return torch.cat(logits), torch.cat(labels)


def outcomes(net: nn.Module, data: Samples, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Of each of the N samples, in their order: cross-entropy (nats), float (N,), and whether it is right, bool (N,)."""
    logits, labels = logits_of(net, data, batch_size)
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1) == labels


def measure(net: nn.Module, data: Samples, batch_size: int = 500) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share, 0 to 1) of ``net`` on ``data``."""
    losses, right = outcomes(net, data, batch_size)
    return losses.mean().item(), right.float().mean().item()


@dataclass(frozen=True)
class Outcome:
    """Of a net on a set of images: accuracy (share), cross-entropy (nats), expected calibration error (share)."""

    accuracy: float
    loss: float
    ece: float


def outcome(net: nn.Module, data: Samples) -> Outcome:
    """Accuracy, loss and calibration of ``net`` on ``data``."""
    logits, labels = logits_of(net, data)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    ece = calibration_error(logits.softmax(1).cpu().numpy(), labels.cpu().numpy())
    return Outcome(accuracy, F.cross_entropy(logits, labels).item(), ece)


def calibration_error(probabilities: ArrayLike, labels: Sequence[int] | ArrayLike, bins: int = 15) -> float:
    """Expected calibration error of predicted ``probabilities`` (N, classes) against ``labels`` (N,), 0 to 1.

    Σ_b |B_b|/N · |accuracy(B_b) - confidence(B_b)| over ``bins`` equal bins of the largest probability, each
    open below (Guo et al., ICML 2017).
    """
    matrix = np.asarray(probabilities, dtype=float)
    confidence, right = matrix.max(1), matrix.argmax(1) == np.asarray(labels)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(matrix))
