"""Stage 2: Θ_0, and the trajectory that forgetting makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from safetensors.torch import save_file

from know import paths
from know.data.splits import Split, load_split, source
from know.models.small import build
from know.params import Params
from know.run.executor import device_of, resumable, run_all
from know.stages.results import (
    oracle_path,
    split_path,
    trained_on_path,
    trained_path,
    trajectory_path,
    write_csv,
)
from know.training.forgetting import extra_compute, forget_further, save_trajectory, state_of
from know.training.loop import Recipe, fit, measure
from know.weights.kinds import State


@dataclass(frozen=True)
class SourceRun:
    """A net trained on the first ``images`` of a source seed's order, until it has converged."""

    params: Params
    seed: int
    images: int


@dataclass
class SourceResult:
    trained: State
    trajectory: list[State] = field(default_factory=list)
    """Θ_{S-1}, …, Θ_0: of the net trained on D_0, and of the one trained on D_{-1}, then fine-tuned on D_0; of others none."""
    trained_on: State | None = None
    """Of the net trained on D_0: trained on for the forgetting runs' compute."""
    forgetting: list[tuple[int, int, str, float, float]] = field(default_factory=list)
    """seed, k, which images (test, kept, dropped, validation), loss, accuracy of Θ_k."""
    learning: list[tuple[int, int, int, float, float, bool, bool]] = field(default_factory=list)
    """seed, k (0 or -1), epoch, training loss, validation loss, whether these weights were kept, and whether this training
    stopped because the validation loss no longer improved, not because epochs ran out."""


def _source_run(run: SourceRun) -> SourceResult:
    params, device = run.params, device_of(run.params.compute)
    pool, test = (source(params.downsize, part, device) for part in ("train", "test"))
    split = load_split(split_path(run.seed))
    validation = pool.select(split.validation.to(device))
    options = params.forget.source
    net = build(params.forget.architecture, pool.images.shape[1], len(pool.classes), run.seed).to(device)
    initial = state_of(net)
    recipe = Recipe(options.max_epochs, options.batch_size, options.lr, augment=options.augment)
    data = pool.select(split.order[: run.images].to(device))
    history = fit(net, data, recipe, run.seed, validation=validation, patience=options.patience)
    converged = len(history.train_loss) < options.max_epochs
    result = SourceResult(trained := state_of(net))
    on_d_0, on_more = (subset is not None and run.images == len(subset) for subset in (split.subsets[0], split.more))
    if not (on_d_0 or on_more):
        return result

    result.learning = [
        (run.seed, -1 if on_more else 0, epoch, train, held, epoch == history.best_epoch, converged)
        for epoch, (train, held) in enumerate(zip(history.train_loss, history.validation_loss, strict=True))
    ]
    subsets = [pool.select(index.to(device)) for index in split.subsets]
    recipe = Recipe(params.forget.epochs, params.forget.batch_size, params.forget.lr, augment=params.forget.augment)
    mode = params.forget.mode
    if on_more:
        fit(net, subsets[0], recipe, run.seed * 100)
    result.trajectory = [theta_0 := state_of(net), *forget_further(net, subsets[1:], recipe, run.seed, mode, initial)]
    result.trajectory.reverse()
    real = {-1: trained} if on_more else {}
    for k, theta in (real | dict(enumerate(reversed(result.trajectory)))).items():
        net.load_state_dict(theta)
        parts = {"test": test, "validation": validation, "kept": data if k < 0 else subsets[k]}
        if k > 0:  # nested subsets are prefixes
            parts["dropped"] = pool.select(split.subsets[0][len(split.subsets[k]) :].to(device))
        result.forgetting += [(run.seed, k, name, *measure(net, images)) for name, images in parts.items()]
    if on_d_0:
        net.load_state_dict(theta_0)
        epochs = max(1, round(extra_compute(params.rate, params.history_length) * recipe.epochs))
        fit(net, subsets[0], Recipe(epochs, recipe.batch_size, recipe.lr, augment=recipe.augment), run.seed * 100)
        result.trained_on = state_of(net)
    return result


@dataclass(frozen=True)
class Forgetting:
    """What the forgetting runs measured: ``table`` of seed, k, images, loss, accuracy, ``oracle`` the same of the path that
    starts at the real Θ_{-1}; ``learning`` curves of Θ_0 and Θ_{-1}."""

    table: pd.DataFrame
    oracle: pd.DataFrame
    learning: pd.DataFrame


def _sizes(split: Split, headroom: tuple[int, ...]) -> list[int]:
    """How many images nets are trained on, most first: D_{-1}, D_0 and those for the headroom."""
    sizes = {len(split.subsets[0]), *headroom}
    return sorted(sizes if split.more is None else sizes | {len(split.more)}, reverse=True)


def run(params: Params) -> Forgetting:
    """Train Θ_0 until it has converged, then fine-tune it on D_1, D_2, ….

    Also, where there is data for it, the real Θ_{-1} on D_{-1}, and from it a path in which the next point is known: Θ_0
    fine-tuned from Θ_{-1} on D_0, then Θ_1, …; nets on further sizes of data, which show how much more data helps; and Θ_0
    trained on for the forgetting runs' compute.
    """
    runs = [
        SourceRun(params, seed, images)
        for images in _sizes(load_split(split_path(params.downsize.source_seeds[0])), params.downsize.headroom_images)
        for seed in params.downsize.source_seeds
    ]
    with resumable("forget", params, [paths.SPLITS]) as resume:
        results = run_all(_source_run, runs, params.compute, "forgetting", resume)
        own, oracle, learning = [], [], []
        for run, result in zip(runs, results, strict=True):
            with paths.atomic(trained_path(run.seed, run.images)) as temporary:
                save_file(result.trained, temporary)
            if run.images == params.downsize.source_images:
                save_trajectory(result.trajectory, trajectory_path(run.seed))
                assert result.trained_on is not None
                with paths.atomic(trained_on_path(run.seed)) as temporary:
                    save_file(result.trained_on, temporary)
                own += result.forgetting
            elif result.trajectory:
                save_trajectory(result.trajectory, oracle_path(run.seed))
                oracle += result.forgetting
                own += [row for row in result.forgetting if row[1] < 0]
            learning += result.learning
        columns = ["seed", "k", "images", "loss", "accuracy"]
        history = ["seed", "k", "epoch", "train_loss", "validation_loss", "kept", "converged"]
        return Forgetting(
            write_csv(pd.DataFrame(own, columns=columns), "forgetting.csv"),
            write_csv(pd.DataFrame(oracle, columns=columns), "oracle_forgetting.csv"),
            write_csv(pd.DataFrame(learning, columns=history), "source_learning.csv"),
        )
