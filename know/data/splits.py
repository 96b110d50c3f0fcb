"""Which images each part of the experiment sees: the source task's subsets, its validation images, the downstream task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from know.data.catalogue import dataset
from know.data.images import ImageSet, held, images_digest, opened
from know.data.options import Downsize
from know.data.sources import Part
from know.data.subsets import stratified_order
from know.options import ParamError
from know.paths import atomic
from know.seeds import derive

if TYPE_CHECKING:  # tasks are learned from data, so that room imports this one
    from know.tasks.options import Kind


@dataclass(frozen=True)
class Task:
    """Some classes of a data set, and the share of its training images that is set aside for meta-training.

    ``digest``: of the data set's images, by which a run's record knows them. ``image_size``: to which they are reduced.
    ``domains``: those whose images it has; all, if none is named.
    """

    dataset: str
    classes: tuple[int, ...]
    meta_share: float = 0.0
    digest: str = ""
    image_size: int | None = None
    domains: tuple[int, ...] = ()

    def without(self, domain: int) -> Task:
        """The task on the images of all other domains."""
        return replace(self, domains=tuple(d for d in range(len(dataset(self.dataset).domains)) if d != domain))

    def only(self, domain: int) -> Task:
        """The task on the images of this domain alone."""
        return replace(self, domains=(domain,))

    @property
    def name(self) -> str:
        """ "mnist:0-2-4"."""
        return f"{self.dataset}:{'-'.join(map(str, self.classes))}"

    @property
    def kind(self) -> Kind:
        """What is told apart."""
        return dataset(self.dataset).kind

    def opened(self, part: Part, use: Literal["experiment", "meta"] = "experiment") -> ImageSet:
        """Its images of a part, and of the training images those that are for this use; those in files are not decoded."""
        images = opened(self.dataset, part, side=self.image_size)
        if self.meta_share and part == "train":
            order = stratified_order(images.labels, derive("pools", self.dataset))
            cut = round(self.meta_share * len(order))
            images = images.select((order[:cut] if use == "meta" else order[cut:]).sort().values)
        return (images.of_domains(self.domains) if self.domains else images).of_classes(self.classes)

    def pool(self, device: torch.device) -> ImageSet:
        """The training images that the experiment may see."""
        return _pool(self, "experiment", device)

    def test(self, device: torch.device) -> ImageSet:
        """The test images: measured on, and nothing else."""
        return _test(self, "test", device)

    def unseen(self, device: torch.device) -> ImageSet:
        """The images to measure on where nothing was learned from its domains: the test images, or all, as is usual for the
        data set."""
        return _test(self, "all" if dataset(self.dataset).whole else "test", device)


def meta_pool(name: str, meta_share: float) -> ImageSet:
    """The training images of a data set that meta-training may see: its share, or all if none was set aside."""
    classes = tuple(range(len(dataset(name).classes)))
    return _pool(Task(name, classes, meta_share), "meta", torch.device("cpu"))


@lru_cache(maxsize=8)
def _pool(task: Task, use: Literal["experiment", "meta"], device: torch.device) -> ImageSet:
    return held(task.opened("train", use)).to(device)


@lru_cache(maxsize=4)
def _test(task: Task, part: Part, device: torch.device) -> ImageSet:
    return held(task.opened(part)).to(device)


def source_task(params: Downsize) -> Task:
    """The task that Θ_0 is trained on."""
    return _task(params, params.dataset, params.source_classes)


def downstream_task(params: Downsize) -> Task:
    """The task that every start is fine-tuned on."""
    return _task(params, params.downstream_dataset, params.downstream_classes)


def _task(params: Downsize, name: str, classes: tuple[int, ...]) -> Task:
    return Task(name, classes, params.meta_share, images_digest(name), params.side)


@dataclass(frozen=True)
class Split:
    """A source seed's images, as indices into the source pool.

    ``order``: a stratified random order, of which D_{-1} ⊃ D_0 ⊃ D_1 ⊃ … are prefixes. ``validation``: disjoint from it.
    """

    order: Tensor
    validation: Tensor

    @classmethod
    def read(cls, path: Path) -> Split:
        """What ``write`` wrote."""
        tensors = load_file(path)
        return cls(tensors["order"], tensors["validation"])

    def write(self, path: Path) -> None:
        """Write both as safetensors."""
        with atomic(path) as temporary:
            save_file({"order": self.order.clone(), "validation": self.validation.clone()}, temporary)


def draw_split(labels: Tensor, params: Downsize, seed: int) -> Split:
    """Draw a source seed's split: the validation images are the suffix of its order.

    Raises:
        ParamError: the pool ``labels`` (N,) is too small for D_0 and the validation images.
    """
    spare = len(labels) - params.validation_images
    for key, images in (
        ("source_images", params.source_images),
        ("headroom_images", max(params.headroom_images, default=0)),
    ):
        if images > spare:
            raise ParamError(
                f"downsize.{key}: got {images}; allowed: at most {spare}, the source classes' {len(labels)} training images"
                f" less downsize.validation_images = {params.validation_images}"
            )
    order = stratified_order(labels, derive("source order", seed))
    return Split(order[:spare], order[spare:])


def more_images(params: Downsize, rate: float, spare: int) -> int | None:
    """|D_{-1}| = |D_0|/r; None where the pool has fewer than that to ``spare``."""
    wanted = round(params.source_images / rate)
    return wanted if wanted <= spare else None


def downstream_parts(task: Task, validation_images: int, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The downstream training pool in two: images to label and learn from, and validation images, the same for all seeds.

    Raises:
        ParamError: there would be too few images left to label.
    """
    pool = task.pool(device)
    if validation_images > len(pool) // 2:
        raise ParamError(
            f"evaluate.validation_images: got {validation_images}; allowed: at most half of the {len(pool)} training images of"
            " the downstream classes"
        )
    order = stratified_order(pool.labels, derive("validation", task.name))
    return pool.select(order[validation_images:]), pool.select(order[:validation_images])
