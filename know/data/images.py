"""Image sets: what they are, and where they come from by name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from know import paths
from know.data.options import Dataset

Part = Literal["train", "test"]
EMBEDDED_SUFFIX = "-embedded"


class DataError(RuntimeError):
    """A data set cannot be had, or its files are not what they should be. The message is one line."""


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

    def to(self, device: torch.device) -> ImageSet:
        """The same on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of decoded arrays: the images' bytes, uint8 (N, C, H, W) in C order, then the labels as little-endian
    int64. It is what a data set is recognised by, however its files are packed."""
    sha = hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes())
    sha.update(np.ascontiguousarray(labels, "<i8").tobytes())
    return sha.hexdigest()


def load(name: str, part: Part, folder: Path | None = None) -> ImageSet:
    """A data set's training or test part by name.

    Args:
        name: one of ``know.params.Dataset``. Those that end in "-embedded" come with the repository; the others are
            found in ``folder``, or fetched once (see ``know.data.sources``).
        folder: where the user has the raw files of a full data set.

    Raises:
        DataError: it cannot be had; one line that says what was tried.
        ValueError: there is no such name.
    """
    if name not in get_args(Dataset):
        raise ValueError(f"unknown data set {name!r}; allowed: {', '.join(get_args(Dataset))}")
    if name.endswith(EMBEDDED_SUFFIX):
        return load_embedded(paths.EMBEDDED / name.removesuffix(EMBEDDED_SUFFIX), part)
    from know.data import sources  # downloads are rare

    images, labels = sources.full(name, part, folder)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), sources.CLASSES[name])


# --- embedded: a PNG sprite a class, verified by the digest of what it decodes to ---------------------------------

COLUMNS = 50  # images a row of a sprite


def save_embedded(folder: Path, parts: dict[Part, tuple[np.ndarray, np.ndarray]], classes: Sequence[str]) -> None:
    """Write single-channel images as one lossless sprite a part and class, with a manifest.

    Args:
        parts: images uint8 (N, 1, H, W) and labels (N,) sorted by label; a multiple of 50 images a class.
    """
    with paths.atomic(folder) as temporary:
        manifest: dict[str, object] = {"classes": list(classes)}
        for part, (images, labels) in parts.items():
            (temporary / part).mkdir(parents=True)
            side = images.shape[-1]
            for label in range(len(classes)):
                own = images[labels == label, 0]
                sprite = own.reshape(-1, COLUMNS, side, side).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * side)
                Image.fromarray(sprite).save(temporary / part / f"{label}.png", optimize=True)
            manifest[part] = {"per_class": len(images) // len(classes), "side": side, "sha256": digest(images, labels)}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def load_embedded(folder: Path, part: Part) -> ImageSet:
    """Read what ``save_embedded`` wrote.

    Raises:
        DataError: a file is missing or damaged; names it.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        classes, side = tuple(manifest["classes"]), manifest[part]["side"]
        sprites = []
        for label in range(len(classes)):
            path = folder / part / f"{label}.png"
            sprite = np.asarray(Image.open(path))
            sprites.append(sprite.reshape(-1, side, COLUMNS, side).transpose(0, 2, 1, 3).reshape(-1, 1, side, side))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: embedded images cannot be read ({error}); restore them with git checkout") from None
    images = np.concatenate(sprites)
    labels = np.repeat(np.arange(len(classes)), [len(sprite) for sprite in sprites])
    if digest(images, labels) != manifest[part]["sha256"]:
        raise DataError(f"{folder / part}: the images do not match manifest.json; restore them with git checkout")
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), classes)
