"""Training images augmented, and masks with them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from know.data.names import IGNORED
from know.tasks.options import Augmentation


def augmented(images: Tensor, targets: Tensor, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A float batch (N, C, H, W), each image augmented at random, and its ``targets``: masks (N, H, W) follow their images, and
    are IGNORED where there was no image; anything else is as it was. What is random is drawn on the CPU, so that every device
    sees the same."""
    if how == "none":
        return images, targets
    move = {"affine": _affine, "crop-flip": _crop_flip}[how](images, generator)
    return move(images, 0.0), move(targets[:, None], IGNORED)[:, 0] if targets.ndim == 3 else targets


Move = Callable[[Tensor, float], Tensor]
"""Of images (N, C, H, W), or masks (N, 1, H, W), and what is put where there was none."""


def _crop_flip(images: Tensor, generator: torch.Generator) -> Move:
    """A crop of the image padded by an eighth of its side with mid-grey, mirrored or not (He et al., 2016: 4 of 32 pixels)."""
    n, _, height, width = images.shape
    pad = height // 8
    top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=generator)
    flipped = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(n, width)
    rows, columns = top + torch.arange(height), left + columns.where(~flipped, columns.flip(1))
    index = [i.to(images.device) for i in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])]

    def move(images: Tensor, outside: float) -> Tensor:
        padded = F.pad(images, (pad, pad, pad, pad), value=outside).permute(0, 2, 3, 1)
        return padded[tuple(index)].permute(0, 3, 1, 2)

    return move


def _affine(images: Tensor, generator: torch.Generator) -> Move:
    """Each image turned, shifted and zoomed by one affine map.

    Rotation U(-10°, 10°), shift U(-15 %, 15 %) of the side and zoom U(0.7, 1.3), per axis, as in the paper; what
    comes from outside the image repeats its border; of a mask, whose pixels are the nearest, it is put outside.
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

    def move(images: Tensor, outside: float) -> Tensor:
        if images.is_floating_point():
            return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        shifted = (images - int(outside)).float()  # zeros are what grid_sample puts outside
        moved = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return moved.round().long() + int(outside)

    return move
