"""A user's own images: a folder of them, or any data set of (input tensor, class index), as the training loop reads them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from know.data.decoding import decoded, middle_square
from know.data.images import equal_batches
from know.options import reason
from know.run.progress import track

Samples = Dataset[tuple[Tensor, int]]
Normalisation = Literal["imagenet", "half", "none"]
NORMALISATIONS: dict[Normalisation, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's and timm's pretrained models
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1]
}


def _read_image(path: str) -> Image.Image:
    return decoded(Path(path)).convert("RGB")


def image_folder(folder: Path, size: int, normalisation: Normalisation) -> Samples:
    """RGB images under ``FOLDER/class/``: the shorter side resized to ``size``, the middle square, normalised.

    Raises:
        ValueError: there is no class folder, or one without images.
    """
    steps = [
        partial(middle_square, side=size),
        transforms.ToTensor(),
        transforms.Normalize(*NORMALISATIONS[normalisation]),
    ]
    pipeline = transforms.Compose(steps)
    try:
        return ImageFolder(folder, pipeline, loader=_read_image)
    except OSError as error:
        raise ValueError(f"--images {folder}: {error}; expected FOLDER/CLASS/image.jpg") from None


def content_of(images: Samples) -> str:
    """SHA-256 of an image folder's names and bytes, in order: the same images in another place have the same.

    Raises:
        ValueError: not an image folder, or an image cannot be read; names it.
    """
    if not isinstance(images, ImageFolder):
        raise ValueError("only an image folder has files")
    sha = hashlib.sha256()
    for name, _ in track(images.samples, desc="images"):
        try:
            with Path(name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ValueError(f"{name}: not a readable image ({error.strerror}); repair or remove it") from None
        sha.update(f"{Path(name).relative_to(images.root)} {digest}\n".encode())
    return sha.hexdigest()


def labels_of(dataset: Samples, source: str) -> Tensor:
    """The class index of each sample, int64 (N,): an image folder knows them, any other data set is read once.

    Raises:
        ValueError: the data set, which ``source`` names, is empty, fails, or yields something else.
    """
    if isinstance(dataset, ImageFolder):
        return torch.tensor(dataset.targets)
    labels = []
    try:
        for index in track(range(_size(dataset, source)), desc="labels"):
            inputs, label = dataset[index]
            if not isinstance(inputs, Tensor) or operator.index(label) < 0:
                raise TypeError(f"sample {index} is ({type(inputs).__name__}, {label!r})")
            labels.append(operator.index(label))
    except Exception as error:
        raise ValueError(f"{source}: each sample must be (input tensor, class index): {reason(error)}") from error
    return torch.tensor(labels)


def strata_of(dataset: Samples, source: str) -> Tensor:
    """The ``labels_of`` a data set of any samples, or zeros where the first has none: nothing is balanced then.

    Raises:
        ValueError: the data set, which ``source`` names, is empty or fails.
    """
    size = _size(dataset, source)
    try:
        inputs, label = dataset[0]
        labelled = isinstance(inputs, Tensor) and operator.index(label) >= 0
    except (TypeError, ValueError):  # no pair, or its second is no index
        labelled = False
    except Exception as error:
        raise ValueError(f"{source}: sample 0 cannot be had: {reason(error)}") from error
    return labels_of(dataset, source) if labelled else torch.zeros(size, dtype=torch.int64)


def _size(dataset: Samples, source: str) -> int:
    if not isinstance(dataset, Sized):
        raise ValueError(f"{source}: a {type(dataset).__name__}, which has no length; allowed: a data set that has one")
    if not len(dataset):
        raise ValueError(f"{source}: no samples")
    return len(dataset)


@dataclass(frozen=True)
class DatasetPart:
    """Some samples of a data set, as ``know.data.images.Samples`` for the training loop.

    ``index``: int64 (n,). ``shown``: what a pass over them is called where progress is shown, if it is.
    """

    dataset: Samples
    index: Tensor
    device: torch.device
    workers: int = 0
    shown: str = ""

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, batch_size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """As the data set collates them: (inputs, labels), unless its samples are something else."""
        groups = [self.index[part].tolist() for part in equal_batches(len(self), batch_size, generator)]
        # By processes, for a user's data set may not be safe in threads; their own randomness is drawn from the generator too.
        loader = DataLoader(self.dataset, batch_sampler=groups, num_workers=self.workers, generator=generator)
        for batch in track(loader, desc=self.shown) if self.shown else loader:
            yield moved(batch, self.device)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch on the device, whatever its tensors are in."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return type(batch)({key: moved(value, device) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(moved(value, device) for value in batch)
    return batch
