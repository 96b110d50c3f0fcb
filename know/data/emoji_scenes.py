"""Scenes of emoji to segment: one to three of one category, pasted on a textured ground.

A drawing's alpha is its mask: opaque pixels are of its category, half-transparent ones, on its edge, are ignored. Scenes of
the training part show training concepts only, those of the test part test concepts only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from know.data.emoji import CATEGORIES, SEEDS, VENDORS, Emoji, over, randoms, resized
from know.data.names import VOID
from know.data.sources import Arrays, Part

SCENE = 48  # pixels a side
SIDES = (16, 20, 24, 28, 32)  # of an emoji: its drawing's frame, of which it leaves some empty
MOST = 3  # emoji a scene
PER_CATEGORY: Mapping[Part, int] = {"train": 1500, "test": 300}
OPAQUE, EMPTY = 192, 64  # alpha from which a pixel is the emoji's, and below which it is the ground's
CELLS = 6  # of the noise, a side


def scenes(emoji: Emoji, part: Part) -> Arrays:
    """Images uint8 (N, 3, 48, 48), masks uint8 (N, 48, 48): 0 is the ground, 1 + category an emoji, 255 ignored."""
    count = PER_CATEGORY[part] * len(CATEGORIES)
    labels = np.arange(count) % len(CATEGORIES)
    drawn = {side: resized(emoji.drawings, side) for side in SIDES}
    numbers = randoms(100 + SEEDS[part], count, 1 + 5 * MOST)
    images, masks = textures(200 + SEEDS[part], count), np.zeros((count, SCENE, SCENE), np.uint8)
    shown = 1 + (MOST * numbers[:, 0]).astype(np.int64)
    members = emoji.categories.argsort(kind="stable")
    sizes = np.bincount(emoji.categories, minlength=len(CATEGORIES))
    firsts, sizes = (sizes.cumsum() - sizes)[labels], sizes[labels]
    for k in range(MOST):
        which, vendor, scale, top, left = numbers[:, 1 + 5 * k : 6 + 5 * k].T
        index = members[firsts + (which * sizes).astype(np.int64)]
        for side_index, side in enumerate(SIDES):
            rows = np.flatnonzero((k < shown) & ((scale * len(SIDES)).astype(np.int64) == side_index))
            pasted = drawn[side][(vendor[rows] * len(VENDORS)).astype(np.int64), index[rows]]
            y, x = ((at[rows] * (SCENE - side + 1)).astype(np.int64)[:, None] + np.arange(side) for at in (top, left))
            place = (rows[:, None, None], y[:, :, None], x[:, None, :])
            images[place] = over(pasted, images[place])
            alpha, below = pasted[..., 3], masks[place]
            edge = np.where(alpha < EMPTY, below, VOID)
            masks[place] = np.where(alpha >= OPAQUE, 1 + labels[rows, None, None], edge)
    return Arrays(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, targets=masks)


def textures(seed: int, count: int) -> np.ndarray:
    """Grounds, uint8 (count, 48, 48, 3): two random colours, mixed by a gradient, stripes or smooth noise."""
    numbers = randoms(seed, count, 11 + (CELLS + 1) ** 2)
    return np.concatenate([_textures(some) for some in np.array_split(numbers, -(-count // 500))])  # 30 MB a step


def _textures(numbers: np.ndarray) -> np.ndarray:
    colours, kind = numbers[:, :6].reshape(-1, 2, 1, 1, 3) * 256, (numbers[:, 6] * 3).astype(np.int64)
    at = (np.arange(SCENE) + 0.5) / SCENE
    slope = 2 * numbers[:, 7:9] - 1
    across = slope[:, :1, None] * at[:, None] + slope[:, 1:, None] * at  # from -2 to 2
    phase = (across * (4 + 12 * numbers[:, 9, None, None]) + numbers[:, 10, None, None]) % 1.0
    cell, rest = np.divmod(at * CELLS, 1.0)
    low = cell.astype(np.int64)
    grid = numbers[:, 11:].reshape(-1, CELLS + 1, CELLS + 1)
    rows = grid[:, low] * (1 - rest)[:, None] + grid[:, low + 1] * rest[:, None]
    noise = rows[:, :, low] * (1 - rest) + rows[:, :, low + 1] * rest
    mixed = np.choose(kind[:, None, None], [(across + 2) / 4, np.abs(2 * phase - 1), noise])[..., None]
    return (colours[:, 0] * (1 - mixed) + colours[:, 1] * mixed).astype(np.uint8)
