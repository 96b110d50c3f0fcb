"""Stage 2: Θ_0, and the trajectory that forgetting makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath
from typing import Literal

import pandas as pd

from know.data.options import subset_sizes
from know.data.splits import Split, more_images, source_task
from know.models.names import LIBRARY
from know.options import ParamError
from know.params import Params
from know.run.executor import run_all
from know.run.store import FileInput
from know.stages.results import (
    oracle_path,
    sham_path,
    split_path,
    trained_on_path,
    trained_path,
    trajectory_path,
    write_csv,
    write_state,
)
from know.training.forgetting import extra_compute, save_trajectory
from know.training.loop import Recipe
from know.training.runs import (
    ForgetJob,
    Path,
    SourceJob,
    Trained,
    TrainOnJob,
    forget_path,
    train_on,
    train_source,
)


def trained_sizes(params: Params, spare: int) -> list[int]:
    """How many images each net of a source seed is trained on, most first: D_{-1}, if it fits into ``spare`` images, D_0, and
    for the headroom; of one that is pretrained and not trained any further, D_0."""
    options = params.downsize
    if not params.forget.source.max_epochs:
        return [options.source_images]
    more = more_images(options, params.rate, spare)
    return sorted({options.source_images, *options.headroom_images, *([more] if more else [])}, reverse=True)


def pretrained_input(pretrained: str | None) -> FileInput | Literal["library"] | None:
    """``forget.pretrained`` as a job holds it.

    Raises:
        ParamError: there is no such file.
    """
    if pretrained is None or pretrained == LIBRARY:
        return LIBRARY if pretrained else None
    try:
        return FileInput.of(FilePath(pretrained))
    except OSError as error:
        raise ParamError(
            f"forget.pretrained: {pretrained}: {error.strerror}; allowed: null, {LIBRARY}, or a checkpoint file"
        ) from None


def source_jobs(params: Params, seed: int) -> dict[int, SourceJob]:
    """The nets to train for a source seed, by their number of images, most first."""
    split, options = split_path(seed), params.downsize
    job = SourceJob(
        source_task(options),
        params.forget.architecture,
        FileInput.of(split),
        options.source_images,
        params.forget.source,
        seed,
        pretrained_input(params.forget.pretrained),
    )
    return {images: replace(job, images=images) for images in trained_sizes(params, len(Split.read(split).order))}


def run(params: Params) -> None:
    """Train Θ_0 until it has converged, then fine-tune it on D_1, D_2, ….

    Also, where there is data for it, the real Θ_{-1} on D_{-1}, and from it a path in which the next point is known: Θ_0
    fine-tuned from Θ_{-1} on D_0, then Θ_1, …; nets on further sizes of data, which show how much more data helps; Θ_0
    trained on for the forgetting runs' compute; and a sham path, trained for as many steps as the forgetting one, but always
    on all of D_0.

    Writes ``forgetting.csv``, ``oracle_forgetting.csv`` and ``sham_forgetting.csv`` (source_seed, k, images, loss, accuracy) and
    ``source_learning.csv`` (source_seed, k, epoch, train_loss, validation_loss, kept, converged).

    Raises:
        ParamError: the path does not forget as much as ``forget.must_fall`` demands.
    """
    nets = {
        (seed, images): job
        for seed in params.downsize.source_seeds
        for images, job in source_jobs(params, seed).items()
    }
    found = dict(
        zip(nets, run_all(train_source, list(nets.values()), params.compute, "training", spread=True), strict=True)
    )
    for (seed, images), trained in found.items():
        write_state(trained.state, trained_path(seed, images))

    sizes = tuple(subset_sizes(params.downsize.source_images, params.rate, params.history_length))
    more = round(params.downsize.source_images / params.rate)
    options = params.forget
    recipe = Recipe(
        options.epochs, options.batch_size, options.lr, augment=options.augment, weight_decay=options.weight_decay
    )
    wanted = (sizes[0], more) if options.oracle else sizes[:1]
    starts = [(seed, images) for seed, images in nets if images in wanted]
    jobs = [
        ForgetJob(nets[start], FileInput.of(trained_path(*start)), sizes, recipe, options.mode, back=start[1] == more)
        for start in starts
    ]
    own, oracle, sham, learning = (list[tuple[object, ...]]() for _ in range(4))
    for (seed, images), job, path in zip(
        starts, jobs, run_all(forget_path, jobs, params.compute, "forgetting", spread=True), strict=True
    ):
        save_trajectory(path.trajectory, oracle_path(seed) if job.back else trajectory_path(seed))
        rows = _measured(seed, path)
        own += [row for row in rows if not job.back or row[1] == -1]
        oracle += rows if job.back else []
        learning += _learning(seed, -1 if job.back else 0, found[seed, images])

    shams = [replace(job, sham=True) for job in jobs if not job.back]
    for job, path in zip(
        shams, run_all(forget_path, shams, params.compute, "as long, on all of D_0", spread=True), strict=True
    ):
        save_trajectory(path.trajectory, sham_path(job.source.seed))
        sham += [row for row in _measured(job.source.seed, path) if row[2] in ("test", "validation")]

    epochs = max(1, round(extra_compute(params.rate, params.history_length) * options.epochs))
    longer = [TrainOnJob(job.source, job.trained, replace(recipe, epochs=epochs)) for job in jobs if not job.back]
    for further, state in zip(
        longer, run_all(train_on, longer, params.compute, "training on", spread=True), strict=True
    ):
        write_state(state, trained_on_path(further.source.seed))

    columns = ["source_seed", "k", "images", "loss", "accuracy"]
    history = ["source_seed", "k", "epoch", "train_loss", "validation_loss", "kept", "converged"]
    write_csv(pd.DataFrame(own, columns=columns), "forgetting.csv")
    write_csv(pd.DataFrame(oracle, columns=columns), "oracle_forgetting.csv")
    write_csv(pd.DataFrame(sham, columns=columns), "sham_forgetting.csv")
    write_csv(pd.DataFrame(learning, columns=history), "source_learning.csv")
    if options.must_fall is not None:
        check_fall(pd.DataFrame(own, columns=columns), options.must_fall)


def check_fall(forgetting: pd.DataFrame, least: float) -> None:
    """The gate: is there a path of shrinking knowledge?

    Raises:
        ParamError: mean source test accuracy does not fall at every step from Θ_0 on, by ``least`` in all.
    """
    test = forgetting[(forgetting.images == "test") & (forgetting.k >= 0)]
    means = test.groupby("k").accuracy.mean()
    if not (means.diff().dropna() < 0).all() or means.iloc[0] - means.iloc[-1] < least:
        raise ParamError(
            f"forget.must_fall: got {least}, but source test accuracy goes {', '.join(f'{100 * a:.1f}' for a in means)} % from Θ_0"
            " on; allowed: a recipe that forgets (more forget.epochs, a higher forget.lr, no forget.augment), or null"
        )


def _measured(seed: int, path: Path) -> list[tuple[object, ...]]:
    return [(seed, one.k, one.images, one.loss, one.accuracy) for one in path.measured]


def _learning(seed: int, k: int, trained: Trained) -> list[tuple[object, ...]]:
    return [
        (seed, k, epoch, train, held, epoch == trained.best_epoch, trained.converged)
        for epoch, (train, held) in enumerate(zip(trained.train_loss, trained.validation_loss, strict=True))
    ]
