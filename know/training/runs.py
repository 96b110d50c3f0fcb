"""The training runs of the experiment: each a function of one job, computed once (``know.run.store``).

A job names what it starts from by that job, or by a file's content; so runs that differ only in what comes later share what
comes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from know.data.images import ImageSet, Samples
from know.data.splits import Split, Task, downstream_parts
from know.models.build import build
from know.run.device import here
from know.run.store import FileInput
from know.seeds import derive
from know.tasks.measures import Outcome, bleu, measure, outcome
from know.training.fine_tuning import fine_tune, labelled, transferred
from know.training.forgetting import Mode, Redrawn, forget_further, state_of
from know.training.loop import History, Recipe, fit
from know.training.options import FineTuning, SourceTraining
from know.weights.kinds import State

# --- the source task ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceJob:
    """Training a net on the first ``images`` of a source seed's ``split`` until its validation loss has converged.

    ``pretrained``: what it starts from, if not from fresh weights (``forget.pretrained``).
    """

    task: Task
    architecture: str
    split: FileInput
    images: int
    training: SourceTraining
    seed: int
    pretrained: FileInput | Literal["library"] | None = None

    def images_of(self, size: int) -> ImageSet:
        """The first ``size`` images of the order: D_k for |D_k|."""
        return self.task.pool(here()).select(_split(self.split).order[:size])

    @property
    def validation(self) -> ImageSet:
        return self.task.pool(here()).select(_split(self.split).validation)

    def net(self, state: State | None = None) -> nn.Module:
        """The network with these weights, or as it was initialised: alike for all sizes of data."""
        pool, pretrained = self.task.pool(here()), self.pretrained if state is None else None
        net = build(
            self.architecture,
            pool.channels,
            len(pool.outputs),
            derive("weights", self.seed),
            pretrained.path if isinstance(pretrained, FileInput) else pretrained,
        )
        if state is not None:
            net.load_state_dict(state)
        return net.to(here())


@lru_cache(maxsize=4)
def _split(file: FileInput) -> Split:
    return Split.read(file.path)


@dataclass(frozen=True)
class Trained:
    """Θ, and how it was reached; ``converged``: stopped because the validation loss no longer improved."""

    state: dict[str, Tensor]
    train_loss: list[float]
    validation_loss: list[float]
    best_epoch: int
    converged: bool


def train_source(job: SourceJob) -> Trained:
    """Θ_0, or Θ_{-1}, or a net for the headroom, by how many images the job has; without epochs, what was pretrained."""
    net, options = job.net(), job.training
    if not options.max_epochs:
        return Trained(state_of(net), [], [], -1, True)
    recipe = Recipe(
        options.max_epochs,
        options.batch_size,
        options.lr,
        augment=options.augment,
        weight_decay=options.weight_decay,
    )
    history: History = fit(
        net, job.images_of(job.images), recipe, derive("source", job.seed),
        validation=job.validation, patience=options.patience,
    )  # fmt: skip
    converged = len(history.train_loss) < options.max_epochs
    return Trained(state_of(net), history.train_loss, history.validation_loss, history.best_epoch, converged)


@dataclass(frozen=True)
class ForgetJob:
    """Fine-tuning Θ_0, the net of ``source``, on D_1, D_2, …, whose sizes are ``sizes[1:]``.

    With ``back``, the net of ``source`` is Θ_{-1}, and fine-tuning it on D_0 makes the path's Θ_0. With ``sham``, Θ_k is
    trained on |D_k| images drawn anew from D_0 in each epoch: the same steps, and nothing to forget.
    """

    source: SourceJob
    trained: FileInput
    sizes: tuple[int, ...]
    recipe: Recipe
    mode: Mode
    back: bool = False
    sham: bool = False


@dataclass(frozen=True)
class Measured:
    """Θ_k's ``loss`` and ``accuracy`` on ``images``: test, validation, kept (D_k), dropped (D_0 less D_k)."""

    k: int
    images: str
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Path:
    """Θ_{S-1}, …, Θ_0, and what they are worth on the source task; with Θ_{-1}, where the path starts there."""

    trajectory: list[dict[str, Tensor]]
    measured: list[Measured]


def forget_path(job: ForgetJob) -> Path:
    """The trajectory that forgetting makes of a trained net."""
    source, trained = job.source, load_file(job.trained.path)
    net, subsets = source.net(trained), [source.images_of(size) for size in job.sizes]
    initial = state_of(source.net())
    if job.back:
        fit(net, subsets[0], job.recipe, derive("back", source.seed))
    smaller: Sequence[Samples] = [Redrawn(subsets[0], len(D)) for D in subsets[1:]] if job.sham else subsets[1:]
    seed = derive("sham", source.seed) if job.sham else source.seed
    newest_first = [state_of(net), *forget_further(net, smaller, job.recipe, seed, job.mode, initial)]
    real = {-1: trained} if job.back else {}
    rows = []
    for k, theta in (real | dict(enumerate(newest_first))).items():
        net.load_state_dict(theta)
        images = {
            "test": source.task.test(here()),
            "validation": source.validation,
            "kept": source.images_of(source.images if k < 0 else job.sizes[k]),
        }
        if k > 0:  # nested subsets are prefixes
            images["dropped"] = subsets[0].select(torch.arange(job.sizes[k], job.sizes[0]))
        rows += [Measured(k, name, *measure(net, part)) for name, part in images.items()]
    return Path(newest_first[::-1], rows)


@dataclass(frozen=True)
class TrainOnJob:
    """Training Θ_0 on for ``recipe.epochs`` more passes over D_0."""

    source: SourceJob
    trained: FileInput
    recipe: Recipe


def train_on(job: TrainOnJob) -> dict[str, Tensor]:
    """Θ_0 trained on: a start that has had the forgetting runs' compute."""
    net = job.source.net(load_file(job.trained.path))
    fit(net, job.source.images_of(job.source.images), job.recipe, derive("train on", job.source.seed))
    return state_of(net)


# --- the downstream task ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransferJob:
    """Fine-tuning the weights in ``start`` (None: from scratch) on ``labels`` images of the downstream task.

    Labels, head and order are drawn for each pair of seeds: every start of a pair gets the same ones, so that differences
    are paired, and no two pairs share a draw, so that source seeds are independent. ``held_out``: the domain, none of whose
    images is learned from or chosen by, and on whose alone it is tested.
    """

    start: FileInput | None
    task: Task
    architecture: str
    labels: int
    validation_images: int
    fine_tuning: FineTuning
    source_seed: int
    downstream_seed: int
    head_scale: float = 1.0
    held_out: int | None = None

    @property
    def seed(self) -> int:
        return derive("transfer", self.source_seed, self.downstream_seed)

    def images(self) -> tuple[ImageSet, ImageSet]:
        """The labelled images, and those to validate on."""
        learned = self.task if self.held_out is None else self.task.without(self.held_out)
        pool, validation = _parts(learned, self.validation_images, here())
        return labelled(pool, self.labels, derive("labels", self.source_seed, self.downstream_seed)), validation

    def test(self) -> ImageSet:
        """The images to judge by."""
        if self.held_out is None:
            return self.task.test(here())
        return self.task.only(self.held_out).unseen(here())

    def net(self, data: ImageSet) -> tuple[nn.Module, list[nn.Parameter]]:
        """The network before fine-tuning, under its new head, and what in it is new (``transferred``)."""
        start = None if self.start is None else load_file(self.start.path)
        return transferred(self.architecture, start, data, self.seed, self.head_scale, self.task.kind)


@lru_cache(maxsize=8)
def _parts(task: Task, validation_images: int, device: torch.device) -> tuple[ImageSet, ImageSet]:
    return downstream_parts(task, validation_images, device)


@dataclass(frozen=True)
class Transferred:
    """A fine-tuned net on the validation images, by which one chooses, and on the test images, by which one judges; ``bleu``: of
    the captions that it gives to those."""

    validation: Outcome
    test: Outcome
    bleu: float | None = None


def transfer(job: TransferJob) -> Transferred:
    """Fine-tune a start and measure it, once, at the end."""
    data, validation = job.images()
    net, new = job.net(data)
    fine_tune(net, data, job.fine_tuning, job.seed, new)
    test = job.test()
    return Transferred(outcome(net, validation), outcome(net, test), bleu(net, test, job.task.kind))


@dataclass(frozen=True)
class Point:
    """An outcome on the validation images after ``epoch`` epochs of the second phase."""

    epoch: int
    outcome: Outcome


def learning_curve(job: TransferJob) -> list[Point]:
    """Outcomes while fine-tuning: at epoch 0, after the head's phase, and some 20 times in the second."""
    data, validation = job.images()
    (net, new), every, curve = job.net(data), max(1, job.fine_tuning.epochs // 20), list[Point]()

    def follow(epoch: int) -> None:
        if epoch % every == 0:
            curve.append(Point(epoch, outcome(net, validation)))

    fine_tune(net, data, job.fine_tuning, job.seed, new, follow)
    return curve
