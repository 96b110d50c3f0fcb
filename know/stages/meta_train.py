"""Stage 3: the meta-dataset and KNOWN."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from know import paths
from know.data.images import load
from know.meta.layout import Paths, RunFile, save_paths
from know.meta.learning import RunSpec, draw_runs, errors, run_paths, split_runs, train_hypermodels
from know.params import Params
from know.prediction.engine import Predictor
from know.prediction.known import HyperModel, Scale, save_hypermodel
from know.prediction.predictors import linear, no_change
from know.run.executor import device_of, resumable, run_all
from know.stages.results import write_csv
from know.weights.kinds import KINDS

NAMES: dict[Scale, str] = {"none": "KNOWN", "path": "scale-free KNOWN", "wnn": "WNN"}


def _meta_run(job: tuple[Params, RunSpec]) -> Paths:
    params, spec = job
    return run_paths(spec, load(spec.dataset, "train").to(device_of(params.compute)))


def _meta_path(spec: RunSpec) -> Path:
    return paths.META / spec.file_name


@dataclass(frozen=True)
class MetaTraining:
    """``runs``: the hyper-parameters drawn and how many weights each collected; ``errors``: held-out run, dataset,
    architecture, kind, predictor, mae; ``curves``: kind, step, mae on the held-out runs; ``response``: kind, level, slope,
    residual and linear, what KNOWN and a line add to the last weight of a straight path."""

    runs: pd.DataFrame
    errors: pd.DataFrame
    curves: pd.DataFrame
    response: pd.DataFrame


def run(params: Params) -> MetaTraining:
    """Collect the meta-dataset, meta-train KNOWN and its variants for each kind, and measure them on the held-out runs.

    KNOWN is saved in ``data/hypermodel``, its variants in folders of their names in there.
    """
    specs = draw_runs(params.meta_train, params.forget.mode)
    with resumable("meta_train", params) as resume:
        collected = run_all(_meta_run, [(params, spec) for spec in specs], params.compute, "meta-dataset", resume)
        for spec, run in zip(specs, collected, strict=True):
            save_paths(run, _meta_path(spec), asdict(spec))
        training, held_out = split_runs(specs, params.meta_train.runs.held_out)
        files, checks = ([RunFile.open(_meta_path(spec)) for spec in part] for part in (training, held_out))
        models, curves = train_hypermodels(
            files, checks, params.history_length, params.meta_train.known, params.meta_train.seed, params.compute,
            ("none", *params.meta_train.variants), resume,
        )  # fmt: skip
    known = models["none"]
    save_hypermodel(known, paths.HYPERMODEL)
    for variant in params.meta_train.variants:
        save_hypermodel(models[variant], paths.HYPERMODEL / variant)

    predictors: dict[str, Predictor] = {"no change": no_change, "linear": linear}
    predictors |= {NAMES[scale]: model for scale, model in models.items()}
    rows = []
    for spec in held_out:
        file = RunFile.open(_meta_path(spec))
        for kind in file.sizes:
            found = errors(file, kind, params.history_length, predictors)
            rows += [(spec.name, spec.dataset, spec.architecture, kind, name, mae) for name, mae in found.items()]
    table = pd.DataFrame(rows, columns=["run", "dataset", "architecture", "kind", "predictor", "mae"])
    learned = pd.DataFrame(
        [
            (kind, step, mae)
            for kind, curve in curves["none"].items()
            for step, mae in zip(curve.steps, curve.errors, strict=True)
        ],
        columns=["kind", "step", "mae"],
    )
    runs = pd.DataFrame([asdict(spec) | {"held_out": spec in held_out} for spec in specs])
    runs["weights"] = [sum(map(len, run.values())) for run in collected]
    return MetaTraining(
        write_csv(runs, "meta_runs.csv"),
        write_csv(table, "meta_errors.csv"),
        write_csv(learned, "meta_curves.csv"),
        write_csv(response(known), "response.csv"),
    )


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
