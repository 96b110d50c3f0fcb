"""The bench's trajectories: made once and kept in ``data/bench``, so that all scores are of the same ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from know import paths
from know.data.options import Downsize, subset_sizes
from know.data.splits import Split, draw_split, more_images, source_task
from know.options import ParamError
from know.params import Bench, Forgetting
from know.run.executor import run_all
from know.run.options import Compute
from know.run.store import FileInput
from know.seeds import derive
from know.stages.results import write_csv, write_state
from know.training.forgetting import load_trajectory
from know.training.loop import Recipe
from know.training.runs import ForgetJob, SourceJob, forget_path, train_source
from know.training.runs import Path as MeasuredPath
from know.weights.kinds import State

DEFINES = {"tasks", "architectures", "rate", "history_length", "source", "forgetting"}
"""The parameters that the trajectories depend on; the others are of the scores."""


@dataclass(frozen=True)
class Trajectory:
    """Of a net that was trained on D_{-1} and then on D_0, D_1, …: the point past its Θ_0 is known. ``root``: the folder of all."""

    bench: Bench
    task: str
    architecture: str
    number: int
    root: Path

    @property
    def name(self) -> str:
        """ "mnist-cnn-0"."""
        return f"{self.task}-{self.architecture}-{self.number}"

    @property
    def seed(self) -> int:
        """Its own: no two trajectories share a D_0, initial weights or labels, so that they are independent."""
        return derive("bench", self.task, self.architecture, self.number)

    @property
    def downsize(self) -> Downsize:
        """Its source and downstream task."""
        return self.bench.tasks[self.task]

    @property
    def folder(self) -> Path:
        """Where its weights are: ``theta_4.safetensors`` … ``theta_0.safetensors``, and ``real.safetensors``, Θ_{-1}."""
        return self.root / self.name

    @property
    def real_path(self) -> Path:
        return self.folder / "real.safetensors"

    @property
    def split_path(self) -> Path:
        """D_{-1}, whose prefixes are D_0, D_1, …, and the validation images."""
        return self.folder / "images.safetensors"

    @property
    def sizes(self) -> tuple[int, ...]:
        """|D_0|, …, |D_{S-1}|."""
        return tuple(subset_sizes(self.downsize.source_images, self.bench.rate, self.bench.history_length))

    @property
    def source(self) -> SourceJob:
        """The training of Θ_{-1}."""
        return SourceJob(
            source_task(self.downsize),
            self.architecture,
            FileInput.of(self.split_path),
            round(self.downsize.source_images / self.bench.rate),
            self.bench.source,
            self.seed,
        )

    def states(self) -> list[State]:
        """Θ_{S-1}, …, Θ_0."""
        return load_trajectory(self.folder, self.bench.history_length)

    def real(self) -> State:
        """Θ_{-1}."""
        return load_file(self.real_path)


def trajectories(bench: Bench, root: Path | None = None) -> list[Trajectory]:
    """All of them; ``root``: their folder, if not ``data/bench``."""
    return [
        Trajectory(bench, name, architecture, number, root or paths.BENCH)
        for name, task in bench.tasks.items()
        for architecture in bench.architectures
        for number in task.source_seeds
    ]


def make(bench: Bench, compute: Compute) -> None:
    """Make the trajectories of ``data/bench``, unless that was done for these parameters before, on any machine.

    Removes those of other parameters. Writes each trajectory's folder, ``forgetting.csv`` (task, architecture, number, k, images, loss, accuracy; k = -1 is the
    real Θ_{-1}) and, last, ``definition.json``.

    Raises:
        ParamError: a task has too few images.
    """
    if is_made(bench):
        return
    shutil.rmtree(paths.BENCH, ignore_errors=True)
    every = trajectories(bench)
    measured = forget(every, bench.forgetting, compute)
    rows = [
        (one.task, one.architecture, one.number, m.k, m.images, m.loss, m.accuracy)
        for one, path in zip(every, measured, strict=True)
        for m in path.measured
    ]
    columns = ["task", "architecture", "number", "k", "images", "loss", "accuracy"]
    write_csv(pd.DataFrame(rows, columns=columns), "forgetting.csv", paths.BENCH)
    with paths.atomic(_definition_path()) as temporary:
        temporary.write_text(json.dumps(_definition(bench), indent=1) + "\n")


def forget(every: Sequence[Trajectory], options: Forgetting, compute: Compute) -> list[MeasuredPath]:
    """Train each net on D_{-1}, let it forget, and write its folder.

    Raises:
        ParamError: a task has too few images.
    """
    for one in every:
        _draw(one)
    for one, trained in zip(
        every, run_all(train_source, [t.source for t in every], compute, "bench: training"), strict=True
    ):
        write_state(trained.state, one.real_path)
    recipe = Recipe(options.epochs, options.batch_size, options.lr, augment=options.augment)
    jobs = [
        ForgetJob(one.source, FileInput.of(one.real_path), one.sizes, recipe, "sequential", back=True) for one in every
    ]
    found = run_all(forget_path, jobs, compute, "bench: forgetting")
    for one, path in zip(every, found, strict=True):
        for k, theta in enumerate(reversed(path.trajectory)):
            write_state(theta, one.folder / f"theta_{k}.safetensors")
    return found


def _draw(one: Trajectory) -> None:
    labels = source_task(one.downsize).pool(torch.device("cpu")).labels
    split = draw_split(labels, one.downsize, one.seed)
    more = more_images(one.downsize, one.bench.rate, len(split.order))
    if more is None:
        raise ParamError(
            f"bench.tasks.{one.task}.source_images: got {one.downsize.source_images}; allowed: at most bench.rate times the"
            f" {len(split.order)} training images that validation leaves"
        )
    Split(split.order[:more], split.validation).write(one.split_path)


def _definition_path() -> Path:
    return paths.BENCH / "definition.json"


def _definition(bench: Bench) -> dict[str, object]:
    # An option at its default is as it was before there was the option.
    return bench.model_dump(mode="json", include=DEFINES, exclude_defaults=True)


def is_made(bench: Bench) -> bool:
    """Whether ``data/bench`` holds the trajectories that these parameters define."""
    file = _definition_path()
    return file.exists() and json.loads(file.read_text()) == _definition(bench)


def check_made(bench: Bench) -> None:
    """Raises ParamError: ``data/bench`` does not hold them."""
    if not is_made(bench):
        raise ParamError(
            f"bench: {paths.BENCH} does not hold the trajectories that the parameters define; allowed: the committed ones (git"
            " restore params.yaml data/bench), or others, made by python -m know.bench"
        )
