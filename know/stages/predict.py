"""Stage 4: the weights past Θ_0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from know import paths
from know.data.images import ImageSet
from know.data.splits import Split, load_split, source
from know.models.small import build
from know.params import Params
from know.prediction.controls import Case
from know.prediction.options import Predict, candidate_names
from know.prediction.predictors import PathPredictor
from know.prediction.retrodict import retrodict
from know.run.executor import device_of, run_all
from know.stages.results import (
    oracle_path,
    oracle_start_path,
    split_path,
    start_path,
    trained_on_path,
    trained_path,
    trajectory_path,
    write_csv,
)
from know.training.fine_tuning import outcome
from know.training.forgetting import load_trajectory, state_of
from know.training.loop import measure, reestimate_batchnorm
from know.weights.algebra import Weights
from know.weights.batchnorm import with_batchnorm
from know.weights.geometry import step_geometry, step_sizes
from know.weights.kinds import State
from know.weights.landscape import grid, plane_of

Starts = dict[tuple[str, int], State]
"""Weights to start from, by name and step."""


@dataclass(frozen=True)
class Predictions:
    """``table``: rows of seed, method, step, source accuracy on the test images (before any fine-tuning), and for each kind
    the norm relative to Θ_0's, the step's norm relative to |Θ_0 - Θ_1|, and its cosine with Θ_0 - Θ_1.

    On the path that starts at the real Θ_{-1}, so that the predicted step can be held beside the real one: ``oracle``, rows
    of seed, method, steps, accuracy, loss, ece on the source task's test images; ``geometry``, rows of seed, method, kind,
    layer, weights, cosine, norm_ratio; ``steps``, a sample of the first seed's scalars: method, kind, predicted, real.

    Of the first seed's path: ``landscape``, rows of x, y, loss on the source task's validation images; ``points``, rows of
    method, steps, x, y, loss, where a state Θ_k of the path is "theta" k; ``axes``, rows of axis and share, of the path's
    variance.
    """

    table: pd.DataFrame
    oracle: pd.DataFrame
    geometry: pd.DataFrame
    steps: pd.DataFrame
    landscape: pd.DataFrame
    points: pd.DataFrame
    axes: pd.DataFrame


def predicted_starts(
    options: Predict, trajectory: Sequence[State], steps: int, fresh: State, seed: int, trained_on: State | None
) -> Starts:
    """What every candidate of every method and control makes of a trajectory. ``trained_on``: see ``controls.Case``; None
    leaves that control out."""
    methods: dict[str, list[State]] = {}
    for candidates in options.methods:
        for name, one in zip(candidate_names(candidates), candidates, strict=True):
            methods[name] = retrodict(trajectory, one, steps)
    known = options.starts["known"][0]
    assert isinstance(known, PathPredictor)
    case = Case(trajectory, known, methods["known"], fresh, seed, trained_on, methods)
    states = dict(methods)
    for controls in options.controls:
        for name, control in zip(candidate_names(controls), controls, strict=True):
            if control.control != "trained_on" or trained_on is not None:
                states[name] = control.states(case)
    return {(name, step): state for name, found in states.items() for step, state in enumerate(found, start=1)}


@dataclass(frozen=True)
class Seed:
    """One source seed's nets and images."""

    params: Params
    seed: int
    split: Split
    pool: ImageSet
    test: ImageSet

    def net(self, state: State) -> torch.nn.Module:
        """The network with these weights."""
        params = self.params
        net = build(params.forget.architecture, self.pool.images.shape[1], len(self.pool.classes), self.seed)
        net.load_state_dict(state)
        return net.to(self.pool.images.device)

    def start(self, name: str, state: State, theta_0: State) -> torch.nn.Module:
        """The network with a start's weights, by the same rule for BatchNorm for all of them; but what the real Θ_{-1} has
        learned is not overwritten by Θ_0's."""
        rule = self.params.predict.batchnorm
        net = self.net(state if name == "more_data" else with_batchnorm(state, theta_0, rule))
        if rule == "re-estimate":
            index = self.split.subsets[0].to(self.pool.images.device)
            reestimate_batchnorm(net, self.pool.select(index).batches(500))
        return net

    @property
    def fresh(self) -> State:
        """Weights never trained, and not those from which Θ_0 was: to mix with these would be to rewind its training."""
        params = self.params
        seed = self.seed + 1000  # beyond every source seed
        return state_of(build(params.forget.architecture, self.pool.images.shape[1], len(self.pool.classes), seed))


@dataclass(frozen=True)
class SeedResult:
    """One source seed's part of the tables of ``Predictions``; the landscape is the first seed's, empty for others."""

    rows: list[tuple[object, ...]]
    oracle: list[tuple[object, ...]]
    geometry: pd.DataFrame
    steps: pd.DataFrame
    landscape: list[tuple[float, float, float]]
    points: list[tuple[object, ...]]
    axes: list[tuple[str, float]]


GEOMETRY = ["seed", "method", "kind", "layer", "weights", "cosine", "norm_ratio"]
SAMPLE = 1000  # scalars of each kind whose steps are kept, for the figure


def _seed_run(job: tuple[Params, int]) -> SeedResult:
    """Retrodict from one source seed's path, and write the starts."""
    params, number = job
    device = device_of(params.compute)
    pool, test = (source(params.downsize, part, device) for part in ("train", "test"))
    seed = Seed(params, number, load_split(split_path(number)), pool, test)
    trajectory = load_trajectory(trajectory_path(number), params.history_length)
    theta_0 = trajectory[-1]
    starts: Starts = {("naive", 0): theta_0}
    if seed.split.more is not None:
        starts["more_data", 1] = load_file(trained_path(number, len(seed.split.more)))
    on = load_file(trained_on_path(number))
    starts |= predicted_starts(params.predict, trajectory, params.predict.steps, seed.fresh, number, on)
    rows: list[tuple[object, ...]] = []
    for (name, step), state in starts.items():
        net = seed.start(name, state, theta_0)
        _save(net, start_path(number, name, step))
        accuracy = measure(net, test)[1]
        rows += [(number, name, step, accuracy, *row) for row in step_sizes(state, theta_0, trajectory[-2])]
    first = number == params.downsize.source_seeds[0]
    landscape = _landscape(seed, trajectory, starts) if first and len(trajectory) > 2 else ([], [], [])
    if seed.split.more is None:
        geometry, steps = (pd.DataFrame(columns=names) for names in (GEOMETRY, ["method", "kind", "predicted", "real"]))
        return SeedResult(rows, [], geometry, steps, *landscape)
    return SeedResult(rows, *_oracle(seed, sample=first), *landscape)


def run(params: Params) -> Predictions:
    """Retrodict 1 … ``steps`` steps past Θ_0 by each method, and one step on the path that starts at the real Θ_{-1}.

    Writes every start, after the same BatchNorm rule for all.
    """
    jobs = [(params, seed) for seed in params.downsize.source_seeds]
    found = run_all(_seed_run, jobs, params.compute, "retrodiction")

    def written(name: str, columns: Sequence[str], rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
        return write_csv(pd.DataFrame(rows, columns=columns), name)

    moved = ["seed", "method", "step", "source_accuracy", "kind", "norm_ratio", "step_ratio", "step_cosine"]
    return Predictions(
        written("predictions.csv", moved, [row for seed in found for row in seed.rows]),
        written(
            "oracle_source.csv",
            ["seed", "method", "steps", "accuracy", "loss", "ece"],
            [row for seed in found for row in seed.oracle],
        ),
        write_csv(pd.concat([seed.geometry for seed in found]), "geometry.csv"),
        write_csv(found[0].steps, "steps.csv"),
        written("landscape.csv", ["x", "y", "loss"], found[0].landscape),
        written("landscape_points.csv", ["method", "steps", "x", "y", "loss"], found[0].points),
        written("landscape_axes.csv", ["axis", "share"], found[0].axes),
    )


def _save(net: torch.nn.Module, path: Path) -> None:
    with paths.atomic(path) as temporary:
        save_file(state_of(net), temporary)


def _oracle(seed: Seed, sample: bool) -> tuple[list[tuple[object, ...]], pd.DataFrame, pd.DataFrame]:
    """One step past the Θ_0 that was fine-tuned from the real Θ_{-1}: outcomes on the source task, the predicted steps
    beside the real one, and, if wanted, a sample of both. Writes the starts."""
    params, number = seed.params, seed.seed
    assert seed.split.more is not None
    trajectory = load_trajectory(oracle_path(number), params.history_length)
    theta_0, real = trajectory[-1], load_file(trained_path(number, len(seed.split.more)))
    starts: Starts = {("naive", 0): theta_0, ("more_data", 1): real}
    starts |= predicted_starts(params.predict, trajectory, 1, seed.fresh, number, None)
    measured: list[tuple[object, ...]] = []
    compared, sampled = [], [pd.DataFrame(columns=["method", "kind", "predicted", "real"])]
    for (name, step), state in starts.items():
        net = seed.start(name, state, theta_0)
        _save(net, oracle_start_path(number, name, step))
        found = outcome(net, seed.test)
        measured.append((number, name, step, found.accuracy, found.loss, found.ece))
        if name in ("naive", "more_data"):
            continue
        compared.append(step_geometry(state, real, theta_0).assign(seed=number, method=name)[GEOMETRY])
        if sample and name in params.predict.starts:
            sampled += [_sampled_steps(state, real, theta_0, name)]
    return measured, pd.concat(compared), pd.concat(sampled)


def _sampled_steps(state: State, real: State, theta_0: State, name: str) -> pd.DataFrame:
    """The predicted and the real step of some scalars of each kind, the same ones for every method."""
    old = Weights(theta_0)
    predicted, true = ((Weights(theta) - old).by_kind() for theta in (state, real))
    parts = []
    for kind, step in predicted.items():
        index = torch.randperm(len(step.flat()), generator=torch.Generator().manual_seed(0))[:SAMPLE]
        steps = {"predicted": step.flat()[index], "real": true[kind].flat()[index]}
        parts.append(pd.DataFrame({"method": name, "kind": kind} | steps))
    return pd.concat(parts)


def _landscape(
    seed: Seed, trajectory: Sequence[State], starts: Mapping[tuple[str, int], State]
) -> tuple[list[tuple[float, float, float]], list[tuple[object, ...]], list[tuple[str, float]]]:
    """The loss on the path's plane, and where the path and the starts lie on it; buffers are Θ_0's throughout."""
    validation = seed.pool.select(seed.split.validation[:600].to(seed.pool.images.device))
    plane = plane_of(trajectory)

    def loss(state: State) -> float:
        return measure(seed.net(state), validation)[0]

    named = {("theta", k): theta for k, theta in enumerate(reversed(trajectory))}
    named |= {key: state for key, state in starts.items() if key[0] not in ("naive", "trained_on")}
    at = {key: plane.coordinates(state) for key, state in named.items()}
    inside = [at[key] for key in at if key[0] in ("theta", "known", "linear")]
    points: list[tuple[object, ...]] = [(*key, *at[key], loss(state)) for key, state in named.items()]
    return grid(plane, inside, loss), points, list(zip("xy", plane.share, strict=True))
