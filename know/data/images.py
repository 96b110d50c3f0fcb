"""Labelled images in memory, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from know.data.catalogue import dataset
from know.data.sources import Part, digest


class Samples(Protocol):
    """Labelled inputs as the training loop reads them: an ``ImageSet``, or a user's own (``know.training.own``)."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All (float inputs, int64 labels) once, on the device: in order, or shuffled by ``generator`` (a CPU one).

        Batches are of equal size to within one: a ragged last batch of a single image is an error in BatchNorm."""


def equal_batches(total: int, batch_size: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """The indices 0 … total-1, in order or shuffled, in the fewest batches of at most ``batch_size``, of equal size to
    within one."""
    order = torch.arange(total) if generator is None else torch.randperm(total, generator=generator)
    return order.tensor_split(max(1, math.ceil(total / batch_size)))


def normalise(images: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) to channels-last floats with values in [-1, 1]."""
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), and the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64 (N,), got {self.labels.dtype} {tuple(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``Samples`` says; images stay on the device as uint8, and a batch is gathered and normalised there."""
        for index in equal_batches(len(self), batch_size, generator):
            index = index.to(self.device)
            yield normalise(self.images[index]), self.labels[index]

    def select(self, index: Tensor) -> ImageSet:
        """The images at these indices (n,), in their order."""
        index = index.to(self.labels.device)
        return ImageSet(self.images[index], self.labels[index], self.classes)

    def of_classes(self, chosen: Sequence[int]) -> ImageSet:
        """The images of these classes alone, relabelled 0, 1, … in the order given.

        Raises:
            ValueError: a class is unknown or named twice.
        """
        if wrong := [c for c in chosen if not 0 <= c < len(self.classes)]:
            raise ValueError(f"classes {wrong} are not among 0…{len(self.classes) - 1}")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"a class is named twice in {list(chosen)}")
        relabel = torch.full((len(self.classes),), -1, device=self.labels.device)
        relabel[list(chosen)] = torch.arange(len(chosen), device=self.labels.device)
        labels = relabel[self.labels]
        kept = labels >= 0
        return ImageSet(self.images[kept], labels[kept], tuple(self.classes[c] for c in chosen))

    def reduced(self, side: int) -> ImageSet:
        """The images reduced to ``side`` × ``side`` pixels, each the mean of a block.

        Raises:
            ValueError: it does not divide the images' side.
        """
        height, width = self.images.shape[2:]
        if height % side or width % side:
            raise ValueError(f"image_size: got {side}; allowed: one that divides the images' {height} × {width} pixels")
        blocks = self.images.unflatten(3, (side, width // side)).unflatten(2, (side, height // side))
        return ImageSet(blocks.float().mean((3, 5)).round().to(torch.uint8), self.labels, self.classes)

    def to(self, device: torch.device) -> ImageSet:
        """The same on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)


def load(name: str, part: Part, folder: Path | None = None) -> ImageSet:
    """A data set's training or test part, by its name in the catalogue.

    Args:
        folder: where the user has the raw files of a full data set; those that come with the repository need none.

    Raises:
        DataError: it cannot be had; one line that says what was tried.
        ValueError: there is no such name.
    """
    spec = dataset(name)
    images, labels = spec.fetch(part, folder)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), spec.classes)


@lru_cache(maxsize=16)
def images_digest(name: str) -> str:
    """The digest of all images and labels of a data set, training and test."""
    spec = dataset(name)
    return digest(*spec.fetch("train", None)) + digest(*spec.fetch("test", None))
