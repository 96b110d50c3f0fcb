"""Stage 2: Θ_0, and the trajectory that forgetting makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from safetensors.torch import save_file

from know import paths
from know.executor import device_of, resumable, run_all
from know.experiment.results import more_path, split_path, trajectory_path, write_csv
from know.forgetting import forget as forgetting_run
from know.forgetting import save_trajectory, state_of
from know.kinds import State
from know.models import build
from know.params import Params
from know.splits import load_split, source
from know.training import Recipe, fit, measure


@dataclass(frozen=True)
class SourceRun:
    """One source seed's Θ_0 and its forgetting, or (``more``) the real Θ_{-1} trained on D_{-1}."""

    params: Params
    seed: int
    more: bool


@dataclass(frozen=True)
class SourceResult:
    trajectory: list[State]
    """Θ_{S-1}, …, Θ_0; of a ``more`` run just Θ_{-1}."""
    forgetting: list[tuple[int, int, str, float, float]]
    """seed, k, which images (test, kept, dropped, validation), loss, accuracy of Θ_k."""
    learning: list[tuple[int, int, int, float, float, bool, bool]]
    """seed, k (0 or -1), epoch, training loss, validation loss, whether these weights were kept, and whether this
    training stopped because the validation loss no longer improved, not because epochs ran out."""


def _source_run(run: SourceRun) -> SourceResult:
    params, device = run.params, device_of(run.params.compute)
    pool, test = (source(params.downsize, part, device) for part in ("train", "test"))
    split = load_split(split_path(run.seed))
    validation = pool.select(split.validation.to(device))
    options = params.forget.source
    net = build(params.forget.architecture, pool.images.shape[1], len(pool.classes), run.seed).to(device)
    initial = state_of(net)
    recipe = Recipe(options.max_epochs, options.batch_size, options.lr, augment=options.augment)
    index = split.more if run.more else split.subsets[0]
    assert index is not None
    history = fit(
        net, pool.select(index.to(device)), recipe, run.seed, validation=validation, patience=options.patience
    )
    k = -1 if run.more else 0
    converged = len(history.train_loss) < options.max_epochs
    learning = [
        (run.seed, k, epoch, train, held, epoch == history.best_epoch, converged)
        for epoch, (train, held) in enumerate(zip(history.train_loss, history.validation_loss, strict=True))
    ]
    if run.more:
        rows = [(run.seed, -1, "test", *measure(net, test)), (run.seed, -1, "validation", *measure(net, validation))]
        return SourceResult([state_of(net)], rows, learning)

    subsets = [pool.select(index.to(device)) for index in split.subsets]
    recipe = Recipe(params.forget.epochs, params.forget.batch_size, params.forget.lr, augment=params.forget.augment)
    trajectory = forgetting_run(net, subsets[1:], recipe, run.seed, params.forget.mode, initial)
    rows = []
    for k, theta in enumerate(reversed(trajectory)):
        net.load_state_dict(theta)
        dropped = split.subsets[0][len(split.subsets[k]) :]  # nested subsets are prefixes
        parts = {"test": test, "validation": validation, "kept": subsets[k]}
        if len(dropped):
            parts["dropped"] = pool.select(dropped.to(device))
        rows += [(run.seed, k, name, *measure(net, images)) for name, images in parts.items()]
    return SourceResult(trajectory, rows, learning)


@dataclass(frozen=True)
class Forgetting:
    """What the forgetting runs measured: ``table`` of seed, k, images, loss, accuracy; ``learning`` curves of Θ_0 and
    Θ_{-1}."""

    table: pd.DataFrame
    learning: pd.DataFrame


def run(params: Params) -> Forgetting:
    """Train Θ_0 until it has converged, then fine-tune it on D_1, D_2, …; also the real Θ_{-1}, for the headroom."""
    seeds = params.downsize.source_seeds
    have_more = load_split(split_path(seeds[0])).more is not None
    runs = [SourceRun(params, seed, more) for more in ((True, False) if have_more else (False,)) for seed in seeds]
    with resumable("forget", params, [paths.SPLITS]) as resume:
        results = run_all(_source_run, runs, params.compute, "forgetting", resume)
        for run, result in zip(runs, results, strict=True):
            if run.more:
                with paths.atomic(more_path(run.seed)) as temporary:
                    save_file(result.trajectory[0], temporary)
            else:
                save_trajectory(result.trajectory, trajectory_path(run.seed))
        table = pd.DataFrame(
            [row for result in results for row in result.forgetting],
            columns=["seed", "k", "images", "loss", "accuracy"],
        )
        learning = pd.DataFrame(
            [row for result in results for row in result.learning],
            columns=["seed", "k", "epoch", "train_loss", "validation_loss", "kept", "converged"],
        )
        write_csv(table, "forgetting.csv")
        write_csv(learning, "source_learning.csv")
    return Forgetting(table, learning)
