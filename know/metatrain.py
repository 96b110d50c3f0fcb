"""Meta-training: a dataset of many short forgetting runs, and a KNOWN for each kind learned from it.

One run trains a small net on D_0 and then on ever smaller subsets, 7 in all, with its own rate, learning rate and
batch size; each of its scalars gives a path of 7 weights, and each path the windows w_0…w_4 → w_5, w_1…w_5 → w_6.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from know.data import ImageSet, load
from know.executor import device_of, run_all
from know.forgetting import forget
from know.hdf5 import Paths, file_name, save_paths, weight_paths
from know.hypermodel import KINDS, KNOWN, Kind
from know.models import build
from know.params import Compute, KnownTraining, MetaTrain
from know.paths import atomic
from know.prediction import CHUNK, Predictor, State, by_kind
from know.subsets import nested_subsets, stratified_order
from know.training import Recipe, fit


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
    seed: int

    @property
    def name(self) -> str:
        return f"run_{self.number:03d}"

    @property
    def file_name(self) -> str:
        """As in the published meta-dataset."""
        network = f"{self.architecture}_{self.dataset}"
        return file_name(network, self.number, self.rate, self.subsets, self.lr, self.batch_size)


def draw_runs(params: MetaTrain) -> list[RunSpec]:
    """Sample each run's hyper-parameters, uniformly, as the paper does; architectures and data sets take turns.

    The paper draws the batch size from U(32, |D_0| r^6), so that the smallest subset holds at least one batch. Here
    |D_0| is smaller, so the same rule also bounds the rate from below: r ≥ (b/|D_0|)^{1/6}, b the smallest batch size.
    """
    rng, ranges = random.Random(params.seed), params.runs
    specs = []
    for number in range(ranges.count):
        images, seed = rng.randint(*ranges.images), params.seed * 1000 + number
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
                augment=random.Random(seed).random() < ranges.augment,
                seed=seed,
            )
        )
    return specs


def run_paths(spec: RunSpec, images: ImageSet) -> Paths:
    """Execute one run on a part of ``images``, which are of a training set, and collect its weight paths."""
    data = images.select(stratified_order(images.labels, spec.seed)[: spec.images])  # in an order, for prefixes
    net = build(spec.architecture, data.images.shape[1], len(data.classes), spec.seed).to(data.images.device)
    recipe = Recipe(spec.epochs, spec.batch_size, spec.lr, augment=spec.augment)
    fit(net, data, Recipe(spec.source_epochs, spec.batch_size, spec.lr, augment=spec.augment), spec.seed)
    smaller = nested_subsets(torch.arange(len(data)), spec.rate, spec.subsets)[1:]
    return weight_paths(forget(net, [data.select(index) for index in smaller], recipe, spec.seed))


@lru_cache(maxsize=3)
def _images(dataset: str) -> ImageSet:
    return load(dataset, "train")


def _collect_run(job: tuple[RunSpec, Compute, Path]) -> None:
    spec, compute, file = job
    save_paths(run_paths(spec, _images(spec.dataset).to(device_of(compute))), file, asdict(spec))


def collect(specs: Sequence[RunSpec], folder: Path, compute: Compute) -> list[Path]:
    """Execute those runs whose file is not in ``folder`` yet, and return the files of all."""
    files = [folder / spec.file_name for spec in specs]
    jobs = [(spec, compute, file) for spec, file in zip(specs, files, strict=True) if not file.exists()]
    if jobs:
        run_all(_collect_run, jobs, compute, "meta-dataset")
    return files


def windows(paths: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Paths (M, P) to all windows (M·(P-length), length) and the weights that follow them (M·(P-length),)."""
    unfolded = paths.unfold(1, length + 1, 1).reshape(-1, length + 1)
    return unfolded[:, :-1], unfolded[:, -1]


def split_runs(specs: Sequence[RunSpec], held_out: int) -> tuple[list[RunSpec], list[RunSpec]]:
    """Runs to learn from, and whole runs held out: the last ones, in which architectures and data sets take turns."""
    return list(specs[:-held_out]), list(specs[-held_out:])


@dataclass(frozen=True)
class Curve:
    """Mean absolute error on windows of the held-out runs against the number of steps."""

    steps: list[int]
    errors: list[float]


def train_known(
    training: Sequence[Tensor],
    held_out: Sequence[Tensor],
    history_length: int,
    params: KnownTraining,
    seed: int,
    device: torch.device | None = None,
) -> tuple[KNOWN, Curve]:
    """Meta-train one KNOWN by the mean absolute error plus its L1 penalty, with Adam.

    Each batch draws the same number of windows from every run, so that large nets do not drown small ones. The
    learning rate falls to 0 by a cosine: the penalty on the biases is far steeper than the error, and at a constant
    rate Adam would end with them still jumping about 0. The last weights are kept, so the held-out runs decide nothing.

    Args:
        training, held_out: paths (M, P) of one kind, a tensor a run.
    """
    device = device or torch.device("cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known = KNOWN(history_length).to(device)
    runs = [windows(paths, history_length) for paths in training]
    per_run = max(1, params.batch_size // len(runs))
    checks = [_draw(windows(paths, history_length), 5_000, generator, device) for paths in held_out]
    optimizer = torch.optim.Adam(known.parameters(), params.lr, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, params.steps)
    curve, every = Curve([], []), max(1, params.steps // 20)
    for step in range(1, params.steps + 1):
        drawn = [_draw(run, per_run, generator, device) for run in runs]
        window, target = torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn])
        loss = (known(window) - target).abs().mean() + known.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % every == 0 or step == params.steps:
            with torch.no_grad():
                errors = [(known(x) - y).abs().mean().item() for x, y in checks]
            curve.steps.append(step)
            curve.errors.append(sum(errors) / len(errors))
    return known.cpu(), curve


def _draw(
    run: tuple[Tensor, Tensor], count: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    window, target = run
    index = torch.randint(len(target), (count,), generator=generator)
    return window[index].to(device), target[index].to(device)


@torch.no_grad()
def errors(paths: Tensor, kind: Kind, length: int, predictors: Mapping[str, Predictor]) -> dict[str, float]:
    """Each predictor's mean absolute error on all windows of one run's paths (M, P) of one kind."""
    window, target = windows(paths, length)
    return {
        name: torch.cat(
            [(predictor(x, kind) - y).abs() for x, y in zip(window.split(CHUNK), target.split(CHUNK), strict=True)]
        )
        .mean()
        .item()
        for name, predictor in predictors.items()
    }
