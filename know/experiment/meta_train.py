"""Stage 3: the meta-dataset and KNOWN."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from know import paths
from know.data import load
from know.executor import device_of, resumable, run_all
from know.experiment.results import write_csv
from know.hdf5 import Paths, RunFile, save_paths
from know.hypermodel import save_hypermodel
from know.metatrain import RunSpec, draw_runs, errors, run_paths, split_runs, train_hypermodel
from know.params import Params
from know.prediction import (
    Predictor,
    linear,
    no_change,
)


def _meta_run(job: tuple[Params, RunSpec]) -> Paths:
    params, spec = job
    return run_paths(spec, load(spec.dataset, "train").to(device_of(params.compute)))


def _meta_path(spec: RunSpec) -> Path:
    return paths.META / spec.file_name


@dataclass(frozen=True)
class MetaTraining:
    """``runs``: the hyper-parameters drawn and how many weights each collected; ``errors``: held-out run, dataset,
    architecture, kind, predictor, mae; ``curves``: kind, step, mae on the held-out runs."""

    runs: pd.DataFrame
    errors: pd.DataFrame
    curves: pd.DataFrame


def run(params: Params) -> MetaTraining:
    """Collect the meta-dataset, meta-train KNOWN for each kind, and measure it on the held-out runs."""
    specs = draw_runs(params.meta_train)
    with resumable("meta_train", params) as resume:
        collected = run_all(_meta_run, [(params, spec) for spec in specs], params.compute, "meta-dataset", resume)
        for spec, run in zip(specs, collected, strict=True):
            save_paths(run, _meta_path(spec), asdict(spec))
        training, held_out = split_runs(specs, params.meta_train.runs.held_out)
        model, fitted = train_hypermodel(
            [RunFile.open(_meta_path(spec)) for spec in training],
            [RunFile.open(_meta_path(spec)) for spec in held_out],
            params.history_length, params.meta_train.known, params.meta_train.seed, params.compute, resume=resume,
        )  # fmt: skip
    save_hypermodel(model, paths.HYPERMODEL)

    predictors: dict[str, Predictor] = {"no change": no_change, "linear": linear, "KNOWN": model}
    rows = []
    for spec in held_out:
        file = RunFile.open(_meta_path(spec))
        for kind in file.sizes:
            found = errors(file, kind, params.history_length, predictors)
            rows += [(spec.name, spec.dataset, spec.architecture, kind, name, mae) for name, mae in found.items()]
    table = pd.DataFrame(rows, columns=["run", "dataset", "architecture", "kind", "predictor", "mae"])
    curves = pd.DataFrame(
        [
            (kind, step, mae)
            for kind, curve in fitted.items()
            for step, mae in zip(curve.steps, curve.errors, strict=True)
        ],
        columns=["kind", "step", "mae"],
    )
    runs = pd.DataFrame([asdict(spec) | {"held_out": spec in held_out} for spec in specs])
    runs["weights"] = [sum(map(len, run.values())) for run in collected]
    return MetaTraining(
        write_csv(runs, "meta_runs.csv"), write_csv(table, "meta_errors.csv"), write_csv(curves, "meta_curves.csv")
    )
