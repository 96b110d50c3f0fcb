"""Labelled images, in memory or in their files, and batches of them."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from know.data.catalogue import DatasetSpec, dataset
from know.data.decoding import image_array, mask_array
from know.data.layouts import Listing
from know.data.names import IGNORED, VOID
from know.data.sources import Part, digest
from know.options import ParamError
from know.run.device import sharing

R = TypeVar("R")
T = TypeVar("T")


def _number(variable: str, default: str) -> float:
    """What the environment says. Raises ParamError: it is no number, or a negative one."""
    given = os.environ.get(variable, default)
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ParamError(f"{variable}: got {given!r}; allowed: a number, 0 or more")
    return number


IN_MEMORY = _number("KNOW_IN_MEMORY", "4e9")
"""The bytes of decoded images up to which what is used of a part of a data set is held in memory."""
WORKERS = int(_number("KNOW_WORKERS", "0"))
"""The threads that read images from files for a process that trains; 0: its share of the machine's cores."""


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


def in_threads(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """``map(function, items)`` by so many threads, which are no more than ``ahead`` items ahead of who iterates. An item's error
    is raised in its place."""
    pool, pending = ThreadPoolExecutor(threads), deque[Future[R]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


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
    ``side``: in pixels, to which a batch of smaller images is enlarged.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    targets: Tensor | None = None
    outputs: tuple[str, ...] = ()
    domains: Tensor | None = None
    side: int | None = None

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
        return (channels, self.side, self.side) if self.side else (channels, height, width)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As ``Samples`` says; images stay on the device as uint8, and a batch is gathered and normalised there."""
        targets = self.labels if self.targets is None else self.targets
        for index in equal_batches(len(self), batch_size, generator):
            index = index.to(self.device)
            images = normalise(self.images[index])
            if self.side:
                images = F.interpolate(images, (self.side, self.side), mode="bilinear", align_corners=False)
            yield images, losable(targets[index])

    def select(self, index: Tensor) -> Self:
        """The images at these indices (n,), in their order."""
        index = index.to(self.labels.device)
        targets, domains = (None if one is None else one[index] for one in (self.targets, self.domains))
        return replace(self, images=self.images[index], labels=self.labels[index], targets=targets, domains=domains)

    def of_classes(self, chosen: Sequence[int]) -> Self:
        """The images of these classes alone, relabelled 0, 1, … in the order given. In masks, pixels of other classes become
        VOID; the background stays. Tokens stay.

        Raises:
            ValueError: a class is unknown or named twice.
        """
        relabel = new_labels(chosen, len(self.classes)).to(self.labels.device)
        kept = self.select((relabel[self.labels] >= 0).nonzero()[:, 0])
        return kept._relabelled(relabel[kept.labels], chosen, tuple(self.classes[c] for c in chosen))

    def _relabelled(self, labels: Tensor, chosen: Sequence[int], classes: tuple[str, ...]) -> Self:
        targets, outputs = self.targets, self.outputs
        if targets is None:
            outputs = classes
        elif targets.dtype == torch.uint8:
            outputs = outputs[: -len(self.classes)] + classes
            targets = self._new_values(chosen).to(targets.device)[targets.long()]
        return replace(self, labels=labels, classes=classes, targets=targets, outputs=outputs)

    def _new_values(self, chosen: Sequence[int]) -> Tensor:
        """The new value of each value of its masks, uint8 (256,); the background's, if there is one, stays."""
        first, table = len(self.outputs) - len(self.classes), torch.full((256,), VOID, dtype=torch.uint8)
        table[:first] = torch.arange(first)
        table[[first + c for c in chosen]] = torch.arange(first, first + len(chosen), dtype=torch.uint8)
        return table

    def of_domains(self, chosen: Sequence[int]) -> Self:
        """The images of these domains alone; their numbers stay.

        Raises:
            ValueError: there are no domains, or no images of one of these.
        """
        return self.select(index_of_domains(self.domains, chosen))

    def reduced(self, side: int) -> Self:
        """The images reduced to ``side`` × ``side`` pixels, each the mean of a block, and their masks, each the pixel in the
        middle of a block (its nearest: a mean of classes is none, and a majority loses what is thin). Smaller images without
        masks are enlarged, as their batches are made.

        Raises:
            ValueError: it does not divide the images' side.
        """
        height, width = self.images.shape[2:]
        if side > max(height, width) and (self.targets is None or self.targets.ndim == 2):
            return replace(self, side=side)
        if height % side or width % side:
            raise ValueError(f"image_size: got {side}; allowed: one that divides the images' {height} × {width} pixels")
        down, across = height // side, width // side
        blocks = self.images.unflatten(3, (side, across)).unflatten(2, (side, down))
        targets = self.targets
        if targets is not None and targets.dtype == torch.uint8:
            targets = targets[:, down // 2 :: down, across // 2 :: across].contiguous()
        return replace(self, images=blocks.float().mean((3, 5)).round().to(torch.uint8), targets=targets)

    def to(self, device: torch.device) -> Self:
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


def index_of_domains(domains: Tensor | None, chosen: Sequence[int]) -> Tensor:
    """Where ``domains`` (N,) is one of ``chosen``, int64 (n,). Raises ValueError: there are none, or none of one of these."""
    if domains is None:
        raise ValueError(f"domains {list(chosen)}: these images have no domains")
    if missing := [domain for domain in chosen if not (domains == domain).any()]:
        raise ValueError(f"domains {missing} have no images here; allowed: {domains.unique().tolist()}")
    return torch.isin(domains, torch.tensor(list(chosen), dtype=torch.int64, device=domains.device)).nonzero()[:, 0]


class Files:
    """The samples of a ``Listing``, decoded when they are asked for: an image uint8 (channels, side, side) and its target."""

    def __init__(self, listing: Listing, channels: int, side: int) -> None:
        self.listing, self.channels, self.side = listing, channels, side

    def __len__(self) -> int:
        return len(self.listing.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor | int]:
        """All of an image that has a mask, for its every pixel counts; of any other the middle square."""
        one, masks = self.listing, self.listing.masks
        image = torch.tensor(image_array(one.images[i], self.channels, self.side, whole=bool(masks)))
        if masks:
            return image, torch.tensor(mask_array(masks[i], one.values, self.side))
        return image, int(one.labels[i]) if one.tokens is None else torch.tensor(one.tokens[i])


class FileSet(ImageSet):
    """An ``ImageSet`` that memory does not hold: images and masks are read from their files whenever they are needed, by
    several threads, and are the same as if they had been read at once.

    ``images`` and ``targets`` read all of them. Labels and the like stay on the CPU; batches come on the device.
    """

    files: Files
    place: torch.device

    def __init__(self, files: Files, device: torch.device | None = None) -> None:
        one = files.listing
        self.__dict__.update(
            files=files, place=device or torch.device("cpu"), labels=torch.from_numpy(one.labels), classes=one.classes,
            outputs=one.outputs, domains=None if one.domains is None else torch.from_numpy(one.domains),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"FileSet({len(self)} images of {self.shape}, {len(self.outputs)} outputs)"

    @property
    def images(self) -> Tensor:
        return self.loaded().images

    @property
    def targets(self) -> Tensor | None:
        return self.loaded().targets

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def channels(self) -> int:
        return self.files.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.files.channels, self.files.side, self.files.side

    @property
    def stays(self) -> bool:
        """Whether it would take more than ``IN_MEMORY`` bytes in memory, and so stays in its files."""
        return len(self) * self.files.side**2 * (self.channels + bool(self.files.listing.masks)) > IN_MEMORY

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in self._read(batch_size, generator):
            yield normalise(images.to(self.device)), losable(targets.to(self.device))

    def _read(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[list[Tensor]]:
        """A batch is read while the one before it is used; nothing is random in that. By threads: a process of the executor may
        have no processes of its own, and Pillow decodes and resizes without Python's lock."""
        groups = equal_batches(len(self), batch_size, generator)
        threads = WORKERS or max(1, joblib.cpu_count() // sharing())
        samples = in_threads(self.files.__getitem__, torch.cat(groups).tolist(), threads, len(groups[0]))
        for group in groups:
            yield default_collate([*islice(samples, len(group))])

    def loaded(self) -> ImageSet:
        """The same in memory, on the device."""
        one, count = self.files.listing, 0
        images = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        targets = torch.empty(len(self), *self.shape[1:], dtype=torch.uint8) if one.masks else None
        for read, masks in self._read(64) if len(self) else ():
            images[count : count + len(read)] = read
            if targets is not None:
                targets[count : count + len(read)] = masks
            count += len(read)
        if one.tokens is not None:
            targets = torch.from_numpy(one.tokens)
        return ImageSet(images, self.labels, self.classes, targets, self.outputs, self.domains).to(self.device)

    def select(self, index: Tensor) -> Self:
        return self._of(self.files.listing.at(index.cpu().numpy()))

    def _relabelled(self, labels: Tensor, chosen: Sequence[int], classes: tuple[str, ...]) -> Self:
        one = self.files.listing._replace(labels=labels.numpy(), classes=classes)
        if one.masks:
            values = self._new_values(chosen).numpy()
            outputs = self.outputs[: -len(self.classes)] + classes
            return self._of(one._replace(outputs=outputs, values=values if one.values is None else values[one.values]))
        return self._of(one if one.tokens is not None else one._replace(outputs=classes))

    def _of(self, listing: Listing) -> Self:
        return type(self)(Files(listing, self.channels, self.files.side), self.device)

    def reduced(self, side: int) -> Self:
        """The same, read at ``side`` × ``side`` pixels, any number of them."""
        return type(self)(Files(self.files.listing, self.channels, side), self.device)

    def to(self, device: torch.device) -> Self:
        return type(self)(self.files, device)


def held(images: ImageSet) -> ImageSet:
    """The same in memory, but for a ``FileSet`` that ``stays``."""
    return images.loaded() if isinstance(images, FileSet) and not images.stays else images


def load(name: str, part: Part, folder: Path | None = None, side: int | None = None) -> ImageSet:
    """What is ``held`` of a data set's training or test part. Arguments and errors as ``opened`` has them."""
    return held(opened(name, part, folder, side))


def opened(name: str, part: Part, folder: Path | None = None, side: int | None = None) -> ImageSet:
    """A data set's training or test part, by its name in the catalogue: a ``FileSet``, if it is one of files, of which none is
    decoded.

    Args:
        folder: where the user has the raw files of a full data set; those that come with the repository need none.
        side: in pixels, to which the images are reduced; None: as they are, or for those in files as the specification says.

    Raises:
        DataError: it cannot be had; one line that says what was tried.
        ValueError: there is no such name, or ``side`` does not divide the images'.
    """
    spec = dataset(name)
    found = spec.fetch(part, folder)
    if isinstance(found, Listing):
        return FileSet(Files(_named(found, spec), spec.channels, side or spec.size))
    arrays: dict[str, Any] = {
        name: torch.from_numpy(array) for name, array in found._asdict().items() if array is not None
    }
    data = ImageSet(**arrays, classes=spec.classes, outputs=spec.outputs)
    return data.reduced(side) if side else data


def _named(found: Listing, spec: DatasetSpec) -> Listing:
    """With as many names of classes and outputs as the specification has, of which the files give some."""
    classes = (*found.classes, *spec.classes[len(found.classes) :])
    return found._replace(classes=classes, outputs=found.outputs or spec.outputs or classes)


@lru_cache(maxsize=16)
def images_digest(name: str) -> str:
    """The digest of all images and what belongs to them, training and test; of files, with the side at which they are read."""
    spec = dataset(name)
    train, test = spec.fetch("train", None), spec.fetch("test", None)
    if isinstance(train, Listing) and isinstance(test, Listing):
        return f"{train.digest}{test.digest}-{spec.size}"
    return digest(*train) + digest(*test)
