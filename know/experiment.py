"""The paper's experiment, a function a stage: what the notebooks call, and the ``know`` command outside DVC.

downsize → forget → meta_train → predict → evaluate. Each function reads what the stages before it wrote under
``data/``, writes its own results there, and returns tidy tables for the figures. Independent runs go through one
executor, and a killed stage continues with the runs that it had not finished.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from know import figures, paths, report
from know.data import load
from know.evaluation import labelled, transfer
from know.executor import device_of, resumable, run_all
from know.forgetting import forget as forgetting_run
from know.forgetting import load_trajectory, save_trajectory, state_of
from know.hdf5 import Paths, RunFile, save_paths
from know.hypermodel import Kind, load_hypermodel, save_hypermodel
from know.metatrain import RunSpec, draw_runs, errors, run_paths, split_runs, train_hypermodel
from know.models import build
from know.params import Params
from know.prediction import (
    Predictor,
    State,
    by_kind,
    linear,
    no_change,
    rescaled,
    retrodict,
    task_vector,
    with_batchnorm,
)
from know.progress import track
from know.splits import downstream, draw_split, load_split, save_split, source
from know.training import Recipe, fit, measure, reestimate_batchnorm


def write_csv(table: pd.DataFrame, name: str, folder: Path | None = None) -> pd.DataFrame:
    """Write a table, by default to ``data/results/``, with six significant digits, and return it."""
    with paths.atomic((folder or paths.RESULTS) / name) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def read_csv(name: str) -> pd.DataFrame:
    """Read a table that an earlier stage wrote."""
    return pd.read_csv(paths.RESULTS / name)


def _split_path(seed: int) -> Path:
    return paths.SPLITS / f"seed_{seed}.safetensors"


# --- 1. downsize ------------------------------------------------------------------------------------------------


def downsize(params: Params) -> pd.DataFrame:
    """Draw D_0 ⊃ … ⊃ D_{S-1}, the real D_{-1} and the validation images for each source seed.

    Returns:
        Rows of seed, subset, class, images.
    """
    pool = source(params.downsize, "train", torch.device("cpu"))
    rows = []
    for seed in params.downsize.source_seeds:
        split = draw_split(pool.labels, params.downsize, params.rate, params.history_length, seed)
        save_split(split, _split_path(seed))
        named = {f"D_{k}": subset for k, subset in enumerate(split.subsets)} | {"validation": split.validation}
        if split.more is not None:
            named["D_-1"] = split.more
        for subset, index in named.items():
            counts = pool.labels[index].bincount(minlength=len(pool.classes)).tolist()
            rows += [(seed, subset, label, n) for label, n in zip(pool.classes, counts, strict=True)]
    return write_csv(pd.DataFrame(rows, columns=["seed", "subset", "class", "images"]), "downsize.csv")


# --- 2. forget --------------------------------------------------------------------------------------------------


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
    split = load_split(_split_path(run.seed))
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


def forget(params: Params) -> Forgetting:
    """Train Θ_0 until it has converged, then fine-tune it on D_1, D_2, …; also the real Θ_{-1}, for the headroom."""
    seeds = params.downsize.source_seeds
    have_more = load_split(_split_path(seeds[0])).more is not None
    runs = [SourceRun(params, seed, more) for more in ((True, False) if have_more else (False,)) for seed in seeds]
    with resumable("forget", params, [paths.SPLITS]) as resume:
        results = run_all(_source_run, runs, params.compute, "forgetting", resume)
        for run, result in zip(runs, results, strict=True):
            if run.more:
                with paths.atomic(_more_path(run.seed)) as temporary:
                    save_file(result.trajectory[0], temporary)
            else:
                save_trajectory(result.trajectory, _trajectory_path(run.seed))
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


def _trajectory_path(seed: int) -> Path:
    return paths.TRAJECTORIES / f"seed_{seed}"


def _more_path(seed: int) -> Path:
    return paths.TRAJECTORIES / f"more_{seed}.safetensors"


# --- 3. meta-train ----------------------------------------------------------------------------------------------


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


def meta_train(params: Params) -> MetaTraining:
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


# --- 4. predict -------------------------------------------------------------------------------------------------


def start_path(seed: int, method: str, step: int) -> Path:
    """Where the weights of a method after ``step`` retrodictions are; naïve is step 0, the real Θ_{-1} step 1."""
    return paths.PREDICTIONS / f"seed_{seed}" / f"{method}_{step}.safetensors"


def predict(params: Params) -> pd.DataFrame:
    """Retrodict 1 … ``steps`` steps past Θ_0 by each method, and apply the BatchNorm rule to all starts alike.

    Returns:
        Rows of seed, method, step, source accuracy on the test images (before any fine-tuning), and for each kind the
        norm relative to Θ_0's, the step's norm relative to |Θ_0 - Θ_1|, and its cosine with Θ_0 - Θ_1.
    """
    options, device = params.predict, device_of(params.compute)
    hypermodel = load_hypermodel(paths.HYPERMODEL)
    predictors: dict[str, Predictor] = {
        "known": hypermodel,
        "linear": linear,
        "task_vector": task_vector(options.task_vector_scale),
    }
    pool, test = (source(params.downsize, part, device) for part in ("train", "test"))
    rows = []
    for seed in track(params.downsize.source_seeds, desc="retrodiction"):
        trajectory = load_trajectory(_trajectory_path(seed), params.history_length)
        theta_0, split = trajectory[-1], load_split(_split_path(seed))
        starts: dict[tuple[str, int], State] = {("naive", 0): theta_0}
        if split.more is not None:
            starts["more_data", 1] = load_file(_more_path(seed))
        known = retrodict(trajectory, hypermodel, options.steps)
        for method in options.methods:
            if method == "shrunk":
                states = [rescaled(theta_0, state) for state in known]
            else:
                states = known if method == "known" else retrodict(trajectory, predictors[method], options.steps)
            starts |= {(method, step): state for step, state in enumerate(states, start=1)}
        net = build(params.forget.architecture, pool.images.shape[1], len(pool.classes), seed).to(device)
        data = pool.select(split.subsets[0].to(device))
        for (start, step), state in starts.items():
            net.load_state_dict(state if start == "more_data" else with_batchnorm(state, theta_0, options.batchnorm))
            if options.batchnorm == "re-estimate":
                reestimate_batchnorm(net, data.batches(500))
            with paths.atomic(start_path(seed, start, step)) as temporary:
                save_file(state_of(net), temporary)
            rows += [
                (seed, start, step, measure(net, test)[1], *row) for row in _geometry(state, theta_0, trajectory[-2])
            ]
    columns = ["seed", "method", "step", "source_accuracy", "kind", "norm_ratio", "step_ratio", "step_cosine"]
    return write_csv(pd.DataFrame(rows, columns=columns), "predictions.csv")


def _geometry(state: State, theta_0: State, theta_1: State) -> list[tuple[Kind, float, float, float]]:
    """For each kind: |Θ̂|/|Θ_0|, |Θ̂ - Θ_0|/|Θ_0 - Θ_1| and the cosine between these two steps."""
    rows: list[tuple[Kind, float, float, float]] = []
    flat = [by_kind(theta) for theta in (state, theta_0, theta_1)]
    for kind in flat[0]:
        new, old, older = (theta[kind].double() for theta in flat)
        step, last = new - old, old - older
        cosine = torch.nn.functional.cosine_similarity(step, last, dim=0).item()
        rows.append((kind, (new.norm() / old.norm()).item(), (step.norm() / last.norm()).item(), cosine))
    return rows


# --- 5. evaluate ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TransferRun:
    """Fine-tuning one start on one draw of the downstream labels."""

    params: Params
    source_seed: int
    downstream_seed: int
    fraction: float
    method: str
    step: int


def _transfer_run(run: TransferRun) -> float:
    params, device = run.params, device_of(run.params.compute)
    pool, test = (downstream(params.downsize, part, device) for part in ("train", "test"))
    count = round(run.fraction * params.evaluate.labels)
    seed = paired_seed(run.source_seed, run.downstream_seed)
    start = None if run.method == "scratch" else load_file(start_path(run.source_seed, run.method, run.step))
    data = labelled(pool, count, run.downstream_seed)
    return transfer(params.forget.architecture, start, data, test, params.evaluate.fine_tuning, seed).accuracy


def paired_seed(source_seed: int, downstream_seed: int) -> int:
    """The one number that stands for a pair of seeds in ``transfer.csv``; ``divmod(seed, 1000)`` takes it apart."""
    return 1000 * source_seed + downstream_seed


def evaluate(params: Params) -> pd.DataFrame:
    """Fine-tune every start on every draw of the downstream labels; test accuracy, once, at the end.

    Returns:
        Rows of source, arch, downstream, method, steps, fraction, seed, accuracy.
    """
    seeds = params.downsize.source_seeds
    first = paths.PREDICTIONS / f"seed_{seeds[0]}"
    starts = sorted((path.stem.rpartition("_")[0], int(path.stem.rpartition("_")[2])) for path in first.iterdir())
    runs = [
        TransferRun(params, source_seed, downstream_seed, fraction, method, step)
        for fraction in params.evaluate.fractions
        for source_seed in seeds
        for downstream_seed in params.evaluate.downstream_seeds
        for method, step in [("scratch", 0), *starts]
    ]
    with resumable("evaluate", params, [paths.PREDICTIONS]) as resume:
        accuracies = run_all(_transfer_run, runs, params.compute, "fine-tuning", resume)
        task = {
            "source": _task_name(params.downsize.dataset, params.downsize.source_classes),
            "arch": params.forget.architecture,
            "downstream": _task_name(params.downsize.downstream_dataset, params.downsize.downstream_classes),
        }
        table = pd.DataFrame(
            [
                task
                | {
                    "method": run.method,
                    "steps": run.step,
                    "fraction": run.fraction,
                    "seed": paired_seed(run.source_seed, run.downstream_seed),
                    "accuracy": accuracy,
                }
                for run, accuracy in zip(runs, accuracies, strict=True)
            ]
        )
        return write_csv(table, "transfer.csv")


def _task_name(dataset: str, classes: tuple[int, ...]) -> str:
    return f"{dataset}:{'-'.join(map(str, classes))}"


# --- 6. report --------------------------------------------------------------------------------------------------


def write_report(params: Params) -> list[str]:
    """Write every figure and table, ``metrics.json`` and the plots' data under ``reports/``.

    Returns:
        The files written, relative to ``reports/``.
    """
    confidence, rate = params.report.confidence, params.rate
    tables = {
        name: read_csv(f"{name}.csv")
        for name in ("transfer", "forgetting", "source_learning", "meta_errors", "meta_curves", "predictions")
    }
    summary = report.summarise(tables["transfer"], params.evaluate.labels, confidence)
    drawn = {
        "schematic": figures.schematic(rate, params.history_length),
        "forgetting": figures.forgetting(tables["forgetting"], rate, confidence),
        "meta_validation": figures.meta_validation(tables["meta_errors"], tables["meta_curves"]),
        "predictions": figures.predictions(tables["predictions"], rate, confidence),
        "transfer": figures.transfer(summary, rate),
        "gains": figures.gains(summary, rate),
    }
    for name, figure in drawn.items():
        figures.save(figure, paths.REPORTS / "figures", name)
        plt.close(figure)
    report.write_json(report.FIGURE_CAPTIONS, paths.REPORTS / "figures" / "captions.json")
    folder = paths.REPORTS / "tables"
    write_csv(tables["transfer"], "transfer.csv", folder)
    report.write_table(report.transfer_table(summary, rate), folder, "transfer_summary")
    report.write_table(report.forgetting_table(tables["forgetting"], confidence), folder, "forgetting")
    report.write_table(report.meta_table(tables["meta_errors"]), folder, "meta_validation")
    report.write_json(report.TABLE_CAPTIONS, folder / "captions.json")
    plots = paths.REPORTS / "plots"
    shown = summary.assign(start=summary.method + " " + summary.steps.astype(str), accuracy=summary["mean"])
    write_csv(shown[["start", "labels", "accuracy"]], "transfer.csv", plots)
    by_k = tables["forgetting"].groupby(["images", "k"], as_index=False)["accuracy"].mean()
    write_csv(by_k, "forgetting.csv", plots)
    _, verdict = report.forgetting_verdict(tables["forgetting"], tables["source_learning"], confidence)
    lines = report.findings(tables["transfer"], params.evaluate.labels, rate, confidence)
    report.write_text(report.findings_page(verdict, report.check_pair(summary), lines), paths.REPORTS / "findings.md")
    values = report.metrics(summary, tables["forgetting"], tables["meta_errors"])
    report.write_json(values, paths.REPORTS / "metrics.json")
    return sorted(
        str(path.relative_to(paths.REPORTS))
        for kind in ("figures", "tables", "plots")
        for path in (paths.REPORTS / kind).iterdir()
    )
