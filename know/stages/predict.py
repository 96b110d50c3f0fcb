"""Stage 4: the weights past Θ_0."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import cast

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from know.data.images import ImageSet, held
from know.params import Params
from know.prediction.controls import Case
from know.prediction.engine import pointwise_of
from know.prediction.options import Predict
from know.prediction.predictors import PathPredictor
from know.prediction.retrodict import retrodict
from know.run.device import here
from know.run.executor import map_all, run_all
from know.run.executor import one as recorded
from know.run.store import FileInput
from know.seeds import derive
from know.stages.forget import source_jobs
from know.stages.results import (
    SavedStart,
    Track,
    oracle_path,
    sham_path,
    trained_on_path,
    trained_path,
    trajectory_path,
    write_csv,
    write_starts,
    write_state,
)
from know.tasks.measures import at_once
from know.training.forgetting import load_trajectory, state_of
from know.training.landscape import LandscapeJob, landscape
from know.training.loop import reestimate_batchnorm
from know.training.runs import SourceJob
from know.training.source_test import SourceTest, source_test
from know.weights.algebra import Weights
from know.weights.batchnorm import CROSSED, BatchNormRule, with_batchnorm
from know.weights.geometry import step_geometry, step_sizes
from know.weights.kinds import State, TensorKind, kinds_of

ON_PLANE = ("linear", "shrunk", "shrink", "more_data")
"""The starts that are shown on the landscape beside the candidate."""
SAMPLE = 1000  # scalars of each kind whose steps are kept, for the figure
REESTIMATED = 10_000  # images of D_0, at most, on which BatchNorm's statistics are averaged: hundreds are enough
GEOMETRY = ["source_seed", "method", "role", "kind", "layer", "weights", "cosine", "norm_ratio"]


@dataclass(frozen=True)
class SeedJob:
    """One source seed; ``first``: the one whose weights are shown one by one."""

    params: Params
    seed: int
    first: bool


@dataclass(frozen=True)
class SeedStarts:
    """The starts written for a source seed, and its rows of the tables that ``run`` writes."""

    starts: list[SavedStart]
    predictions: list[dict[str, object]]
    oracle: list[dict[str, object]]
    geometry: list[pd.DataFrame]
    steps: list[pd.DataFrame]


class OnDemand(Mapping[str, list[State]]):
    """What methods predict, by their names, each made when it is asked for: only the last one is in memory."""

    def __init__(self, names: Sequence[str], make: Callable[[str], list[State]]) -> None:
        self._names, self._made = names, lru_cache(maxsize=1)(make)

    def __getitem__(self, name: str) -> list[State]:
        if name not in self._names:
            raise KeyError(name)
        return self._made(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


Made = Iterator[tuple[SavedStart, State]]
"""Starts with their weights, one after the other: nobody holds them all."""


def predicted_starts(
    params: Params,
    track: Track,
    trajectory: Sequence[State],
    steps: int,
    fresh: State,
    seed: int,
    trained_on: State | None = None,
    sham: Sequence[State] = (),
) -> Made:
    """What every candidate of every method and control makes of a trajectory; controls without the weights that they need,
    ``trained_on`` or ``sham``, are left out."""
    options, runnable = params.predict, params.predict.runnable

    def predicted(one: PathPredictor) -> list[State]:
        return retrodict(trajectory, one, steps, device=here())

    judged = predicted(runnable[options.judged][0])
    for name, candidates in runnable.items():
        for i, one in enumerate(candidates):
            for step, state in kept(options, name, judged if (name, i) == (options.judged, 0) else predicted(one)):
                yield SavedStart(track, name, i, step, "method", one.stated(candidates)), state
    case = Case(
        trajectory, runnable[options.judged][0], judged, fresh, derive("direction", seed), trained_on, sham,
        OnDemand(list(runnable), lambda name: predicted(runnable[name][0])), here(),
    )  # fmt: skip
    yield from control_starts(options, track, case)


def kept(options: Predict, name: str, states: Sequence[State]) -> Iterator[tuple[int, State]]:
    """Of a start's predictions those that are kept, with their step, from 1."""
    for step, state in enumerate(states, start=1):
        if options.kept == "all" or name == options.judged or step == len(states):
            yield step, state


def control_starts(options: Predict, track: Track, case: Case) -> Made:
    """What every candidate of every control makes of a case that has the weights for it."""
    lacking = {*(() if case.trained_on is not None else ("trained_on",)), *(() if case.sham else ("sham", "average"))}
    for name, candidates in options.controls_by_name.items():
        for i, one in enumerate(candidates):
            if one.control not in lacking:
                for step, state in kept(options, name, one.states(case)):
                    yield SavedStart(track, name, i, step, "control", one.stated(candidates)), state


def ruled(params: Params, made: Iterable[tuple[SavedStart, State]]) -> Made:
    """Every start with its rule for BatchNorm; those that are crossed with the other rule too."""
    for start, state in made:
        rule = rule_of(params, start)
        yield replace(start, batchnorm=rule), state
        if start.method in params.predict.crossed and start.track == "main":
            yield replace(start, batchnorm=CROSSED.get(rule, "reset"), crossed=True), state


def rule_of(params: Params, start: SavedStart) -> BatchNormRule:
    """The rule for a start's BatchNorm."""
    rule = params.predict.batchnorm
    if rule != "reset predicted":
        return rule
    predicted = start.role in ("method", "control") and start.method != "trained_on"
    return "reset" if predicted else "re-estimate"


@dataclass(frozen=True)
class Maker:
    """Makes the nets of a path's starts, each by its rule for BatchNorm: methods, controls, the real Θ_{-1}, Θ_k and the
    headroom's nets."""

    params: Params
    source: SourceJob
    theta_0: State

    def net(self, start: SavedStart, state: State) -> nn.Module:
        """The network with a start's weights; "re-estimate" averages the statistics on D_0, or the first images of a large one."""
        net = self.source.net(with_batchnorm(state, self.theta_0, cast(BatchNormRule, start.batchnorm)))
        if start.batchnorm == "re-estimate":
            reestimate_batchnorm(net, self._batches())
        return net

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._images.batches(at_once(self._images))

    @cached_property
    def _images(self) -> ImageSet:
        """Read once for all starts, if memory holds them, and only when they are asked for."""
        return held(self.source.images_of(min(REESTIMATED, self.params.downsize.source_images)))


def _seed_starts(job: SeedJob) -> SeedStarts:
    """Retrodict from one source seed's paths, and write each start as soon as it is made."""
    params, seed = job.params, job.seed
    sources = source_jobs(params, seed)
    size = params.downsize.source_images
    trajectory = load_trajectory(trajectory_path(seed), params.history_length)
    theta_0, maker = trajectory[-1], Maker(params, sources[size], trajectory[-1])
    fresh = state_of(other(sources[size]).net())
    real = real_steps(params, sources)

    def made() -> Made:
        yield SavedStart("main", "naive", 0, 0, "reference"), theta_0
        for step, images in real.items():
            yield SavedStart("main", "more_data", 0, step, "oracle"), load_file(trained_path(seed, images))
        on, sham = load_file(trained_on_path(seed)), load_trajectory(sham_path(seed), params.history_length)
        yield from predicted_starts(params, "main", trajectory, params.predict.steps, fresh, seed, on, sham)
        for k, theta in enumerate(reversed(trajectory)):
            yield SavedStart("main", "theta", 0, k, "path"), theta
        for images in sources:
            yield SavedStart("main", "trained", 0, images, "headroom"), load_file(trained_path(seed, images))

    kinds = kinds_of(theta_0, pointwise=pointwise_of(params.predict.runnable[params.predict.judged][0]))
    result = SeedStarts([], [], [], [], [])
    for start, state in ruled(params, made()):
        file = write_state(state_of(maker.net(start, state)), start.path(seed))
        result.starts.append(start)
        if start.role not in ("path", "headroom") and not start.crossed:
            source = {"source_seed": seed, "method": start.method, "steps": start.steps, "role": start.role}
            tested = recorded(source_test, SourceTest(sources[size], FileInput.of(file)), params.compute.alone)
            source |= {"candidate": start.candidate, "source_accuracy": tested.accuracy}
            sizes = step_sizes(state, theta_0, trajectory[-2], kinds)
            result.predictions.extend(source | size._asdict() for size in sizes)
    if 1 in real and params.forget.oracle:
        _oracle(job, sources, load_file(trained_path(seed, real[1])), fresh, kinds, result)
    return result


def real_steps(params: Params, trained: Collection[int]) -> dict[int, int]:
    """The steps for which a net was really trained on as many images as they stand for, with that number; ``trained``: the
    numbers of images that nets were trained on."""
    sizes = {
        step: round(params.downsize.source_images / params.rate**step) for step in range(1, params.predict.steps + 1)
    }
    return {step: images for step, images in sizes.items() if images in trained}


def other(source: SourceJob) -> SourceJob:
    """The same network as initialised under another seed: to mix with Θ_0's own initial weights would rewind its training."""
    return SourceJob(
        source.task, source.architecture, source.split, source.images, source.training, derive("fresh", source.seed)
    )


def _oracle(
    job: SeedJob,
    sources: dict[int, SourceJob],
    real: State,
    fresh: State,
    kinds: Mapping[str, TensorKind],
    result: SeedStarts,
) -> None:
    """One step past the Θ_0 that was fine-tuned from the real Θ_{-1}: what that is worth on the source task, and the predicted
    steps beside the real one."""
    params, seed = job.params, job.seed
    trajectory = load_trajectory(oracle_path(seed), params.history_length)
    theta_0, source = trajectory[-1], sources[params.downsize.source_images]
    maker = Maker(params, source, theta_0)

    def made() -> Made:
        yield SavedStart("oracle", "naive", 0, 0, "reference"), theta_0
        yield SavedStart("oracle", "more_data", 0, 1, "oracle"), real
        yield from predicted_starts(params, "oracle", trajectory, 1, fresh, seed)

    for start, state in ruled(params, made()):
        file = write_state(state_of(maker.net(start, state)), start.path(seed))
        result.starts.append(start)
        row = {"source_seed": seed, "method": start.method, "steps": start.steps, "role": start.role}
        result.oracle.append(
            row | asdict(recorded(source_test, SourceTest(source, FileInput.of(file)), params.compute.alone))
        )
        if start.role in ("method", "control") and start.candidate == 0:
            found = step_geometry(state, real, theta_0, kinds)
            result.geometry.append(found.assign(source_seed=seed, method=start.method, role=start.role)[GEOMETRY])
            if job.first:
                new, true, old = (Weights(one, kinds) for one in (state, real, theta_0))
                result.steps.append(_sampled_steps(new, true, old, start.method))


def run(params: Params) -> None:
    """Retrodict 1 … ``steps`` steps past Θ_0 by each method, and one step on the path that starts at the real Θ_{-1}.

    Writes every start, after the same BatchNorm rule for all, and ``predictions.csv``, ``oracle_source.csv``,
    ``geometry.csv``, ``steps.csv`` and, of the first seed's path, ``landscape.csv``, ``landscape_points.csv`` and
    ``landscape_axes.csv``.
    """
    seeds = params.downsize.source_seeds
    jobs = [SeedJob(params, seed, seed == seeds[0]) for seed in seeds]
    found = map_all(_seed_starts, jobs, params.compute, "retrodiction")
    write_starts(found[0].starts)
    write_csv(pd.DataFrame([row for seed in found for row in seed.predictions]), "predictions.csv")
    oracle = ["source_seed", "method", "steps", "role", "accuracy", "loss", "ece"]
    write_csv(pd.DataFrame([row for seed in found for row in seed.oracle], columns=oracle), "oracle_source.csv")
    geometry = [table for seed in found for table in seed.geometry]
    write_csv(pd.concat(geometry) if geometry else pd.DataFrame(columns=GEOMETRY), "geometry.csv")
    steps = pd.concat([pd.DataFrame(columns=["method", "kind", "predicted", "real"]), *found[0].steps])
    write_csv(steps, "steps.csv")
    _landscape(params, found[0].starts)


def _sampled_steps(predicted: Weights, real: Weights, theta_0: Weights, name: str) -> pd.DataFrame:
    """The predicted and the real step of some scalars of each kind, the same ones for every method."""
    own, true = ((theta - theta_0).by_kind() for theta in (predicted, real))
    parts = []
    for kind, step in own.items():
        index = torch.randperm(len(step.flat()), generator=torch.Generator().manual_seed(derive("sample")))[:SAMPLE]
        steps = {"predicted": step.flat()[index], "real": true[kind].flat()[index]}
        parts.append(pd.DataFrame({"method": name, "kind": kind} | steps))
    return pd.concat(parts)


def _landscape(params: Params, starts: Sequence[SavedStart]) -> None:
    """The loss on the first path's plane, and where the path and the starts lie on it."""
    seed, on_plane = params.downsize.source_seeds[0], {params.predict.judged, *ON_PLANE}
    shown = [s for s in starts if s.track == "main" and s.method in on_plane and s.candidate == 0 and not s.crossed]
    shown = [s for s in shown if s.method != "more_data" or s.steps == 1]
    path = [s for s in starts if s.role == "path" and not s.crossed]
    source = source_jobs(params, seed)[params.downsize.source_images]
    points, grid, axes = (
        pd.DataFrame(),
        pd.DataFrame(columns=["x", "y", "loss"]),
        pd.DataFrame(columns=["axis", "share"]),
    )
    if len(path) > 2:
        path = sorted(path, key=lambda s: -s.steps)
        inside = [i for i, s in enumerate(shown) if s.method in (params.predict.judged, "linear")]
        own, others = (tuple(FileInput.of(s.path(seed)) for s in group) for group in (path, shown))
        job = LandscapeJob(source, own, others, tuple(inside))
        (found,) = run_all(landscape, [job], params.compute, "loss landscape")
        grid = pd.DataFrame(found.grid, columns=["x", "y", "loss"])
        names = [(s.method, s.steps) for s in (*path, *shown)]
        points = pd.DataFrame([(*n, *p) for n, p in zip(names, found.points, strict=True)])
        axes = pd.DataFrame({"axis": ["x", "y"], "share": found.shares})
    points = points.reindex(columns=range(6)).set_axis(["method", "steps", "x", "y", "loss", "off_plane"], axis=1)
    write_csv(grid, "landscape.csv")
    write_csv(points, "landscape_points.csv")
    write_csv(axes, "landscape_axes.csv")
