"""Labelled images in memory, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from know.data.catalogue import dataset
from know.data.names import IGNORED, VOID
from know.data.sources import Part, digest


class Samples(Protocol):
    """Labelled inputs as the training loop reads them: an ``ImageSet``, or a user's own (``know.training.own``)."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All (float inputs, int64 targets) once, on the device: in order, or shuffled by ``generator`` (a CPU one).

        Batches are of equal size to within one: a ragged last batch of a single image is an error in BatchNorm."""


class Images(Samples, Protocol):
    """Samples that are images of one size."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        ...


def equal_batches(total: int, batch_size: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
    """The indices 0 … total-1, in order or shuffled, in the fewest batches of at most ``batch_size``, of equal size to
    within one."""
    order = torch.arange(total) if generator is None else torch.randperm(total, generator=generator)
    return order.tensor_split(max(1, math.ceil(total / batch_size)))


def normalise(images: Tensor) -> Tensor:
    """uint8 images (N, C, H, W) to channels-last floats with values in [-1, 1]."""
    return images.to(torch.float32, memory_format=torch.channels_last).mul_(2 / 255).sub_(1)


def losable(targets: Tensor) -> Tensor:
    """Targets as a loss takes them, int64: masks uint8 (N, H, W) with IGNORED where they are VOID, anything else as it is."""
    return targets.long().masked_fill_(targets == VOID, IGNORED) if targets.dtype == torch.uint8 else targets


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), and the names of the classes.

    ``targets``, ``domains``: as ``know.data.sources.Arrays`` has them. ``outputs``: the names of what a net's head tells
    apart: the classes, unless others are given (of masks "background" and the classes, or of captions the vocabulary).
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    targets: Tensor | None = None
    outputs: tuple[str, ...] = ()
    domains: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        for name, one in (("labels", self.labels), ("domains", self.domains)):
            if one is not None and (one.shape != self.images.shape[:1] or one.dtype != torch.int64):
                raise ValueError(f"{name} must be int64 (N,), got {one.dtype} {tuple(one.shape)}")
        if self.targets is not None:
            masks, shape = (torch.uint8, (*self.images.shape[:1], *self.images.shape[2:])), tuple(self.targets.shape)
            tokens = self.targets.dtype == torch.int64 and len(shape) == 2 and shape[0] == len(self.images)
            if (self.targets.dtype, shape) != masks and not tokens:
                raise ValueError(
                    f"targets must be masks uint8 (N, H, W) or tokens int64 (N, T), got {self.targets.dtype} {shape}"
                )
        if not self.outputs:
            object.__setattr__(self, "outputs", self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``Samples`` says; images stay on the device as uint8, and a batch is gathered and normalised there."""
        targets = self.labels if self.targets is None else self.targets
        for index in equal_batches(len(self), batch_size, generator):
            index = index.to(self.device)
            yield normalise(self.images[index]), losable(targets[index])

    def select(self, index: Tensor) -> ImageSet:
        """The images at these indices (n,), in their order."""
        index = index.to(self.labels.device)
        targets, domains = (None if one is None else one[index] for one in (self.targets, self.domains))
        return replace(self, images=self.images[index], labels=self.labels[index], targets=targets, domains=domains)

    def of_classes(self, chosen: Sequence[int]) -> ImageSet:
        """The images of these classes alone, relabelled 0, 1, … in the order given. In masks, pixels of other classes become
        VOID; the background stays. Tokens stay.

        Raises:
            ValueError: a class is unknown or named twice.
        """
        relabel = new_labels(chosen, len(self.classes)).to(self.labels.device)
        kept = self.select((relabel[self.labels] >= 0).nonzero()[:, 0])
        classes, (outputs, targets) = tuple(self.classes[c] for c in chosen), (self.outputs, kept.targets)
        if targets is None:
            outputs = classes
        elif targets.dtype == torch.uint8:
            table = new_values(chosen, len(self.outputs) - len(self.classes)).to(self.labels.device)
            outputs, targets = self.outputs[: -len(self.classes)] + classes, table[targets.long()]
        return replace(kept, labels=relabel[kept.labels], classes=classes, targets=targets, outputs=outputs)

    def of_domains(self, chosen: Sequence[int]) -> ImageSet:
        """The images of these domains alone; their numbers stay.

        Raises:
            ValueError: there are no domains, or no images of one of these.
        """
        return self.select(index_of_domains(self.domains, chosen))

    def reduced(self, side: int) -> ImageSet:
        """The images reduced to ``side`` × ``side`` pixels, each the mean of a block, and their masks, each the pixel in the
        middle of a block (its nearest: a mean of classes is none, and a majority loses what is thin).

        Raises:
            ValueError: it does not divide the images' side.
        """
        height, width = self.images.shape[2:]
        if height % side or width % side:
            raise ValueError(f"image_size: got {side}; allowed: one that divides the images' {height} × {width} pixels")
        down, across = height // side, width // side
        blocks = self.images.unflatten(3, (side, across)).unflatten(2, (side, down))
        targets = self.targets
        if targets is not None and targets.dtype == torch.uint8:
            targets = targets[:, down // 2 :: down, across // 2 :: across].contiguous()
        return replace(self, images=blocks.float().mean((3, 5)).round().to(torch.uint8), targets=targets)

    def to(self, device: torch.device) -> ImageSet:
        """The same on another device."""
        targets, domains = (None if one is None else one.to(device) for one in (self.targets, self.domains))
        return replace(
            self, images=self.images.to(device), labels=self.labels.to(device), targets=targets, domains=domains
        )


def new_labels(chosen: Sequence[int], classes: int) -> Tensor:
    """The new label of each of so many classes, int64 (classes,): its place in ``chosen``, or -1.

    Raises:
        ValueError: a class is unknown or named twice.
    """
    if wrong := [c for c in chosen if not 0 <= c < classes]:
        raise ValueError(f"classes {wrong} are not among 0…{classes - 1}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a class is named twice in {list(chosen)}")
    relabel = torch.full((classes,), -1)
    relabel[list(chosen)] = torch.arange(len(chosen))
    return relabel


def new_values(chosen: Sequence[int], first: int) -> Tensor:
    """The new value of each value of a mask, uint8 (256,), where the classes begin at ``first``: 1 after a background."""
    table = torch.full((256,), VOID, dtype=torch.uint8)
    table[:first] = torch.arange(first)
    table[[first + c for c in chosen]] = torch.arange(first, first + len(chosen), dtype=torch.uint8)
    return table


def index_of_domains(domains: Tensor | None, chosen: Sequence[int]) -> Tensor:
    """Where ``domains`` (N,) is one of ``chosen``, int64 (n,). Raises ValueError: there are none, or none of one of these."""
    if domains is None:
        raise ValueError(f"domains {list(chosen)}: these images have no domains")
    if missing := [domain for domain in chosen if not (domains == domain).any()]:
        raise ValueError(f"domains {missing} have no images here; allowed: {domains.unique().tolist()}")
    return torch.isin(domains, torch.tensor(list(chosen), dtype=torch.int64, device=domains.device)).nonzero()[:, 0]


def load(name: str, part: Part, folder: Path | None = None) -> ImageSet:
    """A data set's training or test part, by its name in the catalogue.

    Args:
        folder: where the user has the raw files of a full data set; those that come with the repository need none.

    Raises:
        DataError: it cannot be had; one line that says what was tried.
        ValueError: there is no such name.
    """
    spec = dataset(name)
    images, labels, targets, domains = (
        None if array is None else torch.from_numpy(array) for array in spec.fetch(part, folder)
    )
    return ImageSet(images, labels, spec.classes, targets, spec.outputs, domains)


@lru_cache(maxsize=16)
def images_digest(name: str) -> str:
    """The digest of all images and labels of a data set, training and test."""
    spec = dataset(name)
    return digest(*spec.fetch("train", None)) + digest(*spec.fetch("test", None))
