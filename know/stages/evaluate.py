"""Stage 5: fine-tuning on the downstream task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from know.analysis.starts import TUNED
from know.analysis.statistics import mean_interval
from know.data.catalogue import dataset
from know.data.splits import downstream_task, source_task
from know.params import Params
from know.run.executor import run_all
from know.run.store import FileInput
from know.stages.results import SavedStart, read_starts, write_csv
from know.tasks.options import METRICS
from know.training.runs import TransferJob, Transferred, learning_curve, transfer

SCRATCH = SavedStart("main", "scratch", 0, 0, "reference")
NAIVE = "naive"


@dataclass(frozen=True)
class Draw:
    """A share of the labels, a pair of seeds, and the domain that is held out, if the task has domains."""

    fraction: float
    labels: int
    source_seed: int
    downstream_seed: int
    held_out: str = ""


def draws(params: Params) -> Iterator[Draw]:
    """Every share of the labels with every pair of seeds, and each domain that is held out."""
    options = params.evaluate
    for fraction in options.fractions:
        seeds = options.downstream_seeds
        if fraction == max(options.fractions):
            seeds = seeds[: options.full_draws]
        for source_seed in params.downsize.source_seeds:
            for downstream_seed in seeds:
                for held_out in options.held_out or ("",):
                    yield Draw(fraction, round(fraction * options.labels), source_seed, downstream_seed, held_out)


@dataclass(frozen=True)
class Treated:
    """A start as the results name it, and how it is fine-tuned: from which weights, at which learning rate, its new head times
    ``head_scale``."""

    start: SavedStart
    weights: SavedStart
    lr: float
    head_scale: float = 1.0


def treated(params: Params, starts: Sequence[SavedStart]) -> Iterator[Treated]:
    """Every start at ``fine_tuning.lr``; those that are tuned at each learning rate; naïve transfer with its head at 0."""
    options, ascending = params.evaluate, sorted(starts, key=lambda start: start.steps)
    last = {(one.track, one.method): one.steps for one in ascending}
    for start in starts:
        left_out = (
            options.steps == "last"
            and start.role in ("method", "control")
            and start.steps < last[start.track, start.method]
        )
        if not left_out or start.method == params.predict.judged:
            yield Treated(start, start, options.fine_tuning.lr)
    rates = sorted({options.fine_tuning.lr, *options.learning_rates})
    for start in starts:
        plain = start.track == "main" and not start.crossed and start.candidate == 0
        if plain and start.method in options.tuned and start.steps == last["main", start.method]:
            for i, lr in enumerate(rates):
                name, told = start.method + TUNED, f"lr={lr:g}"
                yield Treated(replace(start, method=name, candidate=i, options=told, role="tuned"), start, lr)
        if plain and start.method == NAIVE and options.head_zero:
            zero = replace(start, method="head_zero", role="control")
            yield Treated(zero, start, options.fine_tuning.lr, head_scale=0.0)


def fine_tunings(params: Params, starts: Sequence[SavedStart]) -> Iterator[tuple[Treated, Draw]]:
    """Every start on every draw; those that are tuned, with all labels only."""
    full = max(params.evaluate.fractions)
    for draw in draws(params):
        for one in treated(params, starts):
            if one.start.role != "tuned" or draw.fraction == full:
                yield one, draw


def transfer_job(params: Params, one: Treated, draw: Draw) -> TransferJob:
    """Fine-tuning one start on one draw."""
    return TransferJob(
        None if one.weights == SCRATCH else _weights(one.weights.path(draw.source_seed)),
        downstream_task(params.downsize),
        params.forget.architecture,
        draw.labels,
        params.evaluate.validation_images,
        params.evaluate.fine_tuning.model_copy(update={"lr": one.lr}),
        draw.source_seed,
        draw.downstream_seed,
        one.head_scale,
        dataset(params.downsize.downstream_dataset).domains.index(draw.held_out) if draw.held_out else None,
    )


@cache
def _weights(path: Path) -> FileInput:
    return FileInput.of(path)


def run(params: Params) -> None:
    """Fine-tune every start on every draw of the downstream labels; choose candidates by validation images, and judge the
    chosen ones by test images.

    Writes ``transfer.csv``, ``selection.csv``, ``learning_rates.csv``, ``oracle.csv``, ``headroom.csv``, ``forgotten.csv`` and
    ``learning_curves.csv``.
    """
    _weights.cache_clear()
    starts = [SCRATCH, *read_starts()]
    runs = [(one, draw, transfer_job(params, one, draw)) for one, draw in fine_tunings(params, starts)]
    found = run_all(transfer, [job for *_, job in runs], params.compute, "fine-tuning", spread=True)
    table = pd.DataFrame([_row(one, draw, result) for (one, draw, _), result in zip(runs, found, strict=True)])
    on_main = table[(table.track == "main") & ~table.role.isin(["headroom", "path"])]
    selection = select(on_main, params)
    kept = chosen(on_main, selection)
    task = {
        "source": source_task(params.downsize).name,
        "arch": params.forget.architecture,
        "downstream": downstream_task(params.downsize).name,
    }
    task["metric"] = METRICS[dataset(params.downsize.downstream_dataset).kind]
    transferred = kept.assign(**task, seed=1000 * kept.source_seed + kept.downstream_seed)
    outcome, seeds = ["accuracy", "loss", "ece"], ["fraction", "labels", "source_seed", "downstream_seed"]
    seeds += ["held_out"] if params.evaluate.held_out else []
    outcome += ["bleu"] if kept.bleu.notna().any() else []
    columns = ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy", "metric"]
    more = ["role", *seeds[2:], "labels", "batchnorm", "crossed", "lr", "chosen", "validation_accuracy", *outcome[1:]]
    write_csv(transferred[columns + more], "transfer.csv")
    write_csv(selection, "selection.csv")
    rates = table[table.role == "tuned"]
    best = kept[kept.role == "tuned"].groupby("method").lr.first()
    rates = rates.assign(chosen=rates.lr == rates.method.map(best), method=rates.method.str.removesuffix(TUNED))
    write_csv(
        rates[["method", "steps", "lr", "chosen", *seeds, "validation_accuracy", "accuracy"]], "learning_rates.csv"
    )
    on_oracle = chosen(table[table.track == "oracle"], selection)
    write_csv(on_oracle[["method", "steps", "role", *seeds, *outcome]], "oracle.csv")
    headroom = table[(table.track == "main") & (table.role == "headroom") | (table.method == "scratch")]
    write_csv(headroom.rename(columns={"steps": "images"})[["images", *seeds, "accuracy"]], "headroom.csv")
    path = table[table.role == "path"].rename(columns={"steps": "k"})
    write_csv(path[["k", *seeds, "accuracy"]], "forgotten.csv")
    write_csv(_curves(params, starts), "learning_curves.csv")


def _row(one: Treated, draw: Draw, found: Transferred) -> dict[str, object]:
    row = asdict(one.start) | asdict(draw) | asdict(found.test)
    return row | {"lr": one.lr, "validation_accuracy": found.validation.accuracy, "bleu": found.bleu}


def select(table: pd.DataFrame, params: Params) -> pd.DataFrame:
    """Each candidate's and step's accuracy on downstream validation images, with all labels; the best mean of each method is
    chosen.

    Returns:
        method, candidate, steps, options, accuracy, half_width and units (over source seeds), candidates (how many), images
        (validation labels), chosen; of the methods that have more than one.
    """
    rows: list[dict[str, object]] = []
    offered = table[table.role.isin(["method", "control", "tuned"]) & ~table.crossed.astype(bool)]
    if params.evaluate.steps == "last":
        offered = offered[offered.steps == offered.groupby("method").steps.transform("max")]
    offered = offered[offered.fraction == offered.fraction.max()]
    for method, own in offered.groupby("method", sort=False):
        groups = list(own.groupby(["candidate", "steps", "options"], sort=False))
        if len(groups) < 2:
            continue
        units = [group.groupby("source_seed").validation_accuracy.mean() for _, group in groups]
        estimates = [mean_interval(one, params.report.confidence) for one in units]
        best = max(range(len(groups)), key=lambda i: estimates[i].mean)
        rows += [
            {
                "method": method, "candidate": candidate, "steps": steps, "options": options, "accuracy": estimate.mean,
                "half_width": estimate.half_width, "units": estimate.units, "candidates": len(groups),
                "images": params.evaluate.validation_images, "chosen": i == best,
            }
            for i, (((candidate, steps, options), _), estimate) in enumerate(zip(groups, estimates, strict=True))
        ]  # fmt: skip
    columns = [
        "method",
        "candidate",
        "steps",
        "options",
        "accuracy",
        "half_width",
        "units",
        "candidates",
        "images",
        "chosen",
    ]
    return pd.DataFrame(rows, columns=columns)


def chosen(table: pd.DataFrame, selection: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the chosen candidate of each method, at all of its steps; ``chosen`` says which step was: of the nets
    that were really trained on more data, the one on most, which the furthest prediction stands for."""
    best = selection[selection.chosen.astype(bool)].set_index("method")  # of none the column is of objects
    candidate = table.method.map(best.candidate).fillna(table.candidate)
    steps = table.method.map(best.steps).fillna(table.groupby("method").steps.transform("max"))
    return table.assign(chosen=steps == table.steps)[candidate == table.candidate]


def followed(params: Params, starts: Sequence[SavedStart]) -> Iterator[tuple[Treated, Draw]]:
    """The followed starts' first step, with one draw of all labels a source seed."""
    options = params.evaluate
    first = (max(options.fractions), options.downstream_seeds[0], (*options.held_out, "")[0])
    for draw in draws(params):
        if (draw.fraction, draw.downstream_seed, draw.held_out) == first:
            for s in starts:
                plain = s.track == "main" and s.steps < 2 and s.candidate == 0 and not s.crossed
                if plain and s.method in options.followed:
                    yield Treated(s, s, options.fine_tuning.lr), draw


def _curves(params: Params, starts: Sequence[SavedStart]) -> pd.DataFrame:
    """The fine-tuning of the followed starts."""
    runs = [(one.start, draw, transfer_job(params, one, draw)) for one, draw in followed(params, starts)]
    curves = run_all(learning_curve, [job for *_, job in runs], params.compute, "learning curves", spread=True)
    rows = [
        {"method": start.method, "steps": start.steps} | asdict(draw)
        | {"epoch": point.epoch, "accuracy": point.outcome.accuracy, "loss": point.outcome.loss}
        for (start, draw, _), curve in zip(runs, curves, strict=True)
        for point in curve
    ]  # fmt: skip
    columns = ["method", "steps", "fraction", "labels", "source_seed", "downstream_seed", "epoch", "accuracy", "loss"]
    return pd.DataFrame(rows, columns=columns)
