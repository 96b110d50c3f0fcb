"""From files of weight paths to hyper-models, a KNOWN for each kind, and their errors on runs held out."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from know.meta.layout import LayoutError, RunFile, run_files
from know.meta.learning import Curve, KnownJob, learn
from know.meta.options import KnownTraining, MetaTrain
from know.meta.runs import split_runs, windows
from know.prediction.engine import Predictor
from know.prediction.known import HyperModel, Scale
from know.prediction.predictors import linear, no_change
from know.run.executor import run_all
from know.run.options import Compute
from know.run.store import FileInput
from know.weights.kinds import KINDS, Kind


def train_hypermodels(
    training: Sequence[RunFile],
    held_out: Sequence[RunFile],
    history_length: int,
    options: KnownTraining,
    seed: int,
    compute: Compute,
    scales: Sequence[Scale] = ("none",),
) -> tuple[dict[Scale, HyperModel], dict[Scale, dict[Kind, Curve]]]:
    """Meta-train a KNOWN for each scale and kind on files of weight paths, and follow each on the held-out ones.

    Raises:
        LayoutError: there is a kind without weights, or 1×1 convolutions are conv in some files and fc in others.
    """
    first = training[0]
    if others := [run for run in (*training, *held_out) if run.pointwise != first.pointwise]:
        raise LayoutError(
            f"{others[0].path}: 1×1 kernels are {others[0].pointwise}, but {first.pointwise} in {first.path.name}"
        )
    for kind in KINDS:
        if not any(kind in run.sizes for run in training):
            raise LayoutError(f"{training[0].path.parent}: no run to learn from has {kind} weights")
    files, checks = (tuple(FileInput.of(run.path) for run in runs) for runs in (training, held_out))
    jobs = [KnownJob(files, checks, kind, history_length, options, seed, scale) for scale in scales for kind in KINDS]
    description = f"meta-trained on {len(training)} runs"
    models = {scale: HyperModel(history_length, description, scale, first.pointwise) for scale in scales}
    curves: dict[Scale, dict[Kind, Curve]] = {scale: {} for scale in scales}
    for job, learned in zip(jobs, run_all(learn, jobs, compute, "KNOWN"), strict=True):
        models[job.scale].of(job.kind).load_state_dict(learned.state)
        curves[job.scale][job.kind] = learned.curve
    return {scale: model.eval() for scale, model in models.items()}, curves


CHUNK = 1 << 15  # scalars a call: small enough for the hyper-model's activations to stay in cache


@torch.no_grad()
def errors(
    run: RunFile, kind: Kind, length: int, predictors: Mapping[str, Predictor], steps: int = 1
) -> dict[str, float]:
    """Each predictor's mean absolute error ``steps`` ahead, recursively, on all windows of one run's paths of a kind."""
    totals, count = dict.fromkeys(predictors, 0.0), 0
    for block in run.blocks(kind, CHUNK):
        both = windows(block, length + steps)
        count += len(both)
        for name, predictor in predictors.items():
            window = both[:, :length]
            for _ in range(steps):
                window = torch.cat([window[:, 1:], predictor(window, kind)[:, None]], 1)
            totals[name] += (window[:, -1] - both[:, -1]).abs().double().sum().item()
    return {name: total / count for name, total in totals.items()}


def from_folder(
    folder: Path, options: MetaTrain, history_length: int, compute: Compute, scale: Scale = "none"
) -> tuple[HyperModel, pd.DataFrame]:
    """Meta-train on a folder of files of the published layout, however large.

    ``options.runs.held_out`` of the files, drawn at random, are held out.

    Returns:
        The hyper-model, and its mean absolute error on the held-out runs by kind, beside no change and a line.
    """
    runs, count = run_files(folder), options.runs.held_out
    if len(runs) <= count:
        raise LayoutError(f"{folder}: {len(runs)} runs; more than meta_train.runs.held_out = {count} are needed")
    random.Random(options.seed).shuffle(runs)
    training, held_out = split_runs(runs, count)
    models, _ = train_hypermodels(training, held_out, history_length, options.known, options.seed, compute, [scale])
    predictors: dict[str, Predictor] = {"no change": no_change, "linear": linear, "KNOWN": models[scale]}
    rows = [{"kind": kind} | errors(run, kind, history_length, predictors) for run in held_out for kind in run.sizes]
    return models[scale], pd.DataFrame(rows).groupby("kind").mean()
