"""What more data would change, by the jackknife: from Θ_0 on, runs on all of D_0 and as long ones on complementary halves of it.

A half weighs D_0's images otherwise than the whole does; the mean over two complementary halves weighs them as the whole does, so
that this first-order effect cancels. What is left of the difference is the effect of having half as many images, of order 1/n
(Quenouille, 1949); Richardson's extrapolation carries it on to 2n, 4n, …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from know.data.images import ImageSet
from know.data.subsets import stratified_order
from know.run.store import FileInput
from know.seeds import derive
from know.tasks.measures import logits_of
from know.training.forgetting import state_of
from know.training.loop import Recipe, fit
from know.training.runs import SourceJob
from know.weights.algebra import Weights, mean

Part = Literal["whole", "first", "second"]
"""Of D_0 in a pair of complementary halves."""


@dataclass(frozen=True)
class GoOnJob:
    """Training Θ_0 on, on a ``part`` of D_0, the first ``images`` of the source's order; ``pair``: which division into halves."""

    source: SourceJob
    trained: FileInput
    images: int
    recipe: Recipe
    pair: int
    part: Part


@dataclass(frozen=True)
class GoneOn:
    """The weights at the end, and their ``outputs`` on D_0's images, logits (|D_0|, classes)."""

    state: dict[str, Tensor]
    outputs: Tensor


def go_on(job: GoOnJob) -> GoneOn:
    """Train on; every part takes the same steps of the same number of images."""
    net, whole = job.source.net(load_file(job.trained.path)), job.source.images_of(job.images)
    data = whole if job.part == "whole" else half(whole, job.part, derive("halves", job.source.seed, job.pair))
    fit(net, data, job.recipe, derive("jackknife", job.source.seed, job.pair, job.part))
    return GoneOn(state_of(net), logits_of(net, whole))


def half(whole: ImageSet, part: Part, seed: int) -> ImageSet:
    """One of two complementary halves, alike in their classes, repeated up to the size of the whole."""
    order = stratified_order(whole.labels, seed)
    cut = len(order) // 2
    chosen = order[:cut] if part == "first" else order[cut:]
    return whole.select(chosen[torch.arange(len(order)) % len(chosen)])


def jackknife_step(wholes: Sequence[Weights], halves: Sequence[Weights]) -> Weights:
    """mean(wholes) - mean(halves): of an estimate whose bias is a/n, -a/n, half of it the way to 2n."""
    return mean(wholes) - mean(halves)


@dataclass(frozen=True)
class AverageJob:
    """Training Θ_0 on, on D_0, for ``recipe.epochs`` passes whose weights are averaged."""

    source: SourceJob
    trained: FileInput
    images: int
    recipe: Recipe


def average(job: AverageJob) -> dict[str, Tensor]:
    """The mean of Θ_0 and of the weights after each pass: stochastic weight averaging at a constant rate (Izmailov et al., UAI
    2018)."""
    theta_0 = load_file(job.trained.path)
    net, passed = job.source.net(theta_0), [Weights(theta_0)]
    fit(
        net, job.source.images_of(job.images), job.recipe, derive("average", job.source.seed),
        on_epoch=lambda _: passed.append(Weights(state_of(net))),
    )  # fmt: skip
    return mean(passed).state()
