"""Which images each part of the experiment sees: the source task's subsets, its validation images, the downstream task."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from know.data.images import ImageSet, load
from know.data.options import Downsize
from know.data.subsets import nested_subsets, stratified_order
from know.options import ParamError
from know.paths import atomic


@lru_cache(maxsize=8)
def _task(dataset: str, classes: tuple[int, ...], part: Literal["train", "test"], device: torch.device) -> ImageSet:
    return load(dataset, part).of_classes(classes).to(device)


def source(params: Downsize, part: Literal["train", "test"], device: torch.device) -> ImageSet:
    """The source task's images: of the training part a pool to draw D_0 and the validation images from."""
    return _task(params.dataset, params.source_classes, part, device)


def downstream(params: Downsize, part: Literal["train", "test"], device: torch.device) -> ImageSet:
    """The downstream task's images: of the training part a pool to draw the labelled ones from."""
    return _task(params.downstream_dataset, params.downstream_classes, part, device)


@dataclass(frozen=True)
class Split:
    """Indices into the source pool.

    ``order``: the stratified random order of which all others but ``validation`` are prefixes; for the headroom, nets are
    trained on further prefixes of it. ``subsets``: D_0 ⊃ D_1 ⊃ … ⊃ D_{S-1}. ``more``: the real D_{-1} ⊃ D_0 of |D_0|/r
    images, held back from every method; None where the pool is too small. ``validation``: disjoint from all of them.
    """

    order: Tensor
    subsets: Sequence[Tensor]
    more: Tensor | None
    validation: Tensor


def draw_split(labels: Tensor, params: Downsize, rate: float, length: int, seed: int) -> Split:
    """Draw all of a split as prefixes, and the validation images as the suffix, of one stratified random order.

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
    order = stratified_order(labels, seed)
    wanted = round(params.source_images / rate)
    return Split(
        order=order[:spare],
        subsets=nested_subsets(order[: params.source_images], rate, length),
        more=order[:wanted] if wanted <= spare else None,
        validation=order[spare:],
    )


def save_split(split: Split, path: Path) -> None:
    """Write the order, the indices of D_0, D_1, …, of D_-1 if there is one, and of the validation images."""
    tensors = {f"D_{k}": subset.clone() for k, subset in enumerate(split.subsets)}
    tensors |= {"order": split.order.clone(), "validation": split.validation.clone()}
    if split.more is not None:
        tensors["D_-1"] = split.more.clone()
    with atomic(path) as temporary:
        save_file(tensors, temporary)


def load_split(path: Path) -> Split:
    """Read what ``save_split`` wrote."""
    tensors = load_file(path)
    more, validation, order = (tensors.pop(name, None) for name in ("D_-1", "validation", "order"))
    assert validation is not None and order is not None
    return Split(order, [tensors[f"D_{k}"] for k in range(len(tensors))], more, validation)


def downstream_parts(params: Downsize, validation_images: int, device: torch.device) -> tuple[ImageSet, ImageSet]:
    """The downstream training pool in two: images to label and learn from, and validation images, the same for all seeds.

    Raises:
        ParamError: there would be too few images left to label.
    """
    pool = downstream(params, "train", device)
    if validation_images > len(pool) // 2:
        raise ParamError(
            f"evaluate.validation_images: got {validation_images}; allowed: at most half of the {len(pool)} training images of"
            " the downstream classes"
        )
    order = stratified_order(pool.labels, seed=0)
    return pool.select(order[validation_images:]), pool.select(order[:validation_images])
