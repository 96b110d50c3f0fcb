"""Stage 3: the meta-dataset and KNOWN."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from know import paths
from know.data.images import images_digest
from know.meta.hypermodels import errors, train_hypermodels
from know.meta.layout import RunFile, save_paths
from know.meta.linear_map import fit_linear_map, save_linear_map
from know.meta.runs import MetaJob, RunSpec, draw_runs, meta_run, split_runs
from know.params import Params
from know.prediction.engine import Predictor
from know.prediction.known import HyperModel, Scale, save_hypermodel
from know.prediction.predictors import LinearMap, linear, no_change
from know.run.executor import run_all
from know.stages.results import write_csv
from know.weights.kinds import KINDS

NAMES: dict[Scale, str] = {"none": "KNOWN", "path": "scale-free KNOWN", "wnn": "WNN"}


def meta_path(spec: RunSpec) -> Path:
    """Where a run's weight paths are, in the published layout."""
    return paths.META / spec.file_name


def run(params: Params) -> None:
    """Collect the meta-dataset, meta-train KNOWN and its variants for each kind, and measure them on the held-out runs.

    KNOWN is saved in ``data/hypermodel``, its variants in folders of their names in there. Writes ``meta_runs.csv`` (the
    hyper-parameters drawn, and how many weights each run collected), ``meta_errors.csv`` (run, dataset, architecture, kind,
    predictor, mae), ``meta_curves.csv`` (kind, step, mae on the held-out runs) and ``response.csv``.
    """
    options = params.meta_train
    specs = draw_runs(options, params.forget.mode)
    jobs = [MetaJob(spec, params.downsize.meta_share, images_digest(spec.dataset)) for spec in specs]
    collected = run_all(meta_run, jobs, params.compute, "meta-dataset")
    for spec, found in zip(specs, collected, strict=True):
        save_paths(found, meta_path(spec), asdict(spec))
    training, held_out = split_runs(specs, options.runs.held_out)
    files, checks = ([RunFile.open(meta_path(spec)) for spec in part] for part in (training, held_out))
    models, curves = train_hypermodels(
        files, checks, params.history_length, options.known, options.seed, params.compute, ("none", *options.variants)
    )
    save_hypermodel(models["none"], paths.HYPERMODEL)
    for variant in options.variants:
        save_hypermodel(models[variant], paths.HYPERMODEL / variant)
    coefficients = {kind: fit_linear_map(files, kind, params.history_length, options.seed) for kind in KINDS}
    save_linear_map(coefficients, paths.HYPERMODEL)

    predictors: dict[str, Predictor] = {"no change": no_change, "linear": linear}
    predictors["linear map"] = LinearMap(coefficients={str(kind): own for kind, own in coefficients.items()})
    predictors |= {NAMES[scale]: model for scale, model in models.items()}
    rows = []
    for spec, file in zip(held_out, checks, strict=True):
        for kind in file.sizes:
            found_errors = errors(file, kind, params.history_length, predictors)
            rows += [
                (spec.name, spec.dataset, spec.architecture, kind, name, mae) for name, mae in found_errors.items()
            ]
    learned = [
        (kind, step, mae)
        for kind, curve in curves["none"].items()
        for step, mae in zip(curve.steps, curve.errors, strict=True)
    ]
    runs = pd.DataFrame([asdict(spec) | {"held_out": spec in held_out} for spec in specs])
    runs["weights"] = [sum(map(len, found.values())) for found in collected]
    write_csv(runs, "meta_runs.csv")
    names = ["run", "dataset", "architecture", "kind", "predictor", "mae"]
    write_csv(pd.DataFrame(rows, columns=names), "meta_errors.csv")
    write_csv(pd.DataFrame(learned, columns=["kind", "step", "mae"]), "meta_curves.csv")
    write_csv(response(models["none"]), "response.csv")


def response(model: HyperModel, level: float = 0.3, slope: float = 0.02, points: int = 41) -> pd.DataFrame:
    """What a hyper-model adds to w_{S-1} on the straight paths w_t = level + slope·(t - (S-1)), beside what a line adds.

    Levels are from -``level`` to ``level``, slopes from -``slope`` to ``slope``, ``points`` of each; most weights of small
    nets lie there.
    """
    levels, slopes = (torch.linspace(-end, end, points, dtype=torch.float64) for end in (level, slope))
    grid = torch.cartesian_prod(levels, slopes)
    window = (grid[:, :1] + grid[:, 1:] * torch.arange(1 - model.history_length, 1)).float()
    rows = [
        pd.DataFrame(
            {
                "kind": kind,
                "level": grid[:, 0],
                "slope": grid[:, 1],
                "residual": model(window, kind) - window[:, -1],
                "linear": linear(window, kind) - window[:, -1],
            }
        )
        for kind in KINDS
    ]
    return pd.concat(rows)
