"""The meta-dataset: many short forgetting runs, each with its own hyper-parameters.

One run trains a small net on D_0 and then on ever smaller subsets, 7 in all; each of its scalars gives a path of 7 weights,
and each path the windows w_0…w_4 → w_5, w_1…w_5 → w_6.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from know.data.images import ImageSet
from know.data.splits import meta_pool
from know.data.subsets import nested_subsets, stratified_order
from know.meta.layout import Paths, file_name, save_paths, weight_paths
from know.meta.options import MetaTrain
from know.models.build import build
from know.run.device import here
from know.seeds import derive
from know.training.forgetting import forget, state_of
from know.training.loop import Recipe, fit
from know.training.options import Mode
from know.weights.kinds import Pointwise

T = TypeVar("T")


@dataclass(frozen=True)
class RunSpec:
    """The hyper-parameters of one run of the meta-dataset."""

    number: int
    dataset: str
    architecture: str
    images: int
    subsets: int
    rate: float
    lr: float
    batch_size: int
    source_epochs: int
    epochs: int
    augment: bool
    mode: Mode
    pointwise: Pointwise
    seed: int

    @property
    def name(self) -> str:
        return f"run_{self.number:03d}"

    @property
    def file_name(self) -> str:
        """As in the published meta-dataset."""
        network = f"{self.architecture}_{self.dataset}"
        return file_name(network, self.number, self.rate, self.subsets, self.lr, self.batch_size)


def draw_runs(params: MetaTrain, mode: Mode = "sequential") -> list[RunSpec]:
    """Sample each run's hyper-parameters, uniformly, as the paper does; architectures and data sets take turns.

    The paper draws the batch size from U(32, |D_0| r^6), so that the smallest subset holds at least one batch. Here
    |D_0| is smaller, so the same rule also bounds the rate from below: r ≥ (b/|D_0|)^{1/6}, b the smallest batch size.
    """
    rng, ranges = random.Random(params.seed), params.runs
    specs = []
    for number in range(ranges.count):
        images, seed = rng.randint(*ranges.images), derive("meta run", params.seed, number)
        last = ranges.subsets - 1
        low, high = ranges.rate
        rate = rng.uniform(min(high, max(low, (ranges.batch_size[0] / images) ** (1 / last))), high)
        most = max(ranges.batch_size[0], min(ranges.batch_size[1], int(images * rate**last)))
        specs.append(
            RunSpec(
                number=number,
                dataset=params.datasets[number // len(params.architectures) % len(params.datasets)],
                architecture=params.architectures[number % len(params.architectures)],
                images=images,
                subsets=ranges.subsets,
                rate=rate,
                lr=rng.uniform(*ranges.lr),
                batch_size=rng.randint(ranges.batch_size[0], most),
                source_epochs=rng.randint(*ranges.source_epochs),
                epochs=rng.randint(*ranges.epochs),
                augment=random.Random(derive("augment", seed)).random() < ranges.augment,
                mode=mode,
                pointwise=params.pointwise,
                seed=seed,
            )
        )
    return specs


def run_paths(spec: RunSpec, images: ImageSet) -> Paths:
    """Execute one run on a part of ``images``, which are of a training set, and collect its weight paths."""
    order = stratified_order(images.labels, derive("order", spec.seed))  # so that subsets are prefixes
    data = images.select(order[: spec.images])
    net = build(spec.architecture, data.channels, len(data.outputs), derive("weights", spec.seed))
    net, initial = net.to(data.device), state_of(net)
    recipe = Recipe(spec.epochs, spec.batch_size, spec.lr, augment="affine" if spec.augment else "none")
    fit(net, data, replace(recipe, epochs=spec.source_epochs), derive("source", spec.seed))
    smaller = nested_subsets(torch.arange(len(data)), spec.rate, spec.subsets)[1:]
    subsets = [data.select(index) for index in smaller]
    return weight_paths(forget(net, subsets, recipe, spec.seed, spec.mode, initial), spec.pointwise)


@dataclass(frozen=True)
class MetaJob:
    """One run, on the images that ``meta_share`` sets aside (``know.data.splits.meta_pool``); ``digest``: of all of them."""

    spec: RunSpec
    meta_share: float = 0.0
    digest: str = ""


def meta_run(job: MetaJob) -> Paths:
    """The weight paths of one run."""
    return run_paths(job.spec, meta_pool(job.spec.dataset, job.meta_share).to(here()))


@dataclass(frozen=True)
class FileJob:
    """One run, and the file to write."""

    spec: RunSpec
    file: Path


def write_run(job: FileJob) -> None:
    """Execute a run and write its file."""
    save_paths(meta_run(MetaJob(job.spec)), job.file, asdict(job.spec))


def windows(paths: Tensor, length: int) -> Tensor:
    """Paths (M, P) to all their stretches of ``length`` weights, (M·(P-length+1), length)."""
    return paths.unfold(1, length, 1).reshape(-1, length)


def split_runs(specs: Sequence[T], held_out: int) -> tuple[list[T], list[T]]:
    """Runs to learn from, and whole runs held out: the last ones, in which architectures and data sets take turns."""
    return list(specs[:-held_out]), list(specs[-held_out:])
